import CRdKafka
import EventLog
import Glibc

/// A consumer group as the brokers know it.
public struct KafkaGroupState: Sendable, Hashable {
    public var name: String
    /// Kafka's own word: Stable, Empty, Dead and others.
    public var state: String
    public var members: [Member]
    /// The next offset to be processed, by place; of this platform's topics alone.
    public var committed: [TopicPartition: UInt64]

    /// A process that takes part.
    public struct Member: Sendable, Hashable {
        public var clientID: String
        public var host: String
        /// Empty where it has no fixed name.
        public var instance: String
    }
}

extension KafkaAdmin {
    /// All groups under the prefix that committed something of this platform's topics or have members, by name.
    public func groups() throws(LogError) -> [KafkaGroupState] {
        let names = try askCoordinator(RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS, "listing groups") {
            rd_kafka_ListConsumerGroups($0, $1, $2)
        } _: { (event) throws(Refusal) -> [String] in
            let result = rd_kafka_event_ListConsumerGroups_result(event)
            var count = 0
            // A broker that is not there has no groups to tell of; one that still reads them has.
            if let errors = rd_kafka_ListConsumerGroups_result_errors(result, &count) {
                for index in 0..<count { try KafkaAdmin.check(errors[index]) }
            }
            guard let list = rd_kafka_ListConsumerGroups_result_valid(result, &count) else { return [] }
            return (0..<count).compactMap { index in
                list[index].map { String(cString: rd_kafka_ConsumerGroupListing_group_id($0)) }
            }
        }
        return try groups(names.filter { $0.hasPrefix(configuration.prefix) }.sorted())
    }

    /// Throws where an error says that a coordinator is not ready.
    private static func check(_ error: OpaquePointer?) throws(Refusal) {
        guard let error, CoordinatorRetry.passes(rd_kafka_error_code(error)) else { return }
        throw Refusal(rd_kafka_error_code(error), rd_kafka_error_string(error))
    }

    /// The groups of these names on the brokers.
    public func groups(_ names: [String]) throws(LogError) -> [KafkaGroupState] {
        guard !names.isEmpty else { return [] }
        let texts = names.map { strdup($0) }
        defer { for text in texts { free(text) } }
        var pointers = texts.map { UnsafePointer<CChar>($0) }
        var groups = try askCoordinator(RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, "describing groups") {
            rd_kafka_DescribeConsumerGroups($0, &pointers, pointers.count, $1, $2)
        } _: { (event) throws(Refusal) -> [KafkaGroupState] in
            var count = 0
            let list = rd_kafka_DescribeConsumerGroups_result_groups(
                rd_kafka_event_DescribeConsumerGroups_result(event), &count)
            var groups: [KafkaGroupState] = []
            for index in 0..<count {
                guard let group = list?[index] else { continue }
                try KafkaAdmin.check(rd_kafka_ConsumerGroupDescription_error(group))
                groups.append(
                    KafkaGroupState(
                        name: String(cString: rd_kafka_ConsumerGroupDescription_group_id(group)),
                        state: String(
                            cString: rd_kafka_consumer_group_state_name(
                                rd_kafka_ConsumerGroupDescription_state(group))),
                        members: KafkaAdmin.members(of: group), committed: [:]))
            }
            return groups
        }
        for index in groups.indices { groups[index].committed = try committed(groups[index].name) }
        return groups.sorted { $0.name < $1.name }
    }

    private static func members(of group: OpaquePointer) -> [KafkaGroupState.Member] {
        (0..<rd_kafka_ConsumerGroupDescription_member_count(group)).compactMap { index in
            guard let member = rd_kafka_ConsumerGroupDescription_member(group, index) else { return nil }
            func text(_ pointer: UnsafePointer<CChar>?) -> String { pointer.map { String(cString: $0) } ?? "" }
            return KafkaGroupState.Member(
                clientID: text(rd_kafka_MemberDescription_client_id(member)),
                host: text(rd_kafka_MemberDescription_host(member)),
                instance: text(rd_kafka_MemberDescription_group_instance_id(member)))
        }
    }

    /// What a group committed, of this platform's topics.
    private func committed(_ group: String) throws(LogError) -> [TopicPartition: UInt64] {
        try committed(group, nil) { (list) throws(Refusal) in try offsets(list) }
    }

