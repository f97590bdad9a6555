// The Swift client: quotes and price streams from a Tapedeck server. Used by the command line, benches and drills, and
// by programs that import the product TapedeckClient.

import EventLoop
import GRPC
import Glibc
import MarketProto
import Protobuf
import Synchronization

/// A connection to one server. Safe to use from any task or thread.
public final class MarketDataClient: Sendable {
    private let loop: EventLoop
    private let connection: LoopConfined<Connection>

    /// `target` is HOST:PORT. Connects when first used.
    public init(target: String) throws(GRPCStatus) {
        guard let colon = target.lastIndex(of: ":"), let port = Int(target[target.index(after: colon)...]),
            (1...65535).contains(port), colon != target.startIndex
        else { throw GRPCStatus(.invalidArgument, "\(target) is not HOST:PORT, e.g. 127.0.0.1:50051") }
        var host = String(target[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        let loop = EventLoop(name: "client")
        self.loop = loop
        let resolved = host
        connection = loop.runAndWait { loop in LoopConfined(Connection(loop: loop, host: resolved, port: port)) }
    }

    /// The latest of an instrument. An empty exchange is allowed where one exchange lists the symbol.
    public func quote(
        _ symbol: String, exchange: String = "", timeoutMilliseconds: Int = 5000
    ) async throws(GRPCStatus) -> Proto.QuoteResponse {
        var request = Proto.QuoteRequest()
        request.symbol = symbol
        request.exchange = exchange
        return try await unary(Proto.MarketDataService.getQuote, request, timeoutMilliseconds: timeoutMilliseconds)
    }

    /// Prices as they come. `received` is called on the client's thread with each run of messages that arrived
    /// together.
    public func streamPrices(
        _ subscription: Proto.PriceSubscription, received: @escaping @Sendable (PriceBatch) -> Void
    ) -> PriceStream {
        let stream = PriceStream(loop: loop, received: received)
        let request = subscription.encodedBytes()
        let connection = connection
        loop.execute {
            connection.value.call(
                path: Proto.MarketDataService.streamPrices.path, request: request, timeoutMilliseconds: nil,
                owner: stream
            ) { stream.began($0) }
        }
        return stream
    }

    /// Prices as an asynchronous sequence of batches. A consumer that is slower than the market should ask for policy
    /// LATEST.
    public func prices(_ subscription: Proto.PriceSubscription) -> AsyncThrowingStream<[Proto.PriceUpdate], any Error> {
        AsyncThrowingStream { continuation in
            let stream = streamPrices(subscription) { batch in
                var updates: [Proto.PriceUpdate] = []
                for bytes in batch.updates {
                    if let update = try? Proto.PriceUpdate(decoding: bytes) { updates.append(update) }
                }
                continuation.yield(updates)
            }
            stream.onEnd { end in
                if end.status.isOK { continuation.finish() } else { continuation.finish(throwing: end.status) }
            }
            continuation.onTermination = { _ in stream.cancel() }
        }
    }

    /// One request, one answer.
    public func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request, timeoutMilliseconds: Int
    ) async throws(GRPCStatus) -> Response {
        let bytes = request.encodedBytes()
        let connection = connection
        let result = await withCheckedContinuation { continuation in
            loop.execute {
                let owner = UnaryOwner { continuation.resume(returning: $0) }
                connection.value.call(
                    path: method.path, request: bytes, timeoutMilliseconds: timeoutMilliseconds, owner: owner
                ) { _ in }
            }
        }
        switch result {
        case .failure(let status): throw status
        case .success(let message):
            do {
                return try Response(decoding: message)
            } catch {
                throw GRPCStatus(.internalError, "the answer is no \(Response.protoName): \(error)")
            }
        }
    }

    /// Ends the connection and every call on it.
    public func close() {
        let connection = connection
        loop.execute { connection.value.close() }
    }
}

/// Messages that arrived together; valid during the call that hands it over.
public struct PriceBatch {
    /// Whole gRPC frames, back to back.
    public let frames: UnsafeRawBufferPointer

    /// Each encoded `PriceUpdate`.
    public var updates: MessageSequence { MessageSequence(frames: frames) }
}

/// How a stream of prices ended.
public struct PriceStreamEnd: Sendable {
    public let status: GRPCStatus
    /// `SERVER_STOPPING`, `READER_TOO_SLOW`, … ; nil where the server did not say.
    public let reason: String?
    /// Goes on where this stream ended; nil where the server gave none.
    public let resumeToken: [UInt8]?
    /// Ranges of records that are gone.
    public let missing: [String]
    /// Updates that were left out because their sequence had been sent already.
    public let repeatsDropped: UInt64
}

/// A running stream of prices. Safe to use from any thread.
public final class PriceStream: GRPCCallOwner, @unchecked Sendable {
    private struct State {
        var end: PriceStreamEnd?
        var startToken: [UInt8]?
        var onEnd: (@Sendable (PriceStreamEnd) -> Void)?
    }

