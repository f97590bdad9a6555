import EventLog
import MarketModel
import SegmentLog
import Simulation
import Synchronization
import Testing
import TickCodec

@testable import EdgeService

/// Streams of one loop that is woken for what they want and for nothing else: whatever happens in whichever order, each
/// gets what its filter selects, in order, once.
private final class FanOutWorld {
    static let symbols = (0..<12).map { "S\($0)" }
    private static let partitions = 2

    /// One record of the log.
    struct Published: Hashable {
        let instrument: Instrument
        let sequence: UInt64
        let place: Int
        let offset: UInt64
    }

    /// A stream and what it should get.
    final class Reader {
        var subscriber: PriceSubscriber!
        /// What its filter has selected: from which offsets on, and until the next change.
        var wanted: [(filter: InstrumentFilter, from: [UInt64])]
        /// Nothing is read while the client's window is closed.
        var isBlocked = false
        var got: [(symbol: String, exchange: String, sequence: UInt64)] = []
        private var bytes: [UInt8] = []

        init(_ filter: InstrumentFilter, from: [UInt64]) { wanted = [(filter, from)] }

        func read(_ count: Int) -> Int {
            var buffer = [UInt8](repeating: 0, count: count)
            let taken = buffer.withUnsafeMutableBytes { subscriber.take(into: $0) }
            bytes += buffer[..<taken]
            var position = 0
            while bytes.count - position >= 5 {
                let length = bytes[(position + 1)..<(position + 5)].reduce(0) { $0 << 8 | Int($1) }
                guard bytes.count - position - 5 >= length else { break }
                let payload = Array(bytes[(position + 5)..<(position + 5 + length)])
                payload.withUnsafeBytes { payload in
                    guard let tick = try? TickReader(payload) else { return }
                    got.append(
                        (
                            String(decoding: tick.symbol, as: UTF8.self),
                            String(decoding: tick.exchange, as: UTF8.self), tick.sequence
                        ))
                }
                position += 5 + length
            }
            bytes.removeFirst(position)
            return taken
        }
    }

    private(set) var random: SeededRandom
    /// Nobody wants everything, so that the loop is only woken for symbols.
    private let isNarrow: Bool
    private let log: SegmentLog
    private let loop = ManualLoop()
    private let tape: Tape
    private let isWoken: Flag
    private(set) var readers: [Reader] = []
    private(set) var published: [Published] = []
    private var sequences: [Instrument: UInt64] = [:]
    private var listener: ListenerID?

    private final class Flag: Sendable {
        let value = Atomic<Bool>(false)
    }

