import EventLog
import EventLoop
import TickCodec
import TickStore

/// A feed and writers on the cluster of a drill, and what is known of them. One thread's.
final class DrilledCluster {
    let setup: ClusterDrill.Setup
    let progress: (String) -> Void
    var result = ClusterDrill.Result()
    var random: SplitMix64
    /// Never reads records, so that the brokers are asked for each end.
    let log: any EventLog
    private(set) var feed: StartedService?
    private(set) var writers: [StartedService] = []
    private let loop = EventLoop(name: "drill")
    private let store: any TickStore
    private let startNs = Drill.wallNs()

    init(_ setup: ClusterDrill.Setup, _ progress: @escaping (String) -> Void) throws {
        self.setup = setup
        self.progress = progress
        random = SplitMix64(seed: setup.seed)
        log = try setup.openLog()
        store = try setup.openStore(log)
    }

    /// Ends everything that still runs.
    func end() {
        writers = []
        feed = nil
        try? store.close()
        try? log.close()
        loop.stop()
    }

    var places: [TopicPartition] {
        (0..<log.partitionCount(.ticksRaw)).map { TopicPartition(.ticksRaw, UInt16(clamping: $0)) }
    }

    func problem(_ text: String) {
        progress("WRONG: \(text)")
        result.problems.append(text)
    }

    /// A moment between two, by the drill's seed.
    func pause(milliseconds range: ClosedRange<Int>) {
        Drill.pause(milliseconds: Int32(range.lowerBound + Int(random.next() % UInt64(range.count))))
    }

    func run(_ hook: String?) throws(DrillError) {
        guard let hook else { return }
        try EngineCommand.run(hook, messages: setup.directory + "/engine.log")
    }

    // MARK: Feed

    /// `rate`: other than the drill's.
    func startFeed(rate: Int? = nil) throws {
        feed = try StartedService(
            "feed", program: setup.program, directory: setup.directory,
            arguments: ["feed", "--rate", "\(rate ?? setup.rate)", "--data", setup.directory + "/feed"]
                + setup.arguments,
            on: loop)
    }

    /// In order: what it published is acknowledged then. What its figures were last.
    @discardableResult
    func stopFeed() throws -> [String: Double] {
        guard let feed else { return [:] }
        let figures = feed.read()
        if let failed = figures["kafka_produce_errors_total"], failed > 0 {
            result.lost += Int(failed)
            problem("the feed gave up \(Int(failed)) records")
        }
        if let lost = figures["tapedeck_spill_records_total"], lost > 0 {
            progress("\(Int(lost)) records spilled and drained, together")
        }
        try feed.stop()
        self.feed = nil
        return figures
    }

    // MARK: Writers

    @discardableResult
    func startWriter(_ name: String, _ arguments: [String] = []) throws -> StartedService {
        let writer = try StartedService(
            name, program: setup.program, directory: setup.directory,
            arguments: ["writer", "--store", "cassandra", "--data", setup.directory + "/" + name] + setup.arguments
                + arguments, on: loop)
        writers.append(writer)
        return writer
    }

    /// An edge that serves what comes from now on.
    func startEdge() throws -> StartedService {
        try StartedService(
            "edge", program: setup.program, directory: setup.directory,
            arguments: ["edge", "--listen", "127.0.0.1:0", "--history-minutes", "0"] + setup.arguments, on: loop)
    }

    /// It is none of the drill's writers any more.
    func forget(_ writer: StartedService) { writers.removeAll { $0 === writer } }

    /// Rows that a writer stored since its start; nil while it does not answer.
    func rows(_ writer: StartedService) -> Double? {
        let figures = writer.read()
        if let bytes = figures["process_resident_memory_bytes"] {
            result.residentBytesMost = max(result.residentBytesMost, bytes)
        }
        return figures["tapedeck_writer_rows_total"]
    }

    /// Waits until a writer has stored more rows than before.
    func waitForRows(_ writer: StartedService, after: Double = 0, seconds: Int = 90) throws {
        try wait("\(writer.name) stores no rows", seconds: seconds) {
            guard writer.isRunning else {
                throw DrillError("\(writer.name) ended by itself; its messages are in \(writer.messages)")
            }
            return rows(writer).map { $0 > after } ?? false
        }
    }

    /// Waits, and fails the drill where it does not come.
    func wait(_ what: String, seconds: Int, until condition: () throws -> Bool) throws {
        let deadline = Drill.monotonicNs() + Int64(seconds) * 1_000_000_000
        while try !condition() {
            guard Drill.monotonicNs() < deadline else { throw DrillError("\(what) within \(seconds) s") }
            Drill.pause(milliseconds: 50)
        }
    }

    // MARK: Offsets

    /// How far the store is by its own offsets.
    func storedOffset(_ place: TopicPartition) throws -> UInt64 {
        // Not what was known by heart.
        try store.release(place)
        return try store.nextOffset(place) ?? 0
    }

    /// What a broker or a node that was away just now cannot say yet is asked again.
    private func ends(seconds: Int) throws -> [TopicPartition: UInt64] {
        var ends: [TopicPartition: UInt64] = [:]
        try wait("the brokers do not say where the log ends", seconds: seconds) {
            do throws(LogError) {
                for place in places where ends[place] == nil { ends[place] = try log.offset(of: .latest, in: place) }
                return true
            } catch {
                guard error.retryable else { throw error }
                return false
            }
        }
        return ends
    }

