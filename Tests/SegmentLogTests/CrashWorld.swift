import EventLog
import SegmentLog
import Simulation

/// A log on a simulated disk, and beside it what must be true of it: every append in order, how many were acknowledged
/// as durable, and how many any reader may have seen.
final class CrashWorld {
    struct Record: Hashable, CustomStringConvertible {
        var symbol: String
        var feed: String
        var epoch: UInt64
        var sequence: UInt64
        var description: String { feed + "|" + symbol + "|" + String(epoch) + "|" + String(sequence) }
    }

    struct Appended {
        var records: [TopicPartition: [Record]] = [:]
        var groups: [GroupOffset] = []
        /// Over both streams.
        var commitNumber = 0
    }

    struct Stream {
        var appends: [Appended] = []
        /// How many of them are acknowledged as durable, and as written.
        var durableCount = 0
        var writtenCount = 0
    }

    struct Violation: Error, CustomStringConvertible {
        let description: String
    }

    let disk: SimulatedDisk
    let time = VirtualTime()
    var random: SeededRandom
    var log: SegmentLog?
    var streams: [DurabilityClass: Stream] = [.ticks: Stream(), .orders: Stream()]
    var epochs: [String: UInt64] = [:]
    var sequences: [String: UInt64] = [:]
    var commitCount = 0
    var generation: UInt32 = 1
    /// The highest sequence that a reader may have seen, by instrument and epoch.
    var seen: [String: UInt64] = [:]
    var crashCount = 0
    var lossCount = 0

