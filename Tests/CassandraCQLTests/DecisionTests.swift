import CQLFrames
import EventLoop
import Testing

@testable import CassandraCQL

/// What is decided without any connection.
struct DecisionTests {
    private func decision(_ detail: CQLServerError.Detail, _ isIdempotent: Bool, retries: Int = 0) -> CQLRetryDecision {
        CQLRetry.decision(
            CQLServerError(code: 0, message: "", detail: detail), isIdempotent: isIdempotent, retries: retries)
    }

    @Test func `Retries by error, write type and idempotence`() {
        let unavailable = CQLServerError.Detail.unavailable(.quorum, required: 2, alive: 1)
        #expect(decision(unavailable, false) == .nextNode && decision(unavailable, true, retries: 1) == .giveUp)
        for detail in [CQLServerError.Detail.overloaded, .server, .truncating] {
            #expect(decision(detail, true) == .nextNode && decision(detail, false) == .giveUp)
        }
        #expect(decision(.bootstrapping, false) == .nextNode)
        func timeout(_ type: CQLWriteType) -> CQLServerError.Detail {
            .writeTimeout(.quorum, received: 1, required: 2, type: type, contentions: nil)
        }
        for type in [CQLWriteType.simple, .unloggedBatch, .batchLog] {
            #expect(decision(timeout(type), true) == .sameNode && decision(timeout(type), false) == .giveUp)
            #expect(decision(timeout(type), true, retries: 1) == .giveUp)
        }
        for type in [CQLWriteType.batch, .counter, .compareAndSet, .view, .changeDataCapture] {
            #expect(decision(timeout(type), true) == .giveUp)
        }
        func read(_ received: Int32, _ hasData: Bool) -> CQLServerError.Detail {
            .readTimeout(.quorum, received: received, required: 2, hasData: hasData)
        }
        #expect(decision(read(2, false), false) == .sameNode)
        #expect(decision(read(2, true), true) == .giveUp && decision(read(1, false), true) == .giveUp)
        for detail in [CQLServerError.Detail.syntax, .invalid, .unauthorized, .badCredentials, .configuration, .other] {
            #expect(decision(detail, true) == .giveUp)
        }
        #expect(decision(.bootstrapping, true, retries: CQLRetry.retriesMax) == .giveUp)
    }

    private func node(_ number: Int, _ tokens: [Int64], _ dataCenter: String = "a", rack: String? = nil) -> CQLNode {
        CQLNode(
            hostID: CQLUUID(high: 0, low: UInt64(number)), address: CQLAddress(host: "10.0.0.\(number)"),
            dataCenter: dataCenter, rack: rack ?? "r\(number)", release: "", tokens: tokens)
    }

    @Test func `A token belongs to the first end at or behind it`() {
        let topology = CQLTopology(
            nodes: [node(0, [0, 100]), node(1, [50]), node(2, [-50])], keyspaces: [:], hasMurmur3: true)
        func owner(_ token: Int64) -> Int? { topology.place(of: token).map { topology.ring[$0].node } }
        #expect(owner(.min) == 2 && owner(-50) == 2 && owner(-49) == 0 && owner(1) == 1 && owner(51) == 0)
        #expect(owner(101) == 2 && owner(.max) == 2, "the ring goes round")
        let place = topology.place(of: 1) ?? -1
        #expect(topology.replicas(at: place, .simple(2)) == [1, 0])
        #expect(topology.replicas(at: place, .simple(9)) == [1, 0, 2])
        #expect(topology.replicas(at: place, .other).isEmpty)
        #expect(CQLTopology(nodes: [], keyspaces: [:], hasMurmur3: true).place(of: 1) == nil)
        #expect(CQLTopology(nodes: [node(0, [0])], keyspaces: [:], hasMurmur3: false).place(of: 1) == nil)
    }

    @Test func `Copies lie in each data centre, on different racks first`() {
        let topology = CQLTopology(
            nodes: [
                node(0, [0], "a", rack: "x"), node(1, [10], "a", rack: "x"), node(2, [20], "a", rack: "y"),
                node(3, [5], "b"), node(4, [15], "b"), node(5, [25], "b"),
            ], keyspaces: [:], hasMurmur3: true)
        let place = topology.place(of: 0) ?? -1
        #expect(topology.replicas(at: place, .network(["a": 2])) == [0, 2], "1 is on the rack of 0")
        #expect(topology.replicas(at: place, .network(["a": 3])) == [0, 2, 1])
        #expect(topology.replicas(at: place, .network(["a": 2, "b": 2])) == [0, 3, 4, 2])
        #expect(topology.replicas(at: place, .network(["a": 9, "c": 3])) == [0, 2, 1])
        #expect(topology.replicas(at: place, .network([:])).isEmpty)
    }

    @Test func `Every node has everything where each data centre keeps as many copies as it has nodes`() {
        let two = CQLTopology(
            nodes: [node(0, [0], "a"), node(1, [10], "a"), node(2, [5], "b")], keyspaces: [:], hasMurmur3: true)
        #expect(two.isOnEveryNode(.network(["a": 2, "b": 1])) && two.isOnEveryNode(.simple(3)))
        #expect(!two.isOnEveryNode(.network(["a": 1, "b": 1])) && !two.isOnEveryNode(.network(["a": 2])))
        #expect(!two.isOnEveryNode(.simple(2)) && !two.isOnEveryNode(.other))
        let none = CQLTopology(nodes: [], keyspaces: [:], hasMurmur3: true)
        #expect(!none.isOnEveryNode(.simple(1)) && !none.isOnEveryNode(.network([:])))
    }

    @Test func `Replication is read from the schema's words`() {
        #expect(
            CQLReplication([("class", "org.apache.cassandra.locator.SimpleStrategy"), ("replication_factor", "3")])
                == .simple(3))
        #expect(
            CQLReplication([("class", "NetworkTopologyStrategy"), ("a", "3"), ("b", "3/1")])
                == .network(["a": 3, "b": 3]))
        #expect(CQLReplication([("class", "LocalStrategy")]) == .other && CQLReplication([]) == .other)
        #expect(CQLReplication([("class", "SimpleStrategy"), ("replication_factor", "x")]) == .other)
    }

    @Test func `Addresses are read, and others refused`() {
        #expect(CQLAddress("h") == CQLAddress(host: "h", port: 9042))
        #expect(CQLAddress("h:1") == CQLAddress(host: "h", port: 1))
        #expect(CQLAddress("[::1]:7")?.description == "[::1]:7" && CQLAddress("::1") == CQLAddress(host: "::1"))
        for bad in ["", ":1", "h:", "h:0", "h:70000", "[::1", "[::1]x", "h:x"] { #expect(CQLAddress(bad) == nil) }
    }

    @Test func `Waits grow, vary and end`() {
        var random = SplitMix64(seed: 1)
        var backoff = CQLBackoff()
        backoff.initialMilliseconds = 100
        backoff.maxMilliseconds = 1000
        let waits = (1...8).map { backoff.milliseconds(afterFailures: $0, using: &random) }
        #expect((80...120).contains(waits[0]) && (320...480).contains(waits[2]))
        #expect(waits[7] <= 1200 && Set(waits.suffix(4)).count > 1)
    }
}
