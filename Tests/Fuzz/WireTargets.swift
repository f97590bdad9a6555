import DNSCodec
import HTTP1Codec
import MarketModel
import MarketProto
import Protobuf
import TickCodec
import VenueFormats

extension FuzzTarget {
    /// The first byte chooses a type. What decodes, encodes to bytes that decode to the same; its JSON is JSON.
    static let protobuf = FuzzTarget(
        name: "protobuf", lengthMax: 1024,
        seeds: {
            var order = Proto.OrderRequest()
            order.orderId = "o-1"
            order.symbol = "AAPL"
            order.side = "BUY"
            order.quantityMicros = 10_000_000
            order.limitPriceMicros = -1
            order.clientTimestamp = WellKnown.Timestamp(ns: 1_732_000_000_123_456_789)
            var subscription = Proto.PriceSubscription()
            subscription.symbols = ["AAPL", "BTCUSDT"]
            subscription.throttleMs = 250
            subscription.resumeToken = [1, 2, 3]
            let messages: [any ProtoMessage] = [priceUpdate(), order, subscription]
            let structure: [UInt8] = [10, 12, 10, 1, 97, 18, 7, 50, 5, 10, 3, 26, 1, 98]
            return messages.enumerated().map { [UInt8($0)] + $1.encodedBytes() }
                + types.indices.map { [UInt8($0)] + structure } + types.indices.map { [UInt8($0), 8, 1, 18, 2, 8, 1] }
        },
        run: { bytes in
            guard let first = bytes.first else { return }
            types[Int(first) % types.count](bytes.dropping(1))
        })

    private static let types: [@Sendable (UnsafeRawBufferPointer) -> Void] = [
        { roundTrip(Proto.PriceUpdate.self, $0) }, { roundTrip(Proto.OrderRequest.self, $0) },
        { roundTrip(Proto.PriceSubscription.self, $0) }, { roundTrip(Proto.TradingMessage.self, $0) },
        { roundTrip(Proto.OrderCommand.self, $0) }, { roundTrip(Proto.QuoteRequest.self, $0) },
        { roundTrip(Proto.QuoteResponse.self, $0) }, { roundTrip(Proto.TickBatch.self, $0) },
        { roundTrip(Proto.BookDelta.self, $0) }, { roundTrip(Proto.DeadLetter.self, $0) },
        { roundTrip(WellKnown.Struct.self, $0) }, { roundTrip(WellKnown.Value.self, $0) },
        { roundTrip(WellKnown.AnyMessage.self, $0) }, { roundTrip(WellKnown.Timestamp.self, $0) },
        { roundTrip(WellKnown.Duration.self, $0) }, { roundTrip(WellKnown.FieldMask.self, $0) },
        { roundTrip(WellKnown.DoubleValue.self, $0) }, { roundTrip(WellKnown.FloatValue.self, $0) },
        { roundTrip(WellKnown.BytesValue.self, $0) },
    ]

    private nonisolated(unsafe) static let json = JSONParser()

    private static func roundTrip<Message: ProtoMessage>(_: Message.Type, _ bytes: UnsafeRawBufferPointer) {
        guard let message = try? Message(decoding: bytes) else { return }
        let encoded = message.encodedBytes()
        guard let again = try? Message(decoding: encoded) else {
            return require(false, "\(Message.protoName): what was encoded does not decode: \(encoded)")
        }
        // Compared as bytes: a NaN is no other's equal.
        require(again.encodedBytes() == encoded, "\(Message.protoName): encoded twice, it differs")
        let text = Array(message.json().utf8)
        let isJSON = text.withUnsafeBytes { (try? json.parse($0)) != nil }
        require(isJSON, "\(Message.protoName): no JSON: \(message.json())")
    }

    private static func priceUpdate() -> Proto.PriceUpdate {
        var update = Proto.PriceUpdate()
        update.exchange = "SIMX"
        update.symbol = "AAPL"
        update.bidMicros = 189_990_000
        update.askMicros = 190_010_000
        update.lastMicros = 190_000_000
        update.volume = 100
        update.eventTime = WellKnown.Timestamp(ns: 1_732_000_000_123_456_789)
        update.receivedTime = update.eventTime
        update.publishTime = update.eventTime
        update.feedHandlerId = "sim"
        update.sequence = 7
        update.epoch = 3
        update.tradeId = "12"
        update.conditions = ["X"]
        update.conflated = Proto.Conflation()
        update.exact = Proto.ExactDecimals()
        return update
    }
}