    static let places: [DurabilityClass: [TopicPartition]] = [
        .ticks: [TopicPartition(.ticksRaw, 0), TopicPartition(.ticksRaw, 1), TopicPartition(.booksDeltas, 0)],
        .orders: [TopicPartition(.ordersCommands, 0), TopicPartition(.tradesExecuted, 1)],
    ]

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        disk = SimulatedDisk(seed: seed ^ 0x5eed)
    }

    func configuration() -> SegmentLog.Configuration {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.segmentBytes = 6 << 10
        configuration.tipBytes = 2 << 10
        configuration.cacheBytes = 4 << 10
        configuration.partitionCountDefault = 2
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        return configuration
    }

    func require(_ condition: Bool, _ what: @autoclosure () -> String) throws {
        if !condition { throw Violation(description: what()) }
    }

    // MARK: Running

    /// Runs until the disk goes down or `steps` are over.
    func run(steps: Int) throws {
        for _ in 0..<steps {
            guard let log, !disk.isDown else { return }
            time.advance(ns: Int64.random(in: 0..<5_000_000, using: &random))
            switch Int.random(in: 0..<20, using: &random) {
            case 0..<11: appendSome(log, .ticks)
            case 11..<15: appendSome(log, .orders)
            case 15, 16: pump(log)
            case 17: commitSome(log)
            default: try readSome(log)
            }
            if let failure = log.failure, !disk.isDown { throw Violation(description: "failed while up: \(failure)") }
        }
    }

    private func appendSome(_ log: SegmentLog, _ durability: DurabilityClass) {
        var appended = Appended()
        var blocks: [Block] = []
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            let place = CrashWorld.places[durability]!.randomElement(using: &random)!
            let (block, records) = makeRandomBlock(place)
            blocks.append(block)
            appended.records[place, default: []] += records
        }
        if random.once(in: 4) { appended.groups = someGroups(log) }
        let count = streams[durability]!.appends.count
        commitCount += 1
        appended.commitNumber = commitCount
        streams[durability]!.appends.append(appended)
        do {
            try log.append(blocks, consumed: appended.groups)
            streams[durability]!.writtenCount = count + 1
            if durability == .orders { streams[durability]!.durableCount = count + 1 }
            for (place, records) in appended.records {
                for record in records {
                    let name = "\(place)|\(record.feed)|\(record.symbol)|\(record.epoch)"
                    seen[name] = max(seen[name] ?? 0, record.sequence)
                }
            }
        } catch {
            // Undecided: the next start says whether it is there.
        }
    }

    private func makeRandomBlock(_ place: TopicPartition) -> (Block, [Record]) {
        let builder = BlockBuilder(place)
        var records: [Record] = []
        var keys: [String: Int] = [:]
        for _ in 0..<Int.random(in: 1...12, using: &random) {
            let symbol = ["A", "B", "C"].randomElement(using: &random)!
            let feed = random.once(in: 4) ? "g" : "f"
            let name = "\(place)|\(feed)|\(symbol)"
            if random.once(in: 40) {
                epochs[name, default: 1] += 1
                sequences[name] = 0
            }
            sequences[name, default: 0] += 1
            let record = Record(symbol: symbol, feed: feed, epoch: epochs[name, default: 1], sequence: sequences[name]!)
            let key = keys[name] ?? builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: feed))
            keys[name] = key
            let text = Array("\(record)".utf8)
            text.withUnsafeBytes {
                builder.append(key: key, epoch: record.epoch, sequence: record.sequence, payload: $0)
            }
            records.append(record)
        }
        return (builder.build(), records)
    }

    private func someGroups(_ log: SegmentLog) -> [GroupOffset] {
        let place = CrashWorld.places[Bool.random(using: &random) ? .ticks : .orders]!.randomElement(using: &random)!
        let end = log.endOffset(place, .written)
        let offset = UInt64.random(in: 0...end, using: &random)
        return [GroupOffset(group: ["w", "x"].randomElement(using: &random)!, place: place, offset: offset)]
    }

    private func commitSome(_ log: SegmentLog) {
        commitCount += 1
        let appended = Appended(groups: someGroups(log), commitNumber: commitCount)
        let count = streams[.orders]!.appends.count
        streams[.orders]!.appends.append(appended)
        guard (try? log.commit(appended.groups)) != nil else { return }
        streams[.orders]!.writtenCount = count + 1
        streams[.orders]!.durableCount = count + 1
    }

    private func pump(_ log: SegmentLog) {
        let written = streams[.ticks]!.writtenCount
        if (try? log.pump()) != nil { streams[.ticks]!.durableCount = written }
    }

    private func readSome(_ log: SegmentLog) throws {
        let durability: DurabilityClass = Bool.random(using: &random) ? .ticks : .orders
        let place = CrashWorld.places[durability]!.randomElement(using: &random)!
        try checkRecords(log, place, expected(durability, place, streams[durability]!.writtenCount), .written)
    }

    // MARK: Checking

    func expected(_ durability: DurabilityClass, _ place: TopicPartition, _ count: Int) -> [Record] {
        streams[durability]!.appends[..<count].flatMap { $0.records[place] ?? [] }
    }

    /// All of a place, through memory and files; offsets, payloads, sequences and the chain of each instrument.
    func checkRecords(_ log: SegmentLog, _ place: TopicPartition, _ expected: [Record], _ visibility: Visibility) throws
    {
        var offset: UInt64 = 0
        var last: [String: UInt64] = [:]
        while true {
            guard case .block(let block, let index) = try log.readBlocking(place, at: offset, visibility) else { break }
            try require(index == 0 && block.firstOffset == offset, "\(place) \(offset) begins inside a block")
            var inBlock: [String: UInt64] = [:]
            for number in 0..<block.recordCount {
                let at = Int(block.firstOffset) + number
                try require(at < expected.count, "\(place) has a record \(at) that was never appended")
                let record = expected[at]
                let track = block.track(of: number)
                let found = Record(
                    symbol: block.symbol(track: track), feed: block.feed(track: track),
                    epoch: block.epoch(track: track),
                    sequence: block.sequence(of: number))
                try require(found == record, "\(place) \(at): \(found), not \(record)")
                try require(
                    String(decoding: block.payload(number), as: UTF8.self) == "\(record)",
                    "\(place) \(at): wrong payload")
                let name = record.feed + "|" + record.symbol
                try require(
                    block.previousOffset(track: track) == last[name] ?? Block.noOffset,
                    "\(place) \(at): previous offset \(block.previousOffset(track: track)), not \(last[name] ?? 0)")
                inBlock[name] = UInt64(at)
            }
            last.merge(inBlock) { $1 }
            offset = block.endOffset
        }
        let end = log.endOffset(place, visibility)
        try require(offset == end, "\(place): reading stopped at \(offset), the end is \(end)")
        try require(Int(end) <= expected.count, "\(place): the end is \(end), \(expected.count) were appended")
        if visibility == .written {
            try require(Int(end) == expected.count, "\(place): the end is \(end), \(expected.count) were acknowledged")
        }
    }

    /// Starts the log and holds it against everything that was appended before.
    func start(after crash: SimulatedDisk.Crash?) throws {
        let log = try SegmentLog(disk: disk, time: time, configuration: configuration())
        self.log = log
        var lostVisible = false
        for durability in DurabilityClass.allCases {
            let stream = streams[durability]!
            let kept = try keptCount(log, durability)
            try require(
                kept >= stream.durableCount, "\(durability): \(kept) appends left of \(stream.durableCount) durable")
            if crash != .powerLoss {
                try require(
                    kept >= stream.writtenCount, "\(durability): \(kept) appends left of \(stream.writtenCount) written"
                )
            }
            if kept < stream.writtenCount { lostVisible = true }
            streams[durability]!.appends.removeLast(stream.appends.count - kept)
            streams[durability]!.durableCount = kept
            streams[durability]!.writtenCount = kept
            for place in CrashWorld.places[durability]! {
                try checkRecords(log, place, expected(durability, place, kept), .written)
                try checkRecords(log, place, expected(durability, place, kept), .durable)
                try checkLastPlaces(log, place, durability)
            }
        }
        try checkGroups(log)
        try checkIdentity(log, lostVisible: lostVisible, crash: crash)
        try resumeSequences(log)
        if lostVisible { lossCount += 1 }
    }

    /// How many appends the log has: the prefix whose ends are the log's. There must be one, since an append is whole
    /// or absent.
    private func keptCount(_ log: SegmentLog, _ durability: DurabilityClass) throws -> Int {
        let places = CrashWorld.places[durability]!
        let ends = places.map { Int(log.endOffset($0, .durable)) }
        var counts = places.map { _ in 0 }
        var matching: [Int] = counts == ends ? [0] : []
        for (number, append) in streams[durability]!.appends.enumerated() {
            for (index, place) in places.enumerated() { counts[index] += append.records[place]?.count ?? 0 }
            if counts == ends { matching.append(number + 1) }
        }
        // Appends of group offsets alone change no end; the durable ones must be there.
        guard let last = matching.last else {
            throw Violation(description: "\(durability): ends \(ends) are those of no prefix of the appends")
        }
        let floor = max(streams[durability]!.durableCount, matching[0])
        return matching.contains(floor) ? groupsDecide(log, durability, matching.filter { $0 >= floor }) : last
    }

    /// Among prefixes with the same records: the longest whose group offsets are all there.
    private func groupsDecide(_ log: SegmentLog, _ durability: DurabilityClass, _ candidates: [Int]) -> Int {
        for count in candidates.reversed() {
            var ours = streams
            ours[durability]!.appends.removeLast(ours[durability]!.appends.count - count)
            let wanted = CrashWorld.groups(ours)
            if wanted.allSatisfy({ log.committedOffset(group: $0.key.group, $0.key.place) == $0.value.offset }) {
                return count
            }
        }
        return candidates[0]
    }

    struct GroupKey: Hashable {
        var group: String
        var place: TopicPartition
    }

    static func groups(_ streams: [DurabilityClass: Stream]) -> [GroupKey: (offset: UInt64, commit: Int)] {
        var groups: [GroupKey: (offset: UInt64, commit: Int)] = [:]
        for stream in streams.values {
            for append in stream.appends {
                for group in append.groups {
                    let key = GroupKey(group: group.group, place: group.place)
                    if groups[key].map({ $0.commit < append.commitNumber }) ?? true {
                        groups[key] = (group.offset, append.commitNumber)
                    }
                }
            }
        }
        return groups
    }

    private func checkGroups(_ log: SegmentLog) throws {
        for (key, wanted) in CrashWorld.groups(streams) {
            let found = log.committedOffset(group: key.group, key.place)
            try require(found == wanted.offset, "group \(key): \(String(describing: found)), not \(wanted.offset)")
            try require(wanted.offset <= log.endOffset(key.place, .durable), "group \(key) stands past the end")
        }
    }

    private func checkLastPlaces(_ log: SegmentLog, _ place: TopicPartition, _ durability: DurabilityClass) throws {
        guard place.topic != .ticksRaw else { return }  // Two partitions; the others have one in use.
        var last: [String: (Int, Record)] = [:]
        for (offset, record) in expected(durability, place, streams[durability]!.appends.count).enumerated() {
            last[record.feed + "|" + record.symbol] = (offset, record)
        }
        for (offset, record) in last.values {
            let found = log.lastPlace(place.topic, feed: record.feed, exchange: "X", symbol: record.symbol)
            try require(
                found?.offset == UInt64(offset) && found?.epoch == record.epoch && found?.sequence == record.sequence,
                "last place of \(record): \(String(describing: found)), not offset \(offset)")
        }
        try require(log.lastPlaces(place.topic).count == last.count, "\(place): wrong number of last places")
    }

    private func checkIdentity(_ log: SegmentLog, lostVisible: Bool, crash: SimulatedDisk.Crash?) throws {
        if crash == nil { try require(log.identity.generation == generation, "a clean stop is a new generation") }
        if lostVisible { try require(!log.isContinuous, "continuous, though records that readers saw are gone") }
        guard !log.isContinuous else {
            try require(log.identity.generation == generation, "a new generation without a reason")
            return
        }
        // A start that itself crashed may have begun one too.
        try require(log.identity.generation >= generation, "the generation went back")
        if lostVisible { try require(log.identity.generation > generation, "no new generation") }
        if log.identity.generation == generation { return }
        generation = log.identity.generation
        guard let cut = log.identity.cuts.last, cut.generation == generation else {
            throw Violation(description: "the generation has no cut")
        }
        for place in CrashWorld.places.values.joined() {
            try require(cut.ends[place] ?? 0 == log.endOffset(place, .written), "the cut of \(place) is not its end")
        }
    }

    /// As feeds do: go on with the last sequence, or begin a new epoch that was never used.
    private func resumeSequences(_ log: SegmentLog) throws {
        for durability in DurabilityClass.allCases {
            for place in CrashWorld.places[durability]! {
                let records = expected(durability, place, streams[durability]!.appends.count)
                for symbol in ["A", "B", "C"] {
                    for feed in ["f", "g"] {
                        let name = "\(place)|\(feed)|\(symbol)"
                        let last = log.lastPlace(place.topic, feed: feed, exchange: "X", symbol: symbol)
                        guard let record = records.last(where: { $0.symbol == symbol && $0.feed == feed }),
                            let last, last.place == place, last.generation == log.identity.generation
                        else {
                            try require(
                                durability == .orders || !log.isContinuous || last?.place != place,
                                "continuous, but not for \(name)")
                            epochs[name, default: 1] += 1
                            sequences[name] = 0
                            continue
                        }
                        let highest = seen["\(name)|\(record.epoch)"] ?? 0
                        try require(
                            highest <= record.sequence, "\(name) goes on at \(record.sequence), \(highest) was seen")
                        epochs[name] = record.epoch
                        sequences[name] = record.sequence
                    }
                }
            }
        }
    }
}
