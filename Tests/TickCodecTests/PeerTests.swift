import MarketModel
import TestSupport
import Testing
import TickCodec

/// Google's encoders and decoders are the judges, both ways.
struct PeerTests {
    static let tickCount = Checkout.isSoak ? 200_000 : 5000

    private static func ticks(seed: UInt64) -> [(tick: Tick, bytes: [UInt8])] {
        var random = SeededRandom(seed: seed)
        var encoder = TickEncoder(exchange: "X", symbol: "Y", feed: "z")
        return (0..<tickCount).map { index in
            if index % 50 == 0 {
                encoder = TickEncoder(exchange: random.name(), symbol: random.name(), feed: random.name())
            }
            let tick = random.tick()
            return (tick, encoded(tick, encoder))
        }
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `Python reads what we encode, writes the same bytes, and its decimals are exact`() throws {
        let ticks = Self.ticks(seed: 1)
        let output = try Peers.python(
            """
            def whole(micros, rest, scale):
                return None if micros is None else micros * scale[0] + rest * scale[1] // scale[2]
            P, Q, V = (1000, 1, 1), (100, 1, 10), (10**8, 1, 10)
            for r in records():
                m = PriceUpdate.FromString(r)
                assert m.SerializeToString(deterministic=True) == r, r.hex()
                get = lambda n: getattr(m, n) if m.HasField(n) else None
                ns = lambda n: getattr(m, n).seconds * 10**9 + getattr(m, n).nanos if m.HasField(n) else None
                for n in (m.bid_nano_remainder, m.ask_nano_remainder, m.last_nano_remainder,
                          m.bid_size_nano_remainder, m.ask_size_nano_remainder):
                    assert 0 <= n <= 999
                assert 0 <= m.volume_nano_remainder <= 999999999
                print(whole(get("bid_micros"), m.bid_nano_remainder, P),
                      whole(get("ask_micros"), m.ask_nano_remainder, P),
                      whole(get("last_micros"), m.last_nano_remainder, P),
                      whole(get("bid_size_micros"), m.bid_size_nano_remainder, Q),
                      whole(get("ask_size_micros"), m.ask_size_nano_remainder, Q),
                      whole(get("volume"), m.volume_nano_remainder, V), ns("event_time"), ns("received_time"),
                      ns("publish_time"), m.sequence, m.epoch, m.kind, m.state, m.aggressor_side, m.event_time_source,
                      m.venue_sequence, m.trade_id or None, m.exchange + m.symbol + m.feed_handler_id)
            """, input: ticks.flatMap { Peers.frame($0.bytes) })
        let lines = String(decoding: output, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count == ticks.count + 1)
        for ((tick, bytes), line) in zip(ticks, lines) {
            func text(_ value: (some Any)?) -> String { value.map { "\($0)" } ?? "None" }
            let source = FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).source
            let names = try bytes.withUnsafeBytes {
                let reader = try TickReader($0)
                return String(
                    decoding: Array(reader.exchange) + Array(reader.symbol) + Array(reader.feed), as: UTF8.self)
            }
            let expected = [
                text(tick.bid), text(tick.ask), text(tick.last), text(tick.bidSize), text(tick.askSize),
                text(tick.lastSize), text(tick.eventTimeNs), "\(tick.receivedTimeNs)", "\(tick.publishTimeNs)",
                "\(tick.sequence)", "\(tick.epoch)", "\(tick.kind.rawValue)", "\(tick.state.rawValue)",
                "\(tick.aggressorSide.rawValue)", "\(source.rawValue)", "\(tick.venueSequence)", text(tick.tradeID),
                names,
            ].joined(separator: " ")
            #expect(line == expected)
        }
    }