extension FuzzTarget {
    /// The lazy reader and the generic decoder agree on what both accept, and a tick that passes the check survives the
    /// encoder.
    static let tick = FuzzTarget(
        name: "tick", lengthMax: 512,
        seeds: {
            var tick = Tick(
                kind: .trade, receivedTimeNs: 1_732_000_000_123_456_789, publishTimeNs: 1_732_000_000_123_456_999,
                epoch: 3, sequence: 12)
            let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: "binance")
            var seeds = [encode(tick, encoder), priceUpdate().encodedBytes(), []]
            tick.bid = 61_837_630_000_000
            tick.ask = 61_837_640_000_001
            tick.bidSize = 150_000_000
            tick.askSize = 1
            seeds.append(encode(tick, encoder))
            tick.last = -5
            tick.lastSize = 123_456_789
            tick.eventTimeNs = -1
            tick.tradeID = .max
            tick.venueSequence = 1 << 40
            tick.aggressorSide = .sell
            tick.state = .stale
            seeds.append(encode(tick, encoder))
            return seeds + [seeds[3] + seeds[4], seeds[4] + [0xa3, 0x06, 0x08, 0x01, 0xa4, 0x06]]
        },
        run: { bytes in
            guard let reader = try? TickReader(bytes) else { return }
            if let message = try? Proto.PriceUpdate(decoding: bytes) { agree(reader, message) }
            reencode(reader, bytes)
        })

    private static func agree(_ reader: TickReader, _ message: Proto.PriceUpdate) {
        func time(_ timestamp: WellKnown.Timestamp?) -> [Int64] {
            timestamp.map { [$0.seconds, Int64($0.nanos)] } ?? [0, 0]
        }
        func same(_ a: UnsafeRawBufferPointer, _ b: String, _ name: String) {
            require(a.elementsEqual(b.utf8), "\(name): \(Array(a)) and \(b)")
        }
        same(reader.exchange, message.exchange, "exchange")
        same(reader.symbol, message.symbol, "symbol")
        same(reader.feed, message.feedHandlerId, "feed")
        same(reader.tradeID, message.tradeId, "tradeID")
        let read: [Int64?] = [
            reader.bidMicros, reader.askMicros, reader.lastMicros, reader.volume, reader.bidSizeMicros,
            reader.askSizeMicros,
        ]
        let decoded: [Int64?] = [
            message.bidMicros, message.askMicros, message.lastMicros, message.volume, message.bidSizeMicros,
            message.askSizeMicros,
        ]
        require(read == decoded, "values: \(read) and \(decoded)")
        require(
            [reader.sequence, reader.epoch, reader.venueSequence]
                == [message.sequence, message.epoch, message.venueSequence], "sequences")
        require(
            [
                reader.bidNanoRemainder, reader.askNanoRemainder, reader.lastNanoRemainder,
                reader.bidSizeNanoRemainder, reader.askSizeNanoRemainder, reader.volumeNanoRemainder,
                reader.kindNumber, reader.eventTimeSourceNumber, reader.stateNumber, reader.aggressorSideNumber,
            ] == [
                message.bidNanoRemainder, message.askNanoRemainder, message.lastNanoRemainder,
                message.bidSizeNanoRemainder, message.askSizeNanoRemainder, message.volumeNanoRemainder,
                message.kind.rawValue, message.eventTimeSource.rawValue, message.state.rawValue,
                message.aggressorSide.rawValue,
            ], "remainders and enums")
        let readTimes = [reader.eventTimestamp, reader.receivedTimestamp, reader.publishTimestamp].map {
            [$0.seconds, Int64($0.nanos)]
        }
        require(
            readTimes == [time(message.eventTime), time(message.receivedTime), time(message.publishTime)],
            "times: \(readTimes)")
        require(
            [
                reader.hasEventTime, reader.hasReceivedTime, reader.hasPublishTime, reader.hasConditions,
                reader.hasConflation, reader.hasExact,
            ] == [
                message.eventTime != nil, message.receivedTime != nil, message.publishTime != nil,
                !message.conditions.isEmpty, message.conflated != nil, message.exact != nil,
            ], "presence")
    }

    private static func reencode(_ reader: TickReader, _ bytes: UnsafeRawBufferPointer) {
        // Reads what is out of range too.
        let tick = reader.tick()
        _ = reader.filingTimeNs
        let encoder = TickEncoder(
            exchange: String(decoding: reader.exchange, as: UTF8.self),
            symbol: String(decoding: reader.symbol, as: UTF8.self), feed: String(decoding: reader.feed, as: UTF8.self))
        let isSame = encode(tick, encoder).elementsEqual(bytes)
        let hasMore = reader.hasConditions || reader.hasConflation || reader.hasExact
        withUnsafeTemporaryAllocation(byteCount: encoder.lengthMax, alignment: 16) { scratch in
            require(encoder.givesBack(reader, scratch: scratch) == (isSame && !hasMore), "given back: \(isSame)")
        }
        guard (try? reader.check()) != nil else { return }
        encode(tick, encoder).withUnsafeBytes { encoded in
            guard let again = try? TickReader(encoded), (try? again.check()) != nil else {
                return require(false, "an encoded tick is refused")
            }
            require(again.tick() == tick, "encoded and read: \(again.tick()), not \(tick)")
            require(again.filingTimeNs == reader.filingTimeNs, "filing time")
        }
    }

    static func encode(_ tick: Tick, _ encoder: TickEncoder) -> [UInt8] {
        // Not through an array's spare capacity: the buffer ends where `lengthMax` does.
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: encoder.lengthMax, alignment: 16)
        defer { buffer.deallocate() }
        return Array(buffer[..<encoder.encode(tick, into: buffer)])
    }
}

