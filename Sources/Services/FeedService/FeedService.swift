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
    /// The name of the built-in venue's feed.
    public static let simulatedFeed = "sim"
    /// Instruments of one feed at most: garbage may name any number.
    public static let instrumentsMax = 100_000
    /// How long a quiet feed sleeps at once, so that it stops promptly.
    static let sleepNsMax: Int64 = 10_000_000

    private let log: any EventLog
    private let time: any TimeSource
    private let source: FeedSource
    private let books: BookPublishing
    private let stopWaitNs: Int64
    private let report: @Sendable (_ kind: String, _ what: () -> String) -> Void
    private let state = Mutex(FeedCounters())
    /// When it was asked to stop, monotonic; the last moment of all before that.
    private let stopNs = Atomic<Int64>(.max)

    /// `report` takes what people should know: a fixed name of its kind (`feed.gap`), and what happened. It is called
    /// on the feed's thread each time; whoever writes it down does so once per kind and period. `stopWaitNs`: how long
    /// after ``stop()`` a log that takes nothing for now is asked again, before what the feed has is given up.
    public init(
        log: any EventLog, time: any TimeSource, source: FeedSource, books: BookPublishing = BookPublishing(),
        stopWaitNs: Int64 = 0,
        report: @escaping @Sendable (_ kind: String, _ what: () -> String) -> Void
    ) {
        self.log = log
        self.time = time
        self.source = source
        self.books = books
        self.stopWaitNs = stopWaitNs
        self.report = report
    }

    /// May be read from any thread.
    public var counters: FeedCounters { state.withLock { $0 } }

    /// Asks ``run()`` to return once what it has is in the log. From any thread.
    public func stop() {
        _ = stopNs.compareExchange(expected: .max, desired: time.monotonicNs(), ordering: .acquiringAndReleasing)
    }

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

    private var isStopping: Bool { stopNs.load(ordering: .acquiring) != .max }

    // MARK: Simulated venue

    private func runSimulated(_ configuration: SimulatedVenue.Configuration) throws(FeedError) {
        let startNs = time.wallNs()
        var venue = SimulatedVenue(configuration, startNs: startNs)
        let engine = FeedEngine(
            feed: FeedService.simulatedFeed, numbering: .live(firstEpoch: UInt64(max(1, startNs / 1_000_000))),
            log: log,
            books: books
        ) { _ in .contiguous }
        engine.report = report
        while !isStopping {
            let nowNs = time.wallNs()
            while max(engine.pendingBytes, engine.books.pendingBytes) < FeedService.appendBytesMax,
                let message = venue.next(dueBy: nowNs)
            {
                engine.receive(message, receivedNs: nowNs) { time.wallNs() }
            }
            try flush(engine, books: engine.books.isDue(nowNs: time.monotonicNs()))
            let waitNs = venue.dueNs - time.wallNs()
            let pauseNs = engine.books.pendingBytes > 0 ? books.batchIntervalNs : FeedService.sleepNsMax
            if waitNs > 0 { time.sleep(ns: min(waitNs, pauseNs)) }
        }
        try flush(engine, books: true)
    }

    // MARK: Recordings

    private func runRecording(_ path: String, _ speed: PlaySpeed) throws(FeedError) {
        var recording = try Recording(path: path)
        let engine = FeedEngine(
            feed: recording.feed, numbering: .recording(epoch: recording.epoch), log: log, books: books
        ) {
            VenueRules.of($0)
        }
        engine.report = report
        var pace = Pace(speed)
        while !isStopping {
            let next: Recording.Line?
            do {
                next = try recording.next()
            } catch {
                // What was read is good, and counted.
                try flush(engine, books: true)
                throw error
            }
            guard let line = next else { break }
            try wait(&pace, until: line.receivedNs, engine)
            switch line.content {
            case .messages(let messages):
                for message in messages {
                    engine.receive(message, receivedNs: line.receivedNs) { line.receivedNs }
                }
            case .bad(let error):
                engine.receiveUnreadable(error, at: { "\(path) line \(line.number)" }, receivedNs: line.receivedNs) {
                    line.receivedNs
                }
            case .unread(let channel): engine.counters.unread[channel, default: 0] += 1
            case .other: break
            }
            if max(engine.pendingBytes, engine.books.pendingBytes) >= FeedService.appendBytesMax {
                try flush(engine, books: true)
            }
        }
        try flush(engine, books: true)
    }

    private func wait(_ pace: inout Pace, until receivedNs: Int64, _ engine: FeedEngine) throws(FeedError) {
        guard let due = pace.due(receivedNs, nowNs: time.monotonicNs()) else { return }
        guard due > time.monotonicNs() else { return }
        try flush(engine, books: true)
        while !isStopping, case let left = due - time.monotonicNs(), left > 0 {
            time.sleep(ns: min(left, FeedService.sleepNsMax))
        }
    }

    // MARK: The log

    /// Appends the ticks that are pending, and the book records when they are asked for, in one go.
    private func flush(_ engine: FeedEngine, books: Bool) throws(FeedError) {
        var blocks: [Block] = []
        for builder in engine.builders where !builder.isEmpty { blocks.append(builder.build()) }
        if books { blocks += engine.books.takeBlocks() }
        if !blocks.isEmpty { try append(blocks, engine.feed) }
        var counters = engine.counters
        counters.bookRecords = engine.books.records
        counters.staleInstruments = engine.staleCount
        counters.lastPublishNs = time.wallNs()
        state.withLock { $0 = counters }
    }

    /// A full disk, or brokers that take nothing, are waited for: the feed holds what it has and tries again.
    private func append(_ blocks: [Block], _ feed: String) throws(FeedError) {
        var pauseNs: Int64 = 10_000_000
        while true {
            do {
                try log.append(blocks, consumed: [])
                return
            } catch {
                let nowNs = time.monotonicNs()
                guard error.retryable, nowNs - stopWaitNs < stopNs.load(ordering: .acquiring) else {
                    throw FeedError("feed \(feed) stops: \(error.message)")
                }
                let message = error.message
                if state.withLock({ state in
                    defer { state.failure = message }
                    return state.failure != message
                }) {
                    report("feed.append") { "\(feed): \(message); it holds its ticks and tries again" }
                }
                time.sleep(ns: pauseNs)
                pauseNs = min(pauseNs * 2, 1_000_000_000)
            }
        }
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
    /// A receive time that leaps by more, ahead or back, is not waited for: the night between two sessions, or a wrong
    /// digit. In the recording's time.
    static let leapNsMax: Int64 = 3_600_000_000_000

    private let speed: PlaySpeed
    private var start: (recordedNs: Int64, nowNs: Int64)?
    private var lastNs: Int64 = 0

    init(_ speed: PlaySpeed) { self.speed = speed }

    /// On the monotonic clock; nil for at once. `recordedNs` is not below 0.
    mutating func due(_ recordedNs: Int64, nowNs: Int64) -> Int64? {
        guard case .times(let factor) = speed, factor > 0 else { return nil }
        defer { lastNs = recordedNs }
        guard let start, (-Pace.leapNsMax...Pace.leapNsMax).contains(recordedNs - lastNs) else {
            start = (recordedNs, nowNs)
            return nil
        }
        let wait = Double(recordedNs - start.recordedNs) / factor
        guard let waitNs = Int64(exactly: wait.rounded()) else { return nil }
        let (due, overflow) = start.nowNs.addingReportingOverflow(waitNs)
        return overflow ? nil : due
    }
}
