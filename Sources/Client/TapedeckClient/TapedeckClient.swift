import EventLoop
import GRPC
import MarketProto
import Protobuf
import TLS

/// How a ``TapedeckClient`` connects, and what its calls get. The defaults are the published client settings.
public struct TapedeckOptions: Sendable {
    /// Connections, balancing, names, keepalive, backoff.
    public var channel = GRPCChannelOptions()
    /// Who is believed, and the client's own certificate where the server wants one; nil: no TLS.
    public var tls: TLSClientContext?
    /// The token that proves who calls (`tapedeck token` makes one). Asked when an attempt of a call begins, on the
    /// client's thread, so that it may be renewed while the client lives; it must not wait. Without TLS it goes to this
    /// machine only: anyone on the way could read it. nil: none is sent.
    public var token: (@Sendable () -> String?)?
    /// Deadline of GetQuote, all attempts included.
    public var quoteTimeoutMilliseconds = 5000
    /// GetQuote is asked again, of another server where there is one, when no answer came for so long; the first answer
    /// counts. nil: it is retried by ``retry`` instead.
    public var quoteHedgeMilliseconds: Int? = 200
    /// Deadline of SubmitOrders, all attempts included.
    public var orderTimeoutMilliseconds = 10_000
    /// How what is sent is compressed, and with it the server's single answers; prices are sent as they are. nil: not.
    public var compression: GRPCCompression?
    /// For calls that may be carried out twice: quotes, and orders that all have an idempotency key.
    public var retry = GRPCRetryPolicy()
    /// Between tries to go on with a stream of prices.
    public var resume: GRPCBackoff

    public init() {
        resume = GRPCBackoff()
        resume.initialMilliseconds = 100
        resume.maxMilliseconds = 10_000
    }
}

/// The client of a Tapedeck server, or of many behind one name: quotes, prices and orders, with deadlines, retries,
/// balancing, and streams that go on by themselves. Safe to use from any task.
///
///     let tapedeck = try TapedeckClient("localhost:50051")
///     for try await event in tapedeck.prices(["AAPL"]) { … }
public final class TapedeckClient: Sendable {
    /// What the calls go through, for methods that this class has no function for.
    public let channel: GRPCChannel
    private let options: TapedeckOptions

    /// Connects when first used. `target` is HOST:PORT or any other ``GRPCTarget``. Refuses with INVALID_ARGUMENT what
    /// is no target, and a token that would leave this machine without TLS.
    public init(_ target: String, options: TapedeckOptions = TapedeckOptions()) throws(TapedeckError) {
        let channelOptions = TapedeckClient.channelOptions(options)
        do throws(GRPCStatus) {
            if options.token != nil, channelOptions.secure == nil, try !GRPCTarget(target).isThisMachine {
                throw GRPCStatus(
                    .invalidArgument, "without TLS the token could be read on its way to \(target): set `tls`")
            }
            channel = try GRPCChannel(target: target, options: channelOptions)
        } catch {
            throw TapedeckError(error)
        }
        self.options = options
    }

    /// What the channel gets: options for each method, and for all of them what the caller has set for all calls.
    private static func channelOptions(_ options: TapedeckOptions) -> GRPCChannelOptions {
        var channelOptions = options.channel
        let market = Proto.MarketDataService.self
        var quote = GRPCCallOptions(timeoutMilliseconds: options.quoteTimeoutMilliseconds)
        quote.waitsForReady = true
        if let delay = options.quoteHedgeMilliseconds {
            quote.hedging = GRPCHedgingPolicy(delayMilliseconds: delay)
        } else {
            quote.retry = options.retry
        }
        var orders = GRPCCallOptions(timeoutMilliseconds: options.orderTimeoutMilliseconds)
        orders.waitsForReady = true
        let streams = GRPCCallOptions()
        for (path, call) in [
            (market.getQuote.path, quote), (market.submitOrders.path, orders),
            (Proto.OrderService.submitOrder.path, orders), (market.streamPrices.path, streams),
            (market.liveTrading.path, streams), (market.subscribe.path, streams),
        ] where channelOptions.methods[path] == nil {
            channelOptions.methods[path] = call
            channelOptions.methods[path]?.compression = options.compression
        }
        // Whatever else is called has a deadline too.
        if channelOptions.calls.timeoutMilliseconds == nil {
            channelOptions.calls.timeoutMilliseconds = options.orderTimeoutMilliseconds
        }
        channelOptions.calls.compression = channelOptions.calls.compression ?? options.compression
        channelOptions.calls.token = channelOptions.calls.token ?? options.token
        for path in channelOptions.methods.keys { channelOptions.methods[path]?.inherit(channelOptions.calls) }
        if let tls = options.tls { channelOptions.secure = { stream, _ in tls.wrap(stream) } }
        return channelOptions
    }

    /// Ends every call and stream with CANCELLED, the connections, and the client's thread.
    public func close() { channel.close() }

    // MARK: Market data

    /// The latest of an instrument and the figures of its day. An empty exchange is allowed where one exchange lists
    /// the symbol.
    public func quote(_ symbol: String, exchange: String = "") async throws(TapedeckError) -> Proto.QuoteResponse {
        var request = Proto.QuoteRequest()
        request.symbol = symbol
        request.exchange = exchange
        return try await unary(Proto.MarketDataService.getQuote, request)
    }

