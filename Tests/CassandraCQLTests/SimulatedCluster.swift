import CQLFrames
import EventLoop
import Simulation

@testable import CassandraCQL

/// Nodes that keep one table between them, in virtual time and by seed: connections that are refused, slow or cut,
/// nodes that crash, forget their prepared statements, answer with errors, late, or not at all. Confined to the loop.
final class SimulatedCluster: CQLTransport, @unchecked Sendable {
    struct Weather {
        /// In percent of the connections.
        var cut = 0
        var silent = 0
        /// In percent of the requests.
        var errors = 0
        var forgets = 0
        var delayMillisecondsMax = 5
        var isTiny = false
    }

    static let insert = "INSERT INTO s.t (k, v) VALUES (?, ?)"
    static let select = "SELECT v FROM s.t WHERE k = ?"

    let loop: SimulatedLoop
    let random: SimulatedStream.SharedRandom
    var weather: Weather
    /// What a node speaks at most, and who may come in.
    var versionMax = CQLVersion.v5
    var password: String?
    private(set) var nodes: [CQLNode] = []
    /// The rows: values by key.
    private(set) var rows: [String: Set<Int64>] = [:]
    fileprivate(set) var isDown: Set<String> = []
    /// Nodes that take requests and never answer.
    var isMute: Set<String> = []
    /// Answers of this node come so much later.
    var slowMilliseconds: [String: Int] = [:]
    fileprivate var forgotten: [String: Set<String>] = [:]
    private var open: [SimulatedNodeConnection] = []
    /// Requests carried out, by host.
    fileprivate(set) var carriedOut: [String: Int] = [:]
    private(set) var connections = 0
    /// Of those, what has not ended.
    var openConnections: Int { open.count { !$0.isClosed } }
    /// The id that v5 says the select's rows have.
    var selectMetadataID: [UInt8] = [1]
    /// Whether the select's rows have a column before their value.
    fileprivate var hasNote = false

    init(_ loop: SimulatedLoop, seed: UInt64, hosts: Int, weather: Weather = Weather()) {
        self.loop = loop
        random = SimulatedStream.SharedRandom(seed: seed)
        self.weather = weather
        for number in 1...hosts { add(number) }
    }

    func add(_ number: Int, dataCenter: String = "dc1") {
        let tokens = (0..<4).map { Int64.min / 4 * Int64($0 * 2 - 3) / 2 &+ Int64(number) << 58 }
        nodes.append(
            CQLNode(
                hostID: CQLUUID(high: 7, low: UInt64(number)), address: CQLAddress(host: "10.0.0.\(number)"),
                dataCenter: dataCenter, rack: "r\(number)", release: "5.0", tokens: tokens.sorted()))
    }

    func remove(_ number: Int) { nodes.removeAll { $0.hostID.low == UInt64(number) } }

    func openConnections(of host: String) -> Int { open.count { $0.host == host && !$0.isClosed } }

    /// The table gets a column that the select takes along, before the value: nodes forget its statements, and tell.
    func alter() {
        hasNote = true
        selectMetadataID = [2]
        for node in nodes { forget(node.address.host) }
        tell(.schema(CQLSchemaChange(.updated, keyspace: "s", .table("t"))))
    }

    func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random.numbers) }
    func happens(_ percent: Int) -> Bool { percent > 0 && int(0...99) < percent }

    func crash(_ host: String) {
        isDown.insert(host)
        forgotten[host] = [Self.insert, Self.select]
        for connection in open where connection.host == host { connection.close() }
        open.removeAll { $0.host == host }
    }

    func restart(_ host: String) { isDown.remove(host) }

    func forget(_ host: String) { forgotten[host] = [Self.insert, Self.select] }

    func tell(_ event: CQLEvent) { for connection in open { connection.tell(event) } }

    fileprivate func write(_ key: String, _ value: Int64) { rows[key, default: []].insert(value) }

    func connect(
        _ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        _ = self.loop.timer(afterMilliseconds: int(0...weather.delayMillisecondsMax)) { [self] in
            guard nodes.contains(where: { $0.address == address }), !isDown.contains(address.host) else {
                return done(.failure(StreamError("refused")))
            }
            connections += 1
            var link = SimulatedLink()
            link.delayMillisecondsMax = weather.delayMillisecondsMax
            link.pieceBytesMax = weather.isTiny ? [1, 3, 100][int(0...2)] : 20_000
            link.bufferBytes = weather.isTiny ? [1, 50, 5000][int(0...2)] : 100_000
            var breaks = SimulatedBreaks()
            let place = int(1...6000)
            if happens(weather.cut) {
                if int(0...1) == 0 { breaks.cutAfter = place } else { breaks.cutAfterReplies = place }
            } else if happens(weather.silent) {
                breaks.silentAfter = place
            }
            let ends = SimulatedStream.pair(self.loop, link, random, breaks: breaks)
            open.append(SimulatedNodeConnection(self, address.host, ends.server))
            done(.success(ends.client))
        }
    }
}

