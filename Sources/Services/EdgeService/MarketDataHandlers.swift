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
    private var streams: [ObjectIdentifier: any EdgeStream] = [:]
    private var isEnding = false

    init(tape: Tape, limits: EdgeLimits) {
        self.tape = tape
        self.limits = limits
    }

    var streamCount: Int { streams.count }

    /// Ends every stream once it has what the tape has; new ones are refused.
    func end() {
        isEnding = true
        for stream in streams.values { stream.end() }
    }

    // MARK: GetQuote

    func getQuote(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        do {
            let request = try Proto.QuoteRequest(decoding: request)
            let line = try findLine(request)
            call.respond(tape.lines[line].quote().encodedBytes())
        } catch let refusal as Refusal {
            call.fail(refusal.status)
        } catch {
            call.fail(GRPCStatus(.invalidArgument, "the request is no QuoteRequest: \(error)"))
        }
    }

    private func findLine(_ request: Proto.QuoteRequest) throws(Refusal) -> Int {
        guard !request.symbol.isEmpty else { throw Refusal(.invalidArgument, "symbol is empty; name one, e.g. AAPL") }
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
        let listed = tape.lines.primaries(symbol: request.symbol).filter { !tape.lines[$0].frame.isEmpty }
        guard let only = listed.first else { throw Refusal(.notFound, "no exchange lists \(request.symbol)") }
        guard listed.count == 1 else {
            let names = listed.map { tape.lines[$0].instrument.exchange }.sorted().joined(separator: ", ")
            throw Refusal(.invalidArgument, "\(request.symbol) is listed on \(names): set exchange to one of them")
        }
        return only
    }

    // MARK: StreamPrices

    func streamPrices(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        do {
            guard !isEnding else { throw Refusal(StreamEnd.shutdown.status) }
            let request = try Proto.PriceSubscription(decoding: request)
            try open(call, request)
        } catch let refusal as Refusal {
            call.fail(refusal.status, trailers: refusal.trailers)
        } catch {
            call.fail(GRPCStatus(.invalidArgument, "the request is no PriceSubscription: \(error)"))
        }
    }

    private func open(_ call: ServerCall, _ request: Proto.PriceSubscription) throws(Refusal) {
        let filter = try self.filter(request)
        let policy = try self.policy(request)
        let offsets = try resumeOffsets(request)
        // A client that is cut off without trailers can at least begin again where this stream began.
        call.responseMetadata.add(StreamEnd.tokenTrailer, binary: tape.token(offsets ?? tape.next).encoded())
        let snapshot = offsets == nil && !request.skipSnapshot ? self.snapshot(filter) : PendingBytes()
        if filter.isEverything, case .all = policy {
            let stream = FullStream(
                tape: tape, call: call, limits: limits, snapshot: snapshot, offsets: offsets ?? tape.next)
            register(stream, call)
            stream.start()
        } else {
            let stream = QueueStream(
                tape: tape, call: call, limits: limits, filter: filter, policy: policy, snapshot: snapshot)
            register(stream, call)
            stream.start(from: offsets)
        }
    }

    private func register(_ stream: some EdgeStream & FrameSource, _ call: ServerCall) {
        streams[ObjectIdentifier(stream)] = stream
        call.source = stream
        call.onEnd = { [weak self, unowned stream] in
            stream.stop()
            self?.streams[ObjectIdentifier(stream)] = nil
        }
    }

    private func filter(_ request: Proto.PriceSubscription) throws(Refusal) -> InstrumentFilter {
        guard request.symbols.count <= limits.symbolsMax else {
            throw Refusal(
                .resourceExhausted,
                "\(request.symbols.count) symbols; at most \(limits.symbolsMax) in one subscription. "
                    + "Leave symbols empty for all, or open several streams")
        }
        do {
            for symbol in request.symbols { _ = try Instrument(exchange: "X", symbol: symbol) }
            if !request.exchange.isEmpty { _ = try Instrument(exchange: request.exchange, symbol: "X") }
        } catch {
            throw Refusal(.invalidArgument, error.description)
        }
        return InstrumentFilter(exchange: request.exchange, symbols: Set(request.symbols))
    }

    private func policy(_ request: Proto.PriceSubscription) throws(Refusal) -> StreamPolicy {
        let window = Int(request.throttleMs)
        guard window >= 0, window <= limits.throttleMillisecondsMax else {
            throw Refusal(
                .invalidArgument, "throttle_ms is \(window); 0 (off) to \(limits.throttleMillisecondsMax) are allowed")
        }
        switch request.policy {
        case .unspecified: return window > 0 ? .interval(milliseconds: window) : .all
        case .all, .latest:
            guard window == 0 else {
                throw Refusal(.invalidArgument, "throttle_ms goes with policy INTERVAL, not \(request.policy)")
            }
            return request.policy == .all ? .all : .latest
        case .interval:
            guard window > 0 else { throw Refusal(.invalidArgument, "policy INTERVAL needs throttle_ms above 0") }
            return .interval(milliseconds: window)
        default: throw Refusal(.invalidArgument, "policy \(request.policy.rawValue) is unknown")
        }
    }

    /// The last value of each instrument that the filter matches, in the order first seen.
    private func snapshot(_ filter: InstrumentFilter) -> PendingBytes {
        var frames = PendingBytes()
        for index in 0..<tape.lines.count where tape.lines[index].isPrimary {
            guard filter.matches(tape.lines[index].instrument) else { continue }
            tape.lines[index].frame.withBytes { frames.append($0) }
        }
        return frames
    }

    /// The offsets may be ahead of this loop's tape: another loop made the token.
    private func resumeOffsets(_ request: Proto.PriceSubscription) throws(Refusal) -> [UInt64]? {
        guard !request.resumeToken.isEmpty else { return nil }
        do {
            return try ResumeToken(decoding: request.resumeToken).offsets(in: tape.log)
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
