import CRdKafka
import EventLog
import Glibc
import TimeSource

/// Appends that carry the offsets of what they were made from, each as one transaction: readers see all of it or
/// nothing. One caller at a time.
final class KafkaTransactions: @unchecked Sendable {
    private let handle: KafkaHandle
    private let configuration: KafkaConfiguration
    private let monitor = Monitor()
    private var isReady = false

    init(
        _ configuration: KafkaConfiguration, time: any TimeSource, report: @escaping KafkaReport
    ) throws(LogError) {
        self.configuration = configuration
        // Of two processes with one name the later fences the earlier: an instance has a name of its own, whatever
        // container it runs in.
        var host = [CChar](repeating: 0, count: 256)
        gethostname(&host, host.count - 1)
        let instance =
            configuration.group.instance.isEmpty
            ? "\(KafkaHandle.string(host))-\(getpid())-\(time.wallNs())" : configuration.group.instance
        handle = try KafkaHandle(
            .producer, configuration,
            [
                ("transactional.id", configuration.prefix + configuration.clientID + "-" + instance),
                ("compression.codec", "lz4"), ("linger.ms", "1"), ("retry.backoff.ms", "100"),
                // One whose process is gone, and which nobody fences, holds up readers of its records and offsets so
                // long.
                ("transaction.timeout.ms", "15000"),
            ], report: report)
    }

    private var timeoutMs: Int32 { Int32(clamping: configuration.requestTimeoutNs / 1_000_000) }

    /// Returns when the brokers have it. *Blocking.*
    func append(_ blocks: [Block], _ consumed: [GroupOffset]) throws(LogError) {
        try monitor.locked { () throws(LogError) in
            try begin()
            try check(rd_kafka_begin_transaction(handle.rk), "beginning a transaction")
            do throws(LogError) {
                for block in blocks { try produce(block) }
                for group in Set(consumed.map(\.group)) { try send(consumed.filter { $0.group == group }, group) }
                try check(rd_kafka_commit_transaction(handle.rk, timeoutMs), "committing a transaction")
            } catch {
                if let problem = rd_kafka_abort_transaction(handle.rk, timeoutMs) { rd_kafka_error_destroy(problem) }
                throw error
            }
        }
    }

    /// Ends what another one of this name has not finished. Once: of two, the later stays. *Blocking.*
    func fence() throws(LogError) { try monitor.locked { () throws(LogError) in try begin() } }

    private func begin() throws(LogError) {
        guard !isReady else { return }
        try check(rd_kafka_init_transactions(handle.rk, timeoutMs), "beginning transactions")
        isReady = true
    }

    func close() { handle.destroy() }

    private func produce(_ block: Block) throws(LogError) {
        let place = block.topicPartition
        let topic = try handle.topic(configuration.name(of: place.topic))
        for index in 0..<block.recordCount {
            let track = block.track(of: index)
            let key = KafkaLog.key(exchange: block.exchange(track: track), symbol: block.symbol(track: track))
            let payload = block.payload(index)
            // Copied: nobody keeps the block until the brokers have it.
            let result = key.withUnsafeBytes {
                rd_kafka_produce(
                    topic, Int32(place.partition), Int32(RD_KAFKA_MSG_F_COPY),
                    UnsafeMutableRawPointer(mutating: payload.baseAddress), payload.count, $0.baseAddress, $0.count, nil
                )
            }
            if result != 0 { throw handle.fail("appending to \(place)", rd_kafka_last_error()) }
        }
    }

    private func send(_ offsets: [GroupOffset], _ group: String) throws(LogError) {
        let list = PartitionList(capacity: offsets.count)
        for offset in offsets {
            list.add(
                configuration.name(of: offset.place.topic), Int32(offset.place.partition),
                offset: Int64(clamping: offset.offset))
        }
        guard let metadata = rd_kafka_consumer_group_metadata_new(configuration.name(ofGroup: group)) else {
            throw LogError(.io, "no memory for the metadata of group \(group)")
        }
        defer { rd_kafka_consumer_group_metadata_destroy(metadata) }
        try check(
            rd_kafka_send_offsets_to_transaction(handle.rk, list.list, metadata, timeoutMs),
            "the offsets of group \(group)")
    }

    private func check(_ error: OpaquePointer?, _ what: String) throws(LogError) {
        guard let error else { return }
        let (code, text, isRetriable) = KafkaHandle.take(error)
        let failure = handle.fail(what, code, detail: text)
        throw LogError(failure.code, failure.message, retryable: failure.retryable || isRetriable)
    }
}
