// The drill `slow-clients`: 64 clients of everything, of which 55 read, 8 read one byte of a hundred, and one never
// reads. Those that read must lose nothing; each slow one must be told what it missed, and get it when it asks. How
// long updates take to the 55 is held against windows in which the other nine read promptly too.

import EventLoop
import GRPC
import Glibc
import MarketProto
import Protobuf
import Synchronization
import TapedeckClient
import TickCodec

/// Slow readers beside prompt ones on a running platform.
public struct SlowClientDrill: Sendable {
    /// What the drill works with.
    public struct Setup: Sendable {
        /// The binary, and a data directory of the drill's own.
        public var program: String
        public var directory: String
        /// Messages of the simulated venue per second.
        public var rate: Int
        /// Windows with prompt and with slow readers, in turn; and how long each is.
        public var rounds: Int
        public var windowSeconds: Int
        public var seed: UInt64

        public init(program: String, directory: String, rate: Int, rounds: Int, windowSeconds: Int, seed: UInt64) {
            self.program = program
            self.directory = directory
            self.rate = rate
            self.rounds = rounds
            self.windowSeconds = windowSeconds
            self.seed = seed
        }
    }

    /// What it found.
    public struct Result: Sendable {
        /// Updates that prompt readers received, those missing between them, and those that came twice.
        public var received: UInt64 = 0
        public var lost: UInt64 = 0
        public var repeated: UInt64 = 0
        /// From the event at the venue to 55 readers, in microseconds, where all 64 are prompt, and where nine are
        /// slow: a value for each window.
        public var promptP99: [Double] = []
        public var besideP99: [Double] = []
        /// Slow readers under LATEST: updates that they missed, and how many of these `Fill` brought.
        public var missed: UInt64 = 0
        public var filled: UInt64 = 0
        /// Sequences that were neither sent nor accounted for, or sent twice.
        public var unaccounted: UInt64 = 0
        /// Slow readers under ALL: ends with a token and READER_TOO_SLOW, other ends, and sequences lost when they went
        /// on from the token.
        public var endsTold = 0
        public var endsOther = 0
        public var lostOnResume: UInt64 = 0
        /// What kept the drill from showing what it is to show.
        public var problems: [String] = []
        /// Bytes that the edge's streams held for readers at most, all together and one.
        public var heldBytesMax = 0.0
        public var heldBytesOfOneMax = 0.0
        /// Resident memory of the process at the end of each window. The log's and the store's fill up meanwhile.
        public var promptResidentBytes: [Double] = []
        public var besideResidentBytes: [Double] = []
        /// What the streams may hold together.
        public var heldBytesBound = 0.0

        public var passed: Bool {
            received > 0 && lost == 0 && repeated == 0 && unaccounted == 0 && lostOnResume == 0 && endsOther == 0
                && endsTold > 0 && problems.isEmpty && missed > 0 && missed == filled && heldBytesMax <= heldBytesBound
        }
    }

    static let promptCount = 55
    static let slowOfEachKind = 4
    /// Some under LATEST, some under ALL, and one that never reads.
    static let slowCount = 2 * slowOfEachKind + 1
    /// `--reader-lag-mb` of the platform: small enough that slow readers under ALL reach it.
    private static let lagMiB = 1
    /// What one stream may hold: under LATEST 64 KiB wait and a message is being sent, in memory at most three times as
    /// large and a quarter of a MiB; under ALL a block of the log.
    private static let heldBytesOfOneMax = Double(3 * (64 + 17) << 10 + 256 << 10)

    private let setup: Setup

    public init(_ setup: Setup) { self.setup = setup }

    /// Carries the drill out; `progress` takes a line per window. Throws ``DrillError``.
    public func run(progress: (String) -> Void) throws -> Result {
        let platform = try StartedPlatform(
            program: setup.program, directory: setup.directory,
            arguments: [
                "--rate", "\(setup.rate)", "--seed", "\(setup.seed)", "--reader-lag-mb", "\(SlowClientDrill.lagMiB)",
            ])
        defer { platform.stop(kill: false) }
        let loops = EventLoopGroup(count: 2)
        let page = try MetricsPage(platform.metrics, on: loops.loops[1])
        var channels: [GRPCChannel] = []
        defer { for channel in channels { channel.close() } }
        var prompt: [PromptReader] = []
        for _ in 0..<SlowClientDrill.promptCount {
            let channel = try GRPCChannel(target: platform.address, loop: loops.loops[0])
            channels.append(channel)
            prompt.append(PromptReader(channel))
        }
        Drill.pause(milliseconds: 2000)
        var result = Result()
        let readers = Double(SlowClientDrill.promptCount + SlowClientDrill.slowCount)
        result.heldBytesBound = readers * SlowClientDrill.heldBytesOfOneMax
        for round in 1...max(1, setup.rounds) {
            let others = try (0..<SlowClientDrill.slowCount).map { _ in
                try GRPCChannel(target: platform.address, loop: loops.loops[0])
            }
            let more = others.map { PromptReader($0) }
            Drill.pause(milliseconds: 1000)
            let allPrompt = window(prompt, page, &result)
            for reader in more { reader.count(into: &result) }
            for channel in others { channel.close() }
            let slow = try SlowReaders(platform.address, loops.loops[1], prompt[0])
            let beside = window(prompt, page, &result)
            slow.finish(into: &result)
            result.promptP99.append(allPrompt.p99)
            result.besideP99.append(beside.p99)
            result.promptResidentBytes.append(allPrompt.residentBytes)
            result.besideResidentBytes.append(beside.residentBytes)
            progress(
                "slow-clients: round \(round) of \(setup.rounds): p99 \(Int(allPrompt.p99)) us all prompt, "
                    + "\(Int(beside.p99)) us beside, \(result.missed) missed, \(result.filled) filled, "
                    + "\(result.endsTold) ends told"
            )
        }
        for reader in prompt { reader.count(into: &result) }
        return result
    }

