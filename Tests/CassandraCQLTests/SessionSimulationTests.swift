import CQLFrames
import EventLoop
import Simulation
import Synchronization
import Testing

@testable import CassandraCQL

struct SessionSimulationTests {
    @Test(arguments: [CQLVersion.v4, .v5])
    func `What is written is read, by either version`(_ version: CQLVersion) throws {
        let world = SessionWorld(seed: 1) { _, cluster in cluster.versionMax = version }
        try world.open()
        #expect(world.core.version == version)
        for value in 0..<50 { _ = world.write("k\(value % 5)", Int64(value)) }
        #expect(world.finish())
        let reads = (0..<5).map { world.read("k\($0)") }
        #expect(world.finish())
        for key in 0..<5 {
            #expect(world.values(reads[key]) == stride(from: Int64(key), to: 50, by: 5).map { $0 })
        }
        world.close()
        #expect(world.loop.openTimers == 0)
    }

    /// Nothing acknowledged is missing, every request is answered once, and nothing is left behind, whatever happens.
    @Test(arguments: 1...60)
    func `Cuts, silence, errors, crashes and forgetfulness lose nothing`(_ seed: UInt64) throws {
        var weather = SimulatedCluster.Weather()
        weather.cut = 30
        weather.silent = 10
        weather.errors = 5
        weather.forgets = 3
        weather.isTiny = seed % 3 == 0
        // A byte at a time takes long enough as it is.
        if weather.isTiny { weather.delayMillisecondsMax = 0 }
        let world = SessionWorld(seed: seed, weather: weather) { options, cluster in
            cluster.versionMax = seed % 2 == 0 ? .v4 : .v5
            options.connectionsPerNode = 1 + Int(seed % 3)
        }
        try world.open()
        var writes: [(number: Int, key: String, value: Int64)] = []
        for value in 0..<200 {
            let key = "k\(value % 7)"
            writes.append((world.write(key, Int64(value), isIdempotent: value % 4 != 0), key, Int64(value)))
            if value % 40 == 20 { world.cluster.crash("10.0.0.\(1 + value / 40 % 3)") }
            if value % 40 == 39 { for host in 1...3 { world.cluster.restart("10.0.0.\(host)") } }
            if value % 10 == 9 { world.wait(20) }
        }
        #expect(world.finish(), "requests hang")
        #expect(world.answeredTwice == 0)
        var acknowledged = 0
        for write in writes {
            switch world.outcomes[write.number] {
            case .success:
                acknowledged += 1
                #expect(world.cluster.rows[write.key]?.contains(write.value) == true)
            case .failure(let error):
                let isThere = world.cluster.rows[write.key]?.contains(write.value) == true
                #expect(!isThere || error.mayHaveBeenDone || error.isRetryable, "\(error)")
            case nil: Issue.record("not answered")
            }
        }
        #expect(acknowledged > 60, "\(acknowledged) of 200")
        world.close()
        #expect(world.loop.openTimers == 0, "timers are left")
    }

    @Test func `A cluster that wants a password gets it, and one that refuses it is left at once`() throws {
        let right = SessionWorld(seed: 2) { options, cluster in
            cluster.password = "secret"
            options.connection.credentials = CQLCredentials(user: "u", password: "secret")
        }
        try right.open()
        for credentials in [nil, CQLCredentials(user: "u", password: "wrong")] {
            let wrong = SessionWorld(seed: 3) { options, cluster in
                cluster.password = "secret"
                options.connection.credentials = credentials
            }
            let started = wrong.loop.nowMilliseconds
            let error = #expect(throws: CQLConnectionError.self) { try wrong.open() }
            #expect(error?.code == .authentication)
            #expect(wrong.loop.nowMilliseconds - started < 1000, "nobody waits for a password to become right")
        }
    }

    @Test func `A data centre that is not there is named with those that are`() {
        let world = SessionWorld(seed: 4) { options, _ in options.localDataCenter = "dc9" }
        let error = #expect(throws: CQLConnectionError.self) { try world.open() }
        #expect(error?.message == "there is no data centre dc9 in the cluster; there are: dc1")
    }