    /// Prices as they come, the last value of each instrument first; without symbols, of all. For a throttle, or to go
    /// on from a token, make the subscription yourself.
    public func prices(
        _ symbols: [String] = [], exchange: String = "", policy: Proto.DeliveryPolicy = .all
    ) -> PriceEvents {
        prices(Proto.PriceSubscription(symbols, exchange: exchange, policy: policy))
    }

    /// Prices as a subscription asks for them. Nothing is sent before the first `next()`.
    public func prices(_ subscription: Proto.PriceSubscription) -> PriceEvents {
        PriceEvents(channel: channel, subscription: subscription, backoff: options.resume)
    }

    /// Many subscriptions on one stream, which are added, changed and removed while it runs, and fills of what was
    /// missed. Nothing is sent before the first `next()`.
    public func subscribe() -> PriceSession { PriceSession(channel: channel, backoff: options.resume) }

    // MARK: Orders

    /// Submits orders and returns the outcome of each. Tried again after UNAVAILABLE only where every order has an
    /// `idempotency_key`: without one nothing would keep an order from being carried out twice.
    public func submitOrders(_ orders: [Proto.OrderRequest]) async throws(TapedeckError) -> Proto.OrderBatchSummary {
        let method = Proto.MarketDataService.submitOrders
        var call = channel.options.call(method.path)
        call.retry = orders.allSatisfy { !$0.idempotencyKey.isEmpty } ? options.retry : nil
        let stream = channel.typedStream(method, options: call)
        do throws(GRPCStatus) {
            for order in orders {
                guard await stream.send(order) else { break }
            }
            stream.halfClose()
            guard let summary = try await stream.next() else {
                throw GRPCStatus(.internalError, "an answer without a message")
            }
            // The status comes behind the message.
            guard try await stream.next() == nil else {
                throw GRPCStatus(.internalError, "more than one response message")
            }
            return summary
        } catch {
            throw TapedeckError(error, trailers: stream.stream.end?.trailers ?? GRPCMetadata())
        }
    }

    /// Submits one order. Tried again only where it has an `idempotency_key`.
    public func submitOrder(_ order: Proto.OrderRequest) async throws(TapedeckError) -> Proto.OrderResult {
        let method = Proto.OrderService.submitOrder
        var call = channel.options.call(method.path)
        call.retry = order.idempotencyKey.isEmpty ? nil : options.retry
        return try await unary(method, order, options: call)
    }

    /// A trading session: orders and cancels out, executions and statuses in. Never tried again by itself.
    public func liveTrading() -> TradingSession {
        TradingSession(channel.typedStream(Proto.MarketDataService.liveTrading))
    }

    private func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request, options: GRPCCallOptions? = nil
    ) async throws(TapedeckError) -> Response {
        let answer = await channel.unary(path: method.path, request: request.encodedBytes(), options: options)
        guard answer.status.isOK, let message = answer.message else {
            throw TapedeckError(answer.status, trailers: answer.trailers)
        }
        do {
            return try Response(decoding: message)
        } catch {
            throw TapedeckError(GRPCStatus(.internalError, "the answer is no \(Response.protoName): \(error)"))
        }
    }
}

extension GRPCCallOptions {
    /// Takes over who calls, and metadata under names that these options have not themselves.
    fileprivate mutating func inherit(_ all: GRPCCallOptions) {
        token = token ?? all.token
        let own = Set(metadata.entries.map(\.name))
        metadata.add(contentsOf: all.metadata, where: { !own.contains($0) })
    }
}

/// A stream of orders and cancels out, executions and statuses in. One task at a time sends and one reads; a session
/// that nobody holds any more is cancelled.
public final class TradingSession: AsyncSequence, Sendable {
    /// What the sequence brings.
    public typealias Element = Proto.TradingMessage
    /// How it ends where it does not end well.
    public typealias Failure = TapedeckError

    private let stream: GRPCTypedStream<Proto.TradingMessage, Proto.TradingMessage>

    init(_ stream: GRPCTypedStream<Proto.TradingMessage, Proto.TradingMessage>) { self.stream = stream }

    /// Sends an order once the session takes more.
    public func send(_ order: Proto.OrderRequest) async throws(TapedeckError) {
        var message = Proto.TradingMessage()
        message.payload = .newOrder(order)
        try await send(message)
    }

    /// Sends a cancel once the session takes more.
    public func send(_ cancel: Proto.OrderCancelRequest) async throws(TapedeckError) {
        var message = Proto.TradingMessage()
        message.payload = .cancel(cancel)
        try await send(message)
    }

    private func send(_ message: Proto.TradingMessage) async throws(TapedeckError) {
        if await stream.send(message) { return }
        let end = stream.stream.end
        let status = end.flatMap { $0.status.isOK ? nil : $0.status }
        throw TapedeckError(
            status ?? GRPCStatus(.failedPrecondition, "the session has ended"),
            trailers: end?.trailers ?? GRPCMetadata())
    }

    /// Sends nothing more; what the server has to say still comes.
    public func finish() { stream.halfClose() }

    /// Ends the session at once; the server is told.
    public func cancel() { stream.cancel() }

    /// What the server sends. All iterators read from the one session.
    public func makeAsyncIterator() -> Iterator { Iterator(session: self) }

    /// Reads the session's messages.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let session: TradingSession

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(TapedeckError) -> Proto.TradingMessage? {
            do {
                return try await session.stream.next()
            } catch {
                throw TapedeckError(error, trailers: session.stream.stream.end?.trailers ?? GRPCMetadata())
            }
        }
    }
}