    /// What a group committed of a place; nil where it did not. An offset that a transaction may move that is not over
    /// yet is waited for, and an error where that takes longer.
    func committed(_ group: String, _ place: TopicPartition) throws(LogError) -> UInt64? {
        let list = PartitionList(capacity: 1)
        list.add(
            configuration.name(of: place.topic), Int32(place.partition), offset: Int64(RD_KAFKA_OFFSET_INVALID))
        return try committed(group, list.list) { (list) throws(Refusal) in
            guard let list, list.pointee.cnt == 1 else { throw Refusal(RD_KAFKA_RESP_ERR__BAD_MSG) }
            let entry = list.pointee.elems[0]
            guard entry.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw place.description.withCString { Refusal(entry.err, $0) }
            }
            return entry.offset >= 0 ? UInt64(entry.offset) : nil
        }
    }

    /// `places`: nil for all; those asked for are waited for while a transaction may move them, an option that requests
    /// of this kind have.
    private func committed<Answer>(
        _ group: String, _ places: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?,
        _ read: (UnsafePointer<rd_kafka_topic_partition_list_t>?) throws(Refusal) -> Answer
    ) throws(LogError) -> Answer {
        let request = rd_kafka_ListConsumerGroupOffsets_new(group, places)
        var requests: [OpaquePointer?] = [request]
        defer { if let request { rd_kafka_ListConsumerGroupOffsets_destroy(request) } }
        let what = "asking for the offsets of group \(group)"
        return try askCoordinator(RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, what) { rk, options, queue in
            if places != nil, let error = rd_kafka_AdminOptions_set_require_stable_offsets(options, 1) {
                rd_kafka_error_destroy(error)
            }
            rd_kafka_ListConsumerGroupOffsets(rk, &requests, 1, options, queue)
        } _: { (event) throws(Refusal) -> Answer in
            var count = 0
            guard
                let results = rd_kafka_ListConsumerGroupOffsets_result_groups(
                    rd_kafka_event_ListConsumerGroupOffsets_result(event), &count), count > 0, let result = results[0]
            else { return try read(nil) }
            if let error = rd_kafka_group_result_error(result) {
                throw Refusal(rd_kafka_error_code(error), rd_kafka_error_string(error))
            }
            return try read(rd_kafka_group_result_partitions(result))
        }
    }

    /// Those of a list that are of this platform's topics.
    private func offsets(
        _ list: UnsafePointer<rd_kafka_topic_partition_list_t>?
    ) throws(Refusal) -> [TopicPartition: UInt64] {
        var offsets: [TopicPartition: UInt64] = [:]
        guard let list else { return [:] }
        for index in 0..<Int(list.pointee.cnt) {
            let entry = list.pointee.elems[index]
            if CoordinatorRetry.passes(entry.err) { throw Refusal(entry.err) }
            let name = String(cString: entry.topic)
            guard entry.offset >= 0, entry.err == RD_KAFKA_RESP_ERR_NO_ERROR, name.hasPrefix(configuration.prefix),
                let topic = Topic(name: String(name.dropFirst(configuration.prefix.count)))
            else { continue }
            offsets[TopicPartition(topic, UInt16(truncatingIfNeeded: entry.partition))] = UInt64(entry.offset)
        }
        return offsets
    }

    /// Has a group go on at these offsets. The brokers refuse it while the group has members.
    public func reset(_ group: String, to offsets: [TopicPartition: UInt64]) throws(LogError) {
        let list = PartitionList(capacity: offsets.count)
        for (place, offset) in offsets {
            list.add(configuration.name(of: place.topic), Int32(place.partition), offset: Int64(clamping: offset))
        }
        let request = rd_kafka_AlterConsumerGroupOffsets_new(group, list.list)
        var requests: [OpaquePointer?] = [request]
        defer { if let request { rd_kafka_AlterConsumerGroupOffsets_destroy(request) } }
        let what = "setting the offsets of group \(group)"
        // The same offsets again are no other ones.
        try askCoordinator(RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS, what) {
            rd_kafka_AlterConsumerGroupOffsets($0, &requests, 1, $1, $2)
        } _: { (event) throws(Refusal) in
            var count = 0
            guard
                let results = rd_kafka_AlterConsumerGroupOffsets_result_groups(
                    rd_kafka_event_AlterConsumerGroupOffsets_result(event), &count), count > 0, let result = results[0]
            else { return }
            if let error = rd_kafka_group_result_error(result) {
                throw Refusal(rd_kafka_error_code(error), rd_kafka_error_string(error))
            }
            guard let results = rd_kafka_group_result_partitions(result) else { return }
            for index in 0..<Int(results.pointee.cnt) {
                let entry = results.pointee.elems[index]
                guard entry.err != RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
                throw "\(String(cString: entry.topic))/\(entry.partition)".withCString { Refusal(entry.err, $0) }
            }
        }
    }

    // MARK: Offsets

    /// How many partitions each known topic has.
    public func partitionCounts() throws(LogError) -> [Topic: Int] { try cluster.partitionCounts() }

    /// Where each place begins.
    public func starts(_ places: [TopicPartition]) throws(LogError) -> [TopicPartition: UInt64] {
        try cluster.offsets(places, at: KafkaCluster.earliest)
    }

    /// Where each place ends now.
    public func ends(_ places: [TopicPartition]) throws(LogError) -> [TopicPartition: UInt64] {
        try cluster.offsets(places, at: KafkaCluster.latest)
    }

    /// The first record at or after a time (ns since the epoch); places that have none are left out.
    public func offsets(_ places: [TopicPartition], atNs timeNs: Int64) throws(LogError) -> [TopicPartition: UInt64] {
        try cluster.offsets(places, at: max(timeNs / 1_000_000 + (timeNs % 1_000_000 > 0 ? 1 : 0), 0))
    }

    /// When the record at or after an offset was given to the brokers, ns since the epoch; nil where none comes within
    /// two seconds.
    public func timestampNs(of place: TopicPartition, at offset: UInt64) throws(LogError) -> Int64? {
        let topic = try handle.topic(configuration.name(of: place.topic))
        guard rd_kafka_consume_start(topic, Int32(place.partition), Int64(clamping: offset)) == 0 else {
            throw handle.fail("reading \(place)", rd_kafka_last_error())
        }
        defer { rd_kafka_consume_stop(topic, Int32(place.partition)) }
        guard let message = rd_kafka_consume(topic, Int32(place.partition), 2000) else { return nil }
        defer { rd_kafka_message_destroy(message) }
        guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR else { return nil }
        let timeMs = rd_kafka_message_timestamp(message, nil)
        return timeMs > 0 ? timeMs.multipliedReportingOverflow(by: 1_000_000).partialValue : nil
    }
}