    @Test func `Nobody there is said with what was tried`() {
        let world = SessionWorld(seed: 5) { options, cluster in
            options.openMilliseconds = 2000
            for node in cluster.nodes { cluster.crash(node.address.host) }
        }
        let error = #expect(throws: CQLConnectionError.self) { try world.open() }
        #expect(error?.code == .unreachable && error?.message.contains("10.0.0.2:9042") == true)
    }

    @Test func `Requests go to the nodes that keep their partition`() throws {
        let world = SessionWorld(seed: 6, hosts: 5)
        try world.open()
        world.wait(500)
        let topology = CQLTopology(
            nodes: world.cluster.nodes, keyspaces: ["s": .simple(2)], hasMurmur3: true)
        for value in 0..<40 {
            let before = world.cluster.carriedOut
            let key = "key\(value)"
            _ = world.write(key, 1)
            #expect(world.finish())
            let host = world.cluster.carriedOut.first { $0.value != before[$0.key] ?? 0 }?.key
            let place = try #require(topology.place(of: Murmur3.token(of: [Array(key.utf8)])))
            let replicas = topology.replicas(at: place, .simple(2)).map { topology.nodes[$0].address.host }
            #expect(replicas.contains(host ?? ""))
        }
        #expect(world.core.counters.routed >= 40)
    }

    @Test func `Other data centres are used only where that is wanted`() throws {
        for usesRemote in [false, true] {
            let world = SessionWorld(seed: 7, hosts: 1) { options, cluster in
                cluster.add(2, dataCenter: "dc2")
                options.localDataCenter = "dc1"
                options.usesRemoteDataCenters = usesRemote
            }
            try world.open()
            world.wait(500)
            for value in 0..<20 { _ = world.write("k", Int64(value)) }
            #expect(world.finish())
            #expect(world.cluster.carriedOut["10.0.0.2"] == nil, "the local one is there")
            world.cluster.crash("10.0.0.1")
            world.wait(200)
            let number = world.write("k", 99)
            #expect(world.finish())
            let isAnswered = (try? world.outcomes[number]?.get()) != nil
            #expect(isAnswered == usesRemote)
        }
    }

