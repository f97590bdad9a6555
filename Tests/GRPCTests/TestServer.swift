import EventLoop
import Foundation
import GRPC
import Synchronization

/// A server with a method of each kind that the tests need.
final class TestServer: Sendable {
    static let service = "/tapedeck.test.Echo/"
    let server: GRPCServer
    let port: Int
    /// Calls whose end was told.
    let ended: Ended

    final class Ended: Sendable { let count = Atomic<Int>(0) }

    init(loops: Int = 2) throws {
        let ended = Ended()
        self.ended = ended
        server = GRPCServer(group: EventLoopGroup(count: loops), configuration: GRPCServerConfiguration()) { _ in
            var table = GRPCServiceTable()
            let handleUnary = { (call: ServerCall, request: UnsafeRawBufferPointer) in
                call.onEnd = { ended.count.add(1, ordering: .relaxed) }
                for entry in call.metadata.entries where entry.name.hasPrefix("x-") {
                    call.responseMetadata.add(entry.name, entry.value)
                }
                call.respond(Array(request))
            }
            let handleFail = { (call: ServerCall, request: UnsafeRawBufferPointer) in
                var trailers = GRPCMetadata()
                trailers.add("x-details-bin", binary: [0, 1, 254, 255])
                call.fail(GRPCStatus(.failedPrecondition, String(decoding: request, as: UTF8.self)), trailers: trailers)
            }
            let handleNever = { (call: ServerCall, _: UnsafeRawBufferPointer) in
                call.onEnd = { ended.count.add(1, ordering: .relaxed) }
            }
            table.register(path: TestServer.service + "Unary", unary: handleUnary)
            table.register(path: TestServer.service + "Fail", unary: handleFail)
            table.register(path: TestServer.service + "Never", unary: handleNever)
            // Streams as many counted messages as the request's text says; -1 for ever.
            table.register(
                path: TestServer.service + "Count",
                serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    call.onEnd = { ended.count.add(1, ordering: .relaxed) }
                    call.source = CountingSource(limit: Int(String(decoding: request, as: UTF8.self)) ?? 0)
                })
            return table
        }
        port = try server.listen(host: "127.0.0.1", port: 0).port
    }

    /// Ends it on a thread of its own: to wait would hold one of the few that async tests have.
    func stop() {
        let server = server
        Thread.detachNewThread { server.shutdown(withinMilliseconds: 2000) }
    }
}

/// Messages of 1 to 300 bytes, each beginning with its number, cut wherever the buffer ends.
final class CountingSource: FrameSource {
    private let limit: Int
    private var next = 0
    private var frame: [UInt8] = []
    private var position = 0
    nonisolated(unsafe) static var deepest = 0

    init(limit: Int) { self.limit = limit }

    static func message(_ number: Int) -> [UInt8] {
        let digits = Array("\(number)".utf8)
        return digits + [UInt8](repeating: UInt8(ascii: "."), count: number % 300)
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        var filled = 0
        while filled < buffer.count {
            if position == frame.count {
                guard limit < 0 || next < limit else { break }
                let message = CountingSource.message(next)
                frame = [0, 0, 0, UInt8(message.count >> 8), UInt8(message.count & 255)] + message
                position = 0
                next += 1
            }
            let count = min(frame.count - position, buffer.count - filled)
            for index in 0..<count { buffer[filled + index] = frame[position + index] }
            position += count
            filled += count
        }
        return filled > 0 ? .bytes(filled) : .end(.ok, trailers: GRPCMetadata())
    }
}

/// One call made from a test, collected.
final class CollectedCall: GRPCCallOwner, @unchecked Sendable {
    struct Result: Sendable {
        var messages: [[UInt8]] = []
        var metadata = GRPCMetadata()
        var status: GRPCStatus?
        var trailers = GRPCMetadata()
    }

    let result = Mutex(Result())
    private let continuation: CheckedContinuation<Result, Never>
    /// Called on the loop with each run of frames.
    var onFrames: ((CollectedCall) -> Void)?
    var call: ClientCall?

    init(_ continuation: CheckedContinuation<Result, Never>) { self.continuation = continuation }

    func received(metadata: GRPCMetadata) { result.withLock { $0.metadata = metadata } }

    func received(frames: UnsafeRawBufferPointer) {
        let messages = MessageSequence(frames: frames).map { Array($0) }
        result.withLock { $0.messages += messages }
        onFrames?(self)
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        let result = result.withLock { result in
            result.status = status
            result.trailers = trailers
            return result
        }
        continuation.resume(returning: result)
    }
}

/// A client of a test, on a loop of its own.
struct TestClient: Sendable {
    let loop = EventLoop(name: "client")
    let port: Int

    func call(
        _ method: String, _ request: [UInt8], metadata: GRPCMetadata = GRPCMetadata(), timeout: Int? = nil,
        onFrames: (@Sendable (CollectedCall) -> Void)? = nil
    ) async -> CollectedCall.Result {
        let (loop, port) = (loop, port)
        return await withCheckedContinuation { continuation in
            loop.execute {
                let owner = CollectedCall(continuation)
                owner.onFrames = onFrames
                GRPCClientConnection.connect(
                    host: "127.0.0.1", port: port, loop: loop,
                    opened: { result in
                        switch result {
                        case .failure(let status): owner.ended(status, trailers: GRPCMetadata())
                        case .success(let connection):
                            owner.call = connection.call(
                                path: TestServer.service + method, request: request, metadata: metadata,
                                timeoutMilliseconds: timeout, owner: owner)
                        }
                    }, closed: { _ in })
            }
        }
    }
}
