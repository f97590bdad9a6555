import CRdKafka
import EventLog

extension KafkaProducer {
    /// What a caller waits for: all records of one append. Guarded by the producer's monitor.
    final class Ticket {
        var blocksLeft: Int
        var failure: LogError?

        init(_ blocks: Int) { blocksLeft = blocks }
    }

    /// A block on its way. The producer's thread alone changes it once it is handed over.
    final class Flight {
        let block: Block
        let ticket: Ticket
        let startedNs: Int64
        /// In the order of appends.
        var number: UInt64 = 0
        var left: Int
        var failed = 0
        var failureCode = RD_KAFKA_RESP_ERR_NO_ERROR
        var firstFailed: Int?
        var lastFailed = 0

        init(_ block: Block, _ ticket: Ticket, _ startedNs: Int64) {
            self.block = block
            self.ticket = ticket
            self.startedNs = startedNs
            left = block.recordCount
        }

        /// One of its records is not in the log.
        func fail(_ record: Int, _ code: rd_kafka_resp_err_t) {
            failed += 1
            failureCode = code
            firstFailed = min(firstFailed ?? record, record)
            lastFailed = max(lastFailed, record)
        }
    }
}

/// A client that sends, and the queue of what it has to say.
struct ProducerClient: @unchecked Sendable {
    let handle: KafkaHandle
    let queue: OpaquePointer

    init(_ configuration: KafkaConfiguration, _ report: @escaping KafkaReport) throws(LogError) {
        handle = try KafkaHandle(
            .producer, configuration,
            [
                ("enable.idempotence", "true"), ("acks", "all"), ("compression.codec", "lz4"),
                // Lingering is done by the producer, where it can adapt; the client sends what it is given.
                ("linger.ms", "0"), ("batch.num.messages", "\(configuration.producer.batchRecordsMax)"),
                ("retry.backoff.ms", "100"), ("queue.buffering.max.messages", "1000000"),
                ("queue.buffering.max.kbytes", "2097151"),
            ], report: report
        ) { rd_kafka_conf_set_events($0, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR) }
        queue = rd_kafka_queue_get_main(handle.rk)
    }

    /// Has whoever polls the queue return.
    func wake() { rd_kafka_queue_yield(queue) }

    /// Drops what it has to send, and what is on its way: told as failed.
    func purge() { rd_kafka_purge(handle.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT) }

    func destroy() {
        rd_kafka_queue_destroy(queue)
        handle.destroy()
    }
}
