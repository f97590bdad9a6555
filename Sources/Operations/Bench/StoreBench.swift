import EventLog
import MarketModel
import TickCodec
import TickStore
import TimeSource

/// The bench `store`: writing rows, the last quote from memory, scanning an hour, and bytes per tick on disk.
public enum StoreBench {
    /// A store to measure, and what a ``TickStore`` does not say.
    public struct Subject: Sendable {
        public let store: any TickStore
        /// Brings the store to the state it reaches by itself when hours close: everything merged and in files.
        public let settle: @Sendable () throws -> Void
        /// Removes the store's files; called after its close.
        public let remove: @Sendable () -> Void

        public init(
            store: any TickStore, settle: @escaping @Sendable () throws -> Void, remove: @escaping @Sendable () -> Void
        ) {
            self.store = store
            self.settle = settle
            self.remove = remove
        }
    }

    /// How much is measured.
    public struct Size: Sendable {
        public var instruments = 50
        public var ticks = 2_000_000
        public var batchTicks = 4096
        public var lookups = 1_000_000

        public init() {}
    }

    public static let method = """
        Ticks of 50 instruments with random-walk prices, venue times in milliseconds and receive and publish \
        times in nanoseconds (about 100 bytes each) are encoded beforehand into blocks of the log. write: one \
        thread applies batches of 4,096 ticks, closed loop, to a new store; counted are all ticks, to the end of \
        a final sync. last_quote: the mean of a million look-ups over all instruments in turn, values copied out. \
        scan: after the hour was merged, each instrument's hour from start to end, frames touched once per batch; \
        rows over elapsed time. disk_bytes: bytes of the store's files after the hour was merged, over rows. \
        Nothing else runs; the store's own threads do.
        """

    /// `make` opens a new, empty store; it is called once per run.
    public static func bench(
        time: any TimeSource, size: Size = Size(), make: @escaping @Sendable () throws -> Subject
    ) -> Bench {
        Bench(name: "store", method: method) { runs, progress in
            progress("store: encoding \(size.ticks) ticks")
            let tape = Tape(size, appendTimeNs: time.wallNs())
            var samples: [[Double]] = [[], [], [], []]
            for run in 1...max(1, runs) {
                let subject = try make()
                defer { subject.remove() }
                let values = try measure(subject, tape, size, time)
                try subject.store.close()
                for (index, value) in values.enumerated() { samples[index].append(value) }
                progress("store: run \(run) of \(runs)")
            }
            return [
                Figure(bench: "store", figure: "write", unit: "ticks/s", samples: samples[0]),
                Figure(bench: "store", figure: "last_quote", unit: "ns", samples: samples[1]),
                Figure(bench: "store", figure: "scan", unit: "rows/s", samples: samples[2]),
                Figure(bench: "store", figure: "disk_bytes", unit: "bytes/tick", samples: samples[3]),
            ]
        }
    }

    private static func measure(
        _ subject: Subject, _ tape: Tape, _ size: Size, _ time: any TimeSource
    ) throws -> [Double] {
        let store = subject.store
        let writeStart = time.monotonicNs()
        for (rows, next) in tape.batches { _ = try store.apply(rows, through: next, of: tape.place) }
        _ = try store.sync(tape.place)
        let write = Double(size.ticks) * 1e9 / Double(time.monotonicNs() - writeStart)

        let lookupStart = time.monotonicNs()
        var sum = 0
        for index in 0..<size.lookups {
            if let latest = try store.latest(tape.instruments[index % size.instruments]) { sum &+= latest.update.count }
        }
        let lookup = Double(time.monotonicNs() - lookupStart) / Double(size.lookups)
        precondition(sum > 0, "no last quote")

        try subject.settle()
        let scanStart = time.monotonicNs()
        var rows = 0
        for instrument in tape.instruments {
            try store.scan(instrument, from: tape.startNs, to: tape.startNs + 3_600_000_000_000) { batch in
                rows += batch.count
                return batch.frames.count > 0
            }
        }
        let scan = Double(rows) * 1e9 / Double(time.monotonicNs() - scanStart)
        guard rows == size.ticks else { throw StoreError(.damaged, "the scan gave \(rows) rows of \(size.ticks)") }
        let bytes = Double(try store.statistics().diskBytes) / Double(rows)
        return [write, lookup, scan, bytes]
    }

