import CQLFrames

/// A connection without I/O: bytes and requests in, bytes and events out. Time is what it is told.
///
/// It says hello, proves who it is, gives requests their streams, finds whose answer a frame is, and remembers streams
/// whose requests were given up, so that a late answer is not taken for another's. Confined to its owner's loop; the
/// events are told inside the calls.
final class CQLConnectionMachine {
    enum Event {
        /// The server is ready for requests.
        case ready
        /// A request's attempt was answered.
        case answered(CQLCall, CQLAnswer)
        case event(CQLEvent)
        /// Nothing more goes here. Told once; calls that are open are taken by ``takeCalls()``.
        case failed(CQLConnectionError)
    }

    private enum Phase {
        case idle
        case starting
        case authenticating
        case ready
        case failed
    }

    private enum Slot {
        case free
        case call(CQLCall)
        case heartbeat
        /// Given up; the answer may still come.
        case orphan
    }

    let version: CQLVersion
    private let options: CQLConnectionOptions
    private let tell: (Event) -> Void
    private var phase = Phase.idle
    private let decoder: CQLFrameDecoder
    private let encoder: CQLFrameEncoder
    /// The handshake's requests go on stream 0, when no others are there.
    private static let handshakeStream: Int16 = 0
    private var slots: [Slot] = []
    private var freeStreams: [Int16] = []
    private(set) var openCalls = 0
    private(set) var orphans = 0
    private var heartbeatSentAt: UInt64?
    private var lastReceivedAt: UInt64 = 0
    private let scratch = CQLBuffer()

    init(_ options: CQLConnectionOptions, version: CQLVersion, tell: @escaping (Event) -> Void) {
        self.options = options
        self.version = version
        self.tell = tell
        decoder = CQLFrameDecoder(.frames(version == .v4 ? options.compression : .none), limits: options.limits)
        encoder = CQLFrameEncoder(.frames(version == .v4 ? options.compression : .none))
    }

    var isReady: Bool { phase == .ready }
    var isFailed: Bool { phase == .failed }

    /// Whether one more request has a place.
    var hasRoom: Bool { isReady && (!freeStreams.isEmpty || slots.count < min(32_768, options.requestsMax)) }

    /// Whether so many requests were given up that the connection is worth no more.
    var isWornOut: Bool { orphans >= options.orphansMax }

    /// What goes to the socket now.
    func takeOutput(_ write: (UnsafeRawBufferPointer) -> Void) {
        encoder.finish()
        guard encoder.output.count > 0 else { return }
        write(encoder.output.bytes)
        encoder.output.removeAll()
    }
}

// MARK: Requests

extension CQLConnectionMachine {
    /// Says hello.
    func start(nowMilliseconds now: UInt64) {
        guard phase == .idle else { return }
        phase = .starting
        lastReceivedAt = now
        var hello = [
            CQLStartupOption("CQL_VERSION", "3.0.0"), CQLStartupOption("DRIVER_NAME", "CassandraCQL for Swift"),
        ]
        if options.compression == .lz4 { hello.append(CQLStartupOption("COMPRESSION", "lz4")) }
        if let name = options.applicationName { hello.append(CQLStartupOption("APPLICATION_NAME", name)) }
        send(.startup(hello), stream: CQLConnectionMachine.handshakeStream)
    }

    private func send(_ request: CQLRequest, stream: Int16) {
        scratch.removeAll()
        request.append(to: scratch, version, stream: stream)
        encoder.add(scratch.bytes)
    }

    /// Sends a request; false where there is no room for it.
    func send(_ call: CQLCall) -> Bool {
        guard hasRoom, let stream = takeStream(.call(call)) else { return false }
        openCalls += 1
        call.attempts += 1
        call.wasSent = true
        CQLFrameHeader.setStream(stream, in: call.frame, at: 0)
        encoder.add(call.frame.bytes)
        return true
    }

    private func takeStream(_ slot: Slot) -> Int16? {
        if let stream = freeStreams.popLast() {
            slots[Int(stream)] = slot
            return stream
        }
        // One stream is kept for the sign of life.
        guard slots.count <= min(32_767, options.requestsMax) else { return nil }
        slots.append(slot)
        return Int16(slots.count - 1)
    }

    private func release(_ stream: Int) {
        slots[stream] = .free
        freeStreams.append(Int16(stream))
    }

    /// Gives up all attempts of calls that are done or past their time; returns those past it.
    func expire(nowMilliseconds now: UInt64) -> [CQLCall] {
        var late: [CQLCall] = []
        guard openCalls > 0 else { return late }
        for stream in slots.indices {
            guard case .call(let call) = slots[stream], call.isDone || call.deadlineMilliseconds <= now else {
                continue
            }
            slots[stream] = .orphan
            orphans += 1
            openCalls -= 1
            call.attempts -= 1
            if !call.isDone { late.append(call) }
        }
        return late
    }

