import EventLoop
import Foundation
import HTTP1Codec
import Synchronization
import TLS

/// A token endpoint that answers what a test says, byte for byte and as late, on 127.0.0.1.
final class TokenEndpoint: Sendable {
    struct Answer: Sendable {
        var bytes: [UInt8]
        var delayMilliseconds = 0
        /// Whether the connection ends behind it.
        var ends = true

        static func json(_ text: String, status: String = "200 OK") -> Answer {
            Answer(
                bytes: Array(
                    ("HTTP/1.1 \(status)\r\nContent-Type: application/json\r\n"
                        + "Content-Length: \(text.utf8.count)\r\n\r\n\(text)").utf8))
        }

        static func token(_ token: String, seconds: Int) -> Answer {
            json("{\"access_token\":\"\(token)\",\"token_type\":\"Bearer\",\"expires_in\":\(seconds)}")
        }
    }

    private let group = EventLoopGroup(count: 1, name: "endpoint")
    private let listener: Listener
    private let taken = Mutex<[HTTP1Request]>([])
    private let answering: Mutex<@Sendable (Int) -> Answer>
    let address: String

    /// `answer`: of the nth request, from 0.
    init(tls: TLSServerConfiguration? = nil, _ answer: @escaping @Sendable (Int) -> Answer) throws {
        let context = try tls.map { configuration in
            var configuration = configuration
            configuration.applicationProtocols = []
            return try TLSServerContext(configuration)
        }
        answering = Mutex(answer)
        let box = Box()
        listener = try Listener(on: ListeningSocket(host: "127.0.0.1", port: 0), group: group) { socket in
            guard let endpoint = box.endpoint.withLock({ $0 }) else { return socket.close() }
            Connection(context?.wrap(socket) ?? socket, endpoint).start()
        }
        address = "\(context == nil ? "http" : "https")://127.0.0.1:\(listener.port)/token"
        box.endpoint.withLock { $0 = self }
    }

    private final class Box: Sendable {
        let endpoint = Mutex<TokenEndpoint?>(nil)
    }

    var requests: [HTTP1Request] { taken.withLock { $0 } }

    func answer(_ answer: @escaping @Sendable (Int) -> Answer) { answering.withLock { $0 = answer } }

    func close() {
        listener.close()
        group.stop()
    }

    private func answer(_ request: HTTP1Request) -> Answer {
        let number = taken.withLock { taken in
            taken.append(request)
            return taken.count - 1
        }
        return answering.withLock { $0 }(number)
    }

    private final class Connection: ByteStreamOwner {
        private let stream: any ByteStream
        private let endpoint: TokenEndpoint
        private var parser = HTTP1RequestParser()

        init(_ stream: any ByteStream, _ endpoint: TokenEndpoint) {
            self.stream = stream
            self.endpoint = endpoint
        }

        func start() {
            stream.owner = self
            stream.startReading()
        }

        func received(_ bytes: UnsafeRawBufferPointer) {
            parser.append(bytes)
            guard let request = try? parser.next() else { return }
            let answer = endpoint.answer(request)
            _ = stream.loop.timer(afterMilliseconds: answer.delayMilliseconds) { [self] in
                answer.bytes.withUnsafeBytes { stream.write($0) }
                if answer.ends { stream.close() }
            }
        }

        func drained() {}
        func closed(_ error: StreamError?) {}
    }
}
