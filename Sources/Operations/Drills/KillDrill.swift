// The drill `kill`: a running platform is killed at random moments, again and again, while a client reads everything.
// After each kill nothing that the client saw may be missing from the log, nothing may be there twice, and sequences
// must be contiguous; at the end log and store must agree.

import EventLog
import EventLoop
import GRPC
import Glibc
import MarketProto
import Synchronization
import TapedeckClient
import TickCodec

/// Kills a platform again and again while a client reads from it.
public struct KillDrill: Sendable {
    /// What the drill works on.
    public struct Setup: Sendable {
        /// The binary, and a data directory of the drill's own.
        public var program: String
        public var directory: String
        public var times: Int
        public var seed: UInt64
        /// Messages of the simulated venue per second.
        public var rate: Int
        /// Opens the log of a data directory for reading, without the process that owns it.
        public var openLog: @Sendable (_ directory: String) throws -> any EventLog
        /// Differences between log and store of a data directory, one line each.
        public var verify: @Sendable (_ directory: String) throws -> [String]

        public init(
            program: String, directory: String, times: Int, seed: UInt64, rate: Int,
            openLog: @escaping @Sendable (_ directory: String) throws -> any EventLog,
            verify: @escaping @Sendable (_ directory: String) throws -> [String]
        ) {
            self.program = program
            self.directory = directory
            self.times = times
            self.seed = seed
            self.rate = rate
            self.openLog = openLog
            self.verify = verify
        }
    }

    /// What it found.
    public struct Result: Sendable {
        public var kills = 0
        /// Ticks that the client received, over all rounds.
        public var seen: UInt64 = 0
        /// Of those, how many the log does not have as the client saw them.
        public var lost: UInt64 = 0
        /// Records in the log with an identity that was there before.
        public var duplicated: UInt64 = 0
        /// Places in the log where an instrument's sequence is not the next one of its epoch.
        public var gaps: UInt64 = 0
        /// Rows on which log and store differ at the end.
        public var differences: [String] = []
        /// The longest time from a start to serving, in seconds.
        public var recoverySeconds = 0.0

        public var passed: Bool { lost == 0 && duplicated == 0 && gaps == 0 && differences.isEmpty && seen > 0 }
    }

    private let setup: Setup

    public init(_ setup: Setup) { self.setup = setup }

    /// Carries the drill out; `progress` takes a line per kill. Throws ``DrillError``.
    public func run(progress: (String) -> Void) throws -> Result {
        var result = Result()
        var random = SplitMix64(seed: setup.seed)
        var tape = TapeCheck()
        for round in 1...setup.times {
            let seen = try runRound(&result, aliveMilliseconds: 50 + Int(random.next() % 900))
            try tape.read(setup.openLog(setup.directory), &result)
            for (identity, digest) in seen where tape.digests[identity] != digest { result.lost += 1 }
            tape.digests.removeAll(keepingCapacity: true)
            result.kills = round
            result.seen += UInt64(seen.count)
            progress("kill \(round) of \(setup.times): \(seen.count) ticks seen, \(result.lost) lost")
        }
        result.differences = try finish(&result)
        return result
    }

    /// Starts the platform, reads until the time is over, and kills it.
    private func runRound(_ result: inout Result, aliveMilliseconds: Int) throws -> [TickIdentity: UInt64] {
        let platform = try start()
        result.recoverySeconds = max(result.recoverySeconds, platform.readySeconds)
        let seen = SeenTicks()
        let client = try MarketDataClient(target: platform.address)
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        let stream = client.streamPrices(subscription) { batch in seen.add(batch) }
        poll(nil, 0, Int32(aliveMilliseconds))
        guard platform.stop(kill: true) == 128 + SIGKILL else {
            throw DrillError("the platform ended by itself; its messages are in \(setup.directory)/drill.log")
        }
        _ = stream.waitForEnd(timeoutMilliseconds: 10_000)
        client.close()
        return seen.take()
    }

    private func start() throws(DrillError) -> StartedPlatform {
        try StartedPlatform(
            program: setup.program, directory: setup.directory, arguments: ["--rate", "\(setup.rate)"])
    }

