import Admin
import Disk
import EventLog
import FileDisk
import Glibc
import MarketModel
import MarketProto
import Observability
import Protobuf
import Repair
import RocksStore
import SegmentLog
import TickCodec
import TickStore

/// `tapedeck verify`, `inspect`, `dump`, `backup` and `restore`: what works on a data directory.
struct DataCommands {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let directory: DataDirectory
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
        directory = DataDirectory(path: options.string(.data))
    }

    /// The log for reading, also while a process has it open.
    static func openLog(_ path: String, _ time: SystemTime) throws -> SegmentLog {
        try SegmentLog(reading: try FileDisk(directory: path, access: .readOnly), time: time)
    }

    // MARK: verify

    func verify(_ symbols: [String]) throws -> ExitCode {
        try directory.requireLog()
        var clean = true
        let log = try DataCommands.openLog(directory.log, time)
        let store = try StoreChoice(options).open(directory, time: time, log: log, diagnostics)
        defer { try? store.close() }
        for range in try ranges(symbols, store) {
            var reportedNs = time.monotonicNs()
            let result = try Verifier.compare(log: log, store: store, range: range) { place, done, total in
                guard time.monotonicNs() - reportedNs > 1_000_000_000 else { return }
                reportedNs = time.monotonicNs()
                diagnostics.log(.info, "verify", "\(place): \(done) of \(total) records read")
            }
            clean = clean && result.isClean
            print(options.bool(.json) ? VerifyText.json(result) : VerifyText.table(result).joined(separator: "\n"))
        }
        return clean ? .success : .failure
    }

    /// Log and store of a directory, differences as lines; for drills.
    static func differences(_ path: String) throws -> [String] {
        let directory = DataDirectory(path: path)
        let time = SystemTime()
        let log = try openLog(directory.log, time)
        let store = try RocksStore(directory: directory.store, time: time)
        defer { try? store.close() }
        let result = try Verifier.compare(log: log, store: store)
        let unfinished = result.lines.filter { $0.pending > 0 || $0.conflicting > 0 || $0.corrupt > 0 }
        return result.isClean && unfinished.isEmpty ? [] : VerifyText.table(result)
    }

    private func ranges(_ symbols: [String], _ store: any TickStore) throws -> [Verifier.Range] {
        let fromNs = options.timeNs(.from) ?? .min
        let toNs = options.timeNs(.to) ?? .max
        let exchange = options.optionalString(.exchange)
        guard !symbols.isEmpty || exchange != nil else { return [Verifier.Range(fromNs: fromNs, toNs: toNs)] }
        let known = try store.instruments().filter { instrument in
            (symbols.isEmpty || symbols.contains(instrument.symbol))
                && (exchange ?? instrument.exchange) == instrument.exchange
        }
        guard !known.isEmpty else {
            throw CommandError("the store has no tick of \((symbols + [exchange ?? ""]).joined(separator: " "))")
        }
        return known.map { Verifier.Range(instrument: $0, fromNs: fromNs, toNs: toNs) }
    }

    // MARK: inspect

    func inspect() throws -> ExitCode {
        try directory.requireLog()
        let log = try DataCommands.openLog(directory.log, time)
        var reportedNs = time.monotonicNs()
        let segments = try log.describeSegments(verifying: true) { done, total in
            guard time.monotonicNs() - reportedNs > 1_000_000_000 else { return }
            reportedNs = time.monotonicNs()
            diagnostics.log(.info, "inspect", "\(done >> 20) of \(total >> 20) MiB checked")
        }
        let isJSON = options.bool(.json)
        if !isJSON {
            let identity = log.identity
            print(
                "log \(String(identity.id, radix: 16)), generation \(identity.generation), \(identity.cuts.count) cuts")
        }
        for segment in segments { print(InspectText.segment(segment.summary, json: isJSON)) }
        try inspectStore(isJSON)
        return segments.contains { !$0.damage.isEmpty } ? .failure : .success
    }

    /// The store can be opened by one process only; while the platform runs, that is said instead.
    private func inspectStore(_ isJSON: Bool) throws {
        do throws(StoreError) {
            let store = try RocksStore(directory: directory.store, time: time)
            let statistics = try store.statistics()
            print(InspectText.store(statistics, json: isJSON))
            try store.close()
        } catch {
            guard error.code == .locked else { throw error }
            diagnostics.log(.info, "inspect", "the store is in use by a running platform and was left out")
        }
    }

    // MARK: dump

    func dump(_ symbols: [String]) throws -> ExitCode {
        try directory.requireLog()
        guard let topic = Topic(name: options.string(.topic)) else {
            let names = Topic.sources.flatMap { [$0.name, $0.deadLetter.name] }.joined(separator: ", ")
            throw CommandError("no topic is named \(options.string(.topic)); there are \(names)")
        }
        let log = try DataCommands.openLog(directory.log, time)
        let filter = RecordFilter(
            symbols: symbols, exchange: options.optionalString(.exchange) ?? "", fromNs: options.timeNs(.from) ?? .min,
            toNs: options.timeNs(.to) ?? .max)
        var dumper = RecordDump(
            topic: topic, filter: filter, limit: options.optionalInt(.limit), json: options.bool(.json))
        for partition in 0..<log.partitionCount(topic) {
            try dumper.dump(log, TopicPartition(topic, UInt16(partition))) { print($0) }
        }
        return .success
    }

    // MARK: backup and restore

    func backup(_ target: String) throws -> ExitCode {
        try directory.requireLog()
        try DataCommands.requireEmpty(target)
        let absolute = target.hasPrefix("/") ? target : DataCommands.currentDirectory + "/" + target
        do {
            // Nobody has it: this process does it alone.
            let platform = try EmbeddedPlatform(options, diagnostics)
            try platform.backup(to: absolute)
            try platform.stop(drainSeconds: 0)
        } catch let error as DiskError where error.kind == .locked {
            _ = try ControlRequests.ask(.backup, absolute, of: directory)
        }
        try check(absolute)
        print(
            options.bool(.json)
                ? "{\"backup\":\"\(absolute)\"}" : "copied to \(absolute), and every block of the copy is whole")
        return .success
    }

    func restore(_ source: String) throws -> ExitCode {
        let backup = DataDirectory(path: source)
        try backup.requireLog()
        try DataCommands.requireEmpty(directory.path)
        try check(source)
        try directory.create()
        for part in ["log", "store"] {
            try FileCopy.directory(source + "/" + part, to: directory.path + "/" + part)
        }
        print(options.bool(.json) ? "{\"restored\":\"\(directory.path)\"}" : "restored into \(directory.path)")
        return .success
    }

    /// Every block of a copy's log has its checksum.
    private func check(_ path: String) throws {
        let log = try DataCommands.openLog(path + "/log", time)
        let damage = try log.describeSegments(verifying: true).flatMap(\.damage)
        if let first = damage.first { throw CommandError("\(path) is damaged: \(first)") }
    }

    private static var currentDirectory: String {
        guard let path = getcwd(nil, 0) else { return "." }
        defer { free(path) }
        return String(cString: path)
    }

    private static func requireEmpty(_ path: String) throws(CommandError) {
        if let name = FileCopy.names(path)?.first {
            throw CommandError("\(path) is not empty (it holds \(name)); nothing was written. Choose another directory")
        }
    }
}

extension SegmentDescription {
    /// As the texts of `inspect` take it.
    var summary: InspectText.Segment {
        InspectText.Segment(
            file: file, bytes: byteCount, fromNs: appendTimesNs?.lowerBound, toNs: appendTimesNs?.upperBound,
            places: places.map {
                (place: $0.place.description, from: $0.offsets.lowerBound, to: $0.offsets.upperBound)
            },
            damage: damage)
    }
}