    /// The ticks of one hour, as the log would hand them to the writer.
    struct Tape {
        let place = TopicPartition(.ticksRaw, 0)
        let startNs: Int64 = 1_700_002_800_000_000_000
        var instruments: [Instrument] = []
        var batches: [(rows: TickRows, next: UInt64)] = []

        init(_ size: Size, appendTimeNs: Int64) {
            var random = Random(state: 7)
            let builder = BlockBuilder(place, capacity: 1 << 20)
            var encoders: [TickEncoder] = []
            var keys: [Int] = []
            var bids: [Int64] = []
            var sequences = [UInt64](repeating: 0, count: size.instruments)
            for number in 0..<size.instruments {
                let exchange = number % 2 == 0 ? "BINANCE" : "NASDAQ"
                let symbol = "SYM\(100 + number)USD"
                guard let instrument = try? Instrument(exchange: exchange, symbol: symbol) else { continue }
                instruments.append(instrument)
                encoders.append(TickEncoder(exchange: exchange, symbol: symbol, feed: "feed-1"))
                keys.append(builder.register(BlockBuilder.Key(exchange: exchange, symbol: symbol, feed: "feed-1")))
                bids.append(Int64(10 + random.below(50_000)) * 1_000_000_000)
            }
            var next: UInt64 = 0
            var rows = TickRows()
            for index in 0..<size.ticks {
                let number = Int(random.below(UInt64(size.instruments)))
                sequences[number] += 1
                bids[number] = max(1_000_000_000, bids[number] + (Int64(random.below(5)) - 2) * 10_000_000)
                let receivedNs =
                    startNs + Int64(index) * (3_599_000_000_000 / Int64(size.ticks)) + Int64(random.below(1000))
                let tick = Self.tick(bids[number], receivedNs, sequences[number], index, &random)
                let encoder = encoders[number]
                builder.append(
                    key: keys[number], epoch: 1_700_000_000_000, sequence: tick.sequence, lengthMax: encoder.lengthMax
                ) { encoder.encode(tick, into: $0) }
                let filing = FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).ns
                rows.rows.append(
                    TickRows.Row(
                        block: 0, record: Int32(builder.recordCount - 1), filingTimeNs: max(filing, startNs),
                        tradePrice: tick.last, tradeSize: tick.lastSize ?? 0))
                next += 1
                if builder.recordCount == size.batchTicks || index + 1 == size.ticks {
                    let block = builder.build()
                    block.stamp(firstOffset: next - UInt64(block.recordCount), appendTimeNs: appendTimeNs) { _ in
                        Block.noOffset
                    }
                    rows.blocks = [block]
                    batches.append((rows, next))
                    rows = TickRows()
                }
            }
        }

        /// Four quotes to a trade.
        private static func tick(
            _ bid: Int64, _ receivedNs: Int64, _ sequence: UInt64, _ index: Int, _ random: inout Random
        ) -> Tick {
            var tick = Tick(
                kind: index % 5 == 0 ? .trade : .quote, receivedTimeNs: receivedNs,
                publishTimeNs: receivedNs + 3_000 + Int64(random.below(20_000)), epoch: 1_700_000_000_000,
                sequence: sequence)
            tick.eventTimeNs = (receivedNs / 1_000_000 - Int64(random.below(4))) * 1_000_000
            tick.venueSequence = UInt64(40_000_000_000 + index * 3)
            if tick.kind == .trade {
                tick.last = bid + Int64(random.below(2)) * 10_000_000
                tick.lastSize = Int64(1 + random.below(300)) * 1_000_000
                tick.tradeID = UInt64(3_000_000_000 + index)
                tick.aggressorSide = random.below(2) == 0 ? .buy : .sell
            } else {
                tick.bid = bid
                tick.ask = bid + 10_000_000
                tick.bidSize = Int64(1 + random.below(5_000)) * 100_000
                tick.askSize = Int64(1 + random.below(5_000)) * 100_000
            }
            return tick
        }
    }

    /// SplitMix64.
    private struct Random {
        var state: UInt64

        mutating func below(_ bound: UInt64) -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return (z ^ (z >> 31)) % bound
        }
    }
}
