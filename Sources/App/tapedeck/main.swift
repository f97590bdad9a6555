import CLinux
import Glibc
import Observability

// What is on the command line, carried out. Errors say what to do next; the exit code is in `--help`.

/// One invocation, from words to exit code.
enum Program {
    static let version = "0.1.0"

    static func run(_ arguments: [String]) -> ExitCode {
        signal(SIGPIPE, SIG_IGN)
        let invocation: Invocation
        do {
            invocation = try Invocation.parse(arguments: arguments, environment: ConfigurationEnvironment.read())
        } catch {
            Diagnostics.standardError("\(error.description)\n")
            return .usage
        }
        for warning in invocation.warnings { Diagnostics.standardError("tapedeck: \(warning)\n") }
        do {
            return try carryOut(invocation, arguments)
        } catch {
            Diagnostics.standardError("tapedeck \(invocation.command.rawValue): \(error)\n")
            return .failure
        }
    }

    private static func carryOut(_ invocation: Invocation, _ arguments: [String]) throws -> ExitCode {
        let options = invocation.options
        let operands = invocation.operands
        switch invocation.command {
        case .help:
            let topic = operands.first.flatMap(Command.init(rawValue:))
            print(topic.map(Help.text) ?? Help.overview, terminator: "")
            return .success
        case .version:
            print(options.bool(.json) ? "{\"version\":\"\(version)\"}" : "tapedeck \(version)")
            return .success
        case .quote: return try AskCommands(options).quote(operands[0])
        case .token: return try AccessCommands(options).token(operands[0])
        case .connections: return try AccessCommands(options).connections()
        case .restart: return try AccessCommands(options).restart()
        case .watch: return try AskCommands(options).watch(operands)
        case .bench: return try ProofCommands(options).bench(operands.first)
        case .drill: return try ProofCommands(options).drill(operands.first)
        default: break
        }
        let time = SystemTime()
        let diagnostics = Diagnostics(
            level: Diagnostics.Level(name: options.string(.logLevel)) ?? .info,
            format: options.string(.logFormat) == "json" ? .json : .text, wallNs: { time.wallNs() })
        switch invocation.command {
        case .benchFeed: return try BenchFeed(options, diagnostics).run()
        case .benchReads: return try BenchReads(options).run(operands[0])
        case .benchServer: return try BenchServer(options, diagnostics).run()
        case .up:
            switch Supervision.takeRole() {
            case .platform(let supervision): return try UpCommand(options, diagnostics, supervision).run()
            case .check: return try UpCommand(options, diagnostics).check()
            case .parent where options.bool(.noSupervisor): return try UpCommand(options, diagnostics).run()
            case .parent: return try Supervisor(options, diagnostics, arguments).run()
            }
        case .run: return try RunCommand(options, diagnostics).run(operands[0])
        case .topics: return try TopicsCommand(options, diagnostics).run(operands[0])
        case .lag: return try LagCommand(options, diagnostics).run(operands)
        case .groups: return try GroupsCommand(options, diagnostics).run(operands)
        case .simulateEdge: return try SimulateEdgeCommand(options, diagnostics).run()
        case .replay where operands.isEmpty:
            guard RepairCommand.isCluster(options) else {
                throw CommandError("name recordings, or a cluster's --brokers and a range")
            }
            return try ReplayRangeCommand(options, diagnostics).run()
        case .replay where RepairCommand.isCluster(options):
            throw CommandError("recordings go to Kafka by `tapedeck run feed --replay FILE`")
        case .replay: return try UpCommand(options, diagnostics).replay(operands)
        case .schema: return try SchemaCommand(options).run(operands[0])
        case .buckets: return try BucketsCommand(options).run(operands)
        case .verify where RepairCommand.isCluster(options):
            return try RepairCommand(options, diagnostics).verify(operands)
        case .verify: return try DataCommands(options, diagnostics).verify(operands)
        case .repair: return try RepairCommand(options, diagnostics).repair(operands)
        case .dlq: return try DeadLetterCommand(options, diagnostics).run(operands)
        case .book: return try BookCommand(options, diagnostics).run(operands[0])
        case .inspect: return try DataCommands(options, diagnostics).inspect()
        case .dump: return try DataCommands(options, diagnostics).dump(operands)
        case .backup: return try DataCommands(options, diagnostics).backup(operands[0])
        default: return try DataCommands(options, diagnostics).restore(operands[0])
        }
    }
}

// Blocks come and go by thousands a second: memory that is given back to the system at each would be asked for again.
clinux_keep_freed_memory()
let code = Program.run(Array(CommandLine.arguments.dropFirst()))
// Not by `exit`: it has C libraries free what threads that still end their connections use (OpenSSL's cleanup under a
// client's loop ended one `quote` in thousands by a signal).
fflush(nil)
_exit(code.rawValue)
