import CQLFrames
import EventLoop
import TestSupport
import Testing

@testable import CassandraCQL

/// Sessions to a real node, each with a loop of its own.
struct RealSession {
    let loop: EventLoop
    let session: CassandraSession

    static func open(
        _ port: Int, transport: any CQLTransport = CQLSockets(), _ change: (inout CQLSessionOptions) -> Void = { _ in }
    ) async throws -> RealSession {
        var options = CQLSessionOptions(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
        options.connection.heartbeatMilliseconds = 2000
        options.connection.heartbeatTimeoutMilliseconds = 5000
        options.backoff.maxMilliseconds = 500
        options.openMilliseconds = 30_000
        // Tables are made while other tests write.
        options.requestMilliseconds = 60_000
        change(&options)
        let loop = EventLoop(name: "cql")
        do {
            return RealSession(
                loop: loop, session: try await CassandraSession.open(options, on: loop, transport: transport))
        } catch {
            loop.stop()
            throw error
        }
    }

    func close() async {
        await session.closeAndWait()
        loop.stop()
    }

    /// Makes a table for a session that takes a busy node for a dead one.
    static func makeTable(_ port: Int, _ table: String) async throws {
        let real = try await open(port)
        let keyspace = table.split(separator: ".")[0]
        _ = try await real.session.query(
            "CREATE KEYSPACE IF NOT EXISTS \(keyspace) "
                + "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
        _ = try await real.session.query("CREATE TABLE IF NOT EXISTS \(table) (k int PRIMARY KEY)")
        await real.close()
    }

    /// A keyspace of the test's own.
    func keyspace(_ name: String) async throws {
        _ = try await session.query("DROP KEYSPACE IF EXISTS \(name)")
        _ = try await session.query(
            "CREATE KEYSPACE \(name) WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
    }
}

/// How a session may speak to the node.
struct Speech: CustomTestStringConvertible, Sendable {
    let version: CQLVersion
    let compression: CQLCompression
    var testDescription: String { "v\(version.rawValue), \(compression)" }

    static let all = CQLVersion.allCases.flatMap { version in
        CQLCompression.allCases.map { Speech(version: version, compression: $0) }
    }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(4)))
struct DriverTests {
    @Test(arguments: Speech.all)
    func `Values of all types come back as they went`(_ speech: Speech) async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port) {
            $0.connection.version = speech.version
            $0.connection.compression = speech.compression
        }
        let session = real.session
        #expect(session.version == speech.version)
        try await real.keyspace("types")
        _ = try await session.query("CREATE TYPE types.pair (a int, b text)")
        let values: [(String, CQLValue)] = [
            ("ascii", "abc"), ("bigint", .bigint(.min)), ("blob", .blob([0, 255])), ("boolean", true),
            ("decimal", .decimal(CQLDecimal(scale: 3, unscaled: CQLVarint(-12_345)))), ("double", .double(-1.5)),
            ("float", .float(0.25)), ("int", .int(.max)), ("timestamp", .timestamp(1_700_000_000_123)),
            ("uuid", .uuid(CQLUUID(high: 1, low: 2))), ("text", "Grüße しま"),
            ("varint", .varint(CQLVarint(bytes: [UInt8](repeating: 0x71, count: 40)))),
            ("timeuuid", .uuid(CQLUUID(high: 0x1111_2222_3333_1444, low: 0x8000_0000_0000_0001))),
            ("inet", .inet([127, 0, 0, 1])), ("date", .date(-5)), ("time", .time(86_399_999_999_999)),
            ("smallint", .smallint(-7)), ("tinyint", .tinyint(-8)),
            ("duration", .duration(CQLDuration(months: -1, days: -2, nanoseconds: -3_000_000_000))),
            ("list<int>", .list([.int(3), .int(1)])), ("set<text>", .set(["a", "b"])),
            ("map<text, bigint>", .map([CQLMapEntry("k", 7)])),
            ("tuple<int, text, bigint>", .tuple([.int(1), .null, .bigint(3)])),
            ("frozen<types.pair>", .userDefined([.int(1), "x"])),
            (
                "frozen<map<int, list<types.pair>>>",
                .map([CQLMapEntry(.int(1), .list([.userDefined([.int(2), .null])]))])
            ),
            ("vector<float, 3>", .vector([.float(1), .float(2), .float(-3)])),
            ("vector<text, 2>", .vector(["ab", "c"])), ("vector<smallint, 2>", .vector([.smallint(1), .smallint(2)])),
            ("vector<tinyint, 2>", .vector([.tinyint(1), .tinyint(2)])),
            ("vector<date, 1>", .vector([.date(3)])), ("vector<time, 1>", .vector([.time(3)])),
            ("vector<bigint, 2>", .vector([1, 2])), ("vector<boolean, 2>", .vector([true, false])),
            ("vector<list<int>, 2>", .vector([.list([.int(1)]), .list([.int(2)])])),
            (
                "vector<vector<float, 2>, 2>",
                .vector([.vector([.float(1), .float(2)]), .vector([.float(3), .float(4)])])
            ),
            ("vector<uuid, 1>", .vector([.uuid(CQLUUID(high: 5, low: 6))])),
            ("vector<varint, 1>", .vector([.varint(CQLVarint(300))])),
        ]
        let columns = values.indices.map { "v\($0) \(values[$0].0)" }.joined(separator: ", ")
        _ = try await session.query("CREATE TABLE types.t (k int PRIMARY KEY, \(columns))")
        let names = values.indices.map { "v\($0)" }.joined(separator: ", ")
        let marks = values.map { _ in "?" }.joined(separator: ", ")
        let insert = try await session.prepare("INSERT INTO types.t (k, \(names)) VALUES (?, \(marks))")
        let select = try await session.prepare("SELECT k, \(names) FROM types.t WHERE k = ?")
        try await session.execute(insert, [.int(1)] + values.map(\.1))
        let rows = try await session.execute(select, [.int(1)]).values()
        #expect(rows.count == 1)
        for (index, (type, value)) in values.enumerated() {
            #expect(rows.first?[index + 1] == value, "\(type)")
        }
        // Null, and not set.
        try await session.execute(insert, [.int(2)] + values.map { _ in .null })
        let nulls = try await session.execute(select, [.int(2)]).values()
        #expect(nulls == [[.int(2)] + values.map { _ in .null }])
        try await session.execute(insert, [.int(1)] + values.map { _ in .unset })
        let unset = try await session.execute(select, [.int(1)]).values()
        #expect(unset.first?.dropFirst().map { $0 } == values.map(\.1))
        // What the engine's own client reads is what was meant.
        let text = try await node.execute("SELECT v0, v1, v7, v10 FROM types.t WHERE k = 1")
        #expect(text.contains("abc\t-9223372036854775808\t2147483647\tGrüße しま"), "\(text)")
        await real.close()
    }

