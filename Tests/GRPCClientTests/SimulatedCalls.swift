import EventLoop
import HTTP2
import Simulation

@testable import GRPC

/// What the servers of a simulated world do, and how often they did it for each call.
final class SimulatedWork {
    static let service = "/tapedeck.test.World/"

    /// By the number that a call carries.
    private(set) var executions: [String: Int] = [:]
    private(set) var objects: [WeakObject] = []
    private let random: SimulatedStream.SharedRandom

    init(_ random: SimulatedStream.SharedRandom) { self.random = random }

    private func note(_ call: ServerCall) {
        executions[call.metadata.value("x-call") ?? "", default: 0] += 1
        objects += [WeakObject(object: call), WeakObject(object: call.connection)]
    }

    func table() -> GRPCServiceTable {
        var table = GRPCServiceTable()
        let service = SimulatedWork.service
        table.register(
            path: service + "Echo",
            unary: { [self] (call: ServerCall, request: UnsafeRawBufferPointer) in
                note(call)
                call.respond(Array(request))
            })
        table.register(
            path: service + "Never", unary: { [self] (call: ServerCall, _: UnsafeRawBufferPointer) in note(call) })
        table.register(
            path: service + "Flaky",
            unary: { [self] (call: ServerCall, request: UnsafeRawBufferPointer) in
                note(call)
                answer(call, request)
            })
        table.register(
            path: service + "Count",
            serverStreaming: { [self] (call: ServerCall, request: UnsafeRawBufferPointer) in
                note(call)
                call.source = NumberSource(limit: Int(String(decoding: request, as: UTF8.self)) ?? 0)
            })
        let collect = { [self] (call: ServerCall) -> any RequestSink in
            note(call)
            return Collector()
        }
        table.register(path: service + "Collect", serverStreaming: false, streaming: collect)
        let chat = { [self] (call: ServerCall) -> any RequestSink in
            note(call)
            return Mirror()
        }
        table.register(path: service + "Chat", streaming: chat)
        return table
    }

    private func answer(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        let kind = Int.random(in: 0...5, using: &random.numbers)
        var trailers = GRPCMetadata()
        if kind % 2 == 1 {
            trailers.add("grpc-retry-pushback-ms", "\(Int.random(in: -1...300, using: &random.numbers))")
        }
        switch kind {
        case 0, 1: call.fail(GRPCStatus(.unavailable, "busy"), trailers: trailers)
        case 2, 3: call.fail(GRPCStatus(.resourceExhausted, "full"), trailers: trailers)
        case 4: call.fail(GRPCStatus(.internalError, "broken"), trailers: trailers)
        default: call.respond(Array(request))
        }
    }

    /// Answers with the bytes of all requests.
    private final class Collector: RequestSink {
        private var count = 0
        func received(message: UnsafeRawBufferPointer, _ call: ServerCall) { count += message.count }
        func receivedEnd(_ call: ServerCall) { call.respond(Array("\(count)".utf8)) }
    }

    /// Sends each request back, and reads no more while its client does not read.
    private final class Mirror: RequestSink {
        func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
            call.send(Array(message))
            guard !call.isWritable else { return }
            call.pauseRequests()
            call.onWritable = { [weak call] in call?.resumeRequests() }
        }
        func receivedEnd(_ call: ServerCall) { call.finish() }
    }
}

/// A weakly held object, to see whether it is gone.
struct WeakObject {
    weak var object: AnyObject?
}

/// One call of a simulated client, and what came of it.
final class SimulatedCall: GRPCCallOwner {
    let number: Int
    let path: String
    let options: GRPCCallOptions
    private let requests: [[UInt8]]
    private let expected: [[UInt8]]
    private var sent = 0
    private var received: [[UInt8]] = []
    private var metadataCount = 0
    private(set) var ends: [GRPCStatus] = []
    private(set) var isLate = false
    var call: ChannelCall?
    private let loop: SimulatedLoop

    init(
        _ number: Int, _ loop: SimulatedLoop, _ method: String, _ options: GRPCCallOptions, requests: [[UInt8]],
        expected: [[UInt8]]
    ) {
        self.number = number
        self.loop = loop
        self.path = SimulatedWork.service + method
        self.options = options
        self.requests = requests
        self.expected = expected
    }

    var isOver: Bool { !ends.isEmpty }
    /// Whether the headers of an answer came.
    var hasBegun: Bool { metadataCount > 0 }

    /// How often it may have been carried out.
    var executionsMax: Int { options.hedging?.attemptsMax ?? options.retry?.attemptsMax ?? 1 }

    /// What is wrong with it; nil where all is well.
    var problem: String? {
        if ends.count != 1 { return "ended \(ends.count) times: \(ends)" }
        if isLate { return "told something after its end" }
        if metadataCount > 1 { return "got headers \(metadataCount) times" }
        if ends[0].isOK, received != expected {
            return "ended well with \(received.count) of \(expected.count) messages"
        }
        if !expected.starts(with: received) { return "got other messages than were sent" }
        let allowed: Set<GRPCStatus.Code> =
            path.hasSuffix("Flaky")
            ? [.ok, .unavailable, .deadlineExceeded, .cancelled, .resourceExhausted, .internalError]
            : [.ok, .unavailable, .deadlineExceeded, .cancelled]
        return allowed.contains(ends[0].code) ? nil : "ended with \(ends[0])"
    }

    func begin(_ core: GRPCChannelCore) {
        var options = options
        options.metadata.add("x-call", "\(number)")
        let begun = core.call(path: path, options: options, owner: self)
        // Some end before they have begun.
        if !isOver { call = begun }
        send()
    }

    private func send() {
        while let call, sent < requests.count, call.isWritable {
            sent += 1
            call.send(requests[sent - 1])
        }
        if sent == requests.count { call?.halfClose() }
    }

    /// Stands still for a time.
    func pause(_ milliseconds: Int) {
        guard let call else { return }
        call.pauseReading()
        _ = loop.timer(afterMilliseconds: milliseconds) { [weak self] in self?.call?.resumeReading() }
    }

    func received(metadata: GRPCMetadata) {
        metadataCount += 1
        if isOver { isLate = true }
    }

    func received(frames: UnsafeRawBufferPointer) {
        if isOver { isLate = true }
        for message in MessageSequence(frames: frames) { received.append(Array(message)) }
    }

    func becameWritable() {
        if isOver { isLate = true }
        send()
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        ends.append(status)
        call = nil
    }
}
