import Foundation
import TestSupport
import Testing

/// The drills of a cluster at short length, by the program as a user runs it. Each exits 0 where nothing was lost and
/// nothing is there twice.
@Suite(.enabled(if: Engines.isPresent, Engines.absent), .serialized, .timeLimit(.minutes(6)))
struct DrillTests {
    private static let program: String = {
        let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        return bundle.appendingPathComponent("tapedeck").path
    }()

    private func drill(_ name: String, _ options: [String], _ engines: Engines.Started) async throws -> String {
        let ended = try await EngineProcess.run(
            [DrillTests.program, "drill", name, "--json"] + options + engines.options)
        #expect(ended.status == 0, "\(ended.output)")
        #expect(ended.output.contains("\"drill\":\"\(name)\"") && ended.output.contains("\"lost\":0,\"duplicated\":0"))
        #expect(ended.output.contains("\"passed\":true"), "\(ended.output)")
        return ended.output
    }

    @Test func `A writer that is killed, rolled and scaled loses and doubles nothing`() async throws {
        let engines = try await Engines.shared.started()
        let rounds = Checkout.isSoak ? "20" : "2"
        _ = try await drill("writer-kill", ["--rounds", rounds, "--rate", "3000", "--partitions", "4"], engines)
        _ = try await drill("writer-roll", ["--rate", "2000", "--partitions", "6"], engines)
        _ = try await drill("writer-scale", ["--rate", "2000", "--partitions", "8"], engines)
    }

    /// How long rows take beside others is no matter of a short run on a full machine.
    @Test func `A market that opens loses and doubles nothing, and readers beside it harm nobody`() async throws {
        let engines = try await Engines.shared.started()
        let (rate, away) = Checkout.isSoak ? ("500", "120") : ("150", "5")
        _ = try await drill("open", ["--rate", rate, "--partitions", "8", "--away-seconds", away], engines)
        guard Checkout.isSoak else { return }
        _ = try await drill("bystander", ["--rate", "500", "--partitions", "8"], engines)
    }

    @Test func `Records that retention took, that are no ticks, or that meet a wrong clock lose no other`() async throws
    {
        let engines = try await Engines.shared.started()
        _ = try await drill("retention", ["--rate", "2000", "--partitions", "4"], engines)
        let poison = try await drill("poison", ["--rounds", "3", "--rate", "1000", "--partitions", "4"], engines)
        #expect(poison.contains("60 sent, 0 without a letter"), "\(poison)")
        _ = try await drill("clock", ["--rate", "1000", "--partitions", "4"], engines)
    }

    @Test func `A broker killed and one that stands still, and a store that stops, lose nothing`() async throws {
        let engines = try await Engines.shared.started()
        let common = ["--rate", "2000", "--partitions", "4", "--away-seconds"]
        _ = try await drill("broker-kill", common + [Checkout.isSoak ? "30" : "2"] + engines.brokerHooks, engines)
        _ = try await drill("store-stop", common + [Checkout.isSoak ? "60" : "5"] + engines.nodeHooks, engines)
    }

    @Test func `One of three nodes killed loses nothing, and rows go on`() async throws {
        let engines = try await Engines.shared.started()
        let nodes = try await CassandraNode.start(["--nodes", "3", "--set", "commitlog_sync=batch"])
        defer { nodes.stop() }
        let points = (1...3).map { "127.0.0.\($0):\(nodes.port)" }.joined(separator: ",")
        _ = try await drill(
            "node-kill",
            [
                "--rate", Checkout.isSoak ? "2000" : "500", "--partitions", "4", "--away-seconds",
                Checkout.isSoak ? "30" : "5", "--data-centers", "datacenter1:3",
                "--engine-kill", nodes.shell("kill", node: 2), "--engine-start", nodes.shell("restart", node: 2),
            ], Engines.Started(options: Array(engines.options[..<2]) + ["--contact-points", points]))
    }

    @Test func `A drill that lacks its hook, or a store without it, says so and breaks nothing`() async throws {
        let engines = try await Engines.shared.started()
        let ended = try await EngineProcess.run([DrillTests.program, "drill", "store-stop"] + engines.options)
        #expect(ended.status == 1 && ended.output.contains("store-stop needs --engine-kill"), "\(ended.output)")
        let node = try await EngineProcess.run([DrillTests.program, "drill", "node-kill"] + engines.options)
        #expect(node.status == 1 && node.output.contains("node-kill needs --engine-kill"), "\(node.output)")
        let failing = try await EngineProcess.run(
            [
                DrillTests.program, "drill", "broker-kill", "--rate", "1000", "--partitions", "2", "--engine-kill",
                "exit 3", "--engine-start", "true",
            ] + engines.options)
        #expect(failing.status == 1 && failing.output.contains("`exit 3` ended with 3"), "\(failing.output)")
    }
}
