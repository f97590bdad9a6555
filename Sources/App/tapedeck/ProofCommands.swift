import Bench
import Drills
import FileDisk
import Glibc
import Observability
import RocksStore
import SegmentLog

/// `tapedeck bench` and `tapedeck drill`.
struct ProofCommands {
    private let options: ResolvedOptions
    private let time = SystemTime()

    init(_ options: ResolvedOptions) { self.options = options }

    /// The path of this program.
    private static var program: String {
        guard let path = realpath("/proc/self/exe", nil) else { return CommandLine.arguments[0] }
        defer { free(path) }
        return String(cString: path)
    }

    private static func note(_ line: String) { Diagnostics.standardError(line + "\n") }

    // MARK: bench

    func bench(_ name: String?) throws -> ExitCode {
        let scratch = try ScratchDirectory()
        defer { scratch.remove() }
        let benches = benches(scratch)
        guard let name else {
            for bench in benches { print("\(bench.name)\n  \(bench.method)") }
            print("cassandra (not among all: needs --contact-points)\n  \(CassandraBench.method)")
            return .success
        }
        let named = name == "cassandra" ? [try CassandraBenchSetup(options, time).bench()] : benches
        let chosen = name == "all" ? benches : named.filter { $0.name == name }
        guard !chosen.isEmpty else {
            throw CommandError(
                "no bench is named \(name); there are \(benches.map(\.name).joined(separator: ", ")) and all")
        }
        for bench in chosen {
            ProofCommands.note("\(bench.name): \(bench.method)")
            for figure in try bench.run(options.int(.runs), ProofCommands.note) {
                print(options.bool(.json) ? figure.json : figure.text)
                fflush(nil)
            }
        }
        return .success
    }

    private func benches(_ scratch: ScratchDirectory) -> [Bench] {
        let time = time
        let platform = platformBench(scratch)
        return [
            CodecBench.bench(),
            LogBench.bench(
                directory: scratch.path, time: time,
                openLog: { try SegmentLog(disk: try FileDisk(directory: $0), time: time) },
                openDisk: { try FileDisk(directory: $0) }, removeDirectory: ScratchDirectory.remove),
            StoreBench.bench(time: time) {
                let directory = scratch.path + "/store"
                ScratchDirectory.remove(directory)
                let store = try RocksStore(directory: directory, time: time)
                return StoreBench.Subject(
                    store: store, settle: { try store.settle() }, remove: { ScratchDirectory.remove(directory) })
            },
            platform.way, platform.fanout, platform.startup,
        ]
    }

    private func platformBench(_ scratch: ScratchDirectory) -> PlatformBench {
        let time = time
        return PlatformBench(
            start: { directory, arguments in
                let started = try StartedPlatform(
                    program: ProofCommands.program, directory: directory, arguments: arguments)
                return PlatformBench.Started(
                    address: started.address, pid: started.pid, readySeconds: started.readySeconds,
                    stop: { started.stop(kill: $0) })
            },
            openLog: { try SegmentLog(disk: try FileDisk(directory: $0 + "/log"), time: time) },
            makeDirectory: { try ScratchDirectory(in: scratch.path).path }, removeDirectory: ScratchDirectory.remove)
    }

    // MARK: drill

    func drill(_ name: String?) throws -> ExitCode {
        guard let name else {
            print(
                """
                kill
                  kill -9 at random moments under load: nothing that a client saw may be missing, nothing twice
                slow-clients
                  64 clients of everything, 8 of which read one byte of a hundred and one nothing: the others lose \
                nothing, and each slow one is told what it missed and gets it
                """)
            print("those of a cluster (--brokers, --contact-points; not among all):")
            for name in ClusterDrill.Name.allCases { print("\(name.rawValue)\n  \(name.summary)") }
            return .success
        }
        if let name = ClusterDrill.Name(rawValue: name) {
            return try ClusterDrillCommand(name, options, program: ProofCommands.program).run(
                progress: ProofCommands.note)
        }
        guard ["kill", "slow-clients", "all"].contains(name) else {
            let names = ["kill", "slow-clients"] + ClusterDrill.Name.allCases.map(\.rawValue)
            throw CommandError("no drill is named \(name); there are \(names.joined(separator: ", ")) and all")
        }
        var isPassed = true
        if name != "slow-clients" { isPassed = try killDrill() == .success }
        if name != "kill" { isPassed = try slowClientDrill() == .success && isPassed }
        return isPassed ? .success : .failure
    }

