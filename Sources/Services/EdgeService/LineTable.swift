import DayFigures
import EventLog
import MarketModel

/// What the edge keeps of one line: an instrument as one feed publishes it.
struct Line {
    let instrument: Instrument
    let feed: String
    /// The feed that day figures, snapshots and quotes follow: the first that was seen of the instrument.
    let isPrimary: Bool
    var epoch: UInt64 = 0
    var sequence: UInt64 = 0
    /// The latest record as a gRPC frame; empty before the first.
    var frame = FrameBuffer()
    var day = DayFigures()
    /// Offset in the log up to which `frame` and `day` stood for everything when the tape started.
    var knownThrough: UInt64 = 0
}

/// Bytes that are replaced often and rarely grow.
struct FrameBuffer {
    private var bytes: [UInt8] = []
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }

    mutating func set(_ source: UnsafeRawBufferPointer) {
        if bytes.count < source.count { bytes = [UInt8](repeating: 0, count: max(128, source.count * 3 / 2)) }
        bytes.withUnsafeMutableBytes { $0.copyMemory(from: source) }
        count = source.count
    }

    /// Puts the frame's prefix before a record's bytes.
    mutating func set(payload: UnsafeRawBufferPointer) {
        var frame: [UInt8] = [0]
        withUnsafeBytes(of: UInt32(payload.count).bigEndian) { frame.append(contentsOf: $0) }
        frame.append(contentsOf: payload)
        frame.withUnsafeBytes { set($0) }
    }

    func withBytes<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R {
        bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
}

/// All lines, numbered densely in the order they were seen. The numbers never leave the loop.
struct LineTable {
    private(set) var lines: [Line] = []
    private var byKeyHash: [UInt64: [Int]] = [:]
    private var byFeedHash: [UInt64] = []
    /// Primary lines by symbol, for questions without an exchange; in the order seen.
    private var bySymbol: [String: [Int]] = [:]
    private var byInstrument: [Instrument: Int] = [:]
    /// All lines by symbol, in the order seen.
    private var allBySymbol: [String: [Int]] = [:]

    subscript(index: Int) -> Line {
        _read { yield lines[index] }
        _modify { yield &lines[index] }
    }

    var count: Int { lines.count }

    /// The line of a block's track, if it is known.
    func find(_ block: Block, _ track: Int) -> Int? {
        guard let candidates = byKeyHash[block.keyHash(track: track)] else { return nil }
        let feed = LineTable.hash(block.feedBytes(track: track))
        for index in candidates where byFeedHash[index] == feed && matches(lines[index], block, track) { return index }
        return nil
    }

    /// The primary line of an instrument.
    func primary(_ instrument: Instrument) -> Int? { byInstrument[instrument] }

    /// Primary lines that list a symbol.
    func primaries(symbol: String) -> [Int] { bySymbol[symbol] ?? [] }

    /// Lines that one of the symbols may concern, ascending; all where there are none. So a filter costs what it names,
    /// not what exists.
    func candidates(_ symbols: Set<String>) -> [Int] {
        symbols.isEmpty ? Array(lines.indices) : symbols.flatMap { allBySymbol[$0] ?? [] }.sorted()
    }

    mutating func add(_ instrument: Instrument, feed: String) -> Int {
        let index = lines.count
        let isPrimary = byInstrument[instrument] == nil
        lines.append(Line(instrument: instrument, feed: feed, isPrimary: isPrimary))
        let keyHash = RecordKey.hash(exchange: instrument.exchange.utf8, symbol: instrument.symbol.utf8)
        byKeyHash[keyHash, default: []].append(index)
        byFeedHash.append(LineTable.hash(feed.utf8))
        allBySymbol[instrument.symbol, default: []].append(index)
        if isPrimary {
            byInstrument[instrument] = index
            bySymbol[instrument.symbol, default: []].append(index)
        }
        return index
    }

    private func matches(_ line: Line, _ block: Block, _ track: Int) -> Bool {
        line.instrument.symbol.utf8.elementsEqual(block.symbolBytes(track: track))
            && line.instrument.exchange.utf8.elementsEqual(block.exchangeBytes(track: track))
            && line.feed.utf8.elementsEqual(block.feedBytes(track: track))
    }

    private static func hash(_ bytes: some Sequence<UInt8>) -> UInt64 { RecordKey.hash(exchange: bytes, symbol: []) }
}
