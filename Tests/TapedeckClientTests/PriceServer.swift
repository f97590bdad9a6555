import EventLoop
import GRPC
import MarketProto
import Protobuf
import Synchronization

/// A server of prices that a test decides about: what is published, when streams end and how. Its tokens are places in
/// the list of what was published.
final class PriceServer: Sendable {
    let port: Int
    private let server: GRPCServer
    private let loop: EventLoop
    private let tape: LoopConfined<PriceTape>
    /// Calls of each method, by name.
    let calls: Counts

    final class Counts: Sendable {
        let values = Mutex<[String: Int]>([:])
        func add(_ name: String) -> Int {
            values.withLock { values in
                values[name, default: 0] += 1
                return values[name] ?? 0
            }
        }
        subscript(_ name: String) -> Int { values.withLock { $0[name] ?? 0 } }
    }

    init(port: Int = 0, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil) throws {
        let group = EventLoopGroup(count: 1)
        loop = group.loops[0]
        let calls = Counts()
        self.calls = calls
        let tape = LoopConfined(PriceTape())
        self.tape = tape
        server = GRPCServer(group: group, configuration: GRPCServerConfiguration()) { _ in
            var table = GRPCServiceTable()
            let market = Proto.MarketDataService.self
            table.register(
                path: market.streamPrices.path,
                serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    _ = calls.add("StreamPrices")
                    tape.value.begin(call, request)
                })
            // The first answer is held back for ever.
            table.register(
                path: market.getQuote.path,
                unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    let number = calls.add("GetQuote")
                    call.onEnd = { _ = calls.add("GetQuote ended") }
                    guard number > 1, let asked = try? Proto.QuoteRequest(decoding: request) else { return }
                    // FAIL and a number: this status.
                    if asked.symbol.hasPrefix("FAIL "), let code = Int(asked.symbol.dropFirst(5)) {
                        return call.fail(GRPCStatus(GRPCStatus.Code(rawValue: code), "as asked"))
                    }
                    if asked.symbol == "NONE" { return call.fail(GRPCStatus(.notFound, "no NONE")) }
                    var answer = Proto.QuoteResponse()
                    answer.dayVolume = Int64(number)
                    call.respond(answer.encodedBytes())
                })
            PriceServer.registerOrders(&table, calls)
            return table
        }
        self.port = try server.listen(host: "127.0.0.1", port: port, secure: secure).port
    }

    private static func registerOrders(_ table: inout GRPCServiceTable, _ counts: Counts) {
        // The first call of each fails.
        table.register(
            path: Proto.MarketDataService.submitOrders.path,
            unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                if counts.add("SubmitOrders") == 1 { return call.fail(GRPCStatus(.unavailable, "not now")) }
                var summary = Proto.OrderBatchSummary()
                summary.accepted = 1
                call.respond(summary.encodedBytes())
            })
        table.register(
            path: Proto.MarketDataService.liveTrading.path,
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in call.respond(Array(request)) })
    }

    func stop() { server.shutdown(withinMilliseconds: 0) }

    /// Adds updates, as encoded, to what there is, and sends them to the streams.
    func publish(_ updates: [[UInt8]]) {
        let tape = tape
        let frames = updates.map { Updates.frames([$0]) }
        loop.runAndWait { _ in tape.value.add(frames) }
    }

    /// Ends the streams there are, with or without a token.
    func endStreams(_ status: GRPCStatus, reason: String, hasToken: Bool) {
        let tape = tape
        loop.runAndWait { _ in tape.value.end(status, reason, hasToken) }
    }

    /// Later streams lose what was published before the next update, and say so.
    func forget() {
        let tape = tape
        loop.runAndWait { _ in tape.value.start = tape.value.frames.count }
    }

    var openStreams: Int {
        let tape = tape
        return loop.runAndWait { _ in tape.value.sources.count }
    }
}

/// What was published, and who reads it. Confined to the server's loop.
final class PriceTape {
    var frames: [[UInt8]] = []
    var start = 0
    var sources: [TapeSource] = []

    func add(_ new: [[UInt8]]) {
        frames += new
        for source in sources { source.call?.resume() }
    }

    func begin(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        let subscription = (try? Proto.PriceSubscription(decoding: request)) ?? Proto.PriceSubscription()
        var place = subscription.skipSnapshot ? frames.count : start
        if !subscription.resumeToken.isEmpty {
            guard let wanted = PriceTape.place(subscription.resumeToken) else {
                return call.fail(GRPCStatus(.invalidArgument, "no token of mine"))
            }
            guard wanted >= start else {
                var trailers = GRPCMetadata()
                trailers.add("tapedeck-end-reason", "RECORDS_MISSING")
                trailers.add("tapedeck-missing", "ticks.raw/0 \(wanted)-\(start) expired")
                trailers.add("tapedeck-resume-token-bin", binary: PriceTape.token(start))
                return call.fail(GRPCStatus(.dataLoss, "gone"), trailers: trailers)
            }
            place = wanted
        }
        call.responseMetadata.add("tapedeck-resume-token-bin", binary: PriceTape.token(place))
        let source = TapeSource(self, call, place)
        sources.append(source)
        call.onEnd = { [weak self, weak source] in self?.sources.removeAll { $0 === source } }
        call.source = source
    }

    func end(_ status: GRPCStatus, _ reason: String, _ hasToken: Bool) {
        for source in sources {
            var trailers = GRPCMetadata()
            trailers.add("tapedeck-end-reason", reason)
            if hasToken { trailers.add("tapedeck-resume-token-bin", binary: PriceTape.token(source.place)) }
            source.call?.fail(status, trailers: trailers)
        }
    }

    static func token(_ place: Int) -> [UInt8] { Array("place \(place)".utf8) }

    static func place(_ token: [UInt8]) -> Int? {
        let text = String(decoding: token, as: UTF8.self)
        return text.hasPrefix("place ") ? Int(text.dropFirst(6)) : nil
    }
}

final class TapeSource: FrameSource {
    private let tape: PriceTape
    weak var call: ServerCall?
    /// The next to send.
    private(set) var place: Int
    private var rest: ArraySlice<UInt8> = []

    init(_ tape: PriceTape, _ call: ServerCall, _ place: Int) {
        self.tape = tape
        self.call = call
        self.place = place
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        var filled = 0
        while filled < buffer.count {
            if rest.isEmpty {
                guard place < tape.frames.count else { break }
                rest = tape.frames[place][...]
                place += 1
            }
            let part = rest.prefix(buffer.count - filled)
            UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]).copyBytes(from: part)
            filled += part.count
            rest = rest.dropFirst(part.count)
        }
        return filled > 0 ? .bytes(filled) : .wait
    }
}
