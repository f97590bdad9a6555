import Glibc
import MarketModel
import MarketProto
import Protobuf
import TickCodec

/// The codec bench: what it costs to encode one tick and to read all its fields.
public enum CodecBench {
    /// Ticks a run goes over again and again: few enough to stay in the cache, too many to be learnt by a branch
    /// predictor.
    private static let tickCount = 1024
    /// Passes over the ticks per run.
    private static let passCount = 2048

    private static let method = """
        One unit is one message, another in each unit: \(tickCount) of a random walk with a fixed seed, \
        \(passCount) passes a run (200 for the generated types), one thread, closed loop, CPU time of the process, \
        after a pass to warm up. encode, read: a trade of XNAS AAPL of about 80 bytes (names, price, size, three \
        times, feed, sequence, epoch, kind, side); encode_quote, read_quote: a quote of about 95 bytes (bid and ask \
        with sizes instead). encode goes from a tick in memory to bytes in the caller's buffer; read is one TickReader \
        over the bytes of message after message with every field taken, prices and times put together; neither \
        allocates. Beside them in turn (of "byte_loop"): the same by plain loops, a varint byte after byte. \
        message_encode, decode: the generated type of the same trade, order_…: an OrderRequest; \
        json_encode: its JSON mapping; json_parse: simdjson's document of that text, no value taken yet, which is less \
        than decode does. bytes: mean size. …_allocations: calls of malloc and its kin \
        per message in one pass after the one to warm up (of json_encode with those of the text that is handed back).
        """

    /// The bench.
    public static func bench() -> Bench {
        Bench(name: "codec", method: method) { runs, progress in figures(max(runs, 1), progress) }
    }

    private static func figures(_ runs: Int, _ progress: (String) -> Void) -> [Figure] {
        var figures: [Figure] = []
        var countLater: [(String, () -> Void)] = []
        for (suffix, ticks) in [("", trades()), ("_quote", quotes())] {
            let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "itch")
            let encoded = EncodedTicks(ticks, encoder)
            progress("\(ticks.count) ticks of \(encoded.byteCount / ticks.count) bytes")
            func add(_ figure: String, _ ours: @escaping () -> Void, _ loops: () -> Void) {
                // In turn, so that both see the same machine.
                var values: [[Double]] = [[], []]
                for _ in 0..<runs {
                    values[0] += samples(1, ours)
                    values[1] += samples(1, loops)
                }
                for (of, samples) in zip(["tapedeck", "byte_loop"], values) {
                    figures.append(
                        Figure(bench: "codec", figure: figure + suffix, unit: "ns", of: of, samples: samples))
                }
                countLater.append((figure + suffix, ours))
            }
            add("encode", { encoded.encodeAll(ticks, encoder) }, { encoded.encodeAllByLoops(ticks) })
            add("read", { encoded.readAll() }, { encoded.readAllByLoops() })
        }
        let updates = trades().map { tick in messages(tick) }
        let orders = updates.enumerated().map(order)
        let (tickBench, orderBench) = (MessageBench(runs: runs, prefix: ""), MessageBench(runs: runs, prefix: "order_"))
        figures += tickBench.figures(updates) + orderBench.figures(orders)
        for (figure, body) in countLater {
            guard let count = Allocations.count(body) else { continue }
            figures.append(
                Figure(
                    bench: "codec", figure: figure + "_allocations", unit: "allocations",
                    samples: [Double(count) / Double(tickCount)]))
        }
        figures += tickBench.allocations(updates) + orderBench.allocations(orders)
        return figures
    }

    /// The trade as the generated type has it: decoded from what the encoder wrote.
    private static func messages(_ tick: Tick) -> Proto.PriceUpdate {
        let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "itch")
        let bytes = [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
            count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
        }
        guard let update = try? Proto.PriceUpdate(decoding: bytes) else { preconditionFailure("own bytes") }
        return update
    }

    /// An order at the trade's price, with ids and names of the usual lengths.
    private static func order(_ index: Int, _ update: Proto.PriceUpdate) -> Proto.OrderRequest {
        var order = Proto.OrderRequest()
        order.orderId = "ord-20241119-\(1_000_000 + index)-7f3a"
        order.symbol = update.symbol
        order.side = index % 2 == 0 ? "BUY" : "SELL"
        order.quantityMicros = Int64(1 + index % 30) * 100_000_000
        order.limitPriceMicros = update.lastMicros ?? 1
        order.orderType = "LIMIT"
        order.clientTimestamp = update.eventTime
        order.account = "ACC-00042-LDN-EQ"
        order.idempotencyKey = "7c9e6679-7425-40de-944b-e07fc1\(100_000 + index)"
        order.exchange = update.exchange
        order.timeInForce = "DAY"
        return order
    }

    /// Nanoseconds per tick of each run.
    private static func samples(_ runs: Int, _ body: () -> Void) -> [Double] {
        body()
        return (0..<runs).map { _ in
            let start = cpuNs()
            for _ in 0..<passCount { body() }
            return Double(cpuNs() - start) / Double(passCount * tickCount)
        }
    }

    /// CPU time of the process: no clock, and other processes do not count.
    static func cpuNs() -> Int { clock() * 1000 }

    /// A random walk of quotes as a feed would publish them.
    private static func quotes() -> [Tick] {
        walk(.quote) { tick, cents, random in
            tick.bid = cents * 10_000_000
            tick.ask = (cents + 1 + random(3)) * 10_000_000
            tick.bidSize = (1 + random(30)) * 100 * 100_000_000
            tick.askSize = (1 + random(30)) * 100 * 100_000_000
        }
    }

    private static func trades() -> [Tick] {
        walk(.trade) { tick, cents, random in
            tick.last = cents * 10_000_000
            tick.lastSize = (1 + random(30)) * 10 * 100_000_000
            tick.aggressorSide = random(2) == 0 ? .buy : .sell
        }
    }

    private static func walk(_ kind: TickKind, _ fill: (inout Tick, Int64, (Int64) -> Int64) -> Void) -> [Tick] {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        func random(_ bound: Int64) -> Int64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int64((state >> 33) % UInt64(bound))
        }
        var cents: Int64 = 22_751
        var event: Int64 = 1_732_000_000_123_456_789
        return (0..<tickCount).map { index in
            cents += random(5) - 2
            event += 1 + random(40_000_000)
            let received = event + 20_000 + random(80_000)
            var tick = Tick(
                kind: kind, receivedTimeNs: received, publishTimeNs: received + 900 + random(3000),
                epoch: 1_732_000_000_000, sequence: UInt64(1_000_000 + index))
            tick.eventTimeNs = event
            fill(&tick, cents, random)
            return tick
        }
    }
}