    private func slowClientDrill() throws -> ExitCode {
        let scratch = try ScratchDirectory()
        let setup = SlowClientDrill.Setup(
            program: ProofCommands.program, directory: scratch.path, rate: 8000,
            rounds: options.optionalInt(.rounds) ?? 5, windowSeconds: 8, seed: UInt64(options.int(.seed)))
        let result = try SlowClientDrill(setup).run(progress: ProofCommands.note)
        let medians = [result.promptP99, result.besideP99].map { $0.sorted()[$0.count / 2] }
        let change = (medians[1] / max(1, medians[0]) - 1) * 100
        let mib = { (bytes: Double) in "\(Figure.digits(bytes / 1_048_576)) MiB" }
        let list = { (bytes: [Double]) in bytes.map(mib).joined(separator: ", ") }
        print(
            """
            slow-clients: \(result.received) updates to prompt readers, lost \(result.lost), repeated \(result.repeated)
              p99 all prompt \(Figure.digits(medians[0])) us, beside nine slow ones \(Figure.digits(medians[1])) us \
            (\(Figure.digits(change)) %; medians of \(result.promptP99.count) windows each)
              LATEST: missed \(result.missed), filled \(result.filled), unaccounted \(result.unaccounted)
              ALL: \(result.endsTold) ended with reason and token, \(result.endsOther) otherwise, lost on resuming \
            \(result.lostOnResume)
              memory: streams held at most \(mib(result.heldBytesMax)) (bound \(mib(result.heldBytesBound))), one at \
            most \(mib(result.heldBytesOfOneMax))
              resident at the end of each window: \(list(result.promptResidentBytes)) all prompt, \
            \(list(result.besideResidentBytes)) beside
            """)
        guard result.passed else {
            for problem in result.problems { print(problem) }
            print("the data is kept in \(scratch.path)")
            return .failure
        }
        scratch.remove()
        return .success
    }

    private func killDrill() throws -> ExitCode {
        let scratch = try ScratchDirectory()
        let setup = KillDrill.Setup(
            program: ProofCommands.program, directory: scratch.path, times: options.optionalInt(.rounds) ?? 100,
            seed: UInt64(options.int(.seed)), rate: 20_000,
            openLog: { try DataCommands.openLog($0 + "/log", SystemTime()) }, verify: DataCommands.differences)
        let result = try KillDrill(setup).run(progress: ProofCommands.note)
        print(
            "kill: \(result.kills) kills, \(result.seen) ticks seen, lost \(result.lost), "
                + "duplicated \(result.duplicated), gaps \(result.gaps), differences \(result.differences.count), "
                + "slowest start \(Figure.digits(result.recoverySeconds)) s")
        guard result.passed else {
            for line in result.differences.prefix(100) { print(line) }
            print("the data is kept in \(scratch.path)")
            return .failure
        }
        scratch.remove()
        return .success
    }
}

/// A directory of this process's own.
struct ScratchDirectory {
    let path: String

    init(in parent: String? = nil) throws(CommandError) {
        let base = parent ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp"
        var template = Array((base + "/tapedeck-XXXXXX").utf8CString)
        guard mkdtemp(&template) != nil else {
            throw CommandError("cannot make a directory in \(base): \(String(cString: strerror(errno))); set TMPDIR")
        }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    func remove() { ScratchDirectory.remove(path) }

    /// Removes a directory and everything in it.
    static func remove(_ path: String) {
        for name in FileCopy.names(path) ?? [] { remove(path + "/" + name) }
        Glibc.remove(path)
    }
}

extension Figure {
    /// For people.
    var text: String {
        "\(bench) \(figure): \(Figure.digits(median)) \(unit) "
            + "(\(Figure.digits(min))-\(Figure.digits(max)), \(runs) runs, \(of))"
    }
}
