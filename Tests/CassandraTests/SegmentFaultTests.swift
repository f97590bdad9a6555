import EventLoop
import Simulation
import Synchronization
import TestSupport
import Testing

@testable import CQLFrames
@testable import CassandraCQL

/// What happens on its way to a unit of what a node sends: a segment of v5, a frame of v4.
private enum UnitFault: String, CaseIterable {
    // Of segments, the last one of compressed ones.
    case headerBit, headerChecksum, payloadBit, payloadChecksum, shorter, longer, otherSize
    // Of frames that are compressed.
    case otherLength, bodyCut, notCompressed, noise
    // Of both.
    case cutOff, twice

    static func cases(_ speech: Speech) -> [UnitFault] {
        switch speech.version {
        case .v4: speech.compression == .lz4 ? [.otherLength, .bodyCut, .notCompressed, .noise, .cutOff, .twice] : []
        default:
            [.headerBit, .headerChecksum, .payloadBit, .payloadChecksum, .shorter, .longer]
                + (speech.compression == .lz4 ? [.otherSize] : []) + [.cutOff, .twice]
        }
    }

    /// The bytes that are sent in place of a unit. After those of `cutOff` the connection ends.
    func bytes(_ unit: [UInt8], _ speech: Speech) -> [UInt8] {
        var changed = unit
        let head = CQLSegment.headerBytes(speech.compression)
        switch self {
        case .headerBit: changed[0] ^= 4
        case .headerChecksum: changed[head - 1] ^= 0x10
        case .payloadBit: changed[(head + unit.count) / 2 - 1] ^= 1
        case .payloadChecksum: changed[unit.count - 2] ^= 0x80
        case .shorter: return header(of: unit, speech) { $0.payloadLength -= 1 }
        case .longer: return header(of: unit, speech) { $0.payloadLength += 1 }
        case .otherSize: return header(of: unit, speech) { $0.uncompressedLength += 3 }
        case .otherLength: changed[12] ^= 1
        case .bodyCut:
            changed.removeLast()
            changed[8] -= 1
        case .notCompressed: changed[1] &= ~CQLFrameFlags.compression.rawValue
        case .noise: changed.replaceSubrange(13..., with: [UInt8](repeating: 0xa5, count: unit.count - 13))
        case .cutOff: changed.removeLast(3)
        case .twice: changed += unit
        }
        return changed
    }

    /// With another header, whose checksum is right.
    private func header(of unit: [UInt8], _ speech: Speech, _ change: (inout CQLSegment.Header) -> Void) -> [UInt8] {
        guard var header = try? unit.withUnsafeBytes({ try CQLSegment.header($0, speech.compression) }) else {
            return unit
        }
        change(&header)
        let buffer = CQLBuffer()
        CQLSegment.append(header, speech.compression, to: buffer)
        return Array(buffer.bytes) + unit.dropFirst(buffer.count)
    }
}

/// Passes a node's bytes on by units, and breaks one where it is told to.
private final class UnitProxy: Sendable {
    fileprivate final class State: Sendable {
        let speech: Speech
        /// For the next unit of a connection that has answered some requests. On the proxy's loop.
        nonisolated(unsafe) var fault: UnitFault?
        let made = Atomic<Int>(0)
        /// Connections that had one and are over.
        let ended = Atomic<Int>(0)

        init(_ speech: Speech) { self.speech = speech }
    }

    private let proxy: ConnectionProxy
    private let state: State
    var port: Int { proxy.port }
    var made: Int { state.made.load(ordering: .relaxed) }
    var ended: Int { state.ended.load(ordering: .relaxed) }

    init(to port: Int, _ speech: Speech) throws {
        let state = State(speech)
        self.state = state
        proxy = try ConnectionProxy(to: port) { UnitPair($0, $1, state) }
    }

    func set(_ fault: UnitFault) { proxy.execute { [state] in state.fault = fault } }
    func stop() { proxy.stop() }
}

private final class UnitPair: ProxiedConnection {
    /// More than a connection has that only asks for the cluster.
    private static let unitsBefore = 12

    private let state: UnitProxy.State
    private var input: [UInt8] = []
    private var isSegmented = false
    private var units = 0
    private var isBroken = false

    init(_ client: Socket, _ server: Socket, _ state: UnitProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard isFromServer else { return server.write(bytes) }
        input += bytes
        while let unit = take() {
            units += 1
            guard let fault = state.fault, units > UnitPair.unitsBefore, !isBroken else {
                unit.withUnsafeBytes { client.write($0) }
                continue
            }
            state.fault = nil
            isBroken = true
            state.made.add(1, ordering: .relaxed)
            fault.bytes(unit, state.speech).withUnsafeBytes { client.write($0) }
            if fault == .cutOff { return close() }
        }
    }

    /// The proxy keeps it until either side has ended.
    deinit { if isBroken { state.ended.add(1, ordering: .relaxed) } }

    private func take() -> [UInt8]? {
        let speech = state.speech
        let length = input.withUnsafeBytes { bytes -> Int? in
            guard isSegmented else {
                guard bytes.count >= CQLFrameHeader.byteCount else { return nil }
                return CQLFrameHeader.byteCount
                    + Int(Int32(bigEndian: bytes.loadUnaligned(fromByteOffset: 5, as: Int32.self)))
            }
            let head = CQLSegment.headerBytes(speech.compression)
            guard bytes.count >= head, let header = try? CQLSegment.header(bytes, speech.compression) else {
                return nil
            }
            return head + header.payloadLength + CQLSegment.trailerBytes
        }
        guard let length, input.count >= length else { return nil }
        // The server's first answer is v5's only one without a segment.
        isSegmented = speech.version >= .v5
        defer { input.removeFirst(length) }
        return Array(input[..<length])
    }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(3)))
