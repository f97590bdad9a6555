import EventLog
import EventLoop
import Glibc
import MarketProto
import Protobuf

/// What happens to records: gone before they were stored, none of their topic's, filed by a clock that is wrong.
struct RecordDrills {
    private let cluster: DrilledCluster

    init(_ cluster: DrilledCluster) { self.cluster = cluster }

    private static let group = "cassandra-writer"

    // MARK: retention

    /// Records that nobody stored are removed: the writer stops and names them, moves nothing, and goes on behind them
    /// only when it is told to.
    func retention() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.waitForRows(writer)
        try cluster.waitUntilStored()
        try writer.stop()
        cluster.forget(writer)
        Drill.pause(milliseconds: 2000)
        try cluster.stopFeed()
        let gone = try remove()
        let names = gone.map { "\($0.value.lowerBound)..<\($0.value.upperBound) of \($0.key)" }
        cluster.progress("removed from the log: \(names.sorted().joined(separator: ", "))")
        try refuse(names)
        for (place, range) in gone where try cluster.storedOffset(place) != range.lowerBound {
            cluster.problem("the writer stopped, and yet the offset of \(place) is no longer \(range.lowerBound)")
        }
        let fromNs = Drill.monotonicNs()
        let skipping = try cluster.startWriter("writer", ["--instance", "drill-writer", "--lost-records", "skip"])
        try cluster.waitUntilStored()
        cluster.result.recoverySeconds = Double(Drill.monotonicNs() - fromNs) / 1e9
        let lost = skipping.read()["tapedeck_writer_records_lost_total"] ?? 0
        let removed = gone.values.reduce(0) { $0 + $1.count }
        if Int(lost) != removed { cluster.problem("\(removed) records are gone, and the writer counted \(Int(lost))") }
        try cluster.finish(expired: true)
    }

    /// Half of what is not stored of each partition, which becomes the log's start; what is gone.
    private func remove() throws -> [TopicPartition: Range<UInt64>] {
        var gone: [TopicPartition: Range<UInt64>] = [:]
        for place in cluster.places {
            let stored = try cluster.storedOffset(place)
            let end = try cluster.log.offset(of: .latest, in: place)
            guard end > stored + 1 else { continue }
            gone[place] = stored..<stored + (end - stored) / 2
        }
        guard !gone.isEmpty else { throw DrillError("the feed published nothing while the writer was down") }
        try cluster.setup.removeRecords(gone.mapValues(\.upperBound))
        return gone
    }

    /// A writer must stop with one of these names.
    private func refuse(_ names: [String]) throws {
        let writer = try cluster.startWriter("writer-stops", ["--instance", "drill-writer"])
        guard let status = writer.waitForEnd(withinSeconds: 60) else {
            cluster.problem("the writer goes on where records are gone")
            return try writer.kill()
        }
        cluster.forget(writer)
        if status != 1 { cluster.problem("the writer ended with \(status), not 1") }
        let text = DrillFile.text(writer.messages)
        if !names.contains(where: { text.contains("records \($0) are gone") }) {
            cluster.problem("the writer did not say which records are gone; its messages are in \(writer.messages)")
        }
    }

    // MARK: poison

    /// Records that are none among ticks, with a kill of the writer between.
    func poison() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.waitForRows(writer)
        var sent: [[UInt8]] = []
        for round in 1...cluster.setup.rounds {
            for place in cluster.places {
                let values = RecordDrills.poison(&cluster.random)
                try append(values, place)
                sent += values
            }
            cluster.progress("round \(round): \(sent.count) records that are no ticks")
            if round == (cluster.setup.rounds + 1) / 2 {
                cluster.pause(milliseconds: 1...300)
                let fromNs = Drill.monotonicNs()
                try writer.kill()
                cluster.forget(writer)
                let again = try cluster.startWriter("writer", ["--instance", "drill-writer"])
                try cluster.waitForRows(again)
                cluster.result.recoverySeconds = Double(Drill.monotonicNs() - fromNs) / 1e9
            }
            cluster.pause(milliseconds: 50...400)
        }
        try cluster.finish()
        try balance(sent)
    }

    /// Values of several kinds that no writer may take for a tick, or stumble over.
    private static func poison(_ random: inout SplitMix64) -> [[UInt8]] {
        func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) } }
        // Each begins with bytes that only it has, so that they can be told apart; 0x07 is no tag of protobuf.
        func value(_ rest: [UInt8]) -> [UInt8] { [0x07] + bytes(8) + rest }
        return [
            value([]), value(bytes(1)), value(bytes(200)), value(Array("{\"symbol\":\"AAPL\"}".utf8)),
            // A length that goes far past the end.
            [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f] + bytes(9),
        ]
    }

    private func append(_ values: [[UInt8]], _ place: TopicPartition) throws {
        let builder = BlockBuilder(place)
        let key = builder.register(BlockBuilder.Key(exchange: "", symbol: "poison", feed: ""))
        for (index, value) in values.enumerated() {
            value.withUnsafeBytes { builder.append(key: key, epoch: 0, sequence: UInt64(index), payload: $0) }
        }
        try cluster.log.append([builder.build()], consumed: [])
        try cluster.log.sync()
    }

    /// Each value that was sent is in the dead letters once, and nothing else is.
    private func balance(_ sent: [[UInt8]]) throws {
        let log = try cluster.setup.openLog()
        defer { try? log.close() }
        var letters: [[UInt8]: Int] = [:]
        let topic = Topic.ticksRaw.deadLetter
        for number in 0..<log.partitionCount(topic) {
            let place = TopicPartition(topic, UInt16(clamping: number))
            var next = try log.offset(of: .earliest, in: place)
            while case .block(let block, let index) = try log.readBlocking(place, at: next, .durable) {
                for record in index..<block.recordCount {
                    let letter = try Proto.DeadLetter(decoding: block.payload(record))
                    letters[letter.value, default: 0] += 1
                    if letter.reasonCode.isEmpty { cluster.problem("a dead letter without a reason") }
                }
                next = block.endOffset
            }
        }
        for value in sent {
            let count = letters.removeValue(forKey: value) ?? 0
            if count == 0 { cluster.result.lost += 1 }
            if count > 1 { cluster.result.duplicated += count - 1 }
        }
        if !letters.isEmpty { cluster.problem("\(letters.count) dead letters that nobody sent") }
        cluster.progress("\(sent.count) sent, \(cluster.result.lost) without a letter")
    }

    // MARK: clock

    /// The writer's wall clock steps, back and forth: rows are filed by their records' times, and live as long.
    func clock() throws {
        let file = cluster.setup.directory + "/clock"
        try DrillFile.write(file, "0")
        try cluster.startFeed()
        let writer = try cluster.startWriter(
            "writer", ["--instance", "drill-writer"] + cluster.setup.clockArguments(file))
        try cluster.waitForRows(writer)
        for round in 1...cluster.setup.rounds {
            for hours in [1, -1, 0, 24 * 100, 0, -24 * 100, 0] {
                let fromNs = Drill.monotonicNs()
                let before = cluster.rows(writer) ?? 0
                try DrillFile.write(file, "\(hours * 3600)")
                // One that the writer cannot have seen yet.
                Drill.pause(milliseconds: 300)
                try cluster.waitForRows(writer, after: before)
                cluster.result.recoverySeconds = max(
                    cluster.result.recoverySeconds, Double(Drill.monotonicNs() - fromNs) / 1e9)
                cluster.pause(milliseconds: 50...400)
            }
            cluster.progress("round \(round): steps of an hour and of a hundred days, both ways")
        }
        try cluster.finish()
    }
}

/// Small files of a drill.
enum DrillFile {
    static func write(_ path: String, _ text: String) throws(DrillError) {
        // Read by another process at any time: whole or not at all.
        let temporary = path + ".new"
        guard let file = fopen(temporary, "w") else { throw DrillError("cannot write \(temporary)") }
        let isWritten = fputs(text, file) >= 0
        guard fclose(file) == 0, isWritten, rename(temporary, path) == 0 else {
            throw DrillError("cannot write \(path): \(String(cString: strerror(errno)))")
        }
    }

    /// Empty where it cannot be read.
    static func text(_ path: String) -> String {
        guard let file = fopen(path, "r") else { return "" }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = fread(&chunk, 1, chunk.count, file)
            guard count > 0 else { break }
            bytes += chunk[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