    @Test(.enabled(if: Peers.protoc != nil, "protoc is absent"))
    func `protoc decodes what we encode and encodes it to the same bytes`() throws {
        let protoc = try #require(Peers.protoc)
        // A TickBatch of all ticks: field 1, length, bytes.
        var batch: [UInt8] = []
        for (_, bytes) in Self.ticks(seed: 2) {
            batch.append(0x0a)
            var length = bytes.count
            while length >= 0x80 {
                batch.append(UInt8(length & 0x7f) | 0x80)
                length >>= 7
            }
            batch.append(UInt8(length))
            batch += bytes
        }
        func convert(_ way: String, _ input: [UInt8]) throws -> [UInt8] {
            let arguments = ["-I\(Checkout.path)/proto", "--\(way)=financial.marketdata.v1.TickBatch", Peers.schema]
            return try Peers.run(protoc, arguments, input)
        }
        let text = try convert("decode", batch)
        #expect(try convert("encode", text) == batch)
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `We read what Python writes: any order, duplicates, merged timestamps, unknown fields`() throws {
        let output = try Peers.python(
            """
            rnd = random.Random(int(sys.argv[4]))
            def varint(n):
                b = b""
                while n >= 128:
                    b += bytes([n & 127 | 128]); n >>= 7
                return b + bytes([n])
            def wide(signed, bits=64):
                n = rnd.choice([0, 1, 2**(bits - 1) - 1, rnd.getrandbits(rnd.randint(1, bits - 1)),
                                rnd.getrandbits(bits - 1)])
                return -n - 1 if signed and rnd.random() < .3 else n if signed else n * 2 + rnd.randint(0, 1)
            def field(number):
                m = PriceUpdate()
                f = PriceUpdate.DESCRIPTOR.fields_by_number[number]
                if number == 27: m.conditions.append("@" * rnd.randint(0, 5))
                elif number == 28: m.conflated.count = wide(False)
                elif number == 29: m.exact.bid = wide(True)
                elif f.message_type is not None:
                    t = getattr(m, f.name)
                    t.SetInParent()
                    if rnd.random() < .8:
                        t.seconds = wide(True) if rnd.random() < .4 else 1732000000 + rnd.randint(0, 9)
                    if rnd.random() < .8: t.nanos = wide(True, 32) if rnd.random() < .4 else rnd.randint(0, 999999999)
                elif f.type == f.TYPE_STRING:
                    count = rnd.randint(60, 90) if rnd.random() < .1 else rnd.randint(0, 9)
                    setattr(m, f.name, "aé" * count)
                elif f.type == f.TYPE_ENUM:
                    setattr(m, f.name, wide(True, 32) if rnd.random() < .3 else rnd.randint(0, 3))
                elif f.type == f.TYPE_INT32:
                    setattr(m, f.name, wide(True, 32) if rnd.random() < .3 else rnd.randint(0, 999))
                else: setattr(m, f.name, wide(f.type == f.TYPE_INT64))
                return m.SerializeToString()
            def unknown():
                n = rnd.choice([32, 33, 100, 2047, 2048, 2**29 - 1])
                kind = rnd.randint(0, 4)
                tag = lambda w: varint(n << 3 | w)
                return [tag(0) + varint(wide(False)), tag(1) + bytes(8), tag(2) + varint(3) + b"abc", tag(5) + bytes(4),
                        tag(3) + field(3) + tag(3) + tag(4) + tag(4)][kind]
            for i in range(int(sys.argv[3])):
                numbers = [n for n in range(1, 30) if rnd.random() < .6]
                parts = [field(n) for n in numbers]
                if i % 4 == 1: rnd.shuffle(parts)
                if i % 4 == 2: parts += [field(n) for n in rnd.sample(numbers, len(numbers) // 3)]
                if i % 4 == 3:
                    parts += [unknown() for _ in range(rnd.randint(1, 4))]
                    parts += [field(n) for n in rnd.sample(numbers, len(numbers) // 3)]
                    rnd.shuffle(parts)
                b = b"".join(parts)
                text = line(PriceUpdate.FromString(b)).encode()
                sys.stdout.buffer.write(struct.pack("<I", len(b)) + b + struct.pack("<I", len(text)) + text)
            """, ["\(Self.tickCount)", "3"])
        let records = Peers.records(output)
        #expect(records.count == 2 * Self.tickCount)
        for index in stride(from: 0, to: records.count, by: 2) {
            #expect(try line(records[index]) == String(decoding: records[index + 1], as: UTF8.self))
        }
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `Python reads an appended conflation, extremes too`() throws {
        var random = SeededRandom(seed: 4)
        let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "itch")
        var expected: [String] = []
        var input: [UInt8] = []
        for _ in 0..<500 {
            var range = ConflatedRange(
                first: random.wide(), last: random.wide(), count: random.wide(), tradeCount: random.wide(),
                tradeVolume: random.wideSigned())
            range.tradeHigh = random.isOne(in: 3) ? nil : random.wideSigned()
            range.tradeLow = random.isOne(in: 3) ? nil : random.wideSigned()
            var bytes = encoded(random.tick(), encoder)
            let before = try line(bytes)
            TickCodec.appendConflation(range, to: &bytes)
            #expect(try line(bytes) == before + " 28=1")
            input += Peers.frame(bytes)
            expected.append(
                "\(range.first) \(range.last) \(range.count) \(range.tradeCount) \(range.tradeVolume) "
                    + "\(range.tradeHigh.map(String.init) ?? "None") \(range.tradeLow.map(String.init) ?? "None")")
        }
        let output = try Peers.python(
            """
            for r in records():
                c = PriceUpdate.FromString(r).conflated
                def price(n):
                    if not c.HasField(n + "_micros"): return None
                    return getattr(c, n + "_micros") * 1000 + getattr(c, n + "_nano_remainder")
                print(c.first_sequence, c.last_sequence, c.count, c.trade_count,
                      c.trade_volume * 10**8 + c.trade_volume_nano_remainder // 10, price("trade_high"),
                      price("trade_low"))
            """, input: input)
        #expect(String(decoding: output, as: UTF8.self) == expected.map { $0 + "\n" }.joined())
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `Python and we read an appended resume token, of any length`() throws {
        var random = SeededRandom(seed: 5)
        let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "itch")
        var expected: [String] = []
        var input: [UInt8] = []
        for length in 0..<300 {
            let token = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            var bytes = encoded(random.tick(), encoder)
            bytes += TickCodec.resumeTokenField(token)
            let read = try bytes.withUnsafeBytes { Array(try TickReader($0).resumeToken) }
            #expect(read == token)
            input += Peers.frame(bytes)
            let hex = token.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }
            expected.append(hex.joined())
        }
        let output = try Peers.python(
            """
            for r in records(): print(PriceUpdate.FromString(r).resume_token.hex())
            """, input: input)
        #expect(String(decoding: output, as: UTF8.self) == expected.map { $0 + "\n" }.joined())
    }
}
