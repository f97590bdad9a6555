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
    private let calls: CallMonitor
    private let callLog: CallLog
    private let policy: AccessPolicy
    private var accessFile: AccessFileReader?
    private var sinceRefresh = 0
    private let endpoint: MonitoringEndpoint

    /// Reads the access file where there is one.
    init(_ options: ResolvedOptions, _ time: SystemTime, _ diagnostics: Diagnostics) throws {
        self.diagnostics = diagnostics
        let grpc = GRPCServerMetrics()
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
        metrics.register { grpc.collect() }
        AccessMetrics.register(policy, in: metrics)
        endpoint = MonitoringEndpoint(metrics: metrics, readiness: readiness)
    }

    /// What sees every call of a server: the one that watches outside, so that it sees what the other refuses.
    var interceptors: @Sendable (any Loop) -> [any ServerInterceptor] {
        { [calls, policy] loop in [calls.makeInterceptor(loop: loop), policy.makeInterceptor(loop: loop)] }
    }

    /// Serves metrics and probes. A default port that is taken, as by another platform on this machine, is no reason
    /// not to start: the system chooses one. An address that was asked for is.
    func listen(_ options: ResolvedOptions) throws -> Address {
        let address = options.address(.metricsListen)
        do {
            let bound = try endpoint.listen(host: address.host, port: Int(address.port))
            return Address(host: bound.host, port: UInt16(bound.port))
        } catch {
            guard options.source(.metricsListen) == .defaultValue else { throw error }
            let bound = try endpoint.listen(host: address.host, port: 0)
            diagnostics.log(.warning, "metrics", "\(error); serving metrics on \(bound.host):\(bound.port) instead")
            return Address(host: bound.host, port: UInt16(bound.port))
        }
    }

    /// A few times a second: lines about calls are written, and the access file is looked at.
    func tick() {
        callLog.write(to: diagnostics)
        sinceRefresh += 1
        guard sinceRefresh >= 5 else { return }
        sinceRefresh = 0
        accessFile?.refresh()
    }

    /// Reads the access file again, changed or not.
    func reload() { accessFile?.refresh(always: true) }

    func openCalls() -> [CallDescription] { Blocking.wait { [calls] in await calls.calls() } }

    func endCall(_ id: String) -> Bool { Blocking.wait { [calls] in await calls.end(id) } }

    /// The last lines, and no more probes.
    func close() {
        callLog.write(to: diagnostics)
        endpoint.close()
    }
}
