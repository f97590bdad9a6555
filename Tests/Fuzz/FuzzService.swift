import EventLoop
import HTTP2
import Synchronization

@testable import GRPC

/// What a handler was given of one call.
final class SeenCall {
    let path: String
    var messages: [[UInt8]] = []
    var endCount = 0

    init(_ call: ServerCall) {
        path = call.path
        call.onEnd = { [self] in endCount += 1 }
    }
}

/// A server of the four patterns on a loop that is turned by hand, and all that its handlers and interceptors saw.
final class FuzzService {
    let loop = FuzzLoop()
    let shared = ServerShared()
    private(set) var server: GRPCLoopServer!
    private(set) var calls: [SeenCall] = []
    private var begun = 0
    private var ended = 0

    static let echo = "/f.F/Echo"
    static let count = "/f.F/Count"
    static let sum = "/f.F/Sum"
    static let both = "/f.F/Both"
    static let messageBytesMax = 64 << 10

    private final class Watcher: ServerInterceptor {
        let service: LoopConfined<FuzzService>
        init(_ service: LoopConfined<FuzzService>) { self.service = service }
        func begin(_ call: ServerCall) -> GRPCStatus? {
            service.value.begun += 1
            return nil
        }
        func ended(_ call: ServerCall, _ status: GRPCStatus) { service.value.ended += 1 }
    }

    private final class Sink: RequestSink {
        let seen: SeenCall
        let echoes: Bool

        init(_ seen: SeenCall, echoes: Bool) {
            self.seen = seen
            self.echoes = echoes
        }

        func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
            seen.messages.append(Array(message))
            if echoes { call.send(Array(message)) }
        }

        func receivedEnd(_ call: ServerCall) {
            if echoes { return call.finish() }
            call.respond([UInt8(truncatingIfNeeded: seen.messages.count)])
        }
    }

    init() {
        var table = GRPCServiceTable()
        let box = LoopConfined(Weak(self))
        table.register(
            path: FuzzService.echo,
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                box.value.service?.see(call)?.messages.append(Array(request))
                for value in call.metadata.binaries("x-echo-bin") {
                    call.responseMetadata.add("x-echo-bin", binary: value)
                }
                call.respond(Array(request))
            })
        table.register(
            path: FuzzService.count,
            serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                box.value.service?.see(call)?.messages.append(Array(request))
                for number in 0..<(request.first ?? 0) { call.send([number]) }
                call.finish()
            })
        table.register(path: FuzzService.sum, serverStreaming: false) { call in
            Sink(box.value.service?.see(call) ?? SeenCall(call), echoes: false)
        }
        table.register(path: FuzzService.both) { call in
            Sink(box.value.service?.see(call) ?? SeenCall(call), echoes: true)
        }
        var configuration = GRPCServerConfiguration()
        // Without times of its own: what is due after a turn is due at once.
        configuration.http2 = HTTP2Settings()
        configuration.messageBytesMax = FuzzService.messageBytesMax
        configuration.webOrigins = ["*"]
        let watched = LoopConfined(self)
        configuration.interceptors = { _ in [Watcher(watched)] }
        server = GRPCLoopServer(loop: loop, table: table, configuration: configuration, shared: shared, seed: 1)
    }

    private final class Weak {
        weak var service: FuzzService?
        init(_ service: FuzzService) { self.service = service }
    }

    private func see(_ call: ServerCall) -> SeenCall? {
        let seen = SeenCall(call)
        calls.append(seen)
        return seen
    }

    /// Everything that began has ended, once, and nothing is held any more. The connections must be gone.
    func requireOver() {
        loop.settle()
        // Deadlines of calls that are gone.
        loop.advance(milliseconds: 1 << 40)
        require(server.connectionCount == 0, "\(server.connectionCount) connections live on")
        require(server.openCallCount == 0, "\(server.openCallCount) calls live on")
        require(begun == ended, "interceptors saw \(begun) calls begin and \(ended) end")
        for call in calls { require(call.endCount == 1, "a call of \(call.path) ended \(call.endCount) times") }
        let held = shared.heldBytes.load(ordering: .relaxed)
        require(held == 0, "\(held) bytes are held by no call")
        server = nil
    }
}

/// HTTP/2 frames as they are written by hand.
enum RawHTTP2 {
    static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    static func frame(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, _ payload: [UInt8] = []) -> [UInt8] {
        let length = UInt32(payload.count)
        var bytes = [UInt8(length >> 16 & 255), UInt8(length >> 8 & 255), UInt8(length & 255), type, flags]
        withUnsafeBytes(of: stream.bigEndian) { bytes += $0 }
        return bytes + payload
    }

    /// Literal fields without indexing and Huffman coding (RFC 7541, 6.2.2).
    static func block(_ fields: [(String, String)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, value) in fields {
            bytes += [0, UInt8(name.utf8.count)] + Array(name.utf8) + [UInt8(value.utf8.count)] + Array(value.utf8)
        }
        return bytes
    }

    static func request(_ path: String, _ more: [(String, String)] = []) -> [UInt8] {
        block(
            [
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
                ("content-type", "application/grpc"), ("te", "trailers"),
            ] + more)
    }

    /// Walks what a server wrote: frames must be whole, of a size and kind that RFC 9113 allows, and nothing may follow
    /// a stream's end.
    static func requireFrames(_ output: [UInt8]) {
        var position = 0
        var begun: Set<UInt32> = []
        var over: Set<UInt32> = []
        while position < output.count {
            require(output.count - position >= 9, "half a frame at the end")
            let length = output[position..<(position + 3)].reduce(0) { $0 << 8 | Int($1) }
            let (type, flags) = (output[position + 3], output[position + 4])
            let stream = output[(position + 5)..<(position + 9)].reduce(0) { $0 << 8 | UInt32($1) }
            require(length <= 16_384 && output.count - position - 9 >= length, "a frame of \(length) bytes")
            position += 9 + length
            switch type {
            case 0, 1:
                require(stream % 2 == 1, "frame \(type) on stream \(stream)")
                require(!over.contains(stream), "frame \(type) after the end of stream \(stream)")
                require(type == 1 || begun.contains(stream), "data before headers on stream \(stream)")
                begun.insert(stream)
                if flags & 1 != 0 { over.insert(stream) }
            case 3: over.insert(stream)
            case 4, 6, 7: require(stream == 0, "frame \(type) on stream \(stream)")
            case 8, 9: break
            default: require(false, "a server that sends frame \(type)")
            }
        }
    }
}