    @Test func `A statement that a node forgot is prepared again, once for all that wait`() throws {
        let world = SessionWorld(seed: 8, hosts: 1)
        try world.open()
        world.cluster.forget("10.0.0.1")
        let numbers = (0..<20).map { world.write("k", Int64($0)) }
        #expect(world.finish())
        for number in numbers { #expect((try? world.outcomes[number]?.get()) != nil) }
        #expect(world.cluster.rows["k"]?.count == 20)
        // Another one is for those whose refusal came after it.
        #expect((1...2).contains(world.core.counters.preparations))
    }

    @Test func `Rows that became others are described anew, and then known`() throws {
        let world = SessionWorld(seed: 9, hosts: 1)
        try world.open()
        _ = world.write("k", 5)
        #expect(world.finish())
        let first = world.read("k")
        #expect(world.finish())
        #expect(world.values(first) == [5] && world.select.shape.metadataID == [1])
        world.cluster.selectMetadataID = [9]
        let second = world.read("k")
        #expect(world.finish())
        #expect(world.values(second) == [5] && world.select.shape.metadataID == [9])
    }

    @Test func `A request past its time fails, and its late answer is nobody else's`() throws {
        let world = SessionWorld(seed: 10, hosts: 1) { options, _ in
            options.connection.heartbeatMilliseconds = 100_000
            options.connection.heartbeatTimeoutMilliseconds = 100_000
        }
        try world.open()
        world.cluster.slowMilliseconds["10.0.0.1"] = 1000
        let late = world.write("k", 1, timeout: 200)
        #expect(world.loop.run(until: { world.isDone(late) }))
        guard case .failure(let error)? = world.outcomes[late] else {
            Issue.record("answered")
            return
        }
        #expect(error.code == .timeout && error.mayHaveBeenDone && error.isRetryable)
        world.cluster.slowMilliseconds = [:]
        let reads = (0..<30).map { _ in world.read("k") }
        #expect(world.finish())
        for read in reads { #expect(world.values(read) == [1]) }
        world.wait(2000)
        #expect(world.core.counters.connectionsLost == 0, "a late answer is no reason to part")
    }

    @Test func `A node without a sign of life is left, and taken back`() throws {
        let world = SessionWorld(seed: 11, hosts: 2)
        try world.open()
        world.wait(200)
        world.cluster.isMute = ["10.0.0.1"]
        world.wait(3000)
        #expect(world.core.nodes.first { $0.node.address.host == "10.0.0.1" }?.isUp == false)
        let numbers = (0..<10).map { world.write("k", Int64($0)) }
        #expect(world.finish())
        for number in numbers { #expect((try? world.outcomes[number]?.get()) != nil) }
        world.cluster.isMute = []
        world.wait(5000)
        #expect(world.core.nodes.allSatisfy { $0.isUp })
    }

    @Test func `Another node is asked as well when the first takes long`() throws {
        let world = SessionWorld(seed: 12, hosts: 2)
        try world.open()
        world.wait(500)
        world.cluster.slowMilliseconds["10.0.0.1"] = 1500
        let started = world.loop.nowMilliseconds
        let numbers = (0..<10).map { world.write("k\($0)", 1, speculative: 50) }
        #expect(world.loop.run(until: { numbers.allSatisfy { world.isDone($0) } }))
        #expect(world.loop.nowMilliseconds - started < 1000)
        #expect(world.core.counters.speculations > 0)
        #expect(world.finish())
        for number in numbers { #expect((try? world.outcomes[number]?.get()) != nil) }
    }

    @Test func `Requests past the places wait, and past the queue are refused`() throws {
        let world = SessionWorld(seed: 13, hosts: 1) { options, _ in
            options.connection.requestsMax = 4
            options.queueMax = 10
        }
        try world.open()
        let numbers = (0..<20).map { world.write("k", Int64($0)) }
        #expect(world.core.counters.queued == 10)
        #expect(world.finish())
        let failures = numbers.compactMap { number -> CQLRequestError? in
            if case .failure(let error)? = world.outcomes[number] { return error }
            return nil
        }
        #expect(failures.map(\.code) == [CQLRequestError.Code](repeating: .overloaded, count: 6))
        #expect(world.cluster.rows["k"]?.count == 14 && world.core.counters.queued == 0)
    }

    @Test func `Closing fails what is open`() throws {
        let world = SessionWorld(seed: 15, hosts: 1)
        try world.open()
        world.cluster.slowMilliseconds["10.0.0.1"] = 1000
        let number = world.write("k", 1, isIdempotent: true)
        world.close()
        guard case .failure(let error)? = world.outcomes[number] else {
            Issue.record("answered")
            return
        }
        #expect(!error.description.isEmpty)
        let after = world.write("k", 2)
        if case .failure(let error)? = world.outcomes[after] { #expect(error.code == .closed) }
        #expect(world.isDone(after) && world.loop.openTimers == 0)
    }

    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func `A session that its user forgets goes on with its connections and ends nothing by a trap`(_ seed: UInt64) {
        var weather = SimulatedCluster.Weather()
        weather.cut = 30
        weather.silent = 20
        let world = SessionWorld(seed: seed, weather: weather)
        world.core.open { _ in }
        world.wait(Int(seed) * 3)
        weak let core = world.core
        world.core = nil
        world.wait(60_000)
        #expect(core != nil)
        core?.close()
        world.wait(5000)
        #expect(core == nil && world.loop.openTimers == 0, "seed \(seed)")
    }

    @Test func `A session that nobody has any more is closed`() {
        let world = SessionWorld(seed: 3)
        let box = Mutex<CassandraSession?>(nil)
        let options = CQLSessionOptions(contactPoints: world.cluster.nodes.map(\.address))
        CassandraSession.open(options, on: world.loop, transport: world.cluster) { result in
            box.withLock { $0 = try? result.get() }
        }
        #expect(world.loop.run(until: { box.withLock { $0 != nil } }))
        world.wait(1000)
        #expect(world.cluster.openConnections > 0)
        box.withLock { $0 = nil }
        world.wait(5000)
        #expect(world.cluster.openConnections == 0 && world.loop.openTimers == 0)
    }
}