    /// The 99th percentile over all prompt readers in one window, in microseconds, and the process's memory at its end.
    private func window(
        _ prompt: [PromptReader], _ page: MetricsPage, _ result: inout Result
    ) -> (p99: Double, residentBytes: Double) {
        var resident = 0.0
        for reader in prompt { _ = reader.takeLatencies() }
        for _ in 0..<(setup.windowSeconds * 2) {
            Drill.pause(milliseconds: 500)
            let sums = page.read()
            result.heldBytesMax = max(result.heldBytesMax, sums["tapedeck_edge_held_bytes"] ?? 0)
            result.heldBytesOfOneMax = max(result.heldBytesOfOneMax, sums["tapedeck_edge_held_bytes_max"] ?? 0)
            resident = sums["process_resident_memory_bytes"] ?? resident
        }
        var all = LatencyCounts()
        for reader in prompt { all.add(reader.takeLatencies()) }
        return (all.percentile(0.99), resident)
    }
}

/// How many updates took how long, in steps of a hundredth.
struct LatencyCounts: Sendable {
    private static let stepsPerOctave = 64.0
    private var counts = [UInt64](repeating: 0, count: 64 * 40)
    private var total: UInt64 = 0

    mutating func add(ns: Int64) {
        let octaves = log2(Double(max(1, ns)))
        counts[min(counts.count - 1, Int(octaves * LatencyCounts.stepsPerOctave))] += 1
        total += 1
    }

    mutating func add(_ other: LatencyCounts) {
        for index in counts.indices { counts[index] += other.counts[index] }
        total += other.total
    }

    /// In microseconds; 0 where there is none.
    func percentile(_ share: Double) -> Double {
        var left = Double(total) * share
        for (index, count) in counts.enumerated() where count > 0 {
            left -= Double(count)
            if left <= 0 { return exp2((Double(index) + 0.5) / LatencyCounts.stepsPerOctave) / 1000 }
        }
        return 0
    }
}

/// A reader that takes everything at once: counts what is missing and how long each update took.
final class PromptReader: GRPCCallOwner, Sendable {
    private struct State {
        var last: [UInt64: (epoch: UInt64, sequence: UInt64)] = [:]
        var latencies = LatencyCounts()
        var received: UInt64 = 0
        var lost: UInt64 = 0
        var repeated: UInt64 = 0
        var bytes = 0
        var hasEnded = false
    }

    private let state = Mutex(State())

    init(_ channel: GRPCChannel) {
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        let request = subscription.encodedBytes()
        channel.call(path: Proto.MarketDataService.streamPrices.path, owner: self) { call in
            call.send(request)
            call.halfClose()
        }
    }

    func received(metadata: GRPCMetadata) {}

    func received(frames: UnsafeRawBufferPointer) {
        let nowNs = Drill.wallNs()
        nonisolated(unsafe) let frames = frames
        state.withLock { state in
            state.bytes += frames.count
            for update in MessageSequence(frames: frames) {
                guard let reader = try? TickReader(update) else { continue }
                state.received += 1
                if let event = reader.eventTimeNs { state.latencies.add(ns: nowNs - event) }
                guard let identity = TickIdentity(update) else { continue }
                if let last = state.last[identity.line], last.epoch == identity.epoch {
                    if identity.sequence <= last.sequence { state.repeated += 1 }
                    if identity.sequence > last.sequence + 1 { state.lost += identity.sequence - last.sequence - 1 }
                }
                state.last[identity.line] = (identity.epoch, identity.sequence)
            }
        }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { state.withLock { $0.hasEnded = true } }

    /// Bytes received so far: what a slow reader compares itself with.
    var bytes: Int { state.withLock { $0.bytes } }

    func takeLatencies() -> LatencyCounts {
        state.withLock { state in
            defer { state.latencies = LatencyCounts() }
            return state.latencies
        }
    }

    /// A stream that ended has lost what came after.
    func count(into result: inout SlowClientDrill.Result) {
        state.withLock { state in
            result.received += state.received
            result.lost += state.lost + (state.hasEnded ? 1 : 0)
            result.repeated += state.repeated
        }
    }
}
