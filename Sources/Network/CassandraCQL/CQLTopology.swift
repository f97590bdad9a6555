import CQLFrames

/// A node of a cluster, as the cluster describes it.
public struct CQLNode: Hashable, Sendable {
    public var hostID: CQLUUID
    public var address: CQLAddress
    public var dataCenter: String
    public var rack: String
    public var release: String
    /// Where its ranges end, on `Murmur3Partitioner`'s ring.
    public var tokens: [Int64]

    public init(
        hostID: CQLUUID, address: CQLAddress, dataCenter: String, rack: String, release: String, tokens: [Int64]
    ) {
        self.hostID = hostID
        self.address = address
        self.dataCenter = dataCenter
        self.rack = rack
        self.release = release
        self.tokens = tokens
    }
}

/// Where a keyspace keeps its copies.
public enum CQLReplication: Hashable, Sendable {
    /// The next nodes on the ring.
    case simple(Int)
    /// So many in each data centre, on different racks where there are enough.
    case network([String: Int])
    /// On each node its own, or by a strategy that is not known.
    case other

    /// Of `system_schema.keyspaces.replication`.
    public init(_ options: [(String, String)]) {
        var values = Dictionary(options, uniquingKeysWith: { first, _ in first })
        let strategy = values.removeValue(forKey: "class")?.split(separator: ".").last.map(String.init)
        // "3/1" are three copies of which one is transient.
        func factor(_ text: String) -> Int? { text.split(separator: "/").first.flatMap { Int($0) } }
        switch strategy {
        case "SimpleStrategy":
            self = values["replication_factor"].flatMap(factor).map { .simple($0) } ?? .other
        case "NetworkTopologyStrategy": self = .network(values.compactMapValues(factor))
        default: self = .other
        }
    }
}

/// A cluster's nodes and their ring. Pure.
struct CQLTopology: Equatable {
    let nodes: [CQLNode]
    let keyspaces: [String: CQLReplication]
    /// Whether tokens are ours to compute.
    let hasMurmur3: Bool
    /// Ends of ranges, ascending, with whose they are.
    let ring: [Range]

    struct Range: Equatable {
        let token: Int64
        let node: Int
    }

    init(nodes: [CQLNode], keyspaces: [String: CQLReplication], hasMurmur3: Bool) {
        self.nodes = nodes
        self.keyspaces = keyspaces
        self.hasMurmur3 = hasMurmur3
        ring = nodes.indices.flatMap { node in nodes[node].tokens.map { Range(token: $0, node: node) } }
            .sorted { $0.token != $1.token ? $0.token < $1.token : $0.node < $1.node }
    }

    /// The place on the ring that a token belongs to: the first end at or behind it; nil without a ring.
    func place(of token: Int64) -> Int? {
        guard hasMurmur3, !ring.isEmpty else { return nil }
        var low = 0
        var high = ring.count
        while low < high {
            let middle = (low + high) / 2
            if ring[middle].token < token { low = middle + 1 } else { high = middle }
        }
        return low == ring.count ? 0 : low
    }

    /// The nodes that keep what belongs to a place, the first owner first.
    func replicas(at place: Int, _ replication: CQLReplication) -> [Int] {
        switch replication {
        case .other: return []
        case .simple(let count):
            var found: [Int] = []
            walk(from: place) { node in
                if !found.contains(node) { found.append(node) }
                return found.count < count
            }
            return found
        case .network(let factors): return networkReplicas(place, factors)
        }
    }

    /// Whether every node keeps everything: then no node is wrong for rows of several partitions in one request.
    func isOnEveryNode(_ replication: CQLReplication) -> Bool {
        guard !nodes.isEmpty else { return false }
        switch replication {
        case .other: return false
        case .simple(let count): return count >= nodes.count
        case .network(let factors):
            let counts = Dictionary(grouping: nodes, by: \.dataCenter).mapValues(\.count)
            return counts.allSatisfy { center, count in factors[center] ?? 0 >= count }
        }
    }

    private func walk(from place: Int, _ visit: (Int) -> Bool) {
        for step in ring.indices {
            guard visit(ring[(place + step) % ring.count].node) else { return }
        }
    }

    private struct Center {
        let wanted: Int
        let racks: Int
        var found: [Int] = []
        var racksFound: Set<String> = []
        /// Nodes of racks that have a copy already, until all racks have one.
        var skipped: [Int] = []
    }

