import EventLoop
import Protobuf
import Synchronization

/// A call that a task works for: hands request messages over one at a time, and responses back, with backpressure both
/// ways. The call is touched on its loop only; everything else is behind the lock.
final class AsyncCall: RequestSink, @unchecked Sendable {
    private let loop: any Loop
    private let call: ServerCall
    private let reportError: @Sendable (String, String, any Error) -> Void
    private let state = Mutex(State())

    fileprivate struct State {
        var messages: [[UInt8]] = []
        var isRequestOver = false
        /// The call is over: nobody takes anything any more.
        var isOver = false
        var reader: CheckedContinuation<[UInt8]?, any Error>?
        /// Bytes on their way to the loop, and whether the call takes no more at present.
        var bytesInFlight = 0
        var isFull = false
        var writers: [Int: CheckedContinuation<Void, any Error>] = [:]
        var nextWriter = 0
        var task: Task<Void, Never>?
    }

    /// Responses that may be on their way to the loop before a writer waits.
    fileprivate static let inFlightBytesMax = 64 << 10
    /// Messages that wait for their reader before the client is held up.
    private static let messagesMax = 2

    init(_ call: ServerCall) {
        self.call = call
        loop = call.loop
        reportError = call.context.configuration.reportError
        call.onEnd = { [self] in over() }
        call.onWritable = { [weak self] in self?.becameWritable() }
    }

    /// Starts the task. On the loop.
    func run(_ body: @escaping @Sendable (AsyncCall) async throws -> Void) {
        guard let method = call.method else { return }
        let context = GRPCCallContext(call, method, self)
        let task = Task(executorPreference: loop) { [self] in
            await GRPCCallContext.$current.withValue(context) {
                do {
                    try await body(self)
                } catch {
                    end(with: error)
                }
            }
        }
        let isOver = state.withLock { state in
            state.task = task
            return state.isOver
        }
        if isOver { task.cancel() }
    }

    private func onLoop(_ body: @escaping @Sendable (ServerCall) -> Void) {
        if loop.isCurrent { return body(call) }
        loop.execute { [self] in body(call) }
    }

    func ask<Result: Sendable>(_ body: @escaping @Sendable (ServerCall) -> Result) async -> Result {
        await withCheckedContinuation { continuation in
            onLoop { continuation.resume(returning: body($0)) }
        }
    }

    // MARK: Ends

    func respond(_ message: some ProtoMessage) {
        let context = GRPCCallContext.current
        let bytes = message.encodedBytes()
        let compressed = context?.isCompressed
        onLoop { call in
            context?.apply(to: call)
            call.respond(bytes, compressed: compressed)
        }
    }

    func finish() {
        let context = GRPCCallContext.current
        onLoop { call in
            context?.apply(to: call)
            call.finish()
        }
    }

    private func end(with error: any Error) {
        switch error {
        case let status as GRPCStatus: onLoop { $0.finish(status, trailers: GRPCMetadata()) }
        case let failure as GRPCFailure: onLoop { $0.finish(failure.status, trailers: failure.trailers) }
        case is CancellationError where state.withLock({ $0.isOver }): break
        default:
            onLoop { [reportError] call in
                let id = call.context.shared.nextErrorID(seed: call.context.configuration.seed)
                reportError(id, call.path, error)
                call.finish(GRPCStatus(.internalError, "internal error \(id)"), trailers: GRPCMetadata())
            }
        }
    }

    /// The call is over, whoever ended it. On the loop.
    private func over() {
        let (task, reader, writers) = state.withLock { state in
            defer {
                state.reader = nil
                state.writers = [:]
                state.messages = []
                state.task = nil
            }
            state.isOver = true
            return (state.task, state.reader, state.writers)
        }
        task?.cancel()
        reader?.resume(throwing: CancellationError())
        for writer in writers.values { writer.resume(throwing: CancellationError()) }
    }

    // MARK: Requests

