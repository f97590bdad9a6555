import EventLoop
import Protobuf
import Synchronization

/// `grpc.health.v1.Health` of a server: its owner says how each service does, callers ask or watch. From any thread.
public final class GRPCHealth: Sendable {
    /// How a service does.
    public enum Status: Hashable, Sendable {
        case serving
        case notServing
    }

    private typealias ServingStatus = GRPCHealthProto.HealthCheckResponse.ServingStatus

    private let state = Mutex(State())

    private struct State {
        var statuses: [String: Status] = ["": .serving]
        var watchers: [Int: (service: String, watcher: HealthWatcher)] = [:]
        var nextWatcher = 0
        var hasShutDown = false
    }

    /// The server as a whole (the empty name) serves, and nothing else is known yet.
    public init() {}

    /// Says how a service does, by its full name; the empty name is the server as a whole. Watchers are told.
    public func set(_ status: Status, service: String = "") {
        let told = state.withLock { state in
            guard !state.hasShutDown, state.statuses[service] != status else { return [HealthWatcher]() }
            state.statuses[service] = status
            return state.watchers.sorted { $0.key < $1.key }.filter { $0.value.service == service }.map(\.value.watcher)
        }
        for watcher in told { watcher.tell(GRPCHealth.serving(status)) }
    }

    /// Nothing serves any more, whatever is said later; calls of Watch are told and end, so that they hold up no drain.
    public func shutDown() {
        let watchers = state.withLock { state in
            state.hasShutDown = true
            for service in state.statuses.keys { state.statuses[service] = .notServing }
            return state.watchers.sorted { $0.key < $1.key }.map(\.value)
        }
        for entry in watchers { entry.watcher.end(GRPCHealth.serving(status(service: entry.service))) }
    }

    /// How a service does; nil where that was never said.
    public func status(service: String = "") -> Status? { state.withLock { $0.statuses[service] } }

    private static func serving(_ status: Status?) -> ServingStatus {
        switch status {
        case .serving: .serving
        case .notServing: .notServing
        case nil: .serviceUnknown
        }
    }

    /// Adds the service to a table.
    public func register(on table: inout GRPCServiceTable) {
        table.register(path: GRPCHealthProto.Health.check.path, unary: check)
        table.register(path: GRPCHealthProto.Health.list.path, unary: list)
        table.register(path: GRPCHealthProto.Health.watch.path, serverStreaming: watch)
    }

    private func check(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: GRPCHealthProto.HealthCheckRequest = call.decode(request) else { return }
        guard let status = status(service: request.service) else {
            return call.fail(GRPCStatus(.notFound, "unknown service \(request.service)"))
        }
        var response = GRPCHealthProto.HealthCheckResponse()
        response.status = GRPCHealth.serving(status)
        call.respond(response)
    }

    private func list(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        var response = GRPCHealthProto.HealthListResponse()
        for (service, status) in state.withLock({ $0.statuses }) {
            var entry = GRPCHealthProto.HealthCheckResponse()
            entry.status = GRPCHealth.serving(status)
            response.statuses[service] = entry
        }
        call.respond(response)
    }

    private func watch(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: GRPCHealthProto.HealthCheckRequest = call.decode(request) else { return }
        let watcher = HealthWatcher(call)
        let (number, status, isOver) = state.withLock { state in
            state.nextWatcher += 1
            state.watchers[state.nextWatcher] = (request.service, watcher)
            return (state.nextWatcher, state.statuses[request.service], state.hasShutDown)
        }
        call.onEnd = { [weak self] in self?.state.withLock { $0.watchers[number] = nil } }
        if isOver { return watcher.end(GRPCHealth.serving(status)) }
        watcher.tell(GRPCHealth.serving(status))
    }
}

/// One call of Watch: holds the latest status only, however slow its client is.
private final class HealthWatcher: @unchecked Sendable {
    private let loop: any Loop
    /// Touched on the loop only.
    private weak var call: ServerCall?
    private var unsent: GRPCHealthProto.HealthCheckResponse.ServingStatus?
    private var isEnding = false

    init(_ call: ServerCall) {
        self.call = call
        loop = call.loop
        call.onWritable = { [weak self] in self?.send() }
    }

    /// From any thread.
    func tell(_ status: GRPCHealthProto.HealthCheckResponse.ServingStatus) {
        loop.execute { [self] in
            unsent = status
            send()
        }
    }

    /// Tells the last one. From any thread.
    func end(_ status: GRPCHealthProto.HealthCheckResponse.ServingStatus) {
        loop.execute { [self] in
            unsent = status
            isEnding = true
            send()
        }
    }

    private func send() {
        guard let status = unsent, let call, call.isWritable else { return }
        unsent = nil
        var response = GRPCHealthProto.HealthCheckResponse()
        response.status = status
        call.send(response.encodedBytes())
        if isEnding { call.finish(GRPCStatus(.unavailable, "the server is stopping")) }
    }
}
