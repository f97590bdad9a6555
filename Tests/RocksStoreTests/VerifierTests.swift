import EventLog
import MarketModel
import Repair
import SegmentLog
import Simulation
import Testing
import TickCodec
import TickStore

struct VerifierTests {
    static let place = TopicPartition(.ticksRaw, 0)
    static let startNs: Int64 = 1_700_000_000_000_000_000

    /// A log and a store that a writer fills from it, with ways to do it wrong.
    struct World {
        let log: SegmentLog
        let store = SimulatedStore()
        let builder = BlockBuilder(VerifierTests.place)
        var keys: [String: Int] = [:]

        init() throws {
            var configuration = SegmentLog.Configuration()
            configuration.work = .manual
            configuration.freeBytesMin = 0
            configuration.diskSharePercent = 100
            log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: VirtualTime(), configuration: configuration)
        }

        mutating func append(
            _ symbol: String, feed: String = "sim", epoch: UInt64 = 1, _ sequences: [UInt64], hourStep: Bool = false
        ) throws {
            let encoder = TickEncoder(exchange: "X", symbol: symbol, feed: feed)
            let name = symbol + "/" + feed
            let key = keys[name] ?? builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: feed))
            keys[name] = key
            for sequence in sequences {
                let time = VerifierTests.startNs + Int64(sequence) * (hourStep ? 600_000_000_000 : 1_000_000)
                var tick = Tick(
                    kind: .trade, receivedTimeNs: time, publishTimeNs: time, epoch: epoch, sequence: sequence)
                tick.last = Int64(sequence % 1_000_000) * 1_000_000_000
                builder.append(key: key, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax) {
                    encoder.encode(tick, into: $0)
                }
            }
            try log.append([builder.build()], consumed: [])
            try log.sync()
        }

        mutating func appendGarbage(_ symbol: String) throws {
            let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "sim"))
            [0xff, 0xff, 0xff].withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: 900, payload: $0) }
            try log.append([builder.build()], consumed: [])
            try log.sync()
        }

        /// Writes what the log has, as the writer does, leaving out or changing what `change` says.
        func write(_ change: (UInt64) -> Bool = { _ in true }, upTo last: UInt64 = .max) throws {
            var offset = try store.nextOffset(VerifierTests.place) ?? 0
            let end = min(last, log.endOffset(VerifierTests.place, .durable))
            while offset < end {
                guard
                    case .block(let block, let index) = try log.readBlocking(VerifierTests.place, at: offset, .durable)
                else { break }
                var rows = TickRows(blocks: [block])
                let next = min(end, block.endOffset)
                for record in index..<block.recordCount where block.firstOffset + UInt64(record) < next {
                    guard let reader = try? TickReader(block.payload(record)),
                        change(block.firstOffset + UInt64(record))
                    else { continue }
                    rows.rows.append(
                        TickRows.Row(
                            block: 0, record: Int32(record), filingTimeNs: reader.filingTimeNs, tradePrice: reader.last,
                            tradeSize: 0))
                }
                _ = try store.apply(rows, through: next, of: VerifierTests.place)
                offset = next
            }
        }

        func verify(_ range: Verifier.Range = .init(), ticksAtOnceMax: Int = 1_000_000) throws -> VerifyResult {
            try Verifier.compare(log: log, store: store, range: range, ticksAtOnceMax: ticksAtOnceMax)
        }
    }

    @Test func `A store that has what the log has is clean, with equal digests`() throws {
        var world = try World()
        try world.append("A", Array(1...50))
        try world.append("B", feed: "f2", epoch: 7, Array(1...20), hourStep: true)
        try world.append("A", Array(51...60))
        try world.write()
        let result = try world.verify()
        #expect(result.isClean && result.lines.map { $0.instrument.symbol } == ["A", "B"])
        #expect(result.lines.map { $0.matching } == [60, 20] && result.lines.map { $0.storeRows } == [60, 20])
        #expect(result.lines.allSatisfy { $0.logDigest == $0.storeDigest && $0.logDigest.sum != 0 })
        // In slices, each a pass over the log, the outcome is the same but for the order's part of the digest.
        let sliced = try world.verify(ticksAtOnceMax: 5)
        #expect(sliced.isClean && sliced.lines.map { $0.matching } == [60, 20])
        #expect(sliced.lines.map { $0.logDigest } == result.lines.map { $0.logDigest })
    }

    @Test func `What a writer refuses for its names or its sequence is corrupt, not missing`() throws {
        var world = try World()
        try world.append("A", Array(1...10))
        try world.append("A", feed: "bad\nfeed", Array(1...5))
        try world.append("A", [1 << 40])
        try world.write { $0 < 10 }
        let result = try world.verify()
        #expect(result.isClean, "\(result.lines)")
        #expect(result.lines.map { $0.matching } == [10] && result.lines.map { $0.corrupt } == [6])
    }

    @Test func `A tick that was not written is missing, and named`() throws {
        var world = try World()
        try world.append("A", Array(1...50))
        try world.write { $0 != 30 }
        let result = try world.verify()
        #expect(!result.isClean)
        let line = try #require(result.lines.first)
        #expect(line.missing == 1 && line.extra == 0 && line.matching == 49)
        #expect(line.samples.map { $0.kind } == [.missing] && line.samples[0].sequence == 31)
        #expect(line.logDigest != line.storeDigest)
        let outside = try world.verify(.init(fromNs: Self.startNs + 40_000_000))
        #expect(outside.isClean && outside.lines[0].matching == 11)
        let other = try world.verify(.init(instrument: try Instrument(exchange: "X", symbol: "B")))
        #expect(other.lines.isEmpty)
    }

    @Test func `A row that the log does not have is extra, one with other bytes different`() throws {
        var world = try World()
        try world.append("A", Array(1...10))
        try world.write()
        // Another log with a further tick, and one whose bytes differ, written to the same store.
        var other = try World()
        try other.append("A", Array(1...10))
        try other.append("A", [11])
        guard case .block(let block, _) = try other.log.readBlocking(Self.place, at: 10, .durable) else { return }
        let reader = try TickReader(block.payload(0))
        let row = TickRows.Row(block: 0, record: 0, filingTimeNs: reader.filingTimeNs, tradePrice: nil, tradeSize: 0)
        _ = try world.store.apply(TickRows(blocks: [block], rows: [row]), through: 11, of: Self.place)
        var line = try #require(try world.verify().lines.first)
        #expect(line.extra == 1 && line.missing == 0 && line.matching == 10 && line.samples[0].sequence == 11)

        // The log gets the same identity with other bytes.
        let builder = BlockBuilder(Self.place)
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "A", feed: "sim"))
        let encoder = TickEncoder(exchange: "X", symbol: "A", feed: "sim")
        let time = Self.startNs + 11_000_000
        let tick = Tick(kind: .quote, receivedTimeNs: time, publishTimeNs: time, epoch: 1, sequence: 11)
        builder.append(key: key, epoch: 1, sequence: 11, lengthMax: encoder.lengthMax) {
            encoder.encode(tick, into: $0)
        }
        try world.log.append([builder.build()], consumed: [])
        try world.log.sync()
        line = try #require(try world.verify().lines.first)
        #expect(line.different == 1 && line.extra == 0 && line.missing == 0)
    }

    @Test func `Repeats count once, garbage is corrupt, and what was not given yet is pending`() throws {
        var world = try World()
        try world.append("A", Array(1...20))
        try world.append("A", Array(1...20))
        try world.appendGarbage("A")
        try world.write()
        try world.append("A", [21, 22])
        let result = try world.verify()
        let line = try #require(result.lines.first)
        #expect(result.isClean)
        #expect(
            line.logTicks == 22 && line.logRepeats == 20 && line.corrupt == 1 && line.pending == 2
                && line.matching == 20)
    }

    @Test func `Epochs that the published key cannot tell apart are counted`() throws {
        var world = try World()
        try world.append("A", epoch: 1, [1, 2, 3])
        try world.append("A", epoch: 65, [2])
        try world.write()
        let line = try #require(try world.verify().lines.first)
        #expect(line.keyCollisions == 1 && line.matching == 4)
    }
}
