import EventLog
import EventLoop
import GRPC
import MarketModel
import MarketProto
import Protobuf
import TickStore

/// `MarketDataService` on one loop. Confined to it.
final class MarketDataHandlers {
    private let tape: Tape
    private let limits: EdgeLimits
    private let rules: SubscriptionRules
    private let surroundings: SubscribeStream.Surroundings
    private let faults: EdgeFaults?
    private var streams = OpenStreams()
    private var isEnding = false
    @exclusivity(unchecked) private var questions = QuoteQuestions()
    /// What ``usage`` was a moment ago, as long as there are streams.
    let gauge = UsageGauge()
    private var gaugeTimer: (any LoopTimer)?
    private static let gaugeMilliseconds = 250
    /// Some 0.2 ms of the loop's time.
    private static let streamsPerLook = 256

    init(_ surroundings: SubscribeStream.Surroundings, faults: EdgeFaults? = nil) {
        self.surroundings = surroundings
        self.faults = faults
        tape = surroundings.tape
        limits = surroundings.limits
        rules = SubscriptionRules(limits: limits)
    }

    var streamCount: Int { streams.count }
    var slowestLagBytes: UInt64? { streams.all.compactMap { ($0 as? FullStream)?.lagBytes }.max() }

    /// What all streams hold now.
    var usage: EdgeUsage { streams.usage }

    /// Ends every stream once it has what the tape has; one that comes later too.
    func end() {
        isEnding = true
        tape.catchUp()
        for stream in streams.all { stream.end() }
    }

    // MARK: GetQuote

    func getQuote(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        tape.catchUp()
        do {
            let line = try findLine(bytes: request, call.permissions)
            let lines = tape.lines.lines
            guard let faults else {
                return Quote.withBytes(lines[line].frame, lines[line].day) { call.respond(bytes: $0) }
            }
            var quote = Proto.QuoteResponse()
            Quote.withBytes(lines[line].frame, lines[line].day) { bytes in
                if let decoded = try? Proto.QuoteResponse(decoding: bytes) { quote = decoded }
            }
            faults.respond(call, quote)
        } catch let refusal as Refusal {
            call.fail(refusal.status)
        } catch {
            call.fail(GRPCStatus(.invalidArgument, "the request is no QuoteRequest: \(error)"))
        }
    }

    private func findLine(bytes: UnsafeRawBufferPointer, _ permissions: (any CallerPermissions)?) throws -> Int {
        // Who may not see everything is looked at each time.
        let seesAll = permissions?.allowsEverySymbol ?? true
        if seesAll, let line = questions.line(bytes, lineCount: tape.lines.lines.count) { return line }
        let request = try Proto.QuoteRequest(decoding: bytes)
        let line = try findLine(request, permissions)
        // Where several lines list the symbol, the answer changes with the first tick of another.
        if seesAll, !request.exchange.isEmpty || tape.lines.primaries(symbol: request.symbol).count == 1 {
            questions.keep(bytes, line: line, lineCount: tape.lines.lines.count)
        }
        return line
    }

    private func findLine(
        _ request: Proto.QuoteRequest, _ permissions: (any CallerPermissions)?
    ) throws(Refusal) -> Int {
        guard !request.symbol.isEmpty else { throw Refusal(.invalidArgument, "symbol is empty; name one, e.g. AAPL") }
        guard !tape.denies(permissions, request.exchange, request.symbol) else {
            throw Refusal(.permissionDenied, "\(request.symbol) is not among what the caller may see")
        }
        if !request.exchange.isEmpty {
            let instrument: Instrument
            do {
                instrument = try Instrument(exchange: request.exchange, symbol: request.symbol)
            } catch {
                throw Refusal(.invalidArgument, error.description)
            }
            guard let line = tape.lines.primary(instrument), !tape.lines[line].frame.isEmpty else {
                throw Refusal(.notFound, "no tick of \(request.symbol) on \(request.exchange) yet")
            }
            return line
        }
        let seen = InstrumentFilter(exchange: "", symbols: [], permissions: permissions)
        let listed = tape.lines.primaries(symbol: request.symbol).filter { line in
            !tape.lines[line].frame.isEmpty && seen.matches(tape.lines[line].instrument)
        }
        guard let only = listed.first else { throw Refusal(.notFound, "no exchange lists \(request.symbol)") }
        guard listed.count == 1 else {
            let names = listed.map { tape.lines[$0].instrument.exchange }.sorted().joined(separator: ", ")
            throw Refusal(.invalidArgument, "\(request.symbol) is listed on \(names): set exchange to one of them")
        }
        return only
    }

    // MARK: Subscribe

    /// Begins a stream; the sink is given its requests.
    func subscribe(_ call: ServerCall) -> any RequestSink {
        tape.catchUp()
        let stream = SubscribeStream(surroundings, permissions: call.permissions) { [weak call] in call?.resume() }
        call.responseMetadata.add(StreamEnd.tokenTrailer, binary: stream.startToken.encoded())
        register(stream, call)
        stream.start()
        return SubscribeSink(stream)
    }

    // MARK: StreamPrices

    func streamPrices(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        tape.catchUp()
        do {
            let request = try Proto.PriceSubscription(decoding: request)
            try open(call, request)
        } catch let refusal as Refusal {
            call.fail(refusal.status, trailers: refusal.trailers)
        } catch {
            call.fail(GRPCStatus(.invalidArgument, "the request is no PriceSubscription: \(error)"))
        }
    }

