import EventLog
import GRPC

/// A stream of prices that is handed the records of its own: filtered, or conflated. Confined to its loop.
final class QueueStream: FrameSource, EdgeStream {
    private let tape: Tape
    private let subscriber: PriceSubscriber

    init(
        tape: Tape, call: ServerCall, limits: EdgeLimits, filter: InstrumentFilter, policy: StreamPolicy,
        tokens: TokenTimer? = nil
    ) {
        self.tape = tape
        subscriber = PriceSubscriber(
            tape: tape, limits: limits, filter: filter, policy: policy,
            backlog: Backlog(bytesMax: limits.queueBytesMax), followsLog: false, tokens: tokens
        ) { [weak call] in call?.resume() }
    }

    /// Begins at the tape, or at the offsets of a token.
    func start(from offsets: [UInt64]?, snapshot: Tape.Snapshot) { subscriber.start(from: offsets, snapshot: snapshot) }

    func stop() { subscriber.stop() }

    func end() { subscriber.end() }

    var usage: StreamUsage { subscriber.usage }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        let filled = subscriber.take(into: buffer)
        if filled > 0 { return .bytes(filled) }
        guard subscriber.isDrained else { return .wait }
        let end = subscriber.failure ?? (.shutdown, tape.token(tape.next))
        stop()
        tape.tally.ended(end.end.reason)
        return end.end.read(token: end.token, repeats: subscriber.repeatCount)
    }
}

extension QueueStream: StreamStatusProvider {
    var streamStatus: StreamStatus {
        StreamStatus(policy: subscriber.policy.name, lagBytes: UInt64(subscriber.waitingBytes))
    }

    func end(_ ending: CallEnding) { subscriber.fail(.imposed(ending)) }
}