/// The ticks of a run as bytes, and room to encode into.
private final class EncodedTicks {
    let buffer: UnsafeMutableRawBufferPointer
    let bytes: UnsafeMutableRawBufferPointer
    let places: [Range<Int>]
    let byteCount: Int
    var sink: UInt64 = 0
    private let loops = ByteLoopCodec(
        exchange: Array("XNAS".utf8), symbol: Array("AAPL".utf8), feed: Array("itch".utf8))

    init(_ ticks: [Tick], _ encoder: TickEncoder) {
        buffer = .allocate(byteCount: encoder.lengthMax, alignment: 16)
        bytes = .allocate(byteCount: encoder.lengthMax * ticks.count, alignment: 16)
        var places: [Range<Int>] = []
        var end = 0
        for tick in ticks {
            let length = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(rebasing: bytes[end...]))
            places.append(end..<end + length)
            end += length
        }
        self.places = places
        byteCount = end
        // The yardstick does the same work.
        var written = 0
        let first = buffer.baseAddress!.assumingMemoryBound(to: UInt8.self)
        ticks.withUnsafeBufferPointer { written = loops.encode($0.baseAddress!, into: first) }
        precondition(
            UnsafeRawBufferPointer(rebasing: bytes[places[0]]).elementsEqual(UnsafeRawBufferPointer(buffer)[..<written])
        )
    }

    deinit {
        buffer.deallocate()
        bytes.deallocate()
    }

    func encodeAll(_ ticks: [Tick], _ encoder: TickEncoder) {
        var sum = 0
        ticks.withUnsafeBufferPointer { ticks in
            for index in ticks.indices { sum &+= encoder.encode(ticks.baseAddress! + index, into: buffer) }
        }
        sink &+= UInt64(sum)
    }

    func encodeAllByLoops(_ ticks: [Tick]) {
        var sum = 0
        let bytes = buffer.baseAddress!.assumingMemoryBound(to: UInt8.self)
        ticks.withUnsafeBufferPointer { ticks in
            for index in ticks.indices { sum &+= loops.encode(ticks.baseAddress! + index, into: bytes) }
        }
        sink &+= UInt64(sum)
    }

    func readAllByLoops() {
        var sum: UInt64 = 0
        for place in places {
            let update = UnsafeRawBufferPointer(start: bytes.baseAddress! + place.lowerBound, count: place.count)
            sum &+= ByteLoopCodec.digest(update) ?? 0
        }
        sink &+= sum
    }

    func readAll() {
        var sum: UInt64 = 0
        var reader = TickReader()
        for place in places {
            let update = UnsafeRawBufferPointer(start: bytes.baseAddress! + place.lowerBound, count: place.count)
            do { try reader.read(update) } catch { continue }
            sum &+= withUnsafePointer(to: &reader) { Self.digest($0) }
        }
        sink &+= sum
    }

    /// Takes every field.
    @inline(never)
    private static func digest(_ reader: UnsafePointer<TickReader>) -> UInt64 {
        func bits(_ value: Int64?) -> UInt64 { UInt64(bitPattern: value ?? 1) }
        var sum = reader.pointee.sequence &+ reader.pointee.epoch &+ reader.pointee.venueSequence
        sum &+= bits(reader.pointee.bid) &+ bits(reader.pointee.ask) &+ bits(reader.pointee.last)
        sum &+= bits(reader.pointee.bidSize) &+ bits(reader.pointee.askSize) &+ bits(reader.pointee.lastSize)
        sum &+=
            bits(reader.pointee.eventTimeNs) &+ bits(reader.pointee.receivedTimeNs)
            &+ bits(reader.pointee.publishTimeNs)
        sum &+= UInt64(
            reader.pointee.exchange.count &+ reader.pointee.symbol.count &+ reader.pointee.feed.count
                &+ reader.pointee.tradeID.count)
        sum &+= UInt64(reader.pointee.kind.rawValue) &+ UInt64(reader.pointee.state.rawValue)
        sum &+= UInt64(reader.pointee.aggressorSide.rawValue) &+ UInt64(reader.pointee.eventTimeSource.rawValue)
        return sum
    }
}