    /// A last start and a clean stop, after which the store has everything.
    private func finish(_ result: inout Result) throws -> [String] {
        let platform = try start()
        result.recoverySeconds = max(result.recoverySeconds, platform.readySeconds)
        guard platform.stop(kill: false) == 0 else {
            throw DrillError("the platform did not stop cleanly; its messages are in \(setup.directory)/drill.log")
        }
        return try setup.verify(setup.directory)
    }
}

/// The machine-readable line that says where a platform serves.
public enum ReadyLine {
    private static let prefix = "{\"ready\":true,\"address\":\""

    /// The line of a platform that serves clients at one address and metrics at another; and who writes ticks past the
    /// log at a third, where that is served.
    public static func make(address: String, metrics: String, tickWriter: String? = nil) -> String {
        let more = tickWriter.map { "\",\"tick_writer\":\"\($0)" } ?? ""
        return "\(prefix)\(address)\",\"metrics\":\"\(metrics)\(more)\"}"
    }

    static func address(_ line: String) -> String? {
        guard line.hasPrefix(prefix), line.hasSuffix("\"}") else { return nil }
        return String(line.dropFirst(prefix.count).prefix { $0 != "\"" })
    }

    /// Of a platform, or of one service of it, which says its name in place of an address.
    static func metrics(_ line: String) -> String? {
        guard line.hasPrefix("{\"ready\":true,"), line.hasSuffix("\"}") else { return nil }
        let names = line.split(separator: "\"metrics\":\"")
        return names.count == 2 ? String(names[1].prefix { $0 != "\"" }) : nil
    }
}

struct TickIdentity: Hashable {
    let line: UInt64
    let epoch: UInt64
    let sequence: UInt64

    /// nil for bytes that are no tick.
    init?(_ update: UnsafeRawBufferPointer) {
        guard let reader = try? TickReader(update) else { return nil }
        line =
            RecordKey.hash(exchange: reader.exchange, symbol: reader.symbol)
            ^ RecordKey.hash(exchange: reader.feed, symbol: [])
        epoch = reader.epoch
        sequence = reader.sequence
    }
}

/// What a client received, collected on its loop and taken by the drill.
private final class SeenTicks: Sendable {
    private let ticks = Mutex<[TickIdentity: UInt64]>([:])

    func add(_ batch: PriceBatch) {
        // The updates do not leave this call.
        nonisolated(unsafe) let updates = batch.updates
        ticks.withLock { ticks in
            for update in updates {
                if let identity = TickIdentity(update) { ticks[identity] = UInt64(Checksum.crc32c(update)) }
            }
        }
    }

    func take() -> [TickIdentity: UInt64] {
        ticks.withLock { ticks in
            defer { ticks.removeAll() }
            return ticks
        }
    }
}

/// Reads the log from where it was left and checks that every record is the next of its line.
private struct TapeCheck {
    /// Of the records read last.
    var digests: [TickIdentity: UInt64] = [:]
    private var next: UInt64 = 0
    private var last: [UInt64: (epoch: UInt64, sequence: UInt64)] = [:]

    mutating func read(_ log: any EventLog, _ result: inout KillDrill.Result) throws {
        let place = TopicPartition(.ticksRaw, 0)
        next = max(next, log.startOffset(place))
        reading: while true {
            switch try log.readBlocking(place, at: next, .written) {
            case .block(let block, let index):
                for record in index..<block.recordCount { check(block.payload(record), &result) }
                next = block.endOffset
            case .atEnd, .onDisk: break reading
            case .expired(let oldest): throw DrillError("records \(next)..<\(oldest) are gone")
            case .damaged(_, let reason): throw DrillError("the log is damaged at \(next): \(reason)")
            }
        }
        try log.close()
    }

    private mutating func check(_ update: UnsafeRawBufferPointer, _ result: inout KillDrill.Result) {
        guard let identity = TickIdentity(update) else { return }
        digests[identity] = UInt64(Checksum.crc32c(update))
        if let before = last[identity.line], before.epoch == identity.epoch {
            if identity.sequence <= before.sequence { result.duplicated += 1 }
            if identity.sequence > before.sequence + 1 { result.gaps += 1 }
        } else if identity.sequence != 1 {
            result.gaps += 1
        }
        last[identity.line] = (identity.epoch, identity.sequence)
    }
}