    /// Asks for a sign of life where it is time; false where an earlier one was not answered in its time.
    func beat(nowMilliseconds now: UInt64) -> Bool {
        guard isReady, options.heartbeatMilliseconds > 0 else { return true }
        if let sent = heartbeatSentAt {
            return now &- sent < UInt64(options.heartbeatTimeoutMilliseconds)
        }
        let silent = now &- lastReceivedAt
        let isDue =
            silent >= UInt64(options.heartbeatMilliseconds)
            || openCalls > 0 && silent >= UInt64(options.heartbeatTimeoutMilliseconds)
        guard isDue, let stream = takeStream(.heartbeat) else { return true }
        heartbeatSentAt = now
        send(.options, stream: stream)
        return true
    }

    /// Takes the calls that are open, in no order that means anything, when the connection is over.
    func takeCalls() -> [CQLCall] {
        var calls: [CQLCall] = []
        for slot in slots {
            if case .call(let call) = slot {
                call.attempts -= 1
                calls.append(call)
            }
        }
        slots = []
        freeStreams = []
        openCalls = 0
        orphans = 0
        return calls
    }
}

// MARK: Answers

extension CQLConnectionMachine {
    func received(_ bytes: UnsafeRawBufferPointer, nowMilliseconds now: UInt64) {
        guard phase != .failed else { return }
        lastReceivedAt = now
        decoder.feed(bytes)
        defer { decoder.endFeed() }
        do {
            while phase != .failed, let frame = try decoder.next() { try take(frame) }
        } catch {
            fail(CQLConnectionError(.protocol, "the server sent what is not the protocol: \(error)"))
        }
    }

    /// Ends the connection for a reason; nothing goes in or out any more.
    func fail(_ error: CQLConnectionError) {
        guard phase != .failed else { return }
        phase = .failed
        tell(.failed(error))
    }

    private func take(_ frame: CQLFrameDecoder.Frame) throws(CQLFormatError) {
        let header = frame.header
        guard header.version == version || phase == .starting else {
            throw CQLFormatError(.invalid, at: 0, "an answer of version \(header.version.rawValue)")
        }
        guard header.isResponse else { throw CQLFormatError(.invalid, at: 0, "a request from the server") }
        if header.stream < 0 {
            guard case .event(let event) = try CQLAnswer(header, frame.body).response else { return }
            return tell(.event(event))
        }
        guard phase == .ready else { return try shakeHands(try CQLAnswer(header, frame.body), header) }
        let stream = Int(header.stream)
        guard stream < slots.count else { throw CQLFormatError(.invalid, at: 2, "an answer to nobody") }
        switch slots[stream] {
        case .free: throw CQLFormatError(.invalid, at: 2, "an answer to nobody")
        case .orphan:
            orphans -= 1
            release(stream)
        case .heartbeat:
            heartbeatSentAt = nil
            release(stream)
        case .call(let call):
            let answer = try CQLAnswer(header, frame.body)
            openCalls -= 1
            call.attempts -= 1
            release(stream)
            tell(.answered(call, answer))
        }
    }

    private func shakeHands(_ answer: CQLAnswer, _ header: CQLFrameHeader) throws(CQLFormatError) {
        guard header.stream == CQLConnectionMachine.handshakeStream else {
            throw CQLFormatError(.invalid, at: 2, "an answer to nobody")
        }
        if case .error(let error) = answer.response { return refuse(error, header) }
        switch (phase, answer.response) {
        case (.starting, .ready):
            frame()
            becomeReady()
        case (.starting, .authenticate(let authenticator)):
            frame()
            guard let credentials = options.credentials else {
                let wants = "the server wants name and password (\(authenticator)), and none are configured"
                return fail(CQLConnectionError(.authentication, wants))
            }
            phase = .authenticating
            send(.authResponse(credentials.token), stream: CQLConnectionMachine.handshakeStream)
        case (.authenticating, .authSuccess): becomeReady()
        case (.authenticating, .authChallenge):
            fail(CQLConnectionError(.authentication, "the server wants more than name and password"))
        default:
            throw CQLFormatError(.invalid, at: 4, "\(answer.response.opcode) during the handshake")
        }
    }

    /// From here on v5's bytes lie in segments.
    private func frame() {
        guard version >= .v5 else { return }
        encoder.framing = .segments(options.compression)
        decoder.framing = .segments(options.compression)
    }

    private func becomeReady() {
        phase = .ready
        tell(.ready)
    }

    private func refuse(_ error: CQLServerError, _ header: CQLFrameHeader) {
        switch error.detail {
        case .badCredentials:
            fail(CQLConnectionError(.authentication, "name and password were not taken: \(error.message)"))
        case .protocol where phase == .starting:
            fail(
                CQLConnectionError(
                    .unsupportedVersion, "the server does not speak version \(version.rawValue): \(error.message)"))
        default: fail(CQLConnectionError(.protocol, "the handshake was refused: \(error)"))
        }
    }
}