    func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
        let bytes = Array(message)
        let (reader, isFull) = state.withLock { state in
            guard !state.isOver else { return (nil as CheckedContinuation<[UInt8]?, any Error>?, false) }
            if let reader = state.reader {
                state.reader = nil
                return (reader, false)
            }
            state.messages.append(bytes)
            return (nil, state.messages.count >= AsyncCall.messagesMax)
        }
        reader?.resume(returning: bytes)
        if isFull { call.pauseRequests() }
    }

    func receivedEnd(_ call: ServerCall) {
        let reader = state.withLock { state in
            defer { state.reader = nil }
            state.isRequestOver = true
            return state.reader
        }
        reader?.resume(returning: nil)
    }

    /// What a reader finds.
    private enum Next {
        case message([UInt8], wasFull: Bool)
        case end
        case over
        case wait
    }

    private static func next(_ state: inout State) -> Next {
        if state.isOver { return .over }
        if !state.messages.isEmpty {
            let wasFull = state.messages.count >= messagesMax
            return .message(state.messages.removeFirst(), wasFull: wasFull)
        }
        return state.isRequestOver ? .end : .wait
    }

    /// The next request's bytes; nil after the last. For one reader at a time.
    func nextRequest() async throws -> [UInt8]? {
        switch state.withLock({ AsyncCall.next(&$0) }) {
        case .message(let bytes, let wasFull):
            if wasFull { onLoop { $0.resumeRequests() } }
            return bytes
        case .end: return nil
        case .over: throw CancellationError()
        case .wait: break
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in register(reader: continuation) }
        } onCancel: {
            let reader = state.withLock { state in
                defer { state.reader = nil }
                return state.reader
            }
            reader?.resume(throwing: CancellationError())
        }
    }

    private func register(reader: CheckedContinuation<[UInt8]?, any Error>) {
        let isCancelled = Task.isCancelled
        let found: Next = state.withLock { state in
            if isCancelled || state.reader != nil { return .over }
            let next = AsyncCall.next(&state)
            if case .wait = next { state.reader = reader }
            return next
        }
        switch found {
        case .wait: break
        case .end: reader.resume(returning: nil)
        case .over: reader.resume(throwing: CancellationError())
        case .message(let bytes, let wasFull):
            if wasFull { onLoop { $0.resumeRequests() } }
            reader.resume(returning: bytes)
        }
    }

    // MARK: Responses

    /// Sends a response; waits while the call takes no more.
    func write(_ message: some ProtoMessage) async throws {
        let bytes = message.encodedBytes()
        let context = GRPCCallContext.current
        let isOver = state.withLock { state in
            state.bytesInFlight += bytes.count
            return state.isOver
        }
        guard !isOver else { throw CancellationError() }
        let compressed = context?.isCompressed
        onLoop { [self] call in
            context?.apply(to: call)
            call.send(bytes, compressed: compressed)
            arrived(bytes.count, isFull: !call.isWritable)
        }
        let mustWait = state.withLock { $0.mustWait }
        if mustWait { try await waitUntilWritable() } else { try Task.checkCancellation() }
    }

    private func arrived(_ count: Int, isFull: Bool) {
        let writers = state.withLock { state in
            state.bytesInFlight -= count
            state.isFull = isFull
            return state.takeWriters()
        }
        for writer in writers { writer.resume() }
    }

    private func becameWritable() {
        let writers = state.withLock { state in
            state.isFull = false
            return state.takeWriters()
        }
        for writer in writers { writer.resume() }
    }

    private func waitUntilWritable() async throws {
        let id = state.withLock { state in
            state.nextWriter += 1
            return state.nextWriter
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
                let isCancelled = Task.isCancelled
                let result: Result<Void, any Error>? = state.withLock { state in
                    if state.isOver || isCancelled { return .failure(CancellationError()) }
                    if !state.mustWait { return .success(()) }
                    state.writers[id] = continuation
                    return nil
                }
                if let result { continuation.resume(with: result) }
            }
        } onCancel: {
            state.withLock { $0.writers.removeValue(forKey: id) }?.resume(throwing: CancellationError())
        }
    }
}

extension AsyncCall.State {
    fileprivate var mustWait: Bool { isFull || bytesInFlight > AsyncCall.inFlightBytesMax }

    fileprivate mutating func takeWriters() -> [CheckedContinuation<Void, any Error>] {
        guard !mustWait, !writers.isEmpty else { return [] }
        defer { writers = [:] }
        return writers.sorted { $0.key < $1.key }.map(\.value)
    }
}

// MARK: Registration

extension GRPCServiceTable: RPCRegistry {
    public mutating func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ handler: @escaping @Sendable (Request) async throws -> Response
    ) {
        let handle = { (call: ServerCall, bytes: UnsafeRawBufferPointer) in
            guard let request: Request = call.decode(bytes) else { return }
            AsyncCall(call).run { try await $0.respond(handler(request)) }
        }
        register(path: method.path, unary: handle)
    }

    public mutating func serverStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (Request, RPCResponses<Response>) async throws -> Void
    ) {
        let handle = { (call: ServerCall, bytes: UnsafeRawBufferPointer) in
            guard let request: Request = call.decode(bytes) else { return }
            AsyncCall(call).run { bridge in
                try await handler(request, RPCResponses { try await bridge.write($0) })
                bridge.finish()
            }
        }
        register(path: method.path, serverStreaming: handle)
    }

    public mutating func clientStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (RPCRequests<Request>) async throws -> Response
    ) {
        let handle = { (call: ServerCall) -> any RequestSink in
            let bridge = AsyncCall(call)
            bridge.run { try await $0.respond(handler($0.requests())) }
            return bridge
        }
        register(path: method.path, serverStreaming: false, streaming: handle)
    }

    public mutating func bidirectional<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (RPCRequests<Request>, RPCResponses<Response>) async throws -> Void
    ) {
        let handle = { (call: ServerCall) -> any RequestSink in
            let bridge = AsyncCall(call)
            bridge.run { bridge in
                try await handler(bridge.requests(), RPCResponses { try await bridge.write($0) })
                bridge.finish()
            }
            return bridge
        }
        register(path: method.path, streaming: handle)
    }
}

extension AsyncCall {
    fileprivate func requests<Request: ProtoMessage>() -> RPCRequests<Request> {
        RPCRequests { [self] in
            guard let bytes = try await nextRequest() else { return nil }
            do {
                return try Request(decoding: bytes)
            } catch {
                throw GRPCStatus(.internalError, "a request is no \(Request.protoName): \(error)")
            }
        }
    }
}

extension ServerCall {
    /// The request; nil where the bytes are none, and the call has failed.
    func decode<Request: ProtoMessage>(_ bytes: UnsafeRawBufferPointer) -> Request? {
        do {
            return try Request(decoding: bytes)
        } catch {
            fail(GRPCStatus(.internalError, "the request is no \(Request.protoName): \(error)"))
            return nil
        }
    }
}