struct SegmentFaultTests {
    private static let rounds = 1
    /// Requests one by one, before the fault.
    private static let warmUps = 14

    /// Ends that the session told of, as words.
    private final class Ends: Sendable {
        let reasons = Mutex<[String]>([])
    }

    private func open(_ node: CassandraNode, _ proxy: UnitProxy, _ speech: Speech, _ ends: Ends, _ loop: EventLoop)
        async throws -> CassandraSession
    {
        var options = CQLSessionOptions(contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
        options.connection.version = speech.version
        options.connection.compression = speech.compression
        options.connection.heartbeatMilliseconds = 400
        options.connection.heartbeatTimeoutMilliseconds = 400
        options.backoff.maxMilliseconds = 500
        options.openMilliseconds = 30_000
        return try await CassandraSession.open(options, on: loop, transport: ProxyTransport(port: proxy.port)) {
            event in
            guard case .node(_, isUp: false, let reason) = event else { return }
            ends.reasons.withLock { $0.append(reason ?? "") }
        }
    }

    /// Writes so many at once; which were acknowledged, and how the others failed.
    private func write(_ session: CassandraSession, _ insert: CQLPrepared, _ keys: Range<Int32>) async
        -> (acknowledged: Set<Int64>, failures: [any Error])
    {
        var options = CassandraSession.Options()
        options.call.isIdempotent = true
        options.call.timeoutMilliseconds = 4000
        let callOptions = options
        return await withTaskGroup(of: (Int32, (any Error)?).self) { group in
            for key in keys {
                group.addTask {
                    do {
                        try await session.execute(insert, [.int(key)], options: callOptions)
                        return (key, nil)
                    } catch {
                        return (key, error)
                    }
                }
            }
            return await group.reduce(into: ([], [])) { found, one in
                if let error = one.1 { found.1.append(error) } else { found.0.insert(Int64(one.0)) }
            }
        }
    }

    @Test(arguments: Speech.all)
    func `A broken segment or frame costs its connection, which is replaced, and no row`(_ speech: Speech) async throws
    {
        for fault in UnitFault.cases(speech) { try await expectReplaced(fault, speech) }
    }

    private func expectReplaced(_ fault: UnitFault, _ speech: Speech) async throws {
        let node = try await SharedCassandra.shared.node()
        let proxy = try UnitProxy(to: node.port, speech)
        defer { proxy.stop() }
        let ends = Ends()
        let loop = EventLoop(name: "cql")
        defer { loop.stop() }
        let table = "unit_faults.v\(speech.version.rawValue)_\(speech.compression)_\(fault.rawValue.lowercased())"
        try await RealSession.makeTable(node.port, table)
        let session = try await open(node, proxy, speech, ends, loop)
        #expect(session.version == speech.version)
        let insert = try await session.prepare("INSERT INTO \(table) (k) VALUES (?)")
        var next: Int32 = 0
        var acknowledged: Set<Int64> = []
        func write(_ count: Int32) async -> [any Error] {
            let (done, failures) = await self.write(session, insert, next..<(next + count))
            next += count
            acknowledged.formUnion(done)
            return failures
        }
        let isNamed = {
            ends.reasons.withLock {
                $0.contains {
                    fault == .cutOff ? $0.contains("ended the connection") : $0.contains("what is not the protocol")
                }
            }
        }
        // It may be the connection that listens to events that is hit; only without the other is a node down, with a
        // reason.
        var rounds = 0
        while rounds < Self.rounds || (!isNamed() && rounds < 6 * Self.rounds) {
            rounds += 1
            let round = rounds
            for _ in 0..<Self.warmUps { _ = await write(1) }
            proxy.set(fault)
            let failures = await write(20)
            await until { proxy.made == round && proxy.ended == round }
            #expect(proxy.made == round && proxy.ended == round, "\(fault): the broken connection is closed")
            let known: Set<CQLRequestError.Code> = [.timeout, .noNode, .connectionLost]
            for error in failures {
                #expect((error as? CQLRequestError).map { known.contains($0.code) } == true, "\(fault): \(error)")
            }
            // Another one takes its place, and what is asked afterwards is answered.
            await until { await session.nodes().allSatisfy { $0.isUp } }
            let later = await write(20)
            #expect(later.isEmpty, "\(fault): \(later.prefix(2))")
        }
        var counters = await session.counters()
        await until {
            counters = await session.counters()
            return counters.connections >= counters.connectionsLost + 2
        }
        #expect(counters.connectionsLost >= UInt64(Self.rounds), "\(fault)")
        #expect(counters.connections >= counters.connectionsLost + 2, "\(fault): \(counters)")
        #expect(isNamed(), "\(fault): \(ends.reasons.withLock { $0 })")
        let rows = try await session.query("SELECT k FROM \(table)").values().compactMap { $0[0].integer }
        #expect(acknowledged.isSubset(of: Set(rows)), "\(fault)")
        #expect(acknowledged.count >= Int(next) - 40 * rounds)
        await session.closeAndWait()
    }
}