extension FuzzTarget {
    /// The first byte is the scale. Text is read as an obvious reader of 128 bits reads it, and written back the same.
    static let decimal = FuzzTarget(
        name: "decimal", lengthMax: 64,
        seeds: {
            [
                "61837.63000000", "-0.5", "+1", "0", "000.000", "9223372036854775807", "-9223372036854775808", "1e5",
                ".5", "5.", "-", "92233720368547758.07", "0.0000000000000000001",
            ].flatMap { text in [0, 8, 9, 18].map { [UInt8($0)] + Array(text.utf8) } }
        },
        run: { bytes in
            guard let first = bytes.first else { return }
            let scale = Int(first) % (DecimalText.scaleMax + 1)
            let text = bytes.dropping(1)
            let mantissa = try? DecimalText.mantissa(text, scale: scale)
            let expected = plainMantissa(Array(text), scale)
            require(mantissa == expected, "\(String(describing: mantissa)), not \(String(describing: expected))")
            if let mantissa { requireRoundTrip(mantissa, scale) }
            if text.count >= 8 { requireRoundTrip(text.le(0), scale) }
        })

    private static func requireRoundTrip(_ mantissa: Int64, _ scale: Int) {
        let text = DecimalText.string(mantissa, scale: scale)
        let again = try? DecimalText.mantissa(text, scale: scale)
        require(again == mantissa, "\(mantissa) at \(scale) is written \(text)")
    }

    /// The mantissa as the grammar says it, without regard for speed.
    private static func plainMantissa(_ text: [UInt8], _ scale: Int) -> Int64? {
        var digits = text[...]
        let isNegative = digits.first == UInt8(ascii: "-")
        if isNegative || digits.first == UInt8(ascii: "+") { digits = digits.dropFirst() }
        let parts = digits.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count <= 2, parts.allSatisfy({ !$0.isEmpty && $0.allSatisfy { 0x30...0x39 ~= $0 } }) else {
            return nil
        }
        var fraction = parts.count == 2 ? Array(parts[1]) : []
        while fraction.last == 0x30 { fraction.removeLast() }
        guard fraction.count <= scale else { return nil }
        fraction += [UInt8](repeating: 0x30, count: scale - fraction.count)
        let all = Array((Array(parts[0]) + fraction).drop { $0 == 0x30 })
        guard all.count <= 20 else { return nil }
        let magnitude = all.reduce(Int128(0)) { $0 * 10 + Int128($1 - 0x30) }
        return Int64(exactly: isNegative ? -magnitude : magnitude)
    }
}

