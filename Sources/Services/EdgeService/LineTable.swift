import DayFigures
import EventLog
import MarketModel
import TickCodec

/// What the edge keeps of one line: an instrument as one feed publishes it.
struct Line {
    let instrument: Instrument
    let feed: String
    /// The feed that day figures, snapshots and quotes follow: the first that was seen of the instrument.
    let isPrimary: Bool
    /// A subscriber wants its records.
    var isWanted = false
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
    private var keys = KeyTable()
    private var numbers = KeyNumbers()
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
    func find(_ block: Block, _ track: Int) -> Int? { keys.find(block, track: track) }

    /// The lines of all tracks of a block, -1 for unknown ones.
    mutating func find(_ block: Block, into lineOfTrack: inout [Int]) {
        numbers.find(block, in: keys, into: &lineOfTrack)
    }

    /// The primary line of an instrument.
    func primary(_ instrument: Instrument) -> Int? { byInstrument[instrument] }

    /// The line of an instrument as a feed publishes it.
    func find(_ instrument: Instrument, feed: String) -> Int? {
        allBySymbol[instrument.symbol]?.first { lines[$0].instrument == instrument && lines[$0].feed == feed }
    }

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
        let number = keys.add(
            exchange: Array(instrument.exchange.utf8), symbol: Array(instrument.symbol.utf8), feed: Array(feed.utf8))
        precondition(number == index)
        allBySymbol[instrument.symbol, default: []].append(index)
        if isPrimary {
            byInstrument[instrument] = index
            bySymbol[instrument.symbol, default: []].append(index)
        }
        return index
    }

    /// Applies records of a block from `first` on, up to one that is for more than the line itself: one that a
    /// subscriber wants, or one that is no news. Returns its index; the block's record count where there is none.
    ///
    /// `lineOfTrack` has -1 for tracks without a line.
    mutating func apply(_ block: Block, from first: Int, lineOfTrack: [Int], _ reader: inout TickReader) -> Int {
        lineOfTrack.withUnsafeBufferPointer { lineOfTrack in
            lines.withUnsafeMutableBufferPointer { lines in
                let records = block.records
                let count = block.recordCount
                let figures = block.figures
                var record = first
                while record < count {
                    let track = block.track(of: record)
                    let line = lineOfTrack[track]
                    if line >= 0 {
                        let epoch = block.epoch(track: track)
                        let sequence = block.sequence(of: record)
                        if lines[line].isWanted || !lines[line].isNews(epoch, sequence) { return record }
                        let frame = UnsafeRawBufferPointer(rebasing: records[block.frameRange(record)])
                        if let figures {
                            lines[line].apply(frame, figures[record], epoch, sequence)
                        } else if reader.readsFrame(frame) {
                            // What cannot be read is the writer's to dead-letter.
                            lines[line].apply(frame, reader, epoch, sequence)
                        }
                    }
                    record &+= 1
                }
                return count
            }
        }
    }

    /// Applies one record that is news.
    mutating func apply(
        _ line: Int, _ frame: UnsafeRawBufferPointer, _ reader: TickReader, _ epoch: UInt64, _ sequence: UInt64
    ) {
        lines[line].apply(frame, reader, epoch, sequence)
    }
}

extension Line {
    /// A record with this identity is not a repeat, nor of an older epoch.
    @inline(__always)
    func isNews(_ epoch: UInt64, _ sequence: UInt64) -> Bool {
        epoch > self.epoch || (epoch == self.epoch && sequence > self.sequence)
    }

    /// Makes a record the latest, and counts it into the day where day figures follow the line.
    @inline(__always)
    mutating func apply(
        _ frame: UnsafeRawBufferPointer, _ reader: TickReader, _ epoch: UInt64, _ sequence: UInt64
    ) {
        set(frame, epoch, sequence)
        guard isPrimary else { return }
        _ = day.apply(
            filingTimeNs: reader.filingTimeNs, epoch: epoch, sequence: sequence, trade: reader.dayTrade)
    }

    /// The same of a record that need not be read.
    @inline(__always)
    mutating func apply(
        _ frame: UnsafeRawBufferPointer, _ figures: RecordFigures, _ epoch: UInt64, _ sequence: UInt64
    ) {
        set(frame, epoch, sequence)
        guard isPrimary else { return }
        let trade = figures.tradePrice.map { DayTrade(price: $0, size: figures.tradeSize) }
        _ = day.apply(filingTimeNs: figures.filingTimeNs, epoch: epoch, sequence: sequence, trade: trade)
    }

    @inline(__always)
    private mutating func set(_ frame: UnsafeRawBufferPointer, _ epoch: UInt64, _ sequence: UInt64) {
        self.epoch = epoch
        self.sequence = sequence
        self.frame.set(frame)
    }
}

extension TickReader {
    /// Reads a record with its frame prefix; false where it cannot be read.
    @inline(__always)
    mutating func readsFrame(_ frame: UnsafeRawBufferPointer) -> Bool {
        do {
            try read(UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...]))
            return true
        } catch {
            return false
        }
    }

    /// What day figures count; nil where the message is no trade.
    @inline(__always)
    var dayTrade: DayTrade? {
        guard kind == .trade, let price = last else { return nil }
        return DayTrade(price: price, size: lastSize ?? 0)
    }
}
