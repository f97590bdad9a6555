import EventLog
import Foundation
import KafkaLog
import Simulation
import TestSupport
import Testing

extension KafkaTests {
    /// The built binary's services, each a process, as a user runs them.
    @Suite(.serialized) struct ServiceTests {
        private static let program: String = {
            let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
            return bundle.appendingPathComponent("tapedeck").path
        }()

        static func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: program)
            process.arguments = arguments
            let output = Pipe()
            process.standardOutput = output
            process.standardError = output
            process.standardInput = FileHandle.nullDevice
            try process.run()
            let bytes = output.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            return (process.terminationStatus, String(decoding: bytes, as: UTF8.self))
        }

        /// A service that runs until it is stopped.
        final class Service {
            let process = Process()
            /// What it said when it was ready.
            let ready: String

            init(_ arguments: [String]) throws {
                process.executableURL = URL(fileURLWithPath: ServiceTests.program)
                process.arguments = ["run"] + arguments + ["--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
                let output = Pipe()
                process.standardOutput = output
                try process.run()
                var line: [UInt8] = []
                while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0a {
                    line.append(byte)
                }
                ready = String(decoding: line, as: UTF8.self)
            }

            deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

            var address: String? {
                struct Ready: Decodable { let address: String }
                return try? JSONDecoder().decode(Ready.self, from: Data(ready.utf8)).address
            }

            func stop() -> Int32 {
                process.terminate()
                process.waitUntilExit()
                return process.terminationStatus
            }
        }

        @Test func `Topics, feed, edge, writer, quote, watch, lag and reset, as a user does it`() async throws {
            try await apart {
                let broker = try Broker.shared()
                let cluster = ["--brokers", broker.brokers, "--topic-prefix", "service."]
                let topics = cluster + ["--partitions", "4"]
                #expect(try ServiceTests.run(["topics", "check"] + topics).status == 1)
                #expect(try ServiceTests.run(["topics", "plan"] + topics).output.contains("15 steps to do"))
                #expect(try ServiceTests.run(["topics", "apply"] + topics).status == 0)
                let check = try ServiceTests.run(["topics", "check"] + topics)
                #expect(check.status == 0 && check.output.contains("15 topics are as they should be"))
                let folder = try TemporaryFolder()
                let feed = try Service(["feed", "--rate", "2000", "--data", folder.path + "/feed"] + cluster)
                let edge = try Service(["edge", "--listen", "127.0.0.1:0", "--loops", "1"] + cluster)
                let address = try #require(edge.address)
                let writer = try Service(["writer", "--data", folder.path + "/rows"] + cluster)
                #expect(
                    try holds {
                        let quote = try ServiceTests.run(["quote", "AAPL", "--server", address, "--json"])
                        return quote.status == 0 && quote.output.contains("\"symbol\":\"AAPL\"")
                    })
                #expect(
                    try holds(within: 60) {
                        let lag = try ServiceTests.run(["lag", "--json"] + cluster)
                        return lag.output.contains("\"group\":\"service.cassandra-writer\"")
                            && lag.output.contains("\"members\":1")
                    })
                let group = ["cassandra-writer", "--by", "-10s", "--topic", "ticks.raw", "--yes"]
                let live = try ServiceTests.run(["groups", "reset"] + group + cluster)
                #expect(live.status == 1 && live.output.contains("1 live members"))
                #expect(feed.stop() == 0)
                #expect(
                    try holds(within: 60) {
                        try ServiceTests.run(["lag", "--json"] + cluster).output.contains("\"records\":0,")
                    })
                #expect(writer.stop() == 0)
                #expect(edge.stop() == 0)
                let reset = try ServiceTests.run(["groups", "reset"] + group + cluster)
                #expect(reset.status == 0 && reset.output.contains("becomes"))
                #expect(!(try ServiceTests.run(["lag", "--json"] + cluster).output.contains("\"records\":0,")))
            }
        }
    }
}
