import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import TestSupport
import Testing

extension KafkaTests {
    /// The built binary's services, each a process, as a user runs them.
    @Suite(.serialized) struct ServiceTests {
        @Test func `Topics, feed, edge, writer, quote, watch, lag and reset, as a user does it`() async throws {
            try await apart {
                let broker = try Broker.shared()
                let cluster = ["--brokers", broker.brokers, "--topic-prefix", "service."]
                let topics = cluster + ["--partitions", "4"]
                #expect(try Program.run(["topics", "check"] + topics).status == 1)
                #expect(try Program.run(["topics", "plan"] + topics).output.contains("15 steps to do"))
                #expect(try Program.run(["topics", "apply"] + topics).status == 0)
                let check = try Program.run(["topics", "check"] + topics)
                #expect(check.status == 0 && check.output.contains("15 topics are as they should be"))
                let folder = try TemporaryFolder()
                let feed = try ServiceProcess(["feed", "--rate", "2000", "--data", folder.path + "/feed"] + cluster)
                let edge = try ServiceProcess(["edge", "--listen", "127.0.0.1:0", "--loops", "1"] + cluster)
                let address = try #require(edge.address)
                let writer = try ServiceProcess(["writer", "--data", folder.path + "/rows"] + cluster)
                #expect(
                    try holds {
                        let quote = try Program.run(["quote", "AAPL", "--server", address, "--json"])
                        return quote.status == 0 && quote.output.contains("\"symbol\":\"AAPL\"")
                    })
                #expect(
                    try holds(within: 60) {
                        let lag = try Program.run(["lag", "--json"] + cluster)
                        return lag.output.contains("\"group\":\"service.cassandra-writer\"")
                            && lag.output.contains("\"members\":1")
                    })
                let group = ["cassandra-writer", "--by", "-10s", "--topic", "ticks.raw", "--yes"]
                let live = try Program.run(["groups", "reset"] + group + cluster)
                #expect(live.status == 1 && live.output.contains("1 live members"))
                #expect(feed.end() == 0)
                #expect(
                    try holds(within: 60) {
                        try Program.run(["lag", "--json"] + cluster).output.contains("\"records\":0,")
                    })
                #expect(writer.end() == 0)
                #expect(edge.end() == 0)
                let reset = try Program.run(["groups", "reset"] + group + cluster)
                #expect(reset.status == 0 && reset.output.contains("becomes"))
                #expect(!(try Program.run(["lag", "--json"] + cluster).output.contains("\"records\":0,")))
            }
        }
    }
}
