import CRdKafka
import EventLog

/// What the library's messages mean, and the settings of every client that reads.
enum RecordQueue {
    enum Content {
        /// The bytes are borrowed from the message.
        case record(UnsafeRawBufferPointer, key: UnsafeRawBufferPointer, offset: UInt64, timestampNs: Int64)
        /// Everything before this offset was given out, and there is no more now.
        case end(UInt64)
        /// A record of a major version that this program does not know.
        case unknownSchema(offset: UInt64, major: String)
        case failed(rd_kafka_resp_err_t)
    }

    /// Offsets are never chosen by the library: a missing one is somebody's decision.
    static let settings: [(String, String)] = [
        ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"), ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"), ("check.crcs", "true"), ("max.partition.fetch.bytes", "1048576"),
        ("fetch.max.bytes", "10485760"), ("fetch.wait.max.ms", "100"), ("fetch.error.backoff.ms", "100"),
        ("isolation.level", "read_committed"),
    ]

    private static let messagesMax = 1024

    /// Waits for a message and hands on what there is, up to a limit. Messages are lent: none is copied.
    static func take(
        from queue: OpaquePointer, timeoutMs: Int32, _ body: (UnsafeMutablePointer<rd_kafka_message_t>) -> Void
    ) {
        // The library's call for many waits until it has as many as it may have: it is asked when there is one.
        guard let first = rd_kafka_consume_queue(queue, timeoutMs) else { return }
        body(first)
        rd_kafka_message_destroy(first)
        withUnsafeTemporaryAllocation(
            of: UnsafeMutablePointer<rd_kafka_message_t>?.self, capacity: messagesMax
        ) { buffer in
            let count = rd_kafka_consume_batch_queue(queue, 0, buffer.baseAddress, buffer.count)
            guard count > 0 else { return }
            for message in buffer[..<count] {
                guard let message else { continue }
                body(message)
                rd_kafka_message_destroy(message)
            }
        }
    }

    static func content(of message: UnsafeMutablePointer<rd_kafka_message_t>) -> Content {
        let offset = UInt64(max(message.pointee.offset, 0))
        guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
            return message.pointee.err == RD_KAFKA_RESP_ERR__PARTITION_EOF ? .end(offset) : .failed(message.pointee.err)
        }
        if let major = unknownMajor(of: message) { return .unknownSchema(offset: offset, major: major) }
        let timestampMs = rd_kafka_message_timestamp(message, nil)
        let (timestampNs, overflow) = timestampMs.multipliedReportingOverflow(by: 1_000_000)
        return .record(
            UnsafeRawBufferPointer(start: message.pointee.payload, count: message.pointee.len),
            key: UnsafeRawBufferPointer(start: message.pointee.key, count: message.pointee.key_len), offset: offset,
            timestampNs: overflow ? 0 : max(timestampNs, 0))
    }

    /// A record without the header is of major 1.
    private static func unknownMajor(of message: UnsafeMutablePointer<rd_kafka_message_t>) -> String? {
        var headers: OpaquePointer?
        guard rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR, let headers else { return nil }
        var value: UnsafeRawPointer?
        var size = 0
        guard rd_kafka_header_get_last(headers, "schema", &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR else {
            return nil
        }
        let text = String(decoding: UnsafeRawBufferPointer(start: value, count: min(size, 32)), as: UTF8.self)
        return text == "1" ? nil : text
    }

    static func unknownSchema(_ place: TopicPartition, _ offset: UInt64, _ major: String) -> LogError {
        LogError(
            .unknownFormat,
            "\(place) stops at offset \(offset): its record is of schema `\(major)`, and this program knows 1; run one "
                + "that knows it")
    }
}
