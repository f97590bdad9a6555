import CRdKafka
import EventLog
import Glibc
import Synchronization

/// Questions to the brokers, each waited for.
struct KafkaCluster {
    /// As a time in milliseconds: where a partition begins and ends now.
    static let earliest: Int64 = -2
    static let latest: Int64 = -1

    private let handle: KafkaHandle
    private let configuration: KafkaConfiguration

    init(_ handle: KafkaHandle, _ configuration: KafkaConfiguration) {
        self.handle = handle
        self.configuration = configuration
    }

    private var timeoutMs: Int32 { Int32(clamping: configuration.requestTimeoutNs / 1_000_000) }

    /// How many partitions each topic has that this program knows and the brokers have.
    func partitionCounts() throws(LogError) -> [Topic: Int] {
        var metadata: UnsafePointer<rd_kafka_metadata>?
        let code = rd_kafka_metadata(handle.rk, 1, nil, &metadata, timeoutMs)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata else { throw handle.fail("learning the topics", code) }
        defer { rd_kafka_metadata_destroy(metadata) }
        handle.context.refusal.withLock { $0 = "" }
        var counts: [Topic: Int] = [:]
        for index in 0..<Int(metadata.pointee.topic_cnt) {
            let topic = metadata.pointee.topics[index]
            let name = String(cString: topic.topic)
            guard name.hasPrefix(configuration.prefix), topic.partition_cnt > 0,
                let known = Topic(name: String(name.dropFirst(configuration.prefix.count)))
            else { continue }
            counts[known] = min(Int(topic.partition_cnt), Int(UInt16.max))
        }
        return counts
    }

    /// Names the cluster for ever.
    func id() throws(LogError) -> UInt64 {
        guard let text = rd_kafka_clusterid(handle.rk, timeoutMs) else {
            throw handle.fail("learning the cluster's id", RD_KAFKA_RESP_ERR__TIMED_OUT)
        }
        defer { rd_kafka_mem_free(handle.rk, text) }
        return RecordKey.hash(exchange: String(cString: text).utf8, symbol: configuration.prefix.utf8)
    }

    /// The first offset at or after a time of each place; those that have none are left out.
    func offsets(_ places: [TopicPartition], at timeMs: Int64) throws(LogError) -> [TopicPartition: UInt64] {
        guard !places.isEmpty else { return [:] }
        var triesLeft = timeoutMs / KafkaCluster.retryMs
        while true {
            let list = PartitionList(capacity: places.count)
            for place in places {
                list.add(configuration.name(of: place.topic), Int32(place.partition), offset: timeMs)
            }
            let code = rd_kafka_offsets_for_times(handle.rk, list.list, timeoutMs)
            let codes = [code] + (0..<list.count).map { list[$0].err }
            // A topic that was just made, or a broker that just went, has no leader for a moment.
            guard triesLeft > 0, codes.contains(where: KafkaCluster.passes) else {
                guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw handle.fail("asking for offsets", code) }
                return try read(list, places)
            }
            triesLeft -= 1
            poll(nil, 0, KafkaCluster.retryMs)
            refresh()
        }
    }

    /// Has the client learn anew who leads what: one that asks seldom would go on with what it knew for a minute.
    private func refresh() {
        var metadata: UnsafePointer<rd_kafka_metadata>?
        if rd_kafka_metadata(handle.rk, 0, nil, &metadata, timeoutMs) == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata {
            rd_kafka_metadata_destroy(metadata)
        }
    }

    private static let retryMs: Int32 = 100

    private static func passes(_ code: rd_kafka_resp_err_t) -> Bool {
        switch code {
        case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
            RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH, RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
            true
        default: false
        }
    }

    private func read(
        _ list: borrowing PartitionList, _ places: [TopicPartition]
    ) throws(LogError) -> [TopicPartition: UInt64] {
        var found: [TopicPartition: UInt64] = [:]
        for index in 0..<list.count {
            let entry = list[index]
            // The library keeps the order of what it was given.
            let place = places[index]
            guard entry.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw handle.fail("asking for the offset of \(place)", entry.err)
            }
            if entry.offset >= 0 { found[place] = UInt64(entry.offset) }
        }
        return found
    }
}
