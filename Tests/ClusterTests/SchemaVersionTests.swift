import EventLog
import KafkaLog
import KafkaTestSupport
import TestSupport
import Testing

extension ClusterTests {
    /// `run writer` at tables of another version than its own.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct SchemaVersionTests {
        @Test func `A writer says whether tables are older or newer, what to do, and moves no offset`() async throws {
            let node = try await SharedCassandra.shared.node()
            let keyspace = "version_test"
            let cassandra = ["--contact-points", "127.0.0.1:\(node.port)", "--keyspace", keyspace]
            let tape = try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter])
                try WriterProgram.tapedeck(["schema", "apply"] + cassandra)
                let log = try tape.open()
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 10)], consumed: [])
                try log.sync()
                return tape
            }
            let cluster = ["--brokers", tape.broker.brokers, "--topic-prefix", tape.configuration.prefix]
            for (statement, words) in [
                (
                    "INSERT INTO version_test.schema_versions (scope, version) VALUES ('tapedeck', 99)",
                    "has schema 99, this one knows 3: it was made by a newer version; start that"
                ),
                (
                    "DELETE FROM version_test.schema_versions WHERE scope = 'tapedeck' AND version IN (99, 3)",
                    "has schema 0, this one knows 3: it is older; `tapedeck schema apply` brings it up to date"
                ),
            ] {
                try await node.execute(statement)
                try await apart {
                    let folder = try TemporaryFolder()
                    let ended = try Program.run(
                        ["run", "writer", "--store", "cassandra", "--data", folder.path, "--metrics-listen"]
                            + ["127.0.0.1:0"] + cluster + cassandra)
                    #expect(ended.status == 1 && ended.output.contains(words), "\(ended.output)")
                }
            }
            try await apart {
                let log = try tape.open()
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                #expect(try log.committedOffset(group: "cassandra-writer", place) == nil)
                // And goes on when the tables are as they have to be.
                try WriterProgram.tapedeck(["schema", "apply"] + cassandra)
                let folder = try TemporaryFolder()
                let writer = try WriterProgram.start(cluster + cassandra, data: folder.path)
                #expect(try holds { try log.committedOffset(group: "cassandra-writer", place) == 10 })
                #expect(writer.end() == 0)
            }
        }
    }
}
