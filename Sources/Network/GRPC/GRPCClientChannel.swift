import EventLoop
import Protobuf
import Synchronization

/// A client's connections to a target, as one thing that calls go through: it resolves, balances, reconnects, and tries
/// again where a call's options allow it. Connects when first used. Safe to use from any task or thread.
public final class GRPCChannel: RPCChannel, Sendable {
    /// The answer of a call with one response.
    public struct Answer: Sendable {
        public let status: GRPCStatus
        /// nil where the server sent none.
        public let message: [UInt8]?
        public let metadata: GRPCMetadata
        public let trailers: GRPCMetadata
    }

    private let loop: any Loop
    private let ownLoop: EventLoop?
    private let core: LoopConfined<GRPCChannelCore>
    /// Held while something is handed to the loop, so that nothing is handed to one that has ended.
    private let closed = Mutex(false)
    public let options: GRPCChannelOptions

    /// A channel on a loop of its own, ended by ``close()``. Refuses with INVALID_ARGUMENT what is no ``GRPCTarget``.
    public convenience init(target: String, options: GRPCChannelOptions = GRPCChannelOptions()) throws(GRPCStatus) {
        let target = try GRPCTarget(target)
        self.init(target, options, on: nil)
    }

    /// A channel on a loop that others use too.
    public convenience init(
        target: String, options: GRPCChannelOptions = GRPCChannelOptions(), loop: any Loop
    ) throws(GRPCStatus) {
        let target = try GRPCTarget(target)
        self.init(target, options, on: loop)
    }

    private init(_ target: GRPCTarget, _ options: GRPCChannelOptions, on shared: (any Loop)?) {
        let own = shared == nil ? EventLoop(name: "client") : nil
        ownLoop = own
        let loop: any Loop = shared ?? own!
        self.loop = loop
        self.options = options
        // Made here, used on the loop only.
        core = LoopConfined(GRPCChannelCore(target, options: options, loop: loop))
    }

    deinit { close() }

    /// Ends all calls with CANCELLED, then the connections, then the channel's own thread. Calls begun later end at
    /// once.
    public func close() {
        let core = core
        let ownLoop = ownLoop
        closed.withLock { isClosed in
            guard !isClosed else { return }
            isClosed = true
            loop.execute {
                core.value.close()
                ownLoop?.stop()
            }
        }
    }

    /// Whether ``close()`` was called.
    public var isClosed: Bool { closed.withLock { $0 } }

    static let closedStatus = GRPCStatus(.cancelled, "the channel is closed")

    /// Runs a closure on the channel's loop, after what was handed to it before; false, and nothing runs, once the
    /// channel is closed. From any thread.
    @discardableResult
    public func execute(_ body: @escaping @Sendable () -> Void) -> Bool { run { _ in body() } }

    @discardableResult
    func run(_ body: @escaping @Sendable (GRPCChannelCore) -> Void) -> Bool {
        let core = core
        return closed.withLock { isClosed in
            if !isClosed { loop.execute { body(core.value) } }
            return !isClosed
        }
    }