    private func open(_ call: ServerCall, _ request: Proto.PriceSubscription) throws(Refusal) {
        let filter = try self.filter(request, call.permissions)
        let policy = try self.policy(request)
        do {
            try rules.checkTokens(request, isSubscribe: false)
        } catch {
            throw refuse(error)
        }
        let offsets = try resumeOffsets(request)
        // A client that is cut off without trailers can at least begin again where this stream began.
        call.responseMetadata.add(StreamEnd.tokenTrailer, binary: tape.token(offsets ?? tape.next).encoded())
        for range in tape.stored(from: offsets ?? tape.next) {
            call.responseMetadata.add(StreamEnd.storedHeader, range.description)
        }
        let snapshot = tape.snapshot(
            filter, from: offsets, isWanted: offsets == nil ? !request.skipSnapshot : request.resumeSnapshot)
        let tokens =
            request.tokenIntervalMs > 0
            ? TokenTimer(loop: tape.loop, everyMilliseconds: Int(request.tokenIntervalMs)) : nil
        if filter.isEverything, policy == .all {
            let stream = FullStream(
                tape: tape, call: call, limits: limits, snapshot: snapshot, offsets: offsets ?? tape.next,
                tokens: tokens)
            register(stream, call)
            stream.start()
        } else {
            let stream = QueueStream(
                tape: tape, call: call, limits: limits, filter: filter, policy: policy, tokens: tokens)
            register(stream, call)
            stream.start(from: offsets, snapshot: snapshot)
        }
    }

    private func register(_ stream: some EdgeStream & FrameSource, _ call: ServerCall) {
        streams.add(stream)
        gaugeTimer =
            gaugeTimer
            ?? tape.loop.repeatTimer(everyMilliseconds: MarketDataHandlers.gaugeMilliseconds) { [weak self] in
                self?.setGauge()
            }
        call.source = faults.map { FaultySource(stream, call, $0, isSubscribe: stream is SubscribeStream) } ?? stream
        call.onEnd = { [weak self, unowned stream] in
            stream.stop()
            self?.streams.remove(stream)
        }
        endWithServer(stream, call)
    }

    private func setGauge() {
        if let usage = streams.look(atMost: MarketDataHandlers.streamsPerLook) { gauge.value = usage }
        guard streams.isEmpty else { return }
        gaugeTimer?.cancel()
        gaugeTimer = nil
    }

    /// A connection that is drained cuts what is still open when its grace is over, and so does a server that stops; a
    /// stream that ends before has its token and reason.
    private func endWithServer(_ stream: some EdgeStream, _ call: ServerCall) {
        call.onConnectionEnding = { [unowned stream] in stream.end() }
        guard isEnding || call.isConnectionEnding else { return }
        // Its client began it before it knew. It has still to be started.
        tape.loop.afterTurn { [weak self] in
            if let self, streams.contains(stream) { stream.end() }
        }
    }

    private func filter(
        _ request: Proto.PriceSubscription, _ permissions: (any CallerPermissions)?
    ) throws(Refusal) -> InstrumentFilter {
        do {
            try rules.check(symbols: request.symbols, exchange: request.exchange)
        } catch {
            throw refuse(error)
        }
        for symbol in request.symbols where tape.denies(permissions, request.exchange, symbol) {
            throw Refusal(.permissionDenied, "\(symbol) is not among what the caller may see")
        }
        return InstrumentFilter(
            exchange: request.exchange, symbols: Set(request.symbols), permissions: permissions)
    }

    private func policy(_ request: Proto.PriceSubscription) throws(Refusal) -> StreamPolicy {
        do {
            return try rules.policy(
                request.policy, throttleMs: request.throttleMs, maxStalenessMs: request.maxStalenessMs)
        } catch {
            throw refuse(error)
        }
    }

    private func refuse(_ problem: SubscriptionRules.Problem) -> Refusal {
        switch problem {
        case .invalid(let message): Refusal(.invalidArgument, message)
        case .tooManySymbols(let message): Refusal(.resourceExhausted, message)
        }
    }

    /// The offsets may be ahead of this loop's tape: another loop made the token.
    private func resumeOffsets(_ request: Proto.PriceSubscription) throws(Refusal) -> [UInt64]? {
        guard !request.resumeToken.isEmpty else { return nil }
        do {
            return try ResumeToken(decoding: request.resumeToken).offsets(in: tape.log, store: tape.store)
        } catch {
            throw refuse(error)
        }
    }

    private func refuse(_ error: TokenError) -> Refusal {
        switch error {
        case .malformed(let what): return Refusal(.invalidArgument, "resume_token is not one of this service: \(what)")
        case .missing(let ranges, let next):
            // The token in the answer goes on at the first records after what is gone.
            let end = StreamEnd.missing(ranges)
            return Refusal(end.status, trailers: end.trailers(token: tape.token(next)))
        }
    }
}

/// A stream of prices, whatever feeds it.
protocol EdgeStream: AnyObject {
    /// Ends the stream once the reader has what the tape has.
    func end()
    /// The call is over: nothing more may be asked of it.
    func stop()
    /// What it holds for its reader now.
    var usage: StreamUsage { get }
}

/// A request that is answered with a status instead of data.
struct Refusal: Error {
    let status: GRPCStatus
    let trailers: GRPCMetadata

    init(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        self.status = status
        self.trailers = trailers
    }

    init(_ code: GRPCStatus.Code, _ message: String) { self.init(GRPCStatus(code, message)) }
}