extension FuzzTarget {
    /// Answers of a name server, whole and behind a right header and question. What is read, written plainly, reads the
    /// same; an answer to another question is none.
    static let dns = FuzzTarget(
        name: "dns", lengthMax: 600,
        seeds: {
            let address: [UInt8] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]
            let alias: [UInt8] = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, 0x62, 0xc0, 14]
            let behind: [UInt8] = [0xc0, 36, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 2]
            let wide: [UInt8] = [0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16] + [UInt8](repeating: 7, count: 16)
            return [
                [0, 0, 1] + address, [0, 0, 2] + address + address, [0, 0, 2] + alias + behind, [1, 0, 1] + wide,
                [0, 3, 0], [0, 2, 0], [2, 0, 1] + address, [0, 0, 255] + address, [0, 0, 1, 0xc0, 12],
            ]
        },
        run: { bytes in
            guard bytes.count >= 3, let name = DNSName("a.test") else { return }
            let question = DNSQuestion(name, bytes[0] & 1 == 0 ? .ipv4 : .ipv6)
            let asked = question.message(id: 0x4711)[12...]
            let flags: [UInt8] = [bytes[0] & 2 == 0 ? 0x81 : 0x83, 0x80 | bytes[1] & 15]
            let message = [0x47, 0x11] + flags + [0, 1, 0, bytes[2], 0, 0, 0, 0] + asked + bytes[3...]
            let reply = read(question, message)
            require(read(question, [0x47, 0x12] + message[2...]) == .notOurs, "an answer with another id")
            _ = read(question, Array(bytes))
            guard case .addresses(let addresses) = reply else { return }
            let records = addresses.flatMap { address -> [UInt8] in
                [0xc0, 12, 0, UInt8(question.type.rawValue), 0, 1, 0, 0, 0, 0, 0, UInt8(address.count)] + address
            }
            let counts: [UInt8] = [0, 1, UInt8(addresses.count >> 8), UInt8(addresses.count & 255), 0, 0, 0, 0]
            let again = read(question, [0x47, 0x11, 0x81, 0x80] + counts + asked + records)
            require(again == reply, "\(String(describing: again)), not \(addresses)")
        })

    private static func read(_ question: DNSQuestion, _ message: [UInt8]) -> DNSReply? {
        message.withUnsafeBytes { try? question.reply($0, id: 0x4711) }
    }
}

extension FuzzTarget {
    /// The first byte seeds the cuts. An answer is the same however it is cut, and what one says written again is read
    /// again.
    static let http1Response = FuzzTarget(
        name: "http1response", lengthMax: 512,
        seeds: {
            [
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + "2;x\r\n{}\r\n0\r\nA: b\r\n\r\n", "HTTP/1.0 503\r\n\r\nsorry", "HTTP/1.1 204 No Content\r\n\r\n",
            ].map { [7] + Array($0.utf8) }
        },
        run: { bytes in
            guard let seed = bytes.first else { return }
            var limits = HTTP1Limits()
            limits.headBytesMax = 200
            limits.headersMax = 6
            limits.bodyBytesMax = 100
            let whole = answer(bytes.dropping(1), piece: .max, limits)
            let cut = answer(bytes.dropping(1), piece: 1 + Int(seed) % 37, limits)
            require(whole == cut, "\(whole), and cut \(cut)")
            guard case .success(let response) = whole else { return }
            let same = HTTP1Response(response.status, contentType: response.contentType, body: response.body)
            let again = same.encoded(for: "POST", closes: true).withUnsafeBytes {
                answer($0, piece: .max, HTTP1Limits())
            }
            guard case .success(let read) = again else { return require(false, "\(again)") }
            let hasNoBody = response.status == 204 || response.status == 304
            require(read.status == response.status, "\(read)")
            require(
                read.body == (hasNoBody ? [] : response.body) && read.contentType == response.contentType, "\(read)")
        })

    private static func answer(
        _ bytes: UnsafeRawBufferPointer, piece: Int, _ limits: HTTP1Limits
    ) -> Result<HTTP1Response, HTTP1ResponseProblem> {
        var parser = HTTP1ResponseParser(limits: limits)
        var rest = bytes
        do throws(HTTP1ResponseProblem) {
            while !rest.isEmpty {
                // A piece of its own memory: reading past it is found.
                let next = Array(rest.prefix(piece))
                next.withUnsafeBytes { parser.append($0) }
                rest = rest.dropping(next.count)
                if let response = try parser.next() { return .success(response) }
            }
            return .success(try parser.finish())
        } catch {
            return .failure(error)
        }
    }
}
