/// How a stream stands, for operators.
public struct StreamStatus: Hashable, Sendable {
    /// How it treats a reader that is slower than what is sent, as `ALL`.
    public let policy: String
    /// Bytes that the client has not taken yet.
    public let lagBytes: UInt64

    public init(policy: String, lagBytes: UInt64) {
        self.policy = policy
        self.lagBytes = lagBytes
    }
}

/// A call's source that can say how it stands, and where the client can go on. Asked on the call's loop.
public protocol StreamStatusProvider: FrameSource {
    var streamStatus: StreamStatus { get }
    /// The stream is to end: soon, with the reason and whatever lets the client go on, and with nothing newer.
    func end(_ ending: CallEnding)
}
