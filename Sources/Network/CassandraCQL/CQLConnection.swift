import CQLFrames
import EventLoop

/// A connection over a stream of bytes. Confined to its loop.
final class CQLConnection: ByteStreamOwner {
    enum Event {
        case ready
        case answered(CQLCall, CQLAnswer)
        /// A call whose time is over; attempts elsewhere may still be answered.
        case late(CQLCall)
        case event(CQLEvent)
        /// There is room for requests again.
        case room
        /// The connection is over, with the calls that were open. Told once, last.
        case ended(CQLConnectionError, [CQLCall])
    }

    let loop: any Loop
    private let options: CQLConnectionOptions
    private let stream: any ByteStream
    private var machine: CQLConnectionMachine!
    private var tell: ((CQLConnection, Event) -> Void)?
    private var isFlushScheduled = false
    private var handshakeTimer: (any LoopTimer)?
    private var beatTimer: (any LoopTimer)?

    /// Takes over a connected stream and begins the handshake. `tell` is called from later turns on.
    init(
        over stream: any ByteStream, options: CQLConnectionOptions, version: CQLVersion,
        tell: @escaping (CQLConnection, Event) -> Void
    ) {
        loop = stream.loop
        self.options = options
        self.stream = stream
        self.tell = tell
        machine = CQLConnectionMachine(options, version: version) { [weak self] event in self?.happened(event) }
        stream.owner = self
        stream.startReading()
        machine.start(nowMilliseconds: loop.nowMilliseconds)
        handshakeTimer = loop.timer(afterMilliseconds: options.handshakeMilliseconds) { [weak self] in
            self?.machine.fail(CQLConnectionError(.silent, "the server did not finish the handshake in its time"))
        }
        flushLater()
    }

    var version: CQLVersion { machine.version }
    var isReady: Bool { machine.isReady }
    var openCalls: Int { machine.openCalls }
    var orphans: Int { machine.orphans }

    /// Whether one more request has a place: a stream, and a socket that takes bytes.
    var hasRoom: Bool { machine.hasRoom && stream.waitingBytes < options.waitingBytesMax }

    /// Sends a request with what else is sent in this turn; false where there is no room.
    func send(_ call: CQLCall) -> Bool {
        guard machine.send(call) else { return false }
        flushLater()
        return true
    }

    /// Gives up what is past its time.
    func expire() {
        let late = machine.expire(nowMilliseconds: loop.nowMilliseconds)
        for call in late { tell?(self, .late(call)) }
        if machine.isWornOut {
            machine.fail(
                CQLConnectionError(.silent, "\(machine.orphans) requests in a row were never answered"))
        }
    }

    func close(_ reason: String) { machine.fail(CQLConnectionError(.closed, reason)) }

    private func flushLater() {
        guard !isFlushScheduled else { return }
        isFlushScheduled = true
        loop.afterTurn { [self] in
            isFlushScheduled = false
            guard !machine.isFailed else { return }
            machine.takeOutput { stream.write($0) }
        }
    }

    private func beat() {
        guard machine.beat(nowMilliseconds: loop.nowMilliseconds) else {
            return machine.fail(CQLConnectionError(.silent, "the server gave no sign of life in its time"))
        }
        flushLater()
    }

    private func happened(_ event: CQLConnectionMachine.Event) {
        switch event {
        case .ready:
            handshakeTimer?.cancel()
            handshakeTimer = nil
            let period = min(options.heartbeatMilliseconds, options.heartbeatTimeoutMilliseconds) / 2
            if options.heartbeatMilliseconds > 0 {
                beatTimer = loop.repeatTimer(everyMilliseconds: max(1, period)) { [weak self] in self?.beat() }
            }
            tell?(self, .ready)
        case .answered(let call, let answer): tell?(self, .answered(call, answer))
        case .event(let event): tell?(self, .event(event))
        case .failed(let error): end(error)
        }
    }

    private func end(_ error: CQLConnectionError) {
        handshakeTimer?.cancel()
        beatTimer?.cancel()
        handshakeTimer = nil
        beatTimer = nil
        if !stream.isClosed { stream.close() }
        // Never inside a call of the owner.
        loop.afterTurn { [self] in
            let calls = machine.takeCalls()
            let tell = tell
            self.tell = nil
            tell?(self, .ended(error, calls))
        }
    }

    // MARK: Events of the stream

    func received(_ bytes: UnsafeRawBufferPointer) {
        machine.received(bytes, nowMilliseconds: loop.nowMilliseconds)
        // Answers leave room, and may have made new requests.
        flushLater()
    }

    func drained() { tell?(self, .room) }

    func closed(_ error: StreamError?) {
        machine.fail(CQLConnectionError(.lost, error.map { "\($0)" } ?? "the server ended the connection"))
    }
}

/// How a session gets its bytes to a node and back.
public protocol CQLTransport: Sendable {
    /// Connects; `done` is called once on the loop, never inside the call.
    func connect(_ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void)
}
