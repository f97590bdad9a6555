import EventLog
import GRPC
import MarketProto
import Protobuf
import SimulatedExecution

/// A call of LiveTrading: orders and cancels in; executions and statuses of the accounts that it names out, from the
/// first message that names each. Nothing is ever left out: past the bound the stream ends. Confined to its loop.
final class LiveTradingStream: RequestSink, FrameSource, OrderCaller {
    var session = OrderSession(loop: 0, number: 0)
    private unowned let call: ServerCall
    private unowned let handlers: OrderHandlers
    private let limits: OrderLimits
    private let run: String
    private var accounts: Set<String> = []
    private var queue = PendingBytes()
    private var inFlight = 0
    private var isPaused = false
    /// The client sends no more.
    private var isHalfClosed = false
    private var isStopping = false
    /// It is ended from outside: what it sent is answered, and nothing more is taken.
    private var ending: CallEnding?
    /// The stream ends with this after the queue.
    private var failure: (status: GRPCStatus, reason: StreamEnd.Reason)?

    init(call: ServerCall, handlers: OrderHandlers, limits: OrderLimits, run: String) {
        self.call = call
        self.handlers = handlers
        self.limits = limits
        self.run = run
    }

    // MARK: From the client

    func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard failure == nil else { return }
        let payload: Proto.TradingMessage.OneOf_Payload?
        do {
            payload = try Proto.TradingMessage(decoding: message).payload
        } catch {
            return fail(GRPCStatus(.invalidArgument, "a message is no TradingMessage: \(error)"), .badRequest)
        }
        switch payload {
        case .newOrder(let order): take(order)
        case .cancel(let cancel): take(cancel)
        case .execution, .status, nil:
            fail(GRPCStatus(.invalidArgument, "a client sends new_order and cancel, nothing else"), .badRequest)
        }
    }

    private func take(_ request: Proto.OrderRequest) {
        var order = NewOrder(request)
        if let status = handlers.denial(order, call) { return append(Proto.TradingMessage(status)) }
        guard listen(order.account) else { return }
        order.deadlineNs = handlers.deadlineNs(call)
        send(.order(order))
    }

    private func take(_ cancel: Proto.OrderCancelRequest) {
        var named = NewOrder()
        named.account = cancel.account
        named.orderID = cancel.orderId
        if let permissions = call.permissions, !permissions.allows(account: cancel.account) {
            let status = Proto.OrderStatusUpdate(
                rejecting: named, .permissionDenied, "you may not trade for this account", timeNs: handlers.nowNs)
            return append(Proto.TradingMessage(status))
        }
        guard listen(cancel.account) else { return }
        send(.cancel(OrderCancel(cancel)))
    }

    /// False where the account is one too many; the stream ends then.
    private func listen(_ account: String) -> Bool {
        // A longer name is rejected, and has no orders.
        guard account.utf8.count <= limits.execution.nameBytesMax, !accounts.contains(account) else { return true }
        guard accounts.count < limits.accountsPerStreamMax else {
            fail(
                GRPCStatus(
                    .resourceExhausted,
                    "more than \(limits.accountsPerStreamMax) accounts on one stream; open another"),
                .tooManyAccounts)
            return false
        }
        accounts.insert(account)
        handlers.send(OrderCommand(session: session, body: .listen(account: account)))
        return true
    }

    private func send(_ body: OrderCommand.Body) {
        inFlight += 1
        handlers.send(OrderCommand(session: session, body: body))
        if inFlight >= limits.inFlightMax, !isPaused {
            isPaused = true
            call.pauseRequests()
        }
    }

    func receivedEnd(_ call: ServerCall) {
        isHalfClosed = true
        call.resume()
    }

    // MARK: To the client

    func received(_ reply: OrderReply.Body) {
        switch reply {
        case .event(let event): append(Proto.TradingMessage(event, run: run))
        case .answer(let answer):
            inFlight -= 1
            if !answer.isInEvents { append(Proto.TradingMessage(Proto.OrderStatusUpdate(answer.update))) }
            if isPaused, inFlight <= limits.inFlightMax / 2 {
                isPaused = false
                call.resumeRequests()
            }
            call.resume()
        }
    }

    private func append(_ message: Proto.TradingMessage) {
        guard failure == nil else { return }
        let bytes = message.encodedBytes()
        guard queue.count + bytes.count + Block.framePrefixLength <= limits.queueBytesMax else {
            return fail(
                GRPCStatus(
                    .resourceExhausted,
                    "more than \(limits.queueBytesMax >> 10) KiB wait for the reader; its orders stand as they are"),
                .readerTooSlow)
        }
        withUnsafeBytes(of: UInt8(0)) { queue.append($0) }
        withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { queue.append($0) }
        bytes.withUnsafeBytes { queue.append($0) }
        call.resume()
    }

    private func fail(_ status: GRPCStatus, _ reason: StreamEnd.Reason) {
        if failure == nil { failure = (status, reason) }
        call.resume()
    }

    func end() {
        isStopping = true
        call.resume()
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        let count = queue.take(into: buffer)
        if count > 0 { return .bytes(count) }
        if let failure { return end(failure.status, failure.reason) }
        guard inFlight == 0 else { return .wait }
        if isHalfClosed { return .end(.ok, trailers: GRPCMetadata()) }
        if let ending { return end(ending.status, StreamEnd.Reason(ending.reason)) }
        return isStopping ? end(StreamEnd.stoppingOrders, StreamEnd.shutdown.reason) : .wait
    }

    private func end(_ status: GRPCStatus, _ reason: StreamEnd.Reason) -> FrameRead {
        var trailers = GRPCMetadata()
        trailers.add(StreamEnd.reasonTrailer, reason.rawValue)
        handlers.tally.ended(reason)
        return .end(status, trailers: trailers)
    }
}

extension LiveTradingStream: StreamStatusProvider {
    var streamStatus: StreamStatus { StreamStatus(policy: "ALL", lagBytes: UInt64(queue.count)) }

    func end(_ ending: CallEnding) {
        self.ending = self.ending ?? ending
        call.resume()
    }
}

extension StreamEnd {
    /// Of the order calls, which have no token.
    static let stoppingOrders = GRPCStatus(
        .unavailable, "the server is stopping; what was answered stands, ask for the rest by idempotency key")
}