    /// Returns after so many milliseconds of the channel's loop, at once when the task is cancelled or the channel
    /// closed.
    public func wait(milliseconds: Int) async {
        let pause = Pause()
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                pause.continuation.withLock { $0 = continuation }
                let isOpen = run { core in core.pause(pause, milliseconds) }
                if !isOpen || Task.isCancelled { pause.end() }
            }
        } onCancel: {
            pause.end()
        }
    }

    /// A wait of a task on the channel's loop.
    final class Pause: Sendable {
        let continuation = Mutex<CheckedContinuation<Void, Never>?>(nil)

        func end() {
            continuation.withLock { continuation in
                defer { continuation = nil }
                return continuation
            }?.resume()
        }
    }

    // MARK: Calls in bytes

    /// Begins a call of any pattern. nil as options: those of the channel for the method.
    public func stream(path: String, options: GRPCCallOptions? = nil) -> GRPCClientStream {
        GRPCClientStream(
            self, path: path, options: options ?? self.options.call(path), readBytesMax: self.options.readBytesMax)
    }

    /// Begins a call whose owner is told on the loop; `began` is called there first, with the call. For who takes
    /// messages on the loop without a task. On a closed channel the owner is told of the end at once.
    public func call(
        path: String, options: GRPCCallOptions? = nil, owner: any GRPCCallOwner & Sendable,
        began: @escaping @Sendable (ChannelCall) -> Void
    ) {
        let options = options ?? self.options.call(path)
        let isOpen = run { core in began(core.call(path: path, options: options, owner: owner)) }
        if !isOpen { owner.ended(GRPCChannel.closedStatus, trailers: GRPCMetadata()) }
    }

    /// One request, one response. Cancels the call when the task is cancelled.
    public func unary(path: String, request: [UInt8], options: GRPCCallOptions? = nil) async -> Answer {
        let options = options ?? self.options.call(path)
        let owner = UnaryOwner()
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                owner.continuation.withLock { $0 = continuation }
                let isOpen = run { core in
                    let call = core.call(path: path, options: options, owner: owner)
                    owner.call = call
                    call.send(request)
                    call.halfClose()
                }
                if !isOpen { owner.ended(GRPCChannel.closedStatus, trailers: GRPCMetadata()) }
            }
        } onCancel: {
            run { _ in owner.call?.cancel() }
        }
    }

    // MARK: Calls in messages

    public func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request
    ) async throws -> Response {
        try await unary(method, request, options: nil)
    }

    /// One request, one response. Throws the call's status.
    public func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request, options: GRPCCallOptions?
    ) async throws(GRPCStatus) -> Response {
        let answer = await unary(path: method.path, request: request.encodedBytes(), options: options)
        guard answer.status.isOK else { throw answer.status }
        guard let message = answer.message else {
            throw GRPCStatus(.internalError, "an answer without a message")
        }
        return try GRPCChannel.decode(message)
    }

    public func serverStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request
    ) -> AsyncThrowingStream<Response, any Error> {
        let call = typedStream(method)
        call.stream.sendOnly(request.encodedBytes())
        return AsyncThrowingStream { try await call.next() }
    }

    public func clientStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ requests: AsyncStream<Request>
    ) async throws -> Response {
        let call = typedStream(method)
        let sender = Task { await call.send(all: requests) }
        defer { sender.cancel() }
        guard let response = try await call.next() else {
            throw GRPCStatus(.internalError, "an answer without a message")
        }
        guard try await call.next() == nil else {
            throw GRPCStatus(.internalError, "more than one response message")
        }
        return response
    }

    public func bidirectional<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ requests: AsyncStream<Request>
    ) -> AsyncThrowingStream<Response, any Error> {
        let call = typedStream(method)
        let sender = Task { await call.send(all: requests) }
        return AsyncThrowingStream {
            do {
                guard let response = try await call.next() else {
                    sender.cancel()
                    return nil
                }
                return response
            } catch {
                sender.cancel()
                throw error
            }
        }
    }

    /// Begins a call of any pattern, in messages.
    public func typedStream<Request, Response>(
        _ method: RPCMethod<Request, Response>, options: GRPCCallOptions? = nil
    ) -> GRPCTypedStream<Request, Response> {
        GRPCTypedStream(stream(path: method.path, options: options))
    }

    static func decode<Message: ProtoMessage>(_ bytes: [UInt8]) throws(GRPCStatus) -> Message {
        do {
            return try Message(decoding: bytes)
        } catch {
            throw GRPCStatus(.internalError, "the answer is no \(Message.protoName): \(error)")
        }
    }
}

/// Collects the answer of a call with one response.
private final class UnaryOwner: GRPCCallOwner, @unchecked Sendable {
    let continuation = Mutex<CheckedContinuation<GRPCChannel.Answer, Never>?>(nil)
    /// The rest is confined to the loop.
    var call: ChannelCall?
    private var message: [UInt8]?
    private var metadata = GRPCMetadata()
    private var count = 0

    func received(metadata: GRPCMetadata) { self.metadata = metadata }

    func received(frames: UnsafeRawBufferPointer) {
        for bytes in MessageSequence(frames: frames) {
            count += 1
            message = Array(bytes)
        }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        call = nil
        var status = status
        if status.isOK, count != 1 { status = GRPCStatus(.internalError, "\(count) response messages instead of one") }
        let answer = GRPCChannel.Answer(status: status, message: message, metadata: metadata, trailers: trailers)
        continuation.withLock { continuation in
            defer { continuation = nil }
            return continuation
        }?.resume(returning: answer)
    }
}
