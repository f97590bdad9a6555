import CNGHTTP2
import EventLoop
import HTTP2
import Simulation
import TestSupport
import Testing

/// What a server takes for a request, held against nghttp2's own rules: the same bytes go to a session of nghttp2's
/// with its rules on, and to a connection, which has them from ``HTTP2RequestRules`` and does not look twice at fields
/// that come again.
struct RequestRulesTests {
    private typealias Field = (name: [UInt8], value: [UInt8])

    /// What became of a request.
    private enum Event: Hashable, CustomStringConvertible {
        case head(Int32, [HTTP2Header])
        case data(Int32, Int)
        case end(Int32)

        var stream: Int32 {
            switch self {
            case .head(let id, _), .data(let id, _), .end(let id): id
            }
        }

        var description: String {
            switch self {
            case .head(let id, let fields): "head of \(id): \(fields.map { "\($0.name)=\($0.value)" })"
            case .data(let id, let count): "\(count) bytes of \(id)"
            case .end(let id): "end of \(id)"
            }
        }
    }

    /// nghttp2 alone.
    private final class Reference {
        private var session: OpaquePointer?
        private var fields: [HTTP2Header] = []
        private(set) var events: [Event] = []

        init() {
            var callbacks: OpaquePointer?
            nghttp2_session_callbacks_new(&callbacks)
            nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, _, me in
                Reference.of(me).fields = []
                return 0
            }
            nghttp2_session_callbacks_set_on_header_callback(callbacks) { _, _, name, nameCount, value, count, _, me in
                let name = UnsafeRawBufferPointer(start: name, count: nameCount)
                let value = UnsafeRawBufferPointer(start: value, count: count)
                Reference.of(me).fields.append(
                    HTTP2Header(String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self)))
                return 0
            }
            nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) { _, _, id, _, count, me in
                Reference.of(me).events.append(.data(id, count))
                return 0
            }
            nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, me in
                let (header, me) = (frame!.pointee.hd, Reference.of(me))
                if UInt32(header.type) == NGHTTP2_HEADERS.rawValue {
                    me.events.append(.head(header.stream_id, me.fields))
                }
                let canEnd = [NGHTTP2_HEADERS.rawValue, NGHTTP2_DATA.rawValue].contains(UInt32(header.type))
                if canEnd, header.flags & 1 != 0 { me.events.append(.end(header.stream_id)) }
                return 0
            }
            nghttp2_session_server_new(&session, callbacks, Unmanaged.passUnretained(self).toOpaque())
            nghttp2_session_callbacks_del(callbacks)
            nghttp2_submit_settings(session, 0, nil, 0)
        }

        deinit { nghttp2_session_del(session) }

        private static func of(_ me: UnsafeMutableRawPointer?) -> Reference {
            Unmanaged<Reference>.fromOpaque(me!).takeUnretainedValue()
        }

        func receive(_ bytes: [UInt8]) {
            #expect(nghttp2_session_mem_recv(session, bytes, bytes.count) == bytes.count)
            var chunk: UnsafePointer<UInt8>?
            while nghttp2_session_mem_send(session, &chunk) > 0 {}
        }
    }

    /// A connection of ours.
    private final class Server: HTTP2ConnectionOwner {
        private final class Request: HTTP2Stream {
            weak var server: Server?

            override func received(fields: HTTP2FieldBlock, endsStream: Bool) {
                server?.events.append(.head(id, fields.headers))
                if let reading = fields.reading as? Reading {
                    #expect(reading.headers == fields.headers, "what was made of other fields")
                    server?.repeats += 1
                } else {
                    fields.reading = Reading(fields.headers)
                }
            }
            override func received(data: UnsafeRawBufferPointer) {
                server?.events.append(.data(id, data.count))
                consume(data.count)
            }
            override func receivedEnd() { server?.events.append(.end(id)) }
            override func closed(code: UInt32) { server?.codes[id] = code }
        }

        private final class Reading {
            let headers: [HTTP2Header]
            init(_ headers: [HTTP2Header]) { self.headers = headers }
        }

        private let loop = SimulatedLoop()
        private let ends: (client: SimulatedStream, server: SimulatedStream)
        private var connection: HTTP2Connection?
        private(set) var events: [Event] = []
        private(set) var codes: [Int32: UInt32] = [:]
        /// Heads that were those before them, and were known to be.
        private(set) var repeats = 0

        init() {
            ends = SimulatedStream.pair(loop, SimulatedLink(), SimulatedStream.SharedRandom(seed: 1))
            connection = HTTP2Connection(
                transport: ends.server, isServer: true, settings: HTTP2Settings(), owner: self)
        }

        func makeStream(on connection: HTTP2Connection) -> HTTP2Stream {
            let request = Request(connection)
            request.server = self
            return request
        }

        func closed(_ connection: HTTP2Connection, reason: String) {}

        func receive(_ bytes: [UInt8]) {
            bytes.withUnsafeBytes { connection?.received($0) }
            _ = loop.run(until: { false }, turnsMax: 4)
        }

        func stop() {
            connection?.close(reason: "the test is over")
            connection = nil
        }
    }

    /// Requests as a client with a table of fields sends them, most of them wrong somewhere.
    private struct Client {
        private var random: SeededRandom
        private let deflater: OpaquePointer?
        private var last: [Field] = RequestRulesTests.plain
        private(set) var nextStream: Int32 = 1
        /// What was sent last, to read.
        private(set) var text = ""

        init(seed: UInt64) {
            random = SeededRandom(seed: seed)
            var deflater: OpaquePointer?
            nghttp2_hd_deflate_new(&deflater, 4096)
            self.deflater = deflater
        }

        func end() { nghttp2_hd_deflate_del(deflater) }

        private mutating func chance(_ one: Int) -> Bool { Int.random(in: 0..<one, using: &random) == 0 }
        private mutating func pick<T>(_ choices: [T]) -> T { choices.randomElement(using: &random)! }

        private func block(_ fields: [Field], never: Bool) -> [UInt8] {
            var out = [UInt8](repeating: 0, count: 64 << 10)
            var all: [UInt8] = []
            for field in fields { all += field.name + field.value }
            all.append(0)
            let flag = never ? UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue) : 0
            let count = all.withUnsafeMutableBufferPointer { all in
                var (entries, place): ([nghttp2_nv], UnsafeMutablePointer<UInt8>) = ([], all.baseAddress!)
                for field in fields {
                    entries.append(
                        nghttp2_nv(
                            name: place, value: place + field.name.count, namelen: field.name.count,
                            valuelen: field.value.count, flags: flag))
                    place += field.name.count + field.value.count
                }
                return nghttp2_hd_deflate_hd(deflater, &out, out.count, entries, entries.count)
            }
            return Array(out[..<Int(count)])
        }

        private mutating func spoil(_ fields: inout [Field]) {
            let place = Int.random(in: 0...fields.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0 where place < fields.count: fields.remove(at: place)
            case 1 where place < fields.count: fields.insert(fields[place], at: pick(Array(0...fields.count)))
            case 2 where place < fields.count: fields[place].value = Array(pick(RequestRulesTests.values).utf8)
            case 3 where place < fields.count: fields.append(fields.remove(at: place))
            case 4:
                let byte = UInt8.random(in: 0...255, using: &random)
                if place < fields.count { fields[place].value.append(byte) }
            default:
                let field = (Array(pick(RequestRulesTests.names).utf8), Array(pick(RequestRulesTests.values).utf8))
                fields.insert(field, at: place)
            }
        }

        /// The frames of the next request.
        mutating func request() -> [UInt8] {
            var fields = chance(3) ? last : RequestRulesTests.plain
            if chance(12) { for number in 0..<20 { fields.append((Array("x-\(number)".utf8), [48])) } }
            if chance(20) { fields.append((Array("long".utf8), [UInt8](repeating: 97, count: 5000))) }
            for _ in 0..<pick([0, 0, 0, 1, 1, 2, 3]) { spoil(&fields) }
            last = fields
            text = RequestRulesTests.text(fields)
            let stream = UInt32(nextStream)
            nextStream += 2
            let (body, trailers) = (pick([0, 0, 5]), chance(5))
            let endsHead = body == 0 && !trailers
            let head = block(fields, never: chance(8))
            var bytes = RawConnection.frame(
                1, flags: 4 | (endsHead ? 1 : 0), stream: stream, Array(head.prefix(16_000)))
            if body > 0 {
                let data = [UInt8](repeating: 7, count: body)
                bytes += RawConnection.frame(0, flags: trailers ? 0 : 1, stream: stream, data)
            }
            if trailers {
                var fields: [Field] = [(Array("x-sum".utf8), Array("1".utf8))]
                if chance(3) { spoil(&fields) }
                // nghttp2 counts one here to that of the head.
                fields.removeAll { $0.name == Array("host".utf8) }
                text += "; trailers " + RequestRulesTests.text(fields)
                bytes += RawConnection.frame(
                    1, flags: chance(6) ? 4 : 5, stream: stream, block(fields, never: false))
            }
            return bytes
        }
    }

    private static func text(_ fields: [Field]) -> String {
        fields.map { String(decoding: $0.name, as: UTF8.self) + "=" + String(decoding: $0.value, as: UTF8.self) }
            .description
    }

    private static let plain: [Field] = [
        (":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "localhost:50051"),
        ("content-type", "application/grpc"), ("user-agent", "test/1"), ("te", "trailers"), ("grpc-timeout", "1S"),
    ].map { (Array($0.0.utf8), Array($0.1.utf8)) }

    private static let names = [
        ":method", ":scheme", ":path", ":authority", ":protocol", ":status", ":", "", "host", "Host", "te", "tE",
        "content-length", "content-length", "connection", "keep-alive", "proxy-connection", "transfer-encoding",
        "upgrade", "x-a", "X-A", "x a", "x\u{0}", "x:", "grpc-timeout", "authorization", "é", "!#$%&'*+-.^_`|~09az",
    ]

    private static let values = [
        "", "POST", "GET", "CONNECT", "OPTIONS", "HEAD", "P ST", "connect", "http", "HTTPS", "ftp", "1http", "h+t-t.p",
        "/", "*", "a", "/a b", "/ä", "localhost", "a:b@[::1]", "a b", "a/b", "trailers", "Trailers", "gzip", "0", "5",
        "05", "-1", "+5", "5 ", " 5", "99999999999999999999", "9223372036854775807", "9223372036854775808", "5a", "\t",
        " x", "x ", "x\ty", "x\u{7f}", "x\u{1}", "x\r\ny", "é", "~", "x\u{0}",
    ]

    @Test func `Requests are taken and refused as by nghttp2's own rules`() {
        var (taken, refused, repeats) = (0, 0, 0)
        for seed in 0..<UInt64(Checkout.isSoak ? 20_000 : 400) {
            let (reference, server) = (Reference(), Server())
            var client = Client(seed: seed)
            defer { client.end() }
            let start = RawConnection.preface + RawConnection.frame(4, flags: 0, stream: 0, [])
            reference.receive(start)
            server.receive(start)
            for _ in 0..<20 {
                let stream = client.nextStream
                let bytes = client.request()
                reference.receive(bytes)
                server.receive(bytes)
                let wanted = reference.events.filter { $0.stream == stream }
                let found = server.events.filter { $0.stream == stream }
                #expect(found == wanted, "seed \(seed), stream \(stream): \(client.text)")
                guard found == wanted else { return }
                if wanted.contains(.end(stream)) {
                    taken += 1
                } else {
                    refused += 1
                    #expect(server.codes[stream] == HTTP2ErrorCode.protocolError, "seed \(seed), stream \(stream)")
                }
            }
            repeats += server.repeats
            server.stop()
        }
        #expect(taken > 1000 && refused > 1000 && repeats > 200, "\(taken) taken, \(refused) refused, \(repeats) again")
    }
}
