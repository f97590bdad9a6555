import EventLoop
import Foundation
import HTTP2
import Protobuf
import Testing

@testable import GRPC

/// Which responses are compressed, by the bytes on the wire: each message's flag, in both forms of handlers.
@Suite(.timeLimit(.minutes(1)))
struct ResponseCompressionTests {
    private typealias Payload = InteropProto.Payload
    private static let service = "/tapedeck.test.Compression/"
    private static let large = [UInt8](repeating: 7, count: 2000)
    private static let small = [UInt8](repeating: 7, count: 20)

    /// A message that is compressed only by its size, one that is never, and a small one that always is.
    private static let choices: [(bytes: [UInt8], compressed: Bool?)] = [(large, nil), (large, false), (small, true)]

    private static func payload(_ bytes: [UInt8]) -> Payload {
        var payload = Payload()
        payload.body = bytes
        return payload
    }

    private static func register(on table: inout GRPCServiceTable) {
        for (name, compresses) in [("Loop", true), ("LoopOff", false)] {
            table.register(
                path: service + name, compresses: compresses,
                serverStreaming: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                    for choice in choices {
                        call.send(payload(choice.bytes).encodedBytes(), compressed: choice.compressed)
                    }
                    call.finish()
                })
            table.register(
                path: service + name + "One", compresses: compresses,
                unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                    call.respond(payload(large).encodedBytes(), compressed: name == "Loop" ? false : nil)
                })
        }
        table.register(
            path: service + "LoopOn",
            unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                call.compressResponses(.gzip)
                call.respond(payload(large).encodedBytes())
            })
        table.leaveUncompressed(path: service + "TaskOff")
        for name in ["Task", "TaskOff"] {
            table.serverStreaming(RPCMethod<Payload, Payload>(path: service + name)) { _, responses in
                for choice in choices {
                    GRPCCallContext.current?.setCompressed(choice.compressed)
                    try await responses.write(payload(choice.bytes))
                }
            }
            table.unary(RPCMethod<Payload, Payload>(path: service + name + "One")) { _ in
                if name == "Task" { GRPCCallContext.current?.setCompressed(false) }
                return payload(large)
            }
        }
        table.unary(RPCMethod<Payload, Payload>(path: service + "TaskOn")) { _ in
            await GRPCCallContext.current?.withCall { $0.compressResponses(.gzip) }
            return payload(large)
        }
        // Before or after it is registered.
        table.leaveUncompressed(path: service + "TaskOffOne")
    }

    private struct Answer {
        var encoding: String?
        var flags: [UInt8] = []
        var payloads: [[UInt8]] = []
    }

    /// Calls a method with one message.
    private func call(_ method: String, _ headers: [(String, String)]) async throws -> Answer {
        let group = EventLoopGroup(count: 1)
        let server = GRPCServer(group: group, configuration: GRPCServerConfiguration()) { _ in
            var table = GRPCServiceTable()
            ResponseCompressionTests.register(on: &table)
            return table
        }
        defer { Thread.detachNewThread { server.shutdown(withinMilliseconds: 2000) } }
        let port = try server.listen(host: "127.0.0.1", port: 0).port
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: port, headers: RawCall.headers(ResponseCompressionTests.service + method, headers))
        call.send([0, 0, 0, 0, 0], ends: true)
        let raw = await call.end()
        #expect(raw.status == "0", "\(method): \(raw.status ?? "")")
        var answer = Answer()
        answer.encoding = raw.headers.first { $0.name == "grpc-encoding" }?.value
        var rest = raw.bytes[...]
        while rest.count >= 5 {
            answer.flags.append(rest[rest.startIndex])
            let length = rest.dropFirst().prefix(4).reduce(0) { $0 << 8 | Int($1) }
            let body = Array(rest.dropFirst(5).prefix(length))
            let bytes =
                answer.flags.last == 1
                ? try body.withUnsafeBytes { try Decompressor(.gzip).decompress($0, lengthMax: 1 << 20) } : body
            answer.payloads.append(try Payload(decoding: bytes).body)
            rest = rest.dropFirst(5 + length)
        }
        return answer
    }

    private static let wished = [("grpc-encoding", "gzip")]

    @Test(arguments: ["Loop", "Task"])
    func `A message decides for itself, where responses are compressed`(_ method: String) async throws {
        let answer = try await call(method, ResponseCompressionTests.wished)
        #expect(answer.encoding == "gzip" && answer.flags == [1, 0, 1])
        #expect(answer.payloads == ResponseCompressionTests.choices.map(\.bytes))
        let plain = try await call(method, [])
        #expect(plain.encoding == nil && plain.flags == [0, 0, 0])
        #expect(plain.payloads == ResponseCompressionTests.choices.map(\.bytes))
        let one = try await call(method + "One", ResponseCompressionTests.wished)
        #expect(one.flags == [0] && one.payloads == [ResponseCompressionTests.large])
    }

    @Test(arguments: ["LoopOff", "TaskOff"])
    func `A method's responses are never compressed where it says so`(_ method: String) async throws {
        let answer = try await call(method, ResponseCompressionTests.wished)
        #expect(answer.encoding == nil && answer.flags == [0, 0, 0])
        #expect(answer.payloads == ResponseCompressionTests.choices.map(\.bytes))
        #expect(try await call(method + "One", ResponseCompressionTests.wished).flags == [0])
    }

    @Test(arguments: ["LoopOn", "TaskOn"])
    func `A handler has responses compressed for a client that takes it`(_ method: String) async throws {
        let answer = try await call(method, [("grpc-accept-encoding", "identity,gzip")])
        #expect(answer.encoding == "gzip" && answer.flags == [1])
        let other = try await call(method, [("grpc-accept-encoding", "identity")])
        #expect(other.encoding == nil && other.flags == [0])
        #expect(other.payloads == [ResponseCompressionTests.large])
    }
}