    init(seed: UInt64) throws {
        random = SeededRandom(seed: seed)
        isNarrow = seed % 2 == 1
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        configuration.partitionCounts[.ticksRaw] = Self.partitions
        // Some of what a token goes back to has to be loaded.
        configuration.tipBytes = 64 << 10
        log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: VirtualTime(), configuration: configuration)
        tape = Tape(log: log, loop: loop, start: try TapeStart(log: log, store: SimulatedStore()))
        let isWoken = Flag()
        self.isWoken = isWoken
        tape.interest.wake = { isWoken.value.store(true, ordering: .relaxed) }
        listener = log.addListener(.ticks, .written, ofBlocks: TapeWaking([tape.interest]).appended)
    }

    private func below(_ count: Int) -> Int { Int.random(in: 0..<count, using: &random) }

    func step() throws {
        switch below(100) {
        case 0..<45: try append()
        case 45..<60: turn()
        case 60..<70: subscribe()
        case 70..<74: cancel()
        case 74..<78: change()
        case 78..<84: if let reader = anyReader() { reader.isBlocked.toggle() }
        default: if let reader = anyReader(), !reader.isBlocked { _ = reader.read(1 + below(400)) }
        }
    }

    /// The loop's turn, if it was woken.
    private func turn() {
        if isWoken.value.exchange(false, ordering: .relaxed), tape.drain() { tape.interest.wake() }
        loop.run()
    }

    private func append() throws {
        var builders: [Int: BlockBuilder] = [:]
        var new: [(Instrument, UInt64, Int)] = []
        for _ in 0..<(1 + below(4)) {
            let symbol = Self.symbols[below(Self.symbols.count)]
            let instrument = try Instrument(exchange: below(4) == 0 ? "Y" : "X", symbol: symbol)
            let place = symbol.utf8.reduce(0) { $0 + Int($1) } % Self.partitions
            let builder = builders[place] ?? BlockBuilder(TopicPartition(.ticksRaw, UInt16(place)))
            builders[place] = builder
            let sequence = (sequences[instrument] ?? 0) + 1
            sequences[instrument] = sequence
            var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 1, epoch: 1, sequence: sequence)
            tick.last = 1_000_000_000
            let encoder = TickEncoder(exchange: instrument.exchange, symbol: symbol, feed: "test")
            let key = builder.register(
                BlockBuilder.Key(exchange: instrument.exchange, symbol: symbol, feed: "test"))
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
            new.append((instrument, sequence, place))
        }
        let order = builders.keys.sorted()
        let receipt = try log.append(order.map { builders[$0]!.build() }, consumed: [])
        for (index, place) in order.enumerated() {
            for (number, record) in new.filter({ $0.2 == place }).enumerated() {
                published.append(
                    Published(
                        instrument: record.0, sequence: record.1, place: place,
                        offset: receipt.firstOffsets[index] + UInt64(number)))
            }
        }
    }

    private func anyFilter() -> InstrumentFilter {
        InstrumentFilter(
            exchange: below(4) == 0 ? "Y" : "",
            symbols: Set(
                (0..<(isNarrow ? 1 + below(3) : below(4))).map { _ in Self.symbols[below(Self.symbols.count)] }))
    }

    private func anyReader() -> Reader? { readers.isEmpty ? nil : readers[below(readers.count)] }

    /// As the handlers do it: at the tape's place, or at one that a token names.
    private func subscribe() {
        guard readers.count < 12 else { return }
        tape.catchUp()
        let filter = anyFilter()
        let resumed = !isNarrow && below(3) == 0 ? published.randomElement(using: &random) : nil
        var offsets: [UInt64]?
        if let resumed {
            offsets = tape.next
            offsets?[resumed.place] = resumed.offset
        }
        let reader = Reader(filter, from: offsets ?? tape.next)
        reader.subscriber = PriceSubscriber(
            tape: tape, limits: EdgeLimits(), filter: filter, policy: .all, backlog: Backlog(bytesMax: 64 << 20),
            followsLog: !isNarrow && below(2) == 0
        ) {}
        readers.append(reader)
        reader.subscriber.start(from: offsets, snapshot: Tape.Snapshot())
    }

    private func cancel() {
        guard let reader = anyReader() else { return }
        reader.subscriber.stop()
        readers.removeAll { $0 === reader }
    }

    /// Other symbols in flight, from the tape's place on.
    private func change() {
        guard let reader = anyReader(), reader.subscriber.cursors == nil else { return }
        let filter = anyFilter()
        reader.subscriber.change(filter: filter, snapshot: PendingBytes())
        reader.wanted.append((filter, tape.next))
    }

    /// Everybody reads until there is nothing more; the loop has turns only as far as it is woken.
    func finish() {
        for reader in readers { reader.isBlocked = false }
        // What has to be loaded comes a turn after it was asked for, block by block, and a filter may want none of it.
        var quietTurns = 0
        while quietTurns < 500 {
            quietTurns += 1
            turn()
            for reader in readers {
                while reader.read(4096) > 0 { quietTurns = 0 }
            }
        }
    }

    /// What a reader should have: all that is in the log, whether or not the tape has come to it.
    func expected(_ reader: Reader) -> [Published] {
        published.filter { record in
            guard let filter = reader.wanted.last(where: { $0.from[record.place] <= record.offset })?.filter else {
                return false
            }
            return filter.matches(record.instrument)
        }
    }

    func resumeOffsets(_ reader: Reader) -> [UInt64] { reader.subscriber.resumeOffsets }

    /// How much of the log the tape has not read.
    var unreadCount: Int { published.count { $0.offset >= tape.next[$0.place] } }
}

@Suite(.timeLimit(.minutes(2)))
struct FanOutTests {
    @Test(arguments: 0..<8)
    func `Each stream gets what its filter selects, in order, once, by whatever wakes the loop`(part: Int) throws {
        for seed in (part * 25)..<(part * 25 + 25) {
            let world = try FanOutWorld(seed: UInt64(seed))
            for _ in 0..<400 { try world.step() }
            world.finish()
            for (number, reader) in world.readers.enumerated() {
                let expected = world.expected(reader)
                let places = Dictionary(
                    uniqueKeysWithValues: world.published.map {
                        ("\($0.instrument) \($0.sequence)", (place: $0.place, offset: $0.offset))
                    })
                let got = reader.got.map { "\($0.exchange)|\($0.symbol) \($0.sequence)" }
                let wanted = expected.map { "\($0.instrument) \($0.sequence)" }
                #expect(got.count == wanted.count && Set(got) == Set(wanted), "seed \(seed), stream \(number)")
                for place in 0..<2 {
                    let offsets = got.compactMap { places[$0] }.filter { $0.place == place }.map(\.offset)
                    #expect(offsets == offsets.sorted(), "seed \(seed), stream \(number): order")
                }
                #expect(reader.subscriber.failure == nil)
                // Its token is no older than what the loop has put off.
                let resume = world.resumeOffsets(reader)
                #expect(expected.allSatisfy { $0.offset < resume[$0.place] }, "seed \(seed), stream \(number): token")
            }
            #expect(world.unreadCount <= TapeInterest.putOffBytesMax / TapeInterest.blockBytes * 4)
        }
    }
}
