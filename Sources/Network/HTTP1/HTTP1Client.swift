import EventLoop
import HTTP1Codec
import TLS

/// Sends single requests, each on a connection of its own: for what is asked now and then. Redirects are not followed.
public struct HTTP1Client: Sendable {
    public var limits = HTTP1Limits()
    /// From the name's look-up to the answer's last byte.
    public var timeoutMilliseconds = 10_000
    private let tls: TLSClientContext?

    /// `tls`: what servers are verified by at https addresses, each by the host that it is reached by.
    public init(tls: TLSClientContext? = nil) { self.tls = tls }

    /// Sends a request; the header `host` and the end of the connection are added. On the loop; `done` is called once
    /// on it, never inside the call.
    public func send(
        _ request: HTTP1Request, to url: HTTP1URL, loop: EventLoop,
        _ done: @escaping (Result<HTTP1Response, HTTP1ClientError>) -> Void
    ) {
        let exchange = HTTP1Exchange(limits, loop, timeoutMilliseconds, done)
        guard !url.isSecure || tls != nil else { return exchange.fail("https is not set up here") }
        let connector = StreamConnector(tls: url.isSecure ? tls : nil, verifiesAddress: true)
        let headers = [HTTP1Header("host", url.authority)] + request.headers + [HTTP1Header("connection", "close")]
        let bytes = HTTP1Request(request.method, url.target, headers: headers, body: request.body).encoded()
        connector.connect(host: url.host, port: url.port, loop: loop) { exchange.connected($0, bytes) }
    }
}

/// Why there is no answer.
public struct HTTP1ClientError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
}

/// One request and its answer. Confined to its loop; its timer keeps it until it is over.
private final class HTTP1Exchange: ByteStreamOwner {
    private let loop: EventLoop
    private var parser: HTTP1ResponseParser
    private var done: ((Result<HTTP1Response, HTTP1ClientError>) -> Void)?
    private var stream: (any ByteStream)?
    private var timeout: (any LoopTimer)?

    init(
        _ limits: HTTP1Limits, _ loop: EventLoop, _ milliseconds: Int,
        _ done: @escaping (Result<HTTP1Response, HTTP1ClientError>) -> Void
    ) {
        self.loop = loop
        parser = HTTP1ResponseParser(limits: limits)
        self.done = done
        timeout = loop.timer(afterMilliseconds: milliseconds) { [self] in
            fail(
                stream == nil
                    ? "no connection within \(milliseconds) ms" : "no whole answer within \(milliseconds) ms")
        }
    }

    func connected(_ result: Result<any ByteStream, StreamError>, _ request: [UInt8]) {
        switch result {
        case .failure(let error): fail("cannot connect: \(error)")
        case .success(let stream):
            guard done != nil else { return stream.close() }
            self.stream = stream
            stream.owner = self
            stream.startReading()
            request.withUnsafeBytes { stream.write($0) }
        }
    }

    func received(_ bytes: UnsafeRawBufferPointer) {
        guard done != nil else { return }
        parser.append(bytes)
        do throws(HTTP1ResponseProblem) {
            if let response = try parser.next() { finish(.success(response)) }
        } catch {
            fail(error.description)
        }
    }

    func drained() {}

    func closed(_ error: StreamError?) {
        guard done != nil else { return }
        if let error { return fail("the connection failed: \(error)") }
        do throws(HTTP1ResponseProblem) {
            finish(.success(try parser.finish()))
        } catch {
            fail(error.description)
        }
    }

    func fail(_ text: String) { finish(.failure(HTTP1ClientError(description: text))) }

    private func finish(_ result: Result<HTTP1Response, HTTP1ClientError>) {
        guard let done else { return }
        self.done = nil
        timeout?.cancel()
        timeout = nil
        if let stream, !stream.isClosed { stream.close() }
        stream = nil
        // Never inside a call of the owner.
        loop.afterTurn { done(result) }
    }
}
