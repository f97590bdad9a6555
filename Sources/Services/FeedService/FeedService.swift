// The feed: a venue's messages through its book into ticks, and ticks into the log. Knows no reader. The simulated
// venue and recordings take the same way that live lines will.

import BookEngine
import EventLog
import MarketModel
import SimulatedVenue
import Synchronization
import TimeSource
import VenueFormats

/// Where messages come from.
public enum FeedSource: Sendable {
    /// The built-in venue, as feed `sim`.
    case simulated(SimulatedVenue.Configuration)
    /// A recording, as a feed of its own that is named by its content.
    case recording(path: String, speed: PlaySpeed)
}

/// How fast a recording is played, by its receive times.
public enum PlaySpeed: Sendable, Hashable {
    case times(Double)
    case maximum
}

/// Why a feed stopped.
public struct FeedError: Error, Sendable, CustomStringConvertible {
    /// What happened, to which thing, and what to do next.
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// One feed on one thread.
public final class FeedService: Sendable {
    /// Bytes of ticks in one append at most.
    static let appendBytesMax = 64 << 10
    /// How long a quiet feed sleeps at once, so that it stops promptly.
    static let sleepNsMax: Int64 = 10_000_000

    private let log: any EventLog
    private let time: any TimeSource
    private let source: FeedSource
    private let report: @Sendable (String) -> Void
    private let state = Mutex(FeedCounters())
    private let stopping = Atomic<Bool>(false)

    /// `report` takes a line for people; it is called on the feed's thread.
    public init(
        log: any EventLog, time: any TimeSource, source: FeedSource, report: @escaping @Sendable (String) -> Void
    ) {
        self.log = log
        self.time = time
        self.source = source
        self.report = report
    }

    /// May be read from any thread.
    public var counters: FeedCounters { state.withLock { $0 } }

    /// Asks ``run()`` to return once what it has is in the log. From any thread.
    public func stop() { stopping.store(true, ordering: .releasing) }

    /// Runs until the source ends or ``stop()``; blocks the calling thread.
    public func run() throws(FeedError) {
        do {
            switch source {
            case .simulated(let configuration): try runSimulated(configuration)
            case .recording(let path, let speed): try runRecording(path, speed)
            }
            state.withLock { $0.isDone = true }
        } catch {
            state.withLock { $0.failure = error.description }
            throw error
        }
    }

    private var isStopping: Bool { stopping.load(ordering: .acquiring) }

    // MARK: Simulated venue

    private func runSimulated(_ configuration: SimulatedVenue.Configuration) throws(FeedError) {
        let startNs = time.wallNs()
        var venue = SimulatedVenue(configuration, startNs: startNs)
        let engine = FeedEngine(
            feed: "sim", numbering: .live(firstEpoch: UInt64(max(1, startNs / 1_000_000))), log: log
        ) { _ in .contiguous }
        reportViolations(of: engine)
        while !isStopping {
            let nowNs = time.wallNs()
            while engine.pendingBytes < FeedService.appendBytesMax, let message = venue.next(dueBy: nowNs) {
                engine.receive(message, receivedNs: nowNs) { time.wallNs() }
            }
            try flush(engine)
            let waitNs = venue.dueNs - time.wallNs()
            if waitNs > 0 { time.sleep(ns: min(waitNs, FeedService.sleepNsMax)) }
        }
    }

    // MARK: Recordings

    private func runRecording(_ path: String, _ speed: PlaySpeed) throws(FeedError) {
        var recording = try Recording(path: path)
        let engine = FeedEngine(feed: recording.feed, numbering: .recording(epoch: recording.epoch), log: log) {
            VenueRules.of($0)
        }
        reportViolations(of: engine)
        var pace = Pace(speed)
        while !isStopping {
            guard let line = try recording.next() else { break }
            try wait(&pace, until: line.receivedNs, engine)
            switch line.content {
            case .messages(let messages):
                for message in messages {
                    engine.receive(message, receivedNs: line.receivedNs) { line.receivedNs }
                }
            case .bad(let error):
                engine.counters.badLines += 1
                reportOnce("\(path) line \(line.number): \(error)", kind: "bad line")
            case .other: break
            }
            if engine.pendingBytes >= FeedService.appendBytesMax { try flush(engine) }
        }
        try flush(engine)
    }

    private func wait(_ pace: inout Pace, until receivedNs: Int64, _ engine: FeedEngine) throws(FeedError) {
        guard let due = pace.due(receivedNs, nowNs: time.monotonicNs()) else { return }
        guard due > time.monotonicNs() else { return }
        try flush(engine)
        while !isStopping, case let left = due - time.monotonicNs(), left > 0 {
            time.sleep(ns: min(left, FeedService.sleepNsMax))
        }
    }

    // MARK: The log

    /// Appends what is pending. A full disk is waited for: the feed holds what it has and tries again.
    private func flush(_ engine: FeedEngine) throws(FeedError) {
        for builder in engine.builders where !builder.isEmpty {
            let block = builder.build()
            var pauseNs: Int64 = 10_000_000
            while true {
                do {
                    try log.append([block], consumed: [])
                    break
                } catch {
                    guard error.retryable, !isStopping else {
                        throw FeedError("feed \(engine.feed) stops: \(error.message)")
                    }
                    let message = error.message
                    if state.withLock({ state in
                        defer { state.failure = message }
                        return state.failure != message
                    }) {
                        report("feed \(engine.feed): \(message); it holds its ticks and tries again")
                    }
                    time.sleep(ns: pauseNs)
                    pauseNs = min(pauseNs * 2, 1_000_000_000)
                }
            }
        }
        var counters = engine.counters
        counters.staleInstruments = engine.staleCount
        counters.lastPublishNs = time.wallNs()
        state.withLock { $0 = counters }
    }

    // MARK: Reports

    private func reportViolations(of engine: FeedEngine) {
        engine.report = { [weak self] instrument, violation in
            self?.reportOnce(
                "\(instrument): \(violation.rawValue), the book is dropped until the next snapshot",
                kind: "\(instrument) \(violation.rawValue)")
        }
    }

    private let reported = Mutex<[String: Int64]>([:])
    private static let reportPeriodNs: Int64 = 10_000_000_000

    /// Once per kind and period; the counters have the rest.
    private func reportOnce(_ line: String, kind: String) {
        let nowNs = time.monotonicNs()
        let isDue = reported.withLock { reported in
            if let last = reported[kind], nowNs - last < FeedService.reportPeriodNs { return false }
            reported[kind] = nowNs
            return true
        }
        if isDue { report("feed: " + line) }
    }
}

/// How each venue's books are checked.
enum VenueRules {
    static func of(_ exchange: String) -> BookRules {
        switch exchange {
        case "KRAKEN": .checksum
        case "COINBASE": .unchecked
        default: .contiguous
        }
    }
}

/// When a recording's lines are due.
struct Pace {
    private let speed: PlaySpeed
    private var start: (recordedNs: Int64, nowNs: Int64)?

    init(_ speed: PlaySpeed) { self.speed = speed }

    /// On the monotonic clock; nil for at once.
    mutating func due(_ recordedNs: Int64, nowNs: Int64) -> Int64? {
        guard case .times(let factor) = speed else { return nil }
        guard let start else {
            start = (recordedNs, nowNs)
            return nil
        }
        return start.nowNs + Int64(Double(recordedNs - start.recordedNs) / factor)
    }
}
