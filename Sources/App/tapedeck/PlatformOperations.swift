import AccessControl
import EventLoop
import GRPC
import Observability

/// What stands around the services of `tapedeck up`: who may call, what is counted and written of calls, and where that
/// is read. Confined to the main thread, but for what it gives to the server.
final class PlatformOperations {
    let metrics = MetricsRegistry()
    let readiness = Readiness()
    private let diagnostics: Diagnostics
    private let grpc = GRPCServerMetrics()
    private let calls: CallMonitor
    private let callLog: CallLog
    private let policy: AccessPolicy
    private var accessFile: AccessFileReader?
    private let tls: ServerTLS?
    private let time: SystemTime
    private var sinceRefresh = 0
    private let endpoint: MonitoringEndpoint
    private let connectionsMax: Int
    private let connectionsPerAddressMax: Int

    /// Reads the certificates and the access file where there are some.
    init(_ options: ResolvedOptions, _ time: SystemTime, _ diagnostics: Diagnostics) throws {
        self.diagnostics = diagnostics
        self.time = time
        connectionsMax = options.int(.connectionsMax)
        connectionsPerAddressMax = options.int(.connectionsPerAddress)
        tls = try ServerTLS.make(options, diagnostics)
        callLog = CallLog(successesPerSecond: options.int(.callLog))
        calls = CallMonitor(
            metrics: grpc, log: callLog,
            deadlines: CallDeadlines(
                unaryMilliseconds: options.int(.unaryDeadlineSeconds) * 1000,
                streamMilliseconds: options.int(.streamDeadlineSeconds) * 1000), time: time)
        let limits = CallerLimits(
            callsPerSecond: options.int(.callsPerSecond), streams: options.int(.streamsPerCaller),
            messagesPerSecond: options.int(.messagesPerSecond))
        policy = AccessPolicy(
            anonymous: AnonymousAccess(rawValue: options.string(.anonymous)) ?? .nobody, limits: limits)
        if let path = options.optionalString(.access) {
            guard options.source(.anonymous) == .defaultValue else {
                throw CommandError("with --access its file alone says who may call: leave --anonymous out")
            }
            accessFile = try AccessFileReader(path, policy: policy, limits: limits, diagnostics: diagnostics)
        }
        metrics.register { [grpc] in grpc.collect() }
        AccessMetrics.register(policy, in: metrics)
        tls?.register(in: metrics)
        endpoint = MonitoringEndpoint(metrics: metrics, readiness: readiness)
    }

    /// How a server of the platform is set up.
    var server: GRPCServerConfiguration {
        var server = GRPCServerConfiguration()
        // Each its own: no id of an error comes again, after a start or in another process.
        server.seed = RandomSeed.make()
        // The one that watches stands outside, so that it sees what the other refuses.
        server.interceptors = { [calls, policy] loop in
            [calls.makeInterceptor(loop: loop), policy.makeInterceptor(loop: loop)]
        }
        // What a handler threw goes to the log, under the id that its client was told.
        server.reportError = { [callLog] id, method, error in callLog.addError(id: id, method: method, error: error) }
        server.connectionsMax = connectionsMax
        server.connectionsPerAddressMax = connectionsPerAddressMax
        return server
    }

    /// The series of all methods begin now, so that a rate has something to rise from.
    func declare(_ methods: [GRPCMethod]) {
        for method in methods {
            grpc.declare(
                path: method.path, clientStreaming: method.clientStreaming, serverStreaming: method.serverStreaming)
        }
    }

    /// What the server puts between a connection and its bytes; nil: nothing.
    var secure: (@Sendable (any ByteStream) -> any ByteStream)? { tls?.secure }

    /// Serves metrics and probes.
    func listen(on socket: ListeningSocket) { endpoint.listen(on: socket, secure: tls?.secureMonitoring) }

    /// A few times a second: lines about calls and handshakes are written, and files are looked at.
    func tick() {
        callLog.write(to: diagnostics)
        sinceRefresh += 1
        guard sinceRefresh >= 5 else { return }
        sinceRefresh = 0
        accessFile?.refresh()
        tls?.tick(nowNs: time.monotonicNs())
    }

    /// Reads the access file and the certificates again, changed or not.
    func reload() {
        accessFile?.refresh(always: true)
        tls?.reload()
    }

    func openCalls() -> [CallDescription] { Blocking.wait { [calls] in await calls.calls() } }

    func endCall(_ id: String) -> Bool { Blocking.wait { [calls] in await calls.end(id) } }

    /// The last lines, and no more probes.
    func close() {
        callLog.write(to: diagnostics)
        endpoint.close()
    }
}
