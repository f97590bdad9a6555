// Drills of a cluster: services as processes of their own on somebody's Kafka and Cassandra, broken on purpose. After
// each the log is held against the store: nothing may be missing, nothing there twice.

import EventLog
import TickStore

/// Breaks services of a platform on Kafka and Cassandra, and counts what is lost or doubled.
public struct ClusterDrill: Sendable {
    /// The drills there are.
    public enum Name: String, CaseIterable, Sendable {
        case writerKill = "writer-kill"
        case writerRoll = "writer-roll"
        case writerScale = "writer-scale"
        case brokerKill = "broker-kill"
        case storeStop = "store-stop"
        case nodeKill = "node-kill"
        case retention
        case poison
        case clock
        case open
        case bystander

        /// What it does, for people.
        public var summary: String {
            switch self {
            case .writerKill: "kill -9 of the writer at random moments under load, and start it again"
            case .writerRoll: "three writers, ended and started again one after the other"
            case .writerScale: "one writer, then four, then two"
            case .brokerKill: "a broker killed and started again, and one that stands still (hooks: --engine-...)"
            case .storeStop: "the only Cassandra node stopped for a while (hooks: --engine-kill, --engine-start)"
            case .nodeKill: "one of several Cassandra nodes killed: rows go on (hooks as for store-stop)"
            case .retention: "records removed from the log while the writer was down: it stops and says which"
            case .poison: "records that are no ticks among ticks: each set aside once, with its bytes"
            case .clock: "the writer's clock steps by hours, back and forth"
            case .open: "twenty times the rate for a while, four writers, then eight, then four"
            case .bystander: "a reader that stands still and one of everything: the writer's rows are as new as before"
            }
        }

        var needsEngine: Bool { [.brokerKill, .storeStop, .nodeKill].contains(self) }
    }

    /// Shell commands that break the engines, for whoever runs them knows how. Each returns when it has happened; one
    /// that starts an engine, when that serves.
    public struct EngineHooks: Sendable {
        public var kill: String?
        public var start: String?
        public var pause: String?
        public var resume: String?

        public init(kill: String? = nil, start: String? = nil, pause: String? = nil, resume: String? = nil) {
            self.kill = kill
            self.start = start
            self.pause = pause
            self.resume = resume
        }
    }

    /// How log and store differ, of ticks filed since a time.
    public struct Comparison: Sendable {
        public var ticks = 0
        /// In the log below the store's offset, and not in the store.
        public var missing = 0
        public var different = 0
        /// Rows that no record made, or that stand for two.
        public var extra = 0
        /// In the log past the store's offset.
        public var pending = 0
        /// Of each instrument that differs.
        public var lines: [String] = []

        public init() {}
    }

    /// What the drill works on, and what it cannot do itself.
    public struct Setup: Sendable {
        /// The binary, and a directory of the drill's own.
        public var program: String
        public var directory: String
        /// How `run` reaches brokers and nodes, with a topic prefix and a keyspace of the drill's own.
        public var arguments: [String]
        /// Messages of the simulated venue per second.
        public var rate: Int
        public var rounds: Int
        /// How long an engine is away, a market opens, or rows are timed.
        public var awaySeconds: Int
        public var seed: UInt64
        public var hooks: EngineHooks
        /// What a writer may take, bytes of resident memory.
        public var residentBytesMax: Double
        /// Opens the drill's own log. Each call gives another one, which the caller closes.
        public var openLog: @Sendable () throws -> any EventLog
        /// Opens the rows of that log's records, to read them.
        public var openStore: @Sendable (any EventLog) throws -> any TickStore
        /// Holds them against each other, of ticks filed since a time (ns).
        public var compare: @Sendable (any EventLog, any TickStore, _ fromNs: Int64) throws -> Comparison
        /// Has the brokers remove all records before these offsets, as retention would.
        public var removeRecords: @Sendable (_ before: [TopicPartition: UInt64]) throws -> Void
        /// Has a part of a writer's options in it that gives it a clock that is wrong by what a file says.
        public var clockArguments: @Sendable (_ file: String) -> [String]

        public init(
            program: String, directory: String, arguments: [String], rate: Int, rounds: Int, awaySeconds: Int,
            seed: UInt64, hooks: EngineHooks, residentBytesMax: Double = 512 * 1_048_576,
            openLog: @escaping @Sendable () throws -> any EventLog,
            openStore: @escaping @Sendable (any EventLog) throws -> any TickStore,
            compare: @escaping @Sendable (any EventLog, any TickStore, _ fromNs: Int64) throws -> Comparison,
            removeRecords: @escaping @Sendable (_ before: [TopicPartition: UInt64]) throws -> Void,
            clockArguments: @escaping @Sendable (_ file: String) -> [String]
        ) {
            self.program = program
            self.directory = directory
            self.arguments = arguments
            self.rate = rate
            self.rounds = rounds
            self.awaySeconds = awaySeconds
            self.seed = seed
            self.hooks = hooks
            self.residentBytesMax = residentBytesMax
            self.openLog = openLog
            self.openStore = openStore
            self.compare = compare
            self.removeRecords = removeRecords
            self.clockArguments = clockArguments
        }
    }

    /// What it found.
    public struct Result: Sendable {
        /// Ticks in the log at the end.
        public var ticks = 0
        /// Ticks that the feed published and the log has not, or the log has and the store has not.
        public var lost = 0
        /// Rows of the store that no record made, or that stand for two; dead letters that came twice.
        public var duplicated = 0
        /// Records that are in the log again, with the same identity: readers drop them.
        public var repeatedInLog = 0
        /// The longest time until rows came again, or the log took ticks again, in seconds.
        public var recoverySeconds = 0.0
        /// The most that a writer took, bytes of resident memory.
        public var residentBytesMost = 0.0
        /// Everything that is not as it has to be.
        public var problems: [String] = []

        public var passed: Bool { lost == 0 && duplicated == 0 && problems.isEmpty && ticks > 0 }
    }

    public let name: Name
    private let setup: Setup

    public init(_ name: Name, _ setup: Setup) {
        self.name = name
        self.setup = setup
    }

    /// Carries the drill out; `progress` takes lines for people. *Blocking.* Throws where it cannot be carried out.
    public func run(progress: @escaping (String) -> Void) throws -> Result {
        let needed =
            name.needsEngine ? [("--engine-kill", setup.hooks.kill), ("--engine-start", setup.hooks.start)] : []
        for (option, hook) in needed where hook == nil {
            throw DrillError("\(name.rawValue) needs \(option): a command that does it to the engine")
        }
        guard (setup.hooks.pause == nil) == (setup.hooks.resume == nil) else {
            throw DrillError("--engine-pause and --engine-resume belong together")
        }
        let cluster = try DrilledCluster(setup, progress)
        defer { cluster.end() }
        switch name {
        case .writerKill: try WriterDrills(cluster).kill()
        case .writerRoll: try WriterDrills(cluster).roll()
        case .writerScale: try WriterDrills(cluster).scale()
        case .brokerKill: try EngineDrills(cluster).broker()
        case .storeStop: try EngineDrills(cluster).store()
        case .nodeKill: try EngineDrills(cluster).node()
        case .retention: try RecordDrills(cluster).retention()
        case .poison: try RecordDrills(cluster).poison()
        case .clock: try RecordDrills(cluster).clock()
        case .open: try LoadDrills(cluster).open()
        case .bystander: try LoadDrills(cluster).bystander()
        }
        return cluster.result
    }
}