    private let loop: EventLoop
    private let deliver: @Sendable (PriceBatch) -> Void
    private let state = Mutex(State())
    /// Confined to the loop.
    private var call: ClientCall?
    private var isCancelled = false

    init(loop: EventLoop, received: @escaping @Sendable (PriceBatch) -> Void) {
        self.loop = loop
        deliver = received
    }

    func began(_ call: ClientCall) {
        self.call = call
        if isCancelled { call.cancel() }
    }

    public func received(metadata: GRPCMetadata) {
        state.withLock { $0.startToken = metadata.binary("tapedeck-resume-token-bin") }
    }

    public func received(frames: UnsafeRawBufferPointer) { deliver(PriceBatch(frames: frames)) }

    public func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        let end = PriceStreamEnd(
            status: status, reason: trailers.value("tapedeck-end-reason"),
            resumeToken: trailers.binary("tapedeck-resume-token-bin"), missing: trailers.values("tapedeck-missing"),
            repeatsDropped: trailers.value("tapedeck-repeats-dropped").flatMap { UInt64($0) } ?? 0)
        call = nil
        let onEnd = state.withLock { state in
            state.end = end
            return state.onEnd
        }
        onEnd?(end)
    }

    /// Where the stream began, as soon as the server has said it: a client that is cut off goes on from there at the
    /// latest.
    public var startToken: [UInt8]? { state.withLock { $0.startToken } }

    /// nil while the stream runs.
    public var end: PriceStreamEnd? { state.withLock { $0.end } }

    /// Calls `body` once when the stream ends, at once when it has.
    public func onEnd(_ body: @escaping @Sendable (PriceStreamEnd) -> Void) {
        let end = state.withLock { state in
            state.onEnd = body
            return state.end
        }
        if let end { body(end) }
    }

    /// Ends the stream; the server is told.
    public func cancel() {
        loop.execute { [self] in
            isCancelled = true
            call?.cancel()
        }
    }

    /// Blocks until the stream ends, at most as long; nil when it still runs. Never on an event loop.
    public func waitForEnd(timeoutMilliseconds: Int) -> PriceStreamEnd? {
        for _ in 0..<max(1, timeoutMilliseconds) {
            if let end { return end }
            poll(nil, 0, 1)
        }
        return end
    }
}

/// Collects the answer of a unary call.
private final class UnaryOwner: GRPCCallOwner {
    private var message: [UInt8]?
    private let finish: (Result<[UInt8], GRPCStatus>) -> Void

    init(_ finish: @escaping (Result<[UInt8], GRPCStatus>) -> Void) { self.finish = finish }

    func received(metadata: GRPCMetadata) {}

    func received(frames: UnsafeRawBufferPointer) {
        for bytes in MessageSequence(frames: frames) { message = Array(bytes) }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        guard status.isOK else { return finish(.failure(status)) }
        guard let message else { return finish(.failure(GRPCStatus(.internalError, "an answer without a message"))) }
        finish(.success(message))
    }
}

/// The HTTP/2 connection behind a client: made when needed, made again when it ended. Confined to its loop.
private final class Connection {
    private let loop: EventLoop
    private let host: String
    private let port: Int
    private var open: GRPCClientConnection?
    private var isConnecting = false
    private var waiting: [(Result<GRPCClientConnection, GRPCStatus>) -> Void] = []

    init(loop: EventLoop, host: String, port: Int) {
        self.loop = loop
        self.host = host
        self.port = port
    }

    func call(
        path: String, request: [UInt8], timeoutMilliseconds: Int?, owner: any GRPCCallOwner,
        began: @escaping (ClientCall) -> Void
    ) {
        withConnection { result in
            switch result {
            case .success(let connection):
                began(
                    connection.call(
                        path: path, request: request, timeoutMilliseconds: timeoutMilliseconds, owner: owner))
            case .failure(let status): owner.ended(status, trailers: GRPCMetadata())
            }
        }
    }

    func close() { open?.close() }

    private func withConnection(_ body: @escaping (Result<GRPCClientConnection, GRPCStatus>) -> Void) {
        if let open { return body(.success(open)) }
        waiting.append(body)
        guard !isConnecting else { return }
        isConnecting = true
        GRPCClientConnection.connect(
            host: host, port: port, loop: loop,
            opened: { [self] result in
                isConnecting = false
                open = try? result.get()
                let bodies = waiting
                waiting = []
                for body in bodies { body(result) }
            }, closed: { [self] _ in open = nil })
    }
}
