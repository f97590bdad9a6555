import CQLFrames
import Simulation
import Testing

@testable import CassandraCQL

/// What a session makes of the news that a cluster sends: of its tables and of its nodes.
struct ClusterChangeTests {
    @Test(arguments: [CQLVersion.v4, .v5])
    func `Rows of a table that was altered are read as they are now, by statements of before`(_ version: CQLVersion)
        throws
    {
        let world = SessionWorld(seed: 20) { _, cluster in cluster.versionMax = version }
        try world.open()
        world.wait(500)
        for value in 0..<5 { _ = world.write("k", Int64(value)) }
        #expect(world.finish())
        let before = (0..<6).map { _ in world.read("k") }
        #expect(world.finish())
        for read in before { #expect(world.values(read) == Array(0..<5) && world.columns(read) == ["v"]) }
        // Some are on their way meanwhile, and know the rows of before.
        let during = (0..<6).map { _ in world.read("k") }
        world.cluster.alter()
        #expect(world.finish())
        world.wait(200)
        #expect(world.schemaChanges == [CQLSchemaChange(.updated, keyspace: "s", .table("t"))])
        #expect(world.select.shape.columns?.map(\.name) == ["note", "v"])
        let after = (0..<12).map { _ in world.read("k") }
        #expect(world.finish())
        for read in during + after {
            #expect(world.values(read) == Array(0..<5), "\(String(describing: world.outcomes[read]))")
            #expect(world.columns(read) == ["note", "v"])
        }
        #expect(world.core.counters.preparations > 0)
        #expect(world.select.shape.metadataID == (version >= .v5 ? [2] : nil))
        world.close()
    }

    /// Of three, one of which the session hears the news from.
    @Test(arguments: [CQLVersion.v4, .v5], 1...3)
    func `A node that left is forgotten with its connections, and one that comes is used`(
        _ version: CQLVersion, _ number: Int
    ) throws {
        let world = SessionWorld(seed: 21) { options, cluster in
            cluster.versionMax = version
            options.connectionsPerNode = 2
        }
        try world.open()
        world.wait(500)
        let host = "10.0.0.\(number)"
        let endpoint = CQLEndpoint(address: [10, 0, 0, UInt8(number)], port: 9042)
        #expect(world.cluster.openConnections(of: host) >= 2)
        // What it has not answered goes to the others.
        let open = (0..<60).map { world.write("k\($0)", 1) }
        world.cluster.remove(number)
        world.cluster.tell(.topology(.removedNode, endpoint))
        #expect(world.finish())
        for write in open { #expect((try? world.outcomes[write]?.get()) != nil) }
        world.wait(3000)
        #expect(
            Set(world.core.nodes.map(\.node.address.host)) == Set((1...3).map { "10.0.0.\($0)" }).subtracting([host]))
        #expect(world.core.nodes.allSatisfy { $0.isUp })
        #expect(world.cluster.openConnections(of: host) == 0)
        let made = world.cluster.connections
        let carriedOut = world.cluster.carriedOut[host]
        for value in 0..<60 { _ = world.write("k\(value)", 2) }
        #expect(world.finish())
        world.wait(10_000)
        #expect(world.cluster.carriedOut[host] == carriedOut)
        #expect(world.cluster.connections == made, "nobody knocks there any more")
        world.cluster.add(number)
        world.cluster.tell(.topology(.newNode, endpoint))
        world.wait(1000)
        #expect(world.core.nodes.count == 3 && world.core.nodes.allSatisfy { $0.isUp })
        for value in 0..<60 { _ = world.write("k\(value)", 3) }
        #expect(world.finish())
        #expect(world.cluster.carriedOut[host, default: 0] > carriedOut ?? 0)
        #expect(world.nodeCounts == [3, 2, 3])
        world.close()
        #expect(world.cluster.openConnections == 0 && world.loop.openTimers == 0)
    }
}