/// A connection from the node's side.
private final class SimulatedNodeConnection: ByteStreamOwner {
    let host: String
    private unowned let cluster: SimulatedCluster
    private let stream: SimulatedStream
    private var version = CQLVersion.v5
    private let decoder = CQLFrameDecoder(.frames(.none))
    private let encoder = CQLFrameEncoder(.frames(.none))
    private var isRegistered = false

    init(_ cluster: SimulatedCluster, _ host: String, _ stream: SimulatedStream) {
        self.cluster = cluster
        self.host = host
        self.stream = stream
        stream.owner = self
        stream.startReading()
    }

    var isClosed: Bool { stream.isClosed }
    func close() { stream.close(StreamError("crash")) }
    func drained() {}
    func closed(_ error: StreamError?) {}

    func tell(_ event: CQLEvent) { if isRegistered { send(CQLAnswer(.event(event)), -1) } }

    func received(_ bytes: UnsafeRawBufferPointer) {
        decoder.feed(bytes)
        defer { decoder.endFeed() }
        do {
            while let frame = try decoder.next() {
                let request = try CQLRequest.read(frame.header, frame.body).request
                take(request, frame.header)
            }
        } catch {
            close()
        }
    }

    private func send(_ answer: CQLAnswer, _ stream: Int16, version: CQLVersion? = nil) {
        guard !self.stream.isClosed else { return }
        let buffer = CQLBuffer()
        answer.append(to: buffer, version ?? self.version, stream: stream)
        encoder.add(buffer.bytes)
        encoder.finish()
        self.stream.write(encoder.output.bytes)
        encoder.output.removeAll()
    }

    private func fail(_ code: Int32, _ detail: CQLServerError.Detail) -> CQLAnswer {
        CQLAnswer(.error(CQLServerError(code: code, message: "simulated", detail: detail)))
    }

    private func take(_ request: CQLRequest, _ header: CQLFrameHeader) {
        guard !cluster.isMute.contains(host) else { return }
        switch request {
        case .startup:
            guard header.version <= cluster.versionMax else {
                return send(fail(0x0a, .protocol), header.stream, version: cluster.versionMax)
            }
            version = header.version
            send(CQLAnswer(cluster.password == nil ? .ready : .authenticate("Password")), header.stream)
            if version >= .v5 {
                decoder.framing = .segments(.none)
                encoder.framing = .segments(.none)
            }
        case .authResponse(let token):
            let isRight = token == CQLCredentials(user: "u", password: cluster.password ?? "").token
            send(isRight ? CQLAnswer(.authSuccess(nil)) : fail(0x0100, .badCredentials), header.stream)
        case .options: send(CQLAnswer(.supported([])), header.stream)
        case .register:
            isRegistered = true
            send(CQLAnswer(.ready), header.stream)
        case .query(let text, _): send(system(text), header.stream)
        case .prepare(let text, _):
            cluster.forgotten[host]?.remove(text)
            send(CQLAnswer(.result(.prepared(prepared(text)))), header.stream)
        default: later(request, header.stream)
        }
    }

    /// Statements take their time, and are carried out when they are answered, or before.
    private func later(_ request: CQLRequest, _ stream: Int16) {
        let answer = carryOut(request)
        let delay = (cluster.slowMilliseconds[host] ?? 0) + cluster.int(0...cluster.weather.delayMillisecondsMax)
        _ = cluster.loop.timer(afterMilliseconds: delay) { [self] in send(answer, stream) }
    }

    private func id(_ text: String) -> [UInt8] { text == SimulatedCluster.insert ? [1, 1] : [2, 2] }

    private func column(_ name: String, _ type: CQLType) -> CQLColumn {
        CQLColumn(keyspace: "s", table: "t", name: name, type: type)
    }

    private var selected: [CQLColumn] { (cluster.hasNote ? [column("note", .text)] : []) + [column("v", .bigint)] }

    private func prepared(_ text: String) -> CQLPreparedResult {
        let isInsert = text == SimulatedCluster.insert
        let columns = [column("k", .text)] + (isInsert ? [column("v", .bigint)] : [])
        let result = isInsert ? [] : selected
        return CQLPreparedResult(
            id: id(text), resultMetadataID: version >= .v5 ? cluster.selectMetadataID : nil,
            parameters: CQLParametersMetadata(columns: columns, partitionKey: [0]),
            result: CQLRowsMetadata(columnCount: result.count, columns: result))
    }

    private func carryOut(_ request: CQLRequest) -> CQLAnswer {
        if cluster.happens(cluster.weather.forgets) { cluster.forget(host) }
        if cluster.happens(cluster.weather.errors) {
            switch cluster.int(0...3) {
            case 0: return fail(0x1000, .unavailable(.localOne, required: 1, alive: 0))
            case 1: return fail(0x1001, .overloaded)
            case 2: return fail(0x1002, .bootstrapping)
            default:
                _ = carryOutSafely(request)
                return fail(
                    0x1100, .writeTimeout(.localOne, received: 0, required: 1, type: .simple, contentions: nil))
            }
        }
        return carryOutSafely(request)
    }

