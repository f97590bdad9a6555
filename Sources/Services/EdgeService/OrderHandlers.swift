import EventLoop
import GRPC
import MarketModel
import MarketProto
import Protobuf
import SimulatedExecution
import TimeSource

/// A call that waits for what the desk says.
protocol OrderCaller: AnyObject {
    func received(_ reply: OrderReply.Body)
    /// The server stops: the call ends once what it sent is answered.
    func end()
}

/// The order calls on one loop. Confined to it.
final class OrderHandlers {
    /// How a loop reaches the desk.
    struct Way {
        let venue: OrderVenue
        /// Makes execution ids unique over starts.
        let run: String
        /// The loop's number among those that the desk knows.
        let loop: Int
        let send: ([OrderCommand]) -> Void
    }

    private let tape: Tape
    private let loop: any Loop
    /// nil: this server has no venue for orders.
    private let way: Way?
    private var callers: [UInt64: any OrderCaller] = [:]
    private var callCount: UInt64 = 0
    private var closedCount = 0
    @exclusivity(unchecked) private var commands: [OrderCommand] = []
    private var isEnding = false

    init(tape: Tape, loop: any Loop, way: Way?) {
        self.tape = tape
        self.loop = loop
        self.way = way
    }

    var tally: EdgeTally { tape.tally }

    /// Ends every call once what it sent is answered; new ones are refused.
    func end() {
        isEnding = true
        for caller in callers.values { caller.end() }
    }

    private static let noVenue = GRPCStatus(
        .failedPrecondition,
        "orders are executed by the simulated venue, which this server does not run: it plays recordings. Start it "
            + "without recordings to trade")

    // MARK: Calls

    /// `OrderService.SubmitOrder`.
    func submitOrder(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let way, !isEnding else { return refuse(call) }
        var order: NewOrder
        do {
            order = try NewOrder(decoding: request)
        } catch {
            return call.fail(GRPCStatus(.invalidArgument, "the request is no OrderRequest: \(error)"))
        }
        if let status = denial(order, call) { return call.respond(Proto.OrderResult(status)) }
        let caller = OneOrder(call: call)
        let session = open(caller, call)
        order.deadlineNs = deadlineNs(call, way)
        send(OrderCommand(session: session, body: .order(order)))
    }

    /// `MarketDataService.SubmitOrders`.
    func submitOrders(_ call: ServerCall) -> any RequestSink {
        guard let way, !isEnding else { return refusedRequests(call) }
        let batch = OrderBatch(call: call, handlers: self, limits: way.venue.limits)
        batch.session = open(batch, call)
        return batch
    }

    /// `MarketDataService.LiveTrading`.
    func liveTrading(_ call: ServerCall) -> any RequestSink {
        guard let way, !isEnding else { return refusedRequests(call) }
        let stream = LiveTradingStream(call: call, handlers: self, limits: way.venue.limits, run: way.run)
        stream.session = open(stream, call)
        call.source = stream
        call.onConnectionEnding = { [unowned stream] in stream.end() }
        // Its client began it before it knew that the connection ends.
        if call.isConnectionEnding { loop.afterTurn { [weak stream] in stream?.end() } }
        return stream
    }

    private func refuse(_ call: ServerCall) {
        guard way != nil else { return call.fail(OrderHandlers.noVenue) }
        var trailers = GRPCMetadata()
        trailers.add(StreamEnd.reasonTrailer, StreamEnd.shutdown.reason.rawValue)
        call.fail(StreamEnd.stoppingOrders, trailers: trailers)
    }

    private func refusedRequests(_ call: ServerCall) -> any RequestSink {
        refuse(call)
        return IgnoredRequests()
    }

    private func open(_ caller: some OrderCaller, _ call: ServerCall) -> OrderSession {
        callCount += 1
        let session = OrderSession(loop: way?.loop ?? 0, number: callCount)
        callers[session.number] = caller
        call.onEnd = { [weak self] in self?.close(session) }
        return session
    }

    private func close(_ session: OrderSession) {
        closedCount += 1
        guard callers.removeValue(forKey: session.number) is LiveTradingStream else { return }
        send(OrderCommand(session: session, body: .leave))
    }

    // MARK: What calls need

    /// Sends a command with the others of this turn.
    func send(_ command: OrderCommand) {
        commands.append(command)
        guard commands.count == 1 else { return }
        loop.afterTurn { [weak self] in
            guard let self else { return }
            let batch = commands
            commands = []
            way?.send(batch)
        }
    }

    /// Hands replies to their calls; those of calls that are over are dropped.
    func deliver(_ replies: [OrderReply]) {
        var place = 0
        while place < replies.count {
            // The orders of a call come one after the other, and so do their answers.
            let number = replies[place].session.number
            let caller = callers[number]
            let closed = closedCount
            repeat {
                caller?.received(replies[place].body)
                place += 1
            } while place < replies.count && replies[place].session.number == number && closedCount == closed
        }
    }

    var nowNs: Int64 { way?.venue.time.wallNs() ?? 0 }

    /// The call's deadline on the wall clock.
    func deadlineNs(_ call: ServerCall) -> Int64? { way.flatMap { deadlineNs(call, $0) } }

    private func deadlineNs(_ call: ServerCall, _ way: Way) -> Int64? {
        guard let deadline = call.deadlineMilliseconds else { return nil }
        let leftMilliseconds = Int64(clamping: deadline) - Int64(clamping: loop.nowMilliseconds)
        let (leftNs, overflow) = leftMilliseconds.multipliedReportingOverflow(by: 1_000_000)
        guard !overflow else { return nil }
        let (atNs, isBeyond) = way.venue.time.wallNs().addingReportingOverflow(leftNs)
        return isBeyond ? nil : atNs
    }

    /// What is answered to an order that the caller may not give; nil where it may.
    func denial(_ order: NewOrder, _ call: ServerCall) -> Proto.OrderStatusUpdate? {
        guard let permissions = call.permissions else { return nil }
        var reason: String?
        if !permissions.allows(account: order.account) {
            reason = "you may not trade for this account"
        } else if !permissions.allowsEverySymbol {
            tape.catchUp()
            // Without an exchange it is the one that lists the symbol; with several the order is ambiguous anyway.
            let exchange =
                order.exchange.isEmpty
                ? tape.lines.primaries(symbol: order.symbol).first.map { tape.lines[$0].instrument.exchange } ?? ""
                : order.exchange
            if !permissions.allows(exchange: exchange, symbol: order.symbol) {
                reason = "you may not trade this symbol"
            }
        }
        return reason.map {
            Proto.OrderStatusUpdate(rejecting: order, .permissionDenied, $0, timeNs: nowNs)
        }
    }
}

/// Takes nothing: the call is refused.
private final class IgnoredRequests: RequestSink {
    func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {}
    func receivedEnd(_ call: ServerCall) {}
}

/// A call of SubmitOrder.
private final class OneOrder: OrderCaller {
    private unowned let call: ServerCall

    init(call: ServerCall) { self.call = call }

    func received(_ reply: OrderReply.Body) {
        guard case .answer(let answer) = reply else { return }
        call.respond(Proto.OrderResult(Proto.OrderStatusUpdate(answer.update)))
    }

    /// Its answer is on the way.
    func end() {}
}
