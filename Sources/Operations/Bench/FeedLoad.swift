import EventLog
import Glibc
import TimeSource

/// Ticks made and appended to a log as fast as it takes them, or at a rate; over when the log has acknowledged all.
public struct FeedLoad: Sendable {
    public var symbolCount = 1000
    /// Ticks appended at once.
    public var batch = 2048
    public var records = 1_000_000
    /// Ticks a second; nil: as many as the log takes.
    public var recordsPerSecond: Int?

    public init() {}

    /// What was done, from the first append to the last acknowledgement.
    public struct Report: Sendable {
        public let records: Int
        public let seconds: Double
        /// The process's, user and system, meanwhile.
        public let cpuSeconds: Double

        /// One line of JSON. `acknowledged`: from append to acknowledgement, as the log counted it.
        public func json(acknowledged: LatencyHistogram) -> String {
            let perRecord = cpuSeconds / Double(records)
            let buckets = zip(LatencyHistogram.boundsNs, acknowledged.counts).map { "[\(Double($0) / 1e9),\($1)]" }
            return "{\"records\":\(records),\"seconds\":\(Figure.digits(seconds)),\"records_per_s\":"
                + "\(Figure.digits(Double(records) / seconds)),\"cpu_ns_per_record\":\(Figure.digits(perRecord * 1e9)),"
                + "\"ack_buckets\":[\(buckets.joined(separator: ","))]}"
        }
    }

    /// *Blocking.* What the log refuses for want of room is appended again.
    public func run(_ log: any EventLog) throws -> Report {
        let maker = TickMaker(symbolCount: symbolCount, log: log)
        let startNs = PlatformBench.monotonicNs()
        let startCPU = FeedLoad.cpuSeconds()
        var made = 0
        while made < records {
            var count = min(batch, records - made)
            if let rate = recordsPerSecond {
                let due = Int(Double(PlatformBench.monotonicNs() - startNs) / 1e9 * Double(rate))
                count = min(count, due - made)
                guard count > 0 else {
                    usleep(200)
                    continue
                }
            }
            try append(maker.blocks(count), to: log)
            made += count
        }
        try log.sync()
        return Report(
            records: made, seconds: Double(PlatformBench.monotonicNs() - startNs) / 1e9,
            cpuSeconds: FeedLoad.cpuSeconds() - startCPU)
    }

    private func append(_ blocks: [Block], to log: any EventLog) throws {
        while true {
            do throws(LogError) {
                try log.append(blocks, consumed: [])
                return
            } catch {
                guard error.retryable else { throw error }
            }
        }
    }

    private static func cpuSeconds() -> Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
    }
}