    private func isStored(_ place: TopicPartition, _ end: UInt64) throws -> Bool {
        do throws(StoreError) {
            try store.release(place)
            return try store.nextOffset(place) ?? 0 >= end
        } catch {
            guard error.retryable else { throw error }
            return false
        }
    }

    /// Waits until every record that the log has now is stored. Returns the seconds that it took.
    @discardableResult
    func waitUntilStored(seconds: Int = 180) throws -> Double {
        let from = Drill.monotonicNs()
        var open = try ends(seconds: 60)
        try wait("the store does not catch up with the log", seconds: seconds) {
            for writer in writers {
                guard writer.isRunning else {
                    throw DrillError("\(writer.name) ended by itself; its messages are in \(writer.messages)")
                }
                _ = rows(writer)
            }
            for (place, end) in open where try isStored(place, end) { open[place] = nil }
            return open.isEmpty
        }
        return Double(Drill.monotonicNs() - from) / 1e9
    }

    /// While no writer runs: nothing below the offsets may be missing, neither the store's nor the group's.
    func checkOffsets(since fromNs: Int64) throws {
        let log = try setup.openLog()
        defer { try? log.close() }
        let store = try setup.openStore(log)
        defer { try? store.close() }
        for place in places {
            let stored = try store.nextOffset(place) ?? 0
            let committed = try log.committedOffset(group: "cassandra-writer", place) ?? 0
            if committed > stored {
                problem("the group is at \(committed) of \(place), and the store only at \(stored)")
            }
        }
        let found = try setup.compare(log, store, fromNs)
        if found.missing + found.different > 0 {
            problem("offsets passed \(found.missing) ticks that are not stored, and \(found.different) that differ")
        }
    }

    /// Ends feed and writers in order once all is stored, and holds log and store against each other.
    func finish(expired: Bool = false) throws {
        try stopFeed()
        try waitUntilStored()
        for writer in writers { try writer.stop() }
        writers = []
        let log = try setup.openLog()
        defer { try? log.close() }
        let tape = try DrilledTape.read(log, expired: expired)
        result.repeatedInLog = tape.repeated
        if tape.missing > 0 {
            result.lost += tape.missing
            problem("\(tape.missing) ticks that the feed published are not in the log")
        }
        let store = try setup.openStore(log)
        defer { try? store.close() }
        let found = try setup.compare(log, store, .min)
        result.ticks = found.ticks
        result.lost += found.missing + found.pending
        result.duplicated += found.extra
        if found.different > 0 { problem("\(found.different) rows are not what the log has") }
        if found.missing + found.pending + found.extra > 0 { result.problems += found.lines }
        if result.residentBytesMost > setup.residentBytesMax {
            problem("a writer took \(Int(result.residentBytesMost) >> 20) MiB")
        }
    }
}

/// Whether every instrument's sequence in the log is whole.
struct DrilledTape {
    var records = 0
    /// Sequences below an instrument's last that are not there.
    var missing = 0
    /// Sequences that are there again.
    var repeated = 0

    private struct Line: Hashable {
        let line: UInt64
        let epoch: UInt64
    }

    /// `expired`: the first records are gone by intent, and an instrument may begin anywhere.
    static func read(_ log: any EventLog, expired: Bool) throws -> DrilledTape {
        var tape = DrilledTape()
        var last: [Line: UInt64] = [:]
        var absent: Set<[UInt64]> = []
        for number in 0..<log.partitionCount(.ticksRaw) {
            let place = TopicPartition(.ticksRaw, UInt16(clamping: number))
            var next = try log.offset(of: .earliest, in: place)
            reading: while true {
                switch try log.readBlocking(place, at: next, .durable) {
                case .block(let block, let index):
                    for record in index..<block.recordCount {
                        guard let tick = TickIdentity(valid: block.payload(record)) else { continue }
                        tape.records += 1
                        let line = Line(line: tick.line, epoch: tick.epoch)
                        let before = last[line] ?? (expired ? max(tick.sequence, 1) - 1 : 0)
                        if tick.sequence > before {
                            for sequence in (before + 1)..<tick.sequence {
                                absent.insert([line.line, line.epoch, sequence])
                            }
                            last[line] = tick.sequence
                        } else if absent.remove([line.line, line.epoch, tick.sequence]) == nil {
                            tape.repeated += 1
                        }
                    }
                    next = block.endOffset
                case .atEnd, .onDisk: break reading
                case .expired(let oldest): next = max(oldest, next + 1)
                case .damaged(_, let reason): throw DrillError("the log is damaged at \(next) of \(place): \(reason)")
                }
            }
        }
        tape.missing = absent.count
        return tape
    }
}

extension TickIdentity {
    /// nil for bytes that are no tick that a store would take.
    fileprivate init?(valid update: UnsafeRawBufferPointer) {
        guard let reader = try? TickReader(update), (try? reader.check()) != nil, !reader.exchange.isEmpty,
            !reader.symbol.isEmpty
        else { return nil }
        self.init(update)
    }
}