    private func carryOutSafely(_ request: CQLRequest) -> CQLAnswer {
        switch request {
        case .execute(let prepared, let parameters): return execute(prepared, parameters)
        case .batch(let batch):
            for entry in batch.entries {
                guard case .prepared(let id) = entry.statement else { return fail(0x2000, .syntax) }
                if let missing = missing(id) { return missing }
                write(entry.values)
            }
            cluster.carriedOut[host, default: 0] += 1
            return CQLAnswer(.result(.void))
        default: return fail(0x2000, .syntax)
        }
    }

    private func missing(_ id: [UInt8]) -> CQLAnswer? {
        let text = id == [1, 1] ? SimulatedCluster.insert : SimulatedCluster.select
        return cluster.forgotten[host]?.contains(text) == true ? fail(0x2500, .unprepared(id: id)) : nil
    }

    private func write(_ values: CQLBoundValues) {
        let contents = values.contents()
        guard contents.count == 2, let key = contents[0], let value = contents[1], value.count == 8 else { return }
        cluster.write(
            String(decoding: key, as: UTF8.self), value.reduce(0) { $0 << 8 | Int64($1) })
    }

    private func execute(_ prepared: CQLPreparedID, _ parameters: CQLParameters) -> CQLAnswer {
        if let missing = missing(prepared.id) { return missing }
        cluster.carriedOut[host, default: 0] += 1
        guard prepared.id == [2, 2] else {
            write(parameters.values)
            return CQLAnswer(.result(.void), warnings: cluster.happens(3) ? ["take care"] : [])
        }
        let key = String(decoding: (parameters.values.contents().first ?? nil) ?? [], as: UTF8.self)
        let values = (cluster.rows[key] ?? []).sorted()
        let contents = values.map { value -> [CQLValue] in
            (cluster.hasNote ? [.text("a note that is longer than any value")] : []) + [.bigint(value)]
        }
        let metadata = CQLRowsMetadata(columnCount: selected.count, columns: selected)
        guard let rows = try? CQLRows(metadata, contents) else { return fail(0, .server) }
        let isChanged = version >= .v5 && prepared.resultMetadataID != cluster.selectMetadataID
        return CQLAnswer(.result(.rows(rows.withMetadata(isChanged ? cluster.selectMetadataID : nil, parameters))))
    }

    private func system(_ text: String) -> CQLAnswer {
        func rows(_ columns: [(String, CQLType)], _ values: [[CQLValue]]) -> CQLAnswer {
            let described = columns.map { CQLColumn(keyspace: "system", table: "x", name: $0.0, type: $0.1) }
            let metadata = CQLRowsMetadata(columnCount: columns.count, columns: described)
            guard let rows = try? CQLRows(metadata, values) else { return fail(0, .server) }
            return CQLAnswer(.result(.rows(rows)))
        }
        let common: [(String, CQLType)] = [
            ("host_id", .uuid), ("data_center", .text), ("rack", .text), ("release_version", .text),
            ("tokens", .set(.text)),
        ]
        func values(_ node: CQLNode) -> [CQLValue] {
            [
                .uuid(node.hostID), .text(node.dataCenter), .text(node.rack), .text(node.release),
                .set(node.tokens.map { .text("\($0)") }),
            ]
        }
        func address(_ node: CQLNode) -> CQLValue {
            .inet(node.address.host.split(separator: ".").map { UInt8($0) ?? 0 })
        }
        switch text {
        case CQLTopologyReader.localQuery:
            return rows(
                common + [("partitioner", .text)],
                cluster.nodes.filter { $0.address.host == host }.map { values($0) + ["x.Murmur3Partitioner"] })
        case CQLTopologyReader.peersQuery:
            guard version >= .v5 else { return fail(0x2200, .invalid) }
            return rows(
                common + [("native_address", .inet), ("native_port", .int), ("peer", .inet)],
                cluster.nodes.filter { $0.address.host != host }.map {
                    values($0) + [address($0), .int(9042), address($0)]
                })
        case CQLTopologyReader.oldPeersQuery:
            return rows(
                common + [("rpc_address", .inet), ("peer", .inet)],
                cluster.nodes.filter { $0.address.host != host }.map {
                    values($0) + [.inet([0, 0, 0, 0]), address($0)]
                })
        case CQLTopologyReader.keyspacesQuery:
            return rows(
                [("keyspace_name", .text), ("replication", .map(.text, .text))],
                [
                    [
                        "s",
                        .map([
                            CQLMapEntry("class", "org.apache.cassandra.locator.SimpleStrategy"),
                            CQLMapEntry("replication_factor", "2"),
                        ]),
                    ]
                ])
        default: return fail(0x2000, .syntax)
        }
    }
}

extension CQLRows {
    /// As a server answers: without columns where the request knows them, and with the new id where they changed.
    fileprivate func withMetadata(_ newID: [UInt8]?, _ parameters: CQLParameters) -> CQLRows {
        guard newID != nil || parameters.skipsMetadata else { return self }
        var metadata = metadata
        metadata.newMetadataID = newID
        if newID == nil { metadata.columns = nil }
        return replacing(metadata)
    }
}
