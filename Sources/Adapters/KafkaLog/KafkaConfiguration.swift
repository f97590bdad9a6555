import EventLog
import Glibc

/// Takes a line for people, from any thread: a fixed word for its kind (`kafka.group`), and what happened. Whoever
/// writes it down may do so once per kind and period.
public typealias KafkaReport = @Sendable (_ kind: String, _ what: String) -> Void

/// How to reach a Kafka cluster, and the limits of what is kept of it in this process.
public struct KafkaConfiguration: Sendable {
    /// `HOST:PORT`, several separated by commas: some brokers of the cluster, which name the others.
    public var brokers: String
    /// What brokers' logs and quotas know this process by.
    public var clientID = "tapedeck"
    public var security = KafkaSecurity()
    /// Stands before every topic's and group's name, so that several platforms can share a cluster.
    public var prefix = ""
    /// Topics that must exist.
    public var topics: [Topic] = [.ticksRaw, .booksDeltas]
    /// Topics whose newest records are kept in memory for readers of everything; others are read by who asks.
    public var followed: [Topic] = []
    /// How many records of each followed partition are read before its end when the log is opened.
    public var tipBacklog: UInt64 = 2000
    /// Newest blocks kept in memory, bytes.
    public var tipBytes = 64 << 20
    /// Older blocks kept in memory after they were fetched, bytes.
    public var cacheBytes = 32 << 20
    /// Threads that fetch for `load`, and calls that may wait for them.
    public var loadThreads = 2
    public var queuedLoadsMax = 65_536
    /// How long a call waits for brokers before it throws, nanoseconds.
    public var requestTimeoutNs: Int64 = 30_000_000_000
    /// With a spill: after the queue of ticks has been full for so long, nanoseconds, they go there; and what it holds
    /// at most, bytes of blocks.
    public var spillAfterNs: Int64 = 5_000_000_000
    public var spillBytesMax = 1 << 30
    public var producer = Producer()
    public var group = Group()
    /// Further settings of librdkafka by its own names, for what has no name here; they are set last.
    public var properties: [(name: String, value: String)] = []

    /// What is sent, and when it is given up.
    public struct Producer: Sendable {
        /// Records of a topic that may wait for their acknowledgement: of ticks, and of each other topic.
        public var ticksQueuedMax = 65_536
        public var othersQueuedMax = 4096
        /// The most that a tick waits for others to go with it, nanoseconds: requests are so far apart while few come.
        /// What comes after a pause goes at once, and orders always do.
        public var lingerNsMax: Int64 = 2_000_000
        /// Records in one batch.
        public var batchRecordsMax = 500
        /// After this long without an acknowledgement a record is given up, counted and reported, nanoseconds: of ticks
        /// and books, and of everything else, whose callers wait for it. 0: never, as suits ticks with a spill.
        public var ticksDeadlineNs: Int64 = 60_000_000_000
        public var othersDeadlineNs: Int64 = 15_000_000_000
        /// An append of ticks waits this long for room in the queue before it throws, nanoseconds.
        public var fullWaitNs: Int64 = 1_000_000_000

        public init() {}
    }

    /// How this process is a member of groups.
    public struct Group: Sendable {
        /// A name that stays the same over restarts of this process and that no other member has: its partitions wait
        /// for it for ``sessionTimeoutMs``. Empty: what it had goes to others as soon as it leaves.
        public var instance = ""
        public var sessionTimeoutMs = 45_000
        /// How long a batch that is out keeps its partition from going to another member, nanoseconds.
        public var revokeWaitNs: Int64 = 30_000_000_000
        /// A batch that is out for longer is reported, nanoseconds.
        public var heldReportNs: Int64 = 5_000_000_000
        /// Finished offsets are committed at most this often, nanoseconds.
        public var commitIntervalNs: Int64 = 1_000_000_000

        public init() {}
    }

    public init(brokers: String) { self.brokers = brokers }

    /// The name of a topic on the brokers.
    public func name(of topic: Topic) -> String { prefix + topic.name }
    /// The name of a group on the brokers.
    public func name(ofGroup group: String) -> String { prefix + group }

