// The Swift client: quotes and price streams from a Tapedeck server. Used by the command line, benches and drills, and
// by programs that import the product TapedeckClient.

import EventLoop
import GRPC
import Glibc
import MarketProto
import Protobuf
import Synchronization
import TLS

/// Market data as the server sends it, a stream at a time: what was not delivered when a stream ended is for the caller
/// to ask for. ``TapedeckClient`` does that by itself. Safe to use from any task or thread.
public final class MarketDataClient: Sendable {
    private let channel: GRPCChannel

    /// `target` is HOST:PORT or any other ``GRPCTarget``. Connects when first used, by TLS where there is some; `token`
    /// proves to the server who calls. Refuses what is no target with INVALID_ARGUMENT.
    public init(target: String, tls: TLSClientContext? = nil, token: String? = nil) throws(GRPCStatus) {
        var options = GRPCChannelOptions()
        options.balancing = .pickFirst
        if let tls { options.secure = { stream, _ in tls.wrap(stream) } }
        if let token { options.calls.metadata.add("authorization", "Bearer \(token)") }
        // A stream's frames go to its owner on the loop: whoever is slow there slows the connection.
        channel = try GRPCChannel(target: target, options: options)
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
        let stream = PriceStream(channel: channel, received: received)
        let request = subscription.encodedBytes()
        channel.call(path: Proto.MarketDataService.streamPrices.path, owner: stream) { call in
            stream.began(call)
            call.send(request)
            call.halfClose()
        }
        return stream
    }

    /// One request, one answer.
    public func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request, timeoutMilliseconds: Int
    ) async throws(GRPCStatus) -> Response {
        var options = channel.options.calls
        options.timeoutMilliseconds = timeoutMilliseconds
        return try await channel.unary(method, request, options: options)
    }

    /// Ends every call, the connection, and the client's thread.
    public func close() { channel.close() }
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
        var fromStore: [String] = []
        var onEnd: (@Sendable (PriceStreamEnd) -> Void)?
    }

    private let channel: GRPCChannel
    private let deliver: @Sendable (PriceBatch) -> Void
    private let state = Mutex(State())
    /// Confined to the loop.
    private var call: ChannelCall?

    init(channel: GRPCChannel, received: @escaping @Sendable (PriceBatch) -> Void) {
        self.channel = channel
        deliver = received
    }

    func began(_ call: ChannelCall) { self.call = call }

    public func received(metadata: GRPCMetadata) {
        state.withLock {
            $0.startToken = metadata.binary("tapedeck-resume-token-bin")
            $0.fromStore = metadata.values("tapedeck-from-store")
        }
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

    /// Of a resumed stream, ranges of records that the server's log has no more and its store brings, as
    /// `TOPIC/PARTITION FROM-NEXT`.
    public var fromStore: [String] { state.withLock { $0.fromStore } }

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
        channel.execute { [self] in call?.cancel() }
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
