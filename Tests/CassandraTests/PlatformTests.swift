import Drills
import Foundation
import TestSupport
import Testing

/// The built binary with its rows in Cassandra, as a user runs it.
@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(4)))
struct PlatformTests {
    /// The program beside the test bundle.
    static let program: String = {
        let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        return bundle.appendingPathComponent("tapedeck").path
    }()

    private func tapedeck(_ arguments: [String]) async throws -> (status: Int32, output: String) {
        try await EngineProcess.run([PlatformTests.program] + arguments)
    }

    private func start(_ data: String, _ arguments: [String]) async throws -> StartedPlatform {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        try StartedPlatform(program: PlatformTests.program, directory: data, arguments: arguments)
                    })
            }
        }
    }

    private func stop(_ platform: StartedPlatform, kill: Bool) async -> Int32? {
        await withCheckedContinuation { continuation in
            Thread.detachNewThread { continuation.resume(returning: platform.stop(kill: kill)) }
        }
    }

    @Test func `A new user's way: schema, up, quote, kill, up again, verify`() async throws {
        let node = try await SharedCassandra.shared.node()
        let data = NSTemporaryDirectory() + "tapedeck-cassandra-up-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: data, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: data) }
        let cassandra = ["--contact-points", "127.0.0.1:\(node.port)", "--keyspace", "up_test"]
        let missing = try await tapedeck(["schema", "check"] + cassandra)
        #expect(missing.status == 1 && missing.output.contains("the keyspace is not there"), "\(missing.output)")
        let early = try await tapedeck(["replay", data + "/none", "--data", data, "--store", "cassandra"] + cassandra)
        #expect(early.status == 1)
        #expect(try await tapedeck(["schema", "apply", "--data-centers", "datacenter1:1"] + cassandra).status == 0)
        let check = try await tapedeck(["schema", "check", "--data-centers", "datacenter1:1", "--json"] + cassandra)
        #expect(check.status == 0 && check.output.contains("\"up_to_date\":true"), "\(check.output)")
        let wrong = try await tapedeck(["schema", "apply", "--data-centers", "dc9:3"] + cassandra)
        #expect(wrong.status == 1 && wrong.output.contains("there are: datacenter1"), "\(wrong.output)")

        let arguments = ["--store", "cassandra", "--rate", "3000"] + cassandra
        for round in 0..<2 {
            let platform = try await start(data, arguments)
            var answer: (status: Int32, output: String) = (1, "")
            try await until {
                answer = try await tapedeck([
                    "quote", "AAPL", "--exchange", "SIMX", "--server", platform.address, "--json",
                ])
                return answer.status == 0
            }
            #expect(answer.output.contains("\"symbol\":\"AAPL\""), "\(answer.output)")
            let status = await stop(platform, kill: round == 0)
            if round == 1 { #expect(status == 0) }
        }
        #expect(!FileManager.default.fileExists(atPath: data + "/store"), "nothing is kept beside Cassandra")
        let verify = try await tapedeck(["verify", "--data", data, "--store", "cassandra"] + cassandra)
        #expect(verify.status == 0 && verify.output.contains("AAPL"), "\(verify.output)")
        // A row that somebody deletes is found.
        let rows = try await node.execute(
            "SELECT exchange, symbol, trade_date, bucket FROM up_test.tick_partitions LIMIT 1")
        let words = try #require(rows.split(separator: "\n").last).split(separator: "\t").map(String.init)
        try #require(words.count == 4)
        try await node.execute(
            "DELETE FROM up_test.tick_data WHERE exchange = '\(words[0])' AND symbol = '\(words[1])' "
                + "AND trade_date = '\(words[2])' AND bucket = \(words[3])")
        let damaged = try await tapedeck(["verify", "--data", data, "--store", "cassandra"] + cassandra)
        #expect(damaged.status == 1, "\(damaged.output)")
    }
}