    @Test(arguments: Speech.all)
    func `Many rows in flight, batches, pages and large frames`(_ speech: Speech) async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port) {
            $0.connection.version = speech.version
            $0.connection.compression = speech.compression
        }
        let session = real.session
        try await real.keyspace("many")
        _ = try await session.query("CREATE TABLE many.t (p text, n int, b blob, PRIMARY KEY (p, n))")
        let insert = try await session.prepare("INSERT INTO many.t (p, n, b) VALUES (?, ?, ?)")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for n in 0..<500 {
                group.addTask {
                    try await session.execute(insert, ["single", .int(Int32(n)), .blob([UInt8(n & 255)])])
                }
            }
            try await group.waitForAll()
        }
        for start in stride(from: 0, to: 1000, by: 250) {
            let answer = try await session.batch(
                .unlogged,
                (start..<(start + 250)).map { (insert, ["batch", .int(Int32($0)), .blob([1, 2, 3])]) })
            #expect(answer.response == .result(.void))
        }
        // Larger than a segment, and than what a socket takes at once.
        let large = [UInt8]((0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
        try await session.execute(insert, ["large", .int(1), .blob(large)])
        let select = try await session.prepare("SELECT n, b FROM many.t WHERE p = ?")
        let back = try await session.execute(select, ["large"]).values()
        #expect(back == [[.int(1), .blob(large)]])
        for (partition, count) in [("single", 500), ("batch", 1000)] {
            var options = CassandraSession.Options()
            options.pageSize = 70
            var numbers: [Int64] = []
            var pages = 0
            try await session.forEachPage(select, [.text(partition)], options: options) { rows in
                pages += 1
                numbers += try rows.values().map { $0[0].integer ?? -1 }
                return true
            }
            #expect(numbers == (0..<Int64(count)).map { $0 } && pages >= count / 70)
        }
        await real.close()
    }

    @Test func `Errors keep what the server says`() async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port)
        let session = real.session
        try await real.keyspace("errors")
        func failure(_ text: String, consistency: CQLConsistency = .localOne) async -> CQLRequestError? {
            var options = CassandraSession.Options()
            options.consistency = consistency
            do {
                _ = try await session.query(text, options: options)
                return nil
            } catch {
                return error as? CQLRequestError
            }
        }
        #expect(await failure("SELEKT")?.server?.detail == .syntax)
        #expect(await failure("SELECT * FROM errors.none")?.server?.detail == .invalid)
        _ = try await session.query("CREATE TABLE errors.t (k int PRIMARY KEY)")
        #expect(
            await failure("CREATE TABLE errors.t (k int PRIMARY KEY)")?.server?.detail
                == .alreadyExists(keyspace: "errors", table: "t"))
        let unavailable = await failure("INSERT INTO errors.t (k) VALUES (1)", consistency: .three)
        #expect(unavailable?.server?.detail == .unavailable(.three, required: 3, alive: 1))
        #expect(unavailable?.isRetryable == true && unavailable?.mayHaveBeenDone == false)
        let insert = try await session.prepare("INSERT INTO errors.t (k) VALUES (?)")
        await #expect(throws: CQLRequestError.self) { try await session.execute(insert, ["text"]) }
        await #expect(throws: CQLRequestError.self) { try await session.execute(insert, [1, 2, 3]) }
        await real.close()
    }

    @Test func `Warnings and traces come with the answer`() async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port)
        let session = real.session
        try await real.keyspace("extras")
        _ = try await session.query("CREATE TABLE extras.t (k int PRIMARY KEY, b blob)")
        let insert = try await session.prepare("INSERT INTO extras.t (k, b) VALUES (?, ?)")
        // Several partitions and more than 5 KiB in a batch: the server warns.
        let blob = CQLValue.blob([UInt8](repeating: 1, count: 4000))
        let answer = try await session.batch(.unlogged, (0..<5).map { (insert, [.int(Int32($0)), blob]) })
        #expect(!answer.warnings.isEmpty)
        let counters = await session.counters()
        #expect(counters.warnings > 0)
        var options = CassandraSession.Options()
        options.call.isTraced = true
        let page = try await session.page(
            try await session.prepare("SELECT b FROM extras.t WHERE k = ?"), [.int(1)], options: options)
        let id = try #require(page.answer.tracingID)
        var found = 0
        try await until {
            found = try await session.query("SELECT started_at FROM system_traces.sessions WHERE session_id = \(id)")
                .count
            return found == 1
        }
        #expect(found == 1, "the trace is kept under its id")
        await real.close()
    }

    @Test(arguments: CQLVersion.allCases)
    func `A changed table is read by a statement prepared before`(_ version: CQLVersion) async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port) { $0.connection.version = version }
        let session = real.session
        try await real.keyspace("altered")
        _ = try await session.query("CREATE TABLE altered.t (k int PRIMARY KEY, b text)")
        _ = try await session.query("INSERT INTO altered.t (k, b) VALUES (1, 'x')")
        let select = try await session.prepare("SELECT * FROM altered.t WHERE k = ?")
        #expect(try await session.execute(select, [.int(1)]).values() == [[.int(1), "x"]])
        _ = try await session.query("ALTER TABLE altered.t ADD a int")
        _ = try await session.query("INSERT INTO altered.t (k, a) VALUES (1, 7)")
        for _ in 0..<2 {
            let rows = try await session.execute(select, [.int(1)])
            #expect(rows.metadata.columns?.map(\.name) == ["k", "a", "b"])
            #expect(try rows.values() == [[.int(1), .int(7), "x"]])
        }
        await real.close()
    }

    @Test(arguments: CQLVersion.allCases)
    func `A statement that the server dropped is prepared again`(_ version: CQLVersion) async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port) { $0.connection.version = version }
        let session = real.session
        let create = "CREATE TABLE forgotten.t (k int PRIMARY KEY)"
        try await real.keyspace("forgotten")
        _ = try await session.query(create)
        let insert = try await session.prepare("INSERT INTO forgotten.t (k) VALUES (?)")
        try await session.execute(insert, [.int(1)])
        // A dropped table takes its prepared statements along.
        _ = try await session.query("DROP TABLE forgotten.t")
        _ = try await session.query(create)
        try await session.execute(insert, [.int(2)])
        try await session.batch(.unlogged, [(insert, [.int(3)])])
        let rows = try await session.query("SELECT k FROM forgotten.t").values()
        #expect(Set(rows) == [[.int(2)], [.int(3)]])
        let counters = await session.counters()
        #expect(counters.preparations == 1)
        await real.close()
    }

    @Test func `Requests name the node that keeps their partition, and its ring is read`() async throws {
        let node = try await SharedCassandra.shared.node()
        let real = try await RealSession.open(node.port)
        let session = real.session
        try await real.keyspace("ring")
        _ = try await session.query("CREATE TABLE ring.t (a text, b int, PRIMARY KEY ((a, b)))")
        let insert = try await session.prepare("INSERT INTO ring.t (a, b) VALUES (?, ?)")
        #expect(insert.parameters.partitionKey == [0, 1])
        for n in 0..<20 { try await session.execute(insert, [.text("k\(n)"), .int(Int32(n))]) }
        // The server's own token is ours.
        for row in try await session.query("SELECT a, b, token(a, b) FROM ring.t").values() {
            let values = try CQLBoundValues([row[0], row[1]], for: insert.parameters.columns)
            #expect(insert.token(values) == row[2].integer)
        }
        let nodes = await session.nodes()
        #expect(nodes.count == 1 && nodes[0].isUp && nodes[0].node.tokens.count == 4)
        #expect(nodes[0].node.dataCenter == "datacenter1" && nodes[0].node.release.hasPrefix("5."))
        await real.close()
    }
}
