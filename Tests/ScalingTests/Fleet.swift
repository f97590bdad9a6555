import EventLoop
import GRPC
import HTTP2
import Synchronization
import TestSupport

/// Counts the calls that reach it.
final class CountingServer: Sendable {
    /// What any client can call: grpc.testing.Empty both ways.
    static let method = "/grpc.testing.TestService/EmptyCall"

    let calls: Counter
    let server: GRPCServer
    let port: Int

    final class Counter: Sendable {
        let value = Atomic<Int>(0)
    }

    init(_ configuration: GRPCServerConfiguration, host: String, port: Int = 0) throws {
        let calls = Counter()
        self.calls = calls
        server = GRPCServer(group: EventLoopGroup(count: 1), configuration: configuration) { _ in
            var table = GRPCServiceTable()
            table.register(
                path: CountingServer.method,
                unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                    calls.value.add(1, ordering: .relaxed)
                    call.respond([UInt8]())
                })
            return table
        }
        self.port = try server.listen(host: host, port: port).port
    }
}

/// Servers on one port of many loopback addresses, whose name a name server has: a platform that is scaled.
final class Fleet: Sendable {
    let servers: [CountingServer]
    private let names: NameServer
    private let port: Int

    /// The servers' connections live so long.
    init(_ count: Int, ageMilliseconds: Int) throws {
        var configuration = GRPCServerConfiguration()
        configuration.http2.ageMilliseconds = ageMilliseconds
        var servers = [try CountingServer(configuration, host: "127.0.0.1")]
        port = servers[0].port
        for number in 2...count {
            configuration.seed = UInt64(number)
            servers.append(try CountingServer(configuration, host: "127.0.0.\(number)", port: port))
        }
        self.servers = servers
        names = try NameServer([])
    }

    var target: String { "dns://127.0.0.1:\(names.port)/edge.test:\(port)" }

    func scale(to count: Int) { names.set((1...count).map { "127.0.0.\($0)" }) }

    var calls: [Int] { servers.map { $0.calls.value.load(ordering: .relaxed) } }

    func stop() {
        names.stop()
        for server in servers { server.server.shutdown(withinMilliseconds: 0) }
    }

    /// What is unfair about calls that so many servers shared; nil where each has its share ± 20 %.
    static func unfairness(_ calls: [Int], among count: Int) -> String? {
        let total = calls.reduce(0, +)
        let isFair = calls.prefix(count).allSatisfy { $0 * count * 10 >= total * 8 && $0 * count * 10 <= total * 12 }
        return isFair && calls.dropFirst(count).allSatisfy { $0 == 0 } ? nil : "\(calls) of \(total)"
    }
}

/// Returns once the condition holds, or after the time: the test then fails by what it finds.
func until(seconds: Int = 20, _ condition: () -> Bool) async {
    let end = ContinuousClock.now + .seconds(seconds)
    while !condition(), .now < end { await Task.yield() }
}
