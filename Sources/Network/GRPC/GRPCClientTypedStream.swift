import Protobuf
import Synchronization

/// A call in messages. Safe to use from any task; one task at a time sends and one reads.
public final class GRPCTypedStream<Request: ProtoMessage, Response: ProtoMessage>: Sendable {
    /// The call in bytes.
    public let stream: GRPCClientStream
    private let pending = Mutex(PendingFrames())

    init(_ stream: GRPCClientStream) { self.stream = stream }

    /// Sends a message once the call takes more; false where the call has ended, whose status ``next()`` tells.
    @discardableResult
    public func send(_ request: Request) async -> Bool { await stream.send(request.encodedBytes()) }

    /// Sends no more messages.
    public func halfClose() { stream.halfClose() }

    /// Ends the call; the server is told.
    public func cancel() { stream.cancel() }

    /// The next message; nil at the end. Throws the call's status.
    public func next() async throws(GRPCStatus) -> Response? {
        while true {
            let message = pending.withLock { pending in pending.next() }
            if let message { return try GRPCChannel.decode(message) }
            guard let frames = try await stream.nextFrames() else { return nil }
            pending.withLock { $0 = PendingFrames(frames: frames) }
        }
    }

    /// Until they end, or the call does.
    func send(all requests: AsyncStream<Request>) async {
        for await request in requests {
            guard await send(request) else { return }
        }
        if !Task.isCancelled { halfClose() }
    }
}

/// Frames that were received and not read yet.
private struct PendingFrames: Sendable {
    var frames: [UInt8] = []
    private var position = 0

    init(frames: [UInt8] = []) { self.frames = frames }

    /// The next payload.
    mutating func next() -> [UInt8]? {
        guard frames.count - position >= MessageReader.prefixLength else { return nil }
        let start = position + MessageReader.prefixLength
        let length = frames[(position + 1)..<start].reduce(0) { $0 << 8 | Int($1) }
        guard frames.count - start >= length else { return nil }
        position = start + length
        return Array(frames[start..<position])
    }
}
