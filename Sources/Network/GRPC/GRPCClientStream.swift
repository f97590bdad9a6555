import EventLoop
import Synchronization

/// A call as async code sees it: messages out with backpressure, frames in with backpressure, one status at the end.
/// Safe to use from any task; one task at a time sends and one reads. A call that nobody holds any more is cancelled.
public final class GRPCClientStream: Sendable {
    /// How a call ended.
    public struct End: Sendable {
        public let status: GRPCStatus
        public let trailers: GRPCMetadata
    }

    private let bridge: Bridge

    init(_ channel: GRPCChannel, path: String, options: GRPCCallOptions, readBytesMax: Int) {
        let bridge = Bridge(channel, readBytesMax: readBytesMax)
        self.bridge = bridge
        let isOpen = bridge.run { bridge.call = $0.call(path: path, options: options, owner: bridge) }
        if !isOpen { bridge.ended(GRPCChannel.closedStatus, trailers: GRPCMetadata()) }
    }

    deinit { bridge.cancel() }

    /// Sends a message once the call takes more; false where the call has ended, whose status reading tells.
    @discardableResult
    public func send(_ message: [UInt8]) async -> Bool {
        guard await bridge.waitUntilWritable() else { return false }
        let bridge = bridge
        return bridge.run { _ in
            bridge.call?.send(message)
            bridge.updateWritable()
        }
    }

    /// Sends a message without waiting: what the call does not take yet is kept in memory, however much it is.
    public func sendWithoutWaiting(_ message: [UInt8]) {
        let bridge = bridge
        bridge.run { _ in bridge.call?.send(message) }
    }

    /// Sends the call's only message, without waiting.
    public func sendOnly(_ message: [UInt8]) {
        let bridge = bridge
        bridge.run { _ in
            bridge.call?.send(message)
            bridge.call?.halfClose()
        }
    }

    /// Sends no more messages.
    public func halfClose() {
        let bridge = bridge
        bridge.run { _ in bridge.call?.halfClose() }
    }

    /// What has arrived: whole frames, back to back (``MessageSequence`` walks them). nil at the end of a call that
    /// ended well; throws its status where it did not. Cancels the call when the task is cancelled.
    public func nextFrames() async throws(GRPCStatus) -> [UInt8]? {
        switch await bridge.nextFrames() {
        case .frames(let frames): return frames
        case .end(let end):
            if end.status.isOK { return nil }
            throw end.status
        }
    }

    /// The response's headers: waits for them; throws where the call ended without any.
    public func metadata() async throws(GRPCStatus) -> GRPCMetadata { try await bridge.metadata() }

    /// The response's headers, where they have come.
    public var receivedMetadata: GRPCMetadata? { bridge.receivedMetadata }

    /// nil while the call runs, and while there is something to read.
    public var end: End? { bridge.end }

    /// Ends the call; the server is told.
    public func cancel() { bridge.cancel() }
}

/// What passes between the loop and the tasks of one call.
private final class Bridge: GRPCCallOwner, @unchecked Sendable {
    enum Next: Sendable {
        case frames([UInt8])
        case end(GRPCClientStream.End)
    }

    private struct State {
        var frames: [UInt8] = []
        var end: GRPCClientStream.End?
        var metadata: GRPCMetadata?
        var reader: CheckedContinuation<Next, Never>?
        var metadataReader: CheckedContinuation<Void, Never>?
        var isPaused = false
        var isWritable = true
        var writer: CheckedContinuation<Void, Never>?
    }

    private let channel: GRPCChannel
    private let readBytesMax: Int
    private let state = Mutex(State())
    /// Confined to the loop.
    var call: ChannelCall?

    init(_ channel: GRPCChannel, readBytesMax: Int) {
        self.channel = channel
        self.readBytesMax = readBytesMax
    }

    /// Runs on the channel's loop.
    @discardableResult
    func run(_ body: @escaping @Sendable (GRPCChannelCore) -> Void) -> Bool { channel.run(body) }

    func cancel() { run { _ in self.call?.cancel() } }

    var end: GRPCClientStream.End? { state.withLock { $0.frames.isEmpty ? $0.end : nil } }

    var receivedMetadata: GRPCMetadata? { state.withLock { $0.metadata } }

    // MARK: On the loop

    func received(metadata: GRPCMetadata) {
        let waiting = state.withLock { state in
            state.metadata = metadata
            defer { state.metadataReader = nil }
            return state.metadataReader
        }
        waiting?.resume()
    }

    func received(frames: UnsafeRawBufferPointer) {
        nonisolated(unsafe) let frames = frames
        let (reader, isFull) = state.withLock { state in
            if let reader = state.reader {
                state.reader = nil
                return (Optional(reader), false)
            }
            state.frames.append(contentsOf: frames)
            guard state.frames.count >= readBytesMax, !state.isPaused else { return (nil, false) }
            state.isPaused = true
            return (nil, true)
        }
        reader?.resume(returning: .frames(Array(frames)))
        if isFull { call?.pauseReading() }
    }

    func becameWritable() { updateWritable() }

    func updateWritable() {
        let isWritable = call?.isWritable ?? true
        let writer = state.withLock { state in
            state.isWritable = isWritable
            guard isWritable else { return CheckedContinuation<Void, Never>?.none }
            defer { state.writer = nil }
            return state.writer
        }
        writer?.resume()
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        call = nil
        let end = GRPCClientStream.End(status: status, trailers: trailers)
        let (reader, metadataReader, writer) = state.withLock { state in
            state.end = end
            defer { (state.reader, state.metadataReader, state.writer) = (nil, nil, nil) }
            return (state.reader, state.metadataReader, state.writer)
        }
        reader?.resume(returning: .end(end))
        metadataReader?.resume()
        writer?.resume()
    }

    // MARK: In tasks

    func nextFrames() async -> Next {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let next = state.withLock { state -> (now: Next?, wasPaused: Bool) in
                    if !state.frames.isEmpty {
                        let frames = state.frames
                        let wasPaused = state.isPaused
                        state.frames = []
                        state.isPaused = false
                        return (.frames(frames), wasPaused)
                    }
                    if let end = state.end { return (.end(end), false) }
                    if state.reader != nil { return (.end(Bridge.twoReaders), false) }
                    state.reader = continuation
                    return (nil, false)
                }
                if let now = next.now { continuation.resume(returning: now) }
                if next.wasPaused { run { _ in self.call?.resumeReading() } }
            }
        } onCancel: {
            cancel()
        }
    }

    private static let twoReaders = GRPCClientStream.End(
        status: GRPCStatus(.failedPrecondition, "two tasks read from one call"), trailers: GRPCMetadata())

    func metadata() async throws(GRPCStatus) -> GRPCMetadata {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isThere = state.withLock { state in
                    if state.metadata != nil || state.end != nil || state.metadataReader != nil { return true }
                    state.metadataReader = continuation
                    return false
                }
                if isThere { continuation.resume() }
            }
        } onCancel: {
            cancel()
        }
        let (metadata, end) = state.withLock { ($0.metadata, $0.end) }
        if let metadata { return metadata }
        throw end?.status ?? Bridge.twoReaders.status
    }

    /// Takes the one permit to send, which ``updateWritable()`` gives back; false where the call has ended.
    func waitUntilWritable() async -> Bool {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = state.withLock { state in
                    if state.end != nil || state.isWritable || state.writer != nil {
                        state.isWritable = false
                        return true
                    }
                    state.writer = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            cancel()
        }
        return state.withLock { $0.end == nil }
    }
}
