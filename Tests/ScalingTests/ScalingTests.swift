import EventLoop
import Foundation
import GRPC
import Synchronization
import TestSupport
import Testing

/// Three servers become six and twelve under a hundred clients. A target of its own, one test after the other: the
/// process has 2,500 descriptors then, and Foundation's `Process`, by which other tests start programs, reads past the
/// list of them where there are some 1,360.
@Suite(.serialized, .timeLimit(.minutes(Checkout.isSoak ? 4 : 1)))
struct ScalingTests {
    private static let count = 100

    /// Clients on one loop, each calling all the time; counts what went wrong.
    private final class Clients: Sendable {
        let failures = Mutex<[GRPCStatus]>([])
        private let isStopped = Atomic<Bool>(false)
        private let loop = EventLoop(name: "clients")
        private let channels: [GRPCChannel]

        init(_ count: Int, _ target: String) throws {
            var channels: [GRPCChannel] = []
            for number in 1...count {
                var options = GRPCChannelOptions()
                options.seed = UInt64(number)
                options.backoff.initialMilliseconds = 10
                options.backoff.maxMilliseconds = 50
                // Only the end of a connection lets a name be asked for again.
                options.resolutionIntervalMilliseconds = 3_600_000
                options.resolutionPauseMilliseconds = 100
                options.calls.timeoutMilliseconds = 20_000
                options.calls.waitsForReady = true
                channels.append(try GRPCChannel(target: target, options: options, loop: loop))
            }
            self.channels = channels
        }

        func call() async {
            await withTaskGroup(of: Void.self) { group in
                for channel in channels {
                    group.addTask { [self] in
                        while !isStopped.load(ordering: .relaxed) {
                            let status = await channel.unary(path: CountingServer.method, request: []).status
                            if !status.isOK { failures.withLock { $0.append(status) } }
                        }
                    }
                }
            }
        }

        func stop() { isStopped.store(true, ordering: .relaxed) }

        func close() {
            for channel in channels { channel.close() }
            loop.stop()
        }
    }

    @Test func `Within one age of connections every server has its share of many clients' calls, none lost`()
        async throws
    {
        let fleet = try Fleet(12, ageMilliseconds: 1000)
        defer { fleet.stop() }
        fleet.scale(to: 3)
        let clients = try Clients(Self.count, fleet.target)
        async let calling: Void = clients.call()
        for count in [3, 6, 12] {
            fleet.scale(to: count)
            // Who joins by the end of an older connection comes within its age: there is no other occasion.
            await until {
                fleet.servers.prefix(count).allSatisfy { $0.server.connectionCount >= Self.count * 95 / 100 }
            }
            let before = fleet.calls
            func since() -> [Int] { zip(fleet.calls, before).map { $0.0 - $0.1 } }
            await until { since().reduce(0, +) >= 6000 }
            let shares = since()
            #expect(shares.reduce(0, +) >= 6000)
            #expect(Fleet.unfairness(shares, among: count) == nil)
        }
        clients.stop()
        await calling
        clients.close()
        #expect(clients.failures.withLock { $0 } == [])
    }

    /// ghz makes the calls: a client of grpc-go with `round_robin`.
    private static func ghz(_ target: String, _ more: [String]) async throws -> Tools.Ended {
        let folder = try TemporaryFolder()
        // As a flag it ends the program where the target does not begin with dns:///.
        let config = try folder.write("config.json", Array(#"{"lb-strategy": "round_robin"}"#.utf8))
        return try await Tools.run(
            "ghz",
            [
                "--config", config, "--insecure", "--connections", "\(count)", "--concurrency", "\(count)",
                "--import-paths", SharedData.path("tools/protos"), "--proto", "grpc/testing/test.proto",
                "--call", "grpc.testing.TestService/EmptyCall", "-d", "{}", "-O", "json",
            ] + more + [target])
    }

    private static func statuses(_ output: String) -> [String: Int] { counts("statusCodeDistribution", output) }

    private static func errors(_ output: String) -> [String: Int] { counts("errorDistribution", output) }

    private static func counts(_ name: String, _ output: String) -> [String: Int] {
        let json = try? JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
        return json?[name] as? [String: Int] ?? [:]
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `Clients of grpc-go share their calls over twelve servers of the name`() async throws {
        let fleet = try Fleet(12, ageMilliseconds: 1_800_000)
        defer { fleet.stop() }
        fleet.scale(to: 12)
        let ended = try await Self.ghz(fleet.target, ["-n", "24000"])
        #expect(Self.statuses(ended.output) == ["OK": 24_000], "\(ended.output.prefix(2000))")
        #expect(Fleet.unfairness(fleet.calls, among: 12) == nil)
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `Clients of grpc-go go on when their connections are old`() async throws {
        let fleet = try Fleet(3, ageMilliseconds: 1000)
        defer { fleet.stop() }
        fleet.scale(to: 3)
        let ended = try await Self.ghz(fleet.target, ["-z", "4s", "--rps", "3000", "--duration-stop", "wait"])
        Self.expectAllButFew(ended.output, 10_000)
        #expect(Fleet.unfairness(fleet.calls, among: 3) == nil)
        // The long form: grpc-go asks for a name again at the end of a connection, and no oftener than every 30 s.
        if Checkout.isSoak { try await findNewServers() }
    }

    private func findNewServers() async throws {
        let fleet = try Fleet(12, ageMilliseconds: 5000)
        defer { fleet.stop() }
        fleet.scale(to: 3)
        let scaled = Task {
            await until { fleet.calls.prefix(3).allSatisfy { $0 > 1000 } }
            fleet.scale(to: 6)
            // Asked again after 30 s, and connected within an age.
            await until(seconds: 60) {
                fleet.servers.prefix(6).allSatisfy { $0.server.connectionCount >= Self.count * 95 / 100 }
            }
            let before = fleet.calls
            await until { fleet.calls.reduce(0, +) - before.reduce(0, +) >= 6000 }
            return zip(fleet.calls, before).map { $0.0 - $0.1 }
        }
        let ended = try await Self.ghz(fleet.target, ["-z", "60s", "--rps", "3000", "--duration-stop", "wait"])
        Self.expectAllButFew(ended.output, 100_000)
        #expect(Fleet.unfairness(await scaled.value, among: 6) == nil)
    }

    /// A few attempts are reported as "transport is closing": ghz counts the end of each attempt, and grpc-go makes
    /// those again that met the end of a connection before they were sent. That is no call lost (OldConnectionTests);
    /// whatever else ends one is.
    private static func expectAllButFew(_ output: String, _ count: Int) {
        let succeeded = statuses(output)["OK"] ?? 0
        let again = errors(output)["rpc error: code = Unavailable desc = transport is closing"] ?? 0
        let failed = statuses(output).values.reduce(0, +) - succeeded - again
        #expect(succeeded > count && failed == 0 && again * 100 <= succeeded, "\(output.prefix(2000))")
    }
}
