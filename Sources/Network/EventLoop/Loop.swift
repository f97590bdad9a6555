/// What a connection sees of its loop: time, timers and turns. ``EventLoop`` is one on libuv; a simulated world has its
/// own, so that everything above runs there as it is.
///
/// All but ``execute(_:)`` and ``isCurrent`` is for code that runs on the loop. As a task executor it runs the jobs of
/// async code on the loop, after the current callback.
public protocol Loop: TaskExecutor {
    /// Monotonic milliseconds as of the current turn.
    var nowMilliseconds: UInt64 { get }
    /// Whether the caller is on this loop's thread. From any thread.
    var isCurrent: Bool { get }
    /// Runs a closure on the loop, after the current callback. From any thread; never inside the call.
    func execute(_ body: @escaping @Sendable () -> Void)
    /// Runs a closure at the end of this turn, before the loop waits again.
    func afterTurn(_ body: @escaping () -> Void)
    /// Calls `body` once.
    func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer
    /// Calls `body` again and again, at least a millisecond apart.
    func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer
    /// Something to be called at times finer than a millisecond, where the loop has them.
    func makeAlarm(_ body: @escaping () -> Void) -> any LoopAlarm
}

/// A timer of a loop. Confined to it.
public protocol LoopTimer: AnyObject {
    /// The body is not called any more.
    func cancel()
}

/// Calls its body once for each time that it is set. Confined to its loop.
public protocol LoopAlarm: AnyObject {
    /// Calls the body after so many nanoseconds; the time that was set before is forgotten.
    func set(afterNs: Int64)
    /// The body is not called any more, and nothing keeps the loop. Once.
    func close()
}

extension Loop {
    public func makeAlarm(_ body: @escaping () -> Void) -> any LoopAlarm { MillisecondAlarm(self, body) }
}

/// An alarm of a loop whose timers are all it has: rings at the next whole millisecond.
private final class MillisecondAlarm: LoopAlarm {
    private let loop: any Loop
    private let body: () -> Void
    private var timer: (any LoopTimer)?

    init(_ loop: any Loop, _ body: @escaping () -> Void) {
        self.loop = loop
        self.body = body
    }

    func set(afterNs: Int64) {
        close()
        timer = loop.timer(afterMilliseconds: Int((max(afterNs, 0) + 999_999) / 1_000_000)) { [weak self] in
            self?.timer = nil
            self?.body()
        }
    }

    func close() {
        timer?.cancel()
        timer = nil
    }
}

/// What the owner of a byte stream is told. On the loop, never inside a call that it made.
public protocol ByteStreamOwner: AnyObject {
    /// Bytes that arrived, valid during the call.
    func received(_ bytes: UnsafeRawBufferPointer)
    /// Everything written was handed on; more may be written now.
    func drained()
    /// The stream is gone; nil where the peer ended it in order. Told once, last.
    func closed(_ error: StreamError?)
}

/// Bytes both ways between two peers: a TCP connection (``Socket``), one encrypted over another, or a simulated one.
/// Confined to its loop.
public protocol ByteStream: AnyObject {
    var loop: any Loop { get }
    /// Held weakly.
    var owner: (any ByteStreamOwner)? { get set }
    var isClosed: Bool { get }
    /// Bytes written that were not handed on yet.
    var waitingBytes: Int { get }
    /// Numeric address of the other side, without the port; empty where there is none.
    var peerAddress: String { get }
    /// What the other side proved by its certificate; nil without one.
    var peerCertificate: PeerCertificate? { get }
    /// Bytes go to the owner from now on.
    func startReading()
    /// No bytes until reading starts again: the peer feels the pressure.
    func stopReading()
    /// The owner can do nothing before so many bytes have come, at least 1: it need not hear of fewer, but may, and
    /// does at the stream's end. Holds until it is called again.
    func needs(bytes: Int)
    /// Writes bytes: at once what is taken, the rest when it is. `drained()` follows when something had to wait.
    func write(_ bytes: UnsafeRawBufferPointer)
    /// Whether several pieces are written as cheaply as one, so that nobody need copy them together.
    var gathersPieces: Bool { get }
    /// As ``write(_:)`` of one piece after the other.
    func write(pieces: UnsafeBufferPointer<UnsafeRawBufferPointer>)
    /// Ends the stream; the owner hears of it after the current callback.
    func close(_ error: StreamError?)
}

extension ByteStream {
    /// Ends the stream without an error.
    public func close() { close(nil) }

    public var peerCertificate: PeerCertificate? { nil }

    public var gathersPieces: Bool { false }

    public func needs(bytes: Int) {}

    public func write(pieces: UnsafeBufferPointer<UnsafeRawBufferPointer>) { for piece in pieces { write(piece) } }
}

/// Names in a certificate that was verified.
public struct PeerCertificate: Hashable, Sendable {
    /// URI names (SPIFFE ids among them), DNS names and the subject's common name, as the certificate has them.
    public let uris: [String]
    public let dnsNames: [String]
    public let commonName: String

    public init(uris: [String], dnsNames: [String], commonName: String) {
        self.uris = uris
        self.dnsNames = dnsNames
        self.commonName = commonName
    }
}

/// Why a byte stream failed.
public struct StreamError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
