import CRdKafka
import EventLog

// What takes something away for good: asked for by drills of what is theirs alone.
extension KafkaAdmin {
    /// Removes all records of partitions before these offsets, as retention would.
    public func removeRecords(before offsets: [TopicPartition: UInt64]) throws(LogError) {
        let list = PartitionList(capacity: offsets.count)
        for (place, offset) in offsets {
            list.add(configuration.name(of: place.topic), Int32(place.partition), offset: Int64(clamping: offset))
        }
        let request = rd_kafka_DeleteRecords_new(list.list)
        var requests: [OpaquePointer?] = [request]
        defer { if let request { rd_kafka_DeleteRecords_destroy(request) } }
        let event = try ask(RD_KAFKA_ADMIN_OP_DELETERECORDS, "removing records") { options, queue in
            rd_kafka_DeleteRecords(handle.rk, &requests, 1, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        guard let results = rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event)) else {
            return
        }
        for index in 0..<Int(results.pointee.cnt) {
            let entry = results.pointee.elems[index]
            guard entry.err != RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
            throw handle.fail("removing records of \(String(cString: entry.topic))/\(entry.partition)", entry.err)
        }
    }

    /// Removes topics with everything in them. Those that are not there are no error.
    public func removeTopics(_ topics: [Topic]) throws(LogError) {
        var requests: [OpaquePointer?] = topics.map { rd_kafka_DeleteTopic_new(configuration.name(of: $0)) }
        defer { for request in requests { if let request { rd_kafka_DeleteTopic_destroy(request) } } }
        let event = try ask(RD_KAFKA_ADMIN_OP_DELETETOPICS, "removing topics") { options, queue in
            rd_kafka_DeleteTopics(handle.rk, &requests, requests.count, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        guard
            let results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &count)
        else { return }
        for index in 0..<count {
            guard let result = results[index] else { continue }
            let code = rd_kafka_topic_result_error(result)
            guard code != RD_KAFKA_RESP_ERR_NO_ERROR, code != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART else { continue }
            throw handle.fail("removing topic \(String(cString: rd_kafka_topic_result_name(result)))", code)
        }
    }
}