    func queuedMax(_ topic: Topic) -> Int { topic == .ticksRaw ? producer.ticksQueuedMax : producer.othersQueuedMax }
}

/// Who this process is to the brokers, and how it knows them.
public struct KafkaSecurity: Sendable {
    /// A login.
    public enum Login: Sendable {
        case plain(user: String, password: String)
        case scramSHA256(user: String, password: String)
        case scramSHA512(user: String, password: String)
        /// Asked for a token before the first connection and before each one expires, on a thread of its own.
        case token(@Sendable () throws -> KafkaToken)
    }

    /// Encryption, with files in PEM.
    public struct TLS: Sendable {
        /// The authorities that brokers' certificates must come from; nil takes the system's.
        public var authorities: String?
        /// This process's own certificate, followed by those between it and its authority, and its key.
        public var certificate: String?
        public var key: String?

        public init(authorities: String? = nil, certificate: String? = nil, key: String? = nil) {
            self.authorities = authorities
            self.certificate = certificate
            self.key = key
        }
    }

    public var login: Login?
    public var tls: TLS?

    public init(login: Login? = nil, tls: TLS? = nil) {
        self.login = login
        self.tls = tls
    }

    /// librdkafka's own names and values.
    func properties(libraryVersion: Int32) throws(LogError) -> [(String, String)] {
        var properties = [("security.protocol", name)]
        switch login {
        case nil: break
        case .plain(let user, let password): properties += sasl("PLAIN", user, password)
        case .scramSHA256(let user, let password):
            try requireSCRAM(libraryVersion)
            properties += sasl("SCRAM-SHA-256", user, password)
        case .scramSHA512(let user, let password):
            try requireSCRAM(libraryVersion)
            properties += sasl("SCRAM-SHA-512", user, password)
        case .token: properties.append(("sasl.mechanism", "OAUTHBEARER"))
        }
        if let tls {
            for file in [tls.authorities, tls.certificate, tls.key] {
                guard let file, access(file, R_OK) != 0 else { continue }
                throw LogError(
                    .invalid, "the file \(file) for TLS to the brokers: \(String(cString: strerror(errno)))")
            }
            if let file = tls.authorities { properties.append(("ssl.ca.location", file)) }
            if let file = tls.certificate { properties.append(("ssl.certificate.location", file)) }
            if let file = tls.key { properties.append(("ssl.key.location", file)) }
            properties.append(("ssl.endpoint.identification.algorithm", "https"))
        }
        return properties
    }

    private var name: String {
        switch (login != nil, tls != nil) {
        case (false, false): "plaintext"
        case (false, true): "ssl"
        case (true, false): "sasl_plaintext"
        case (true, true): "sasl_ssl"
        }
    }

    private func sasl(_ mechanism: String, _ user: String, _ password: String) -> [(String, String)] {
        [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)]
    }

    /// Before 2.6.1 librdkafka answers the server's nonce wrongly, and brokers from Kafka 4 on refuse that.
    private func requireSCRAM(_ version: Int32) throws(LogError) {
        guard version < 0x0206_01ff else { return }
        throw LogError(
            .invalid,
            "SCRAM needs librdkafka 2.6.1 or newer, and this is \(KafkaHandle.versionText): older ones are refused by "
                + "Kafka 4 (their nonce is wrong). Log in by PLAIN over TLS or by a client certificate, or install a "
                + "newer librdkafka (docs/CLUSTER.md says how)")
    }
}

/// A bearer token for the brokers.
public struct KafkaToken: Sendable {
    public let value: String
    /// When it ends, milliseconds since the epoch.
    public let expiryMs: Int64
    /// Whose it is.
    public let principal: String
    /// Further words to the brokers (RFC 7628, section 3.1): names of letters, values without control characters.
    public var extensions: [(name: String, value: String)] = []

    public init(value: String, expiryMs: Int64, principal: String) {
        self.value = value
        self.expiryMs = expiryMs
        self.principal = principal
    }
}
