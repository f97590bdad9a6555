import EventLog
import Foundation
import KafkaLog
import TestSupport
import Testing

@Suite(.enabled(if: SharedData.isPresent, "../shared is absent")) struct VectorTests {
    private struct Vectors: Decodable {
        struct Hash: Decodable {
            let key: String
            let hash_i32: Int32
        }
        struct Placed: Decodable {
            let key_hex: String
            let partitions: Int
            let partition: Int
        }
        let murmur2: [Hash]
        let java_default_partition: [Placed]
    }

    private func bytes(hex: String) -> [UInt8] {
        stride(from: 0, to: hex.utf8.count, by: 2).compactMap { position in
            UInt8(hex.dropFirst(position).prefix(2), radix: 16)
        }
    }

    @Test func `Keys go where Java's client puts them`() throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: SharedData.path("data/kafka/partitioner_vectors.json")))
        let vectors = try JSONDecoder().decode(Vectors.self, from: data)
        #expect(vectors.murmur2.count >= 10 && vectors.java_default_partition.count >= 5)
        for vector in vectors.murmur2 {
            let hash = Array(vector.key.utf8).withUnsafeBytes { Murmur2.hash($0) }
            #expect(Int32(bitPattern: hash) == vector.hash_i32, "\(vector.key)")
        }
        for vector in vectors.java_default_partition {
            let partition = bytes(hex: vector.key_hex).withUnsafeBytes {
                Murmur2.partition($0, count: vector.partitions)
            }
            #expect(partition == vector.partition, "\(vector.key_hex)")
        }
    }
}

struct TopicPlanTests {
    private func state(_ topic: KafkaTopic) -> KafkaTopicState {
        KafkaTopicState(
            name: topic.name, partitions: topic.partitions, replication: topic.replication,
            settings: Dictionary(topic.settings.map { ($0.name, $0.value) }) { $1 }, ownSettings: [])
    }

    @Test func `The published counts and retentions are planned, and what is there already is not`() {
        let topics = KafkaTopic.published(prefix: "p.")
        #expect(topics.count == 15)
        let ticks = topics.first { $0.name == "p.ticks.raw" }
        #expect(ticks?.partitions == 64 && ticks?.replication == 3)
        #expect(ticks?.settings.contains { $0.name == "retention.ms" && $0.value == "604800000" } == true)
        #expect(ticks?.settings.contains { $0.name == "min.insync.replicas" && $0.value == "2" } == true)
        let letters = topics.first { $0.name == "p.books.deltas.dlq" }
        #expect(letters?.partitions == 64)
        #expect(letters?.settings.contains { $0.name == "retention.ms" && $0.value == "2592000000" } == true)
        let counts = ["p.books.deltas": 64, "p.orders.commands": 32, "p.positions.updates": 16, "p.audit.events": 32]
        for (name, count) in counts { #expect(topics.first { $0.name == name }?.partitions == count, "\(name)") }
        #expect(KafkaTopicPlan(topics, []).steps.count == 15)
        #expect(KafkaTopicPlan(topics, topics.map(state)).isEmpty)
    }

    @Test func `What differs is put right, or named where it cannot be`() {
        let topics = KafkaTopic.published(replication: 1, partitions: 4)
        var states = topics.map(state)
        states[0].partitions = 2
        states[1].partitions = 8
        states[2].settings["retention.ms"] = "1"
        states[3].replication = 2
        let plan = KafkaTopicPlan(topics, states)
        #expect(
            plan.steps == [
                .addPartitions(topics[0], from: 2),
                .set(
                    topic: topics[2].name, name: "retention.ms", from: "1",
                    to: topics[2].settings.first { $0.name == "retention.ms" }?.value ?? ""),
            ])
        #expect(plan.differences.count == 2)
    }
}