    private func networkReplicas(_ place: Int, _ factors: [String: Int]) -> [Int] {
        var centers: [String: Center] = [:]
        for (name, factor) in factors {
            let members = nodes.filter { $0.dataCenter == name && !$0.tokens.isEmpty }
            guard factor > 0, !members.isEmpty else { continue }
            centers[name] = Center(wanted: min(factor, members.count), racks: Set(members.map(\.rack)).count)
        }
        var order: [Int] = []
        var open = centers.count
        walk(from: place) { node in
            let description = nodes[node]
            guard var center = centers[description.dataCenter], center.found.count < center.wanted,
                !center.found.contains(node), !center.skipped.contains(node)
            else { return open > 0 }
            if center.racksFound.contains(description.rack), center.racksFound.count < center.racks {
                center.skipped.append(node)
            } else {
                center.found.append(node)
                order.append(node)
                let isNewRack = center.racksFound.insert(description.rack).inserted
                if isNewRack, center.racksFound.count == center.racks {
                    for skipped in center.skipped where center.found.count < center.wanted {
                        center.found.append(skipped)
                        order.append(skipped)
                    }
                }
            }
            if center.found.count == center.wanted { open -= 1 }
            centers[description.dataCenter] = center
            return open > 0
        }
        return order
    }
}

/// Reads a cluster's description from rows of its system tables.
enum CQLTopologyReader {
    static let localQuery =
        "SELECT host_id, data_center, rack, release_version, tokens, partitioner FROM system.local WHERE key = 'local'"
    static let peersQuery =
        "SELECT host_id, data_center, rack, release_version, tokens, native_address, native_port, peer "
        + "FROM system.peers_v2"
    /// Before Cassandra 4.
    static let oldPeersQuery =
        "SELECT host_id, data_center, rack, release_version, tokens, rpc_address, peer FROM system.peers"
    static let keyspacesQuery = "SELECT keyspace_name, replication FROM system_schema.keyspaces"

    struct Malformed: Error { let message: String }

    /// The node that was asked; and whether it computes tokens as we do.
    static func local(_ rows: CQLRows, at address: CQLAddress) throws(CQLFormatError) -> (CQLNode, Bool)? {
        guard let row = try rows.values().first, row.count == 6, let node = node(row, address) else { return nil }
        return (node, row[5].string?.hasSuffix("Murmur3Partitioner") == true)
    }

    /// The other nodes. Rows of nodes that are just coming or going lack things, and are left out.
    static func peers(_ rows: CQLRows, port: Int) throws(CQLFormatError) -> [CQLNode] {
        var nodes: [CQLNode] = []
        for row in try rows.values() {
            guard row.count == 7 || row.count == 8 else { continue }
            var address = row[5]
            let peer = row[row.count - 1]
            if case .inet(let bytes) = address, bytes.allSatisfy({ $0 == 0 }) { address = peer }
            guard case .inet(let bytes) = address else { continue }
            let nativePort = row.count == 8 ? row[6].integer.map(Int.init) ?? port : port
            let place = CQLAddress(host: host(bytes), port: nativePort)
            if let node = node(row, place) { nodes.append(node) }
        }
        return nodes
    }

    static func keyspaces(_ rows: CQLRows) throws(CQLFormatError) -> [String: CQLReplication] {
        var keyspaces: [String: CQLReplication] = [:]
        for row in try rows.values() {
            guard row.count == 2, let name = row[0].string, case .map(let entries) = row[1] else { continue }
            keyspaces[name] = CQLReplication(entries.map { ($0.key.string ?? "", $0.value.string ?? "") })
        }
        return keyspaces
    }

    private static func node(_ row: [CQLValue], _ address: CQLAddress) -> CQLNode? {
        guard case .uuid(let hostID) = row[0], let dataCenter = row[1].string, let rack = row[2].string else {
            return nil
        }
        var tokens: [Int64] = []
        if case .set(let values) = row[4] { tokens = values.compactMap { $0.string.flatMap { Int64($0) } } }
        return CQLNode(
            hostID: hostID, address: address, dataCenter: dataCenter, rack: rack, release: row[3].string ?? "",
            tokens: tokens.sorted())
    }

    /// An address as a host: dotted, or groups of hexadecimal digits.
    static func host(_ bytes: [UInt8]) -> String {
        if bytes.count == 4 { return bytes.map { String($0) }.joined(separator: ".") }
        return stride(from: 0, to: bytes.count - 1, by: 2).map {
            String(UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]), radix: 16)
        }.joined(separator: ":")
    }
}
