import EventLog
import EventLoop
import KafkaClient
import KafkaFrames
import Synchronization

/// A loop that reads from the brokers. Everything of the fetcher is done on it.
final class FetchLoop: @unchecked Sendable {
    private static let tickMs = 100

    private let address: String
    private let loop: EventLoop
    private let brokers: KafkaBrokers
    private let fetcher: KafkaFetcher
    private var timer: (any LoopTimer)?
    private let problem = Mutex<KafkaFailure?>(nil)

    /// `name` has at most 15 bytes. `bytesLeast`: what the brokers wait for, a tenth of a second at most. `intervalMs`:
    /// as in ``KafkaFetcher/Limits``.
    init(_ name: String, _ configuration: KafkaConfiguration, bytesLeast: Int32, intervalMs: ClosedRange<Int>)
        throws(LogError)
    {
        address = configuration.brokers
        let transport = try KafkaSockets(configuration)
        loop = EventLoop(name: name)
        brokers = KafkaBrokers(
            KafkaAddress.list(configuration.brokers), options: configuration.clientOptions, transport: transport,
            loop: loop)
        var limits = configuration.fetchLimits
        limits.bytesLeast = bytesLeast
        limits.intervalMs = intervalMs
        fetcher = KafkaFetcher(brokers, limits: limits)
        loop.runAndWait { [unowned self] loop in
            timer = loop.repeatTimer(everyMilliseconds: FetchLoop.tickMs) { [unowned self] in tick() }
        }
    }

    private func tick() {
        fetcher.tick()
        let latest = brokers.problem
        problem.withLock { $0 = latest }
    }

    /// Does something on the loop, soon.
    func execute(_ body: @escaping (KafkaFetcher) -> Void) {
        let body = LoopConfined(body)
        loop.execute { [self] in body.value(fetcher) }
    }

    /// Ends the loop; nothing is handed on afterwards. *Blocking.*
    func stop() {
        loop.runAndWait { [self] _ in
            timer?.cancel()
            timer = nil
            fetcher.close()
        }
        loop.stop()
    }

    func error(_ what: String, code: Int32) -> LogError {
        KafkaErrors(brokers: address, problem: problem.withLock { $0 }).error(what, code: code)
    }
}

/// Turns what was read of a partition into records.
struct FetchDecoder {
    private let place: TopicPartition
    private let scratch = KafkaBuffer()

    init(_ place: TopicPartition) { self.place = place }

    /// Hands on the records from `first` on that readers may see, until `take` says false. Throws `.io` for bytes that
    /// are not what was written, and `.unknownFormat` for a record of a major version that this program does not know.
    func read(
        _ bytes: UnsafeRawBufferPointer, _ aborted: [KafkaAbortedTransaction], from first: UInt64,
        _ take: (_ record: KafkaRecord, _ timestampNs: Int64) -> Void
    ) throws(LogError) {
        var rest = bytes
        var filter = KafkaTransactionFilter(aborted)
        var unknown: LogError?
        do throws(KafkaFormatError) {
            while unknown == nil, let batch = try RecordBatch.next(of: &rest) {
                try batch.check()
                guard filter.takes(batch) else { continue }
                try KafkaRecord.read(batch, scratch: scratch) { record in
                    guard record.offset >= Int64(clamping: first) else { return true }
                    if let major = FetchDecoder.unknownMajor(of: record) {
                        unknown = unknownSchema(UInt64(record.offset), major)
                        return false
                    }
                    let (timestampNs, overflow) = record.timestampMs.multipliedReportingOverflow(by: 1_000_000)
                    take(record, overflow ? 0 : max(timestampNs, 0))
                    return true
                }
            }
        } catch {
            throw LogError(.io, "\(place) is not readable: \(error)")
        }
        if let unknown { throw unknown }
    }

    /// A record without the header is of major 1.
    private static func unknownMajor(of record: KafkaRecord) -> String? {
        guard let value = try? record.header("schema") else { return nil }
        let text = String(decoding: value.prefix(32), as: UTF8.self)
        return text == "1" ? nil : text
    }

    private func unknownSchema(_ offset: UInt64, _ major: String) -> LogError {
        LogError(
            .unknownFormat,
            "\(place) stops at offset \(offset): its record is of schema `\(major)`, and this program knows 1; run one "
                + "that knows it")
    }
}
