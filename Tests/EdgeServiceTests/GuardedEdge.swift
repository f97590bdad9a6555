import AccessControl
import EdgeService
import GRPC
import MarketProto
import Observability
import Protobuf
import Simulation
import Testing

/// An edge with the row of interceptors that the platform has, whose callers prove nothing.
final class GuardedEdge {
    static let everything = "anonymous anonymous methods=* symbols=* accounts=*\n"

    let world: EdgeWorld
    let monitor: CallMonitor
    let policy: AccessPolicy

    init(
        limits: EdgeLimits = EdgeLimits(), deadlines: CallDeadlines = CallDeadlines(), takesOrders: Bool = false,
        _ change: (inout GRPCServerConfiguration) -> Void = { _ in }
    ) throws {
        let policy = AccessPolicy(anonymous: .nobody)
        policy.use(try AccessFile(parsing: Array(GuardedEdge.everything.utf8)))
        let monitor = CallMonitor(
            metrics: GRPCServerMetrics(), log: CallLog(successesPerSecond: 0), deadlines: deadlines, time: RealTime())
        self.policy = policy
        self.monitor = monitor
        var server = GRPCServerConfiguration()
        server.interceptors = { [monitor.makeInterceptor(loop: $0), policy.makeInterceptor(loop: $0)] }
        change(&server)
        world = try EdgeWorld(
            limits: limits, orders: takesOrders ? OrderVenue(feed: "test", time: RealTime()) : nil, server: server)
    }

    /// Open calls of a method.
    func calls(_ path: String) async -> [CallDescription] { await monitor.calls().filter { $0.method == path } }

    /// Has everybody's line change, to one that allows as much.
    func changeRights() throws {
        let line = GuardedEdge.everything.replacing("\n", with: " streams=1000\n")
        policy.use(try AccessFile(parsing: Array(line.utf8)))
    }

    /// Ends every open call of a method as an operator does.
    func endByOperator(_ path: String) async {
        for call in await calls(path) { #expect(await monitor.end(call.id)) }
    }
}
