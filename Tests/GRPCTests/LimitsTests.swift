import EventLoop
import GRPC
import Synchronization
import Testing

@testable import HTTP2

/// Pure state machines, told the time.
struct LifetimeTests {
    private static let settings: HTTP2Settings = {
        var settings = HTTP2Settings()
        settings.keepaliveMilliseconds = 60_000
        settings.keepaliveTimeoutMilliseconds = 20_000
        settings.idleMilliseconds = 300_000
        settings.ageMilliseconds = 1_800_000
        settings.graceMilliseconds = 10_000
        return settings
    }()

    @Test func `A silent peer is pinged, then given up; any bytes are a sign of life`() {
        var lifetime = HTTP2Lifetime(LifetimeTests.settings, now: 0)
        lifetime.streamsChanged(open: 1, now: 0)
        #expect(lifetime.nextCheck == 60_000)
        #expect(lifetime.check(now: 59_999) == nil)
        #expect(lifetime.check(now: 60_000) == .ping)
        #expect(lifetime.check(now: 60_000) == nil)
        lifetime.received(now: 70_000)
        #expect(lifetime.check(now: 129_999) == nil)
        #expect(lifetime.check(now: 130_000) == .ping)
        #expect(lifetime.nextCheck == 150_000)
        #expect(lifetime.check(now: 149_999) == nil)
        guard case .close = lifetime.check(now: 150_000) else {
            Issue.record("the connection lives on")
            return
        }
    }

    @Test func `Idle time drains a connection without streams, and no other`() {
        var lifetime = HTTP2Lifetime(LifetimeTests.settings, now: 0)
        lifetime.streamsChanged(open: 1, now: 1000)
        lifetime.received(now: 299_000)
        #expect(lifetime.check(now: 300_000) == nil)
        lifetime.streamsChanged(open: 0, now: 301_000)
        lifetime.received(now: 600_999)
        #expect(lifetime.check(now: 600_999) == nil)
        #expect(lifetime.check(now: 601_000) == .drain("idle"))
        guard case .close = lifetime.check(now: 611_000) else {
            Issue.record("the grace time does not end")
            return
        }
    }

    @Test func `Age drains a busy connection, and grace ends it`() {
        var lifetime = HTTP2Lifetime(LifetimeTests.settings, now: 0)
        lifetime.streamsChanged(open: 1, now: 0)
        lifetime.received(now: 1_799_999)
        #expect(lifetime.check(now: 1_799_999) == nil)
        #expect(lifetime.check(now: 1_800_000) == .drain("max_age"))
        #expect(lifetime.check(now: 1_809_999) == nil)
        #expect(lifetime.nextCheck == 1_810_000)
    }

    @Test func `Times of nothing are off, and a time at the end of numbers does not trap`() {
        var lifetime = HTTP2Lifetime(HTTP2Settings(), now: 0)
        #expect(lifetime.nextCheck == nil)
        #expect(lifetime.check(now: .max) == nil)
        var late = HTTP2Lifetime(LifetimeTests.settings, now: .max - 5)
        #expect(late.check(now: .max - 1) == nil)
    }

    @Test func `Pings closer than the gap are strikes, which sent data wipes off`() {
        var rule = HTTP2PingRule(gapMilliseconds: 30_000, strikesMax: 3)
        var rejected = [0, 30_000, 60_000].map { rule.received(now: UInt64($0)) }
        #expect(rejected == [false, false, false])
        rejected = [60_001, 60_002, 60_003].map { rule.received(now: UInt64($0)) }
        #expect(rejected == [false, false, true])
        rule.sentSomething()
        rejected = [60_004, 60_005, 60_006, 60_007].map { rule.received(now: UInt64($0)) }
        #expect(rejected == [false, false, false, true])
    }

    @Test func `Frames that ask for nothing are paid for by those that do`() {
        var budget = HTTP2FrameBudget(framesMax: 100)
        var taken = (0..<101).map { _ in budget.takeFrame() }
        #expect(taken == [Bool](repeating: true, count: 100) + [false])
        budget = HTTP2FrameBudget(framesMax: 100)
        for _ in 0..<1000 {
            taken = (0..<10).map { _ in budget.takeFrame() }
            #expect(!taken.contains(false))
            budget.usefulFrame()
        }
    }
}

struct DeadlineQueueTests {
    private final class Counted: Deadline {
        let number: Int
        let log: Log
        init(_ number: Int, _ log: Log) {
            self.number = number
            self.log = log
        }
        override func passed() { log.passed.append(number) }
    }

    private final class Log { var passed: [Int] = [] }

    @Test func `Deadlines pass in the order of their times, and those taken back do not`() async {
        let loop = EventLoop(name: "test")
        let passed: [Int] = await withCheckedContinuation { continuation in
            loop.execute {
                let queue = DeadlineQueue(loop: loop)
                let log = Log()
                let deadlines = (0..<100).map { Counted($0, log) }
                for deadline in deadlines {
                    queue.set(deadline, at: queue.now + UInt64((deadline.number * 37) % 100))
                }
                for deadline in deadlines where deadline.number % 3 == 0 { queue.cancel(deadline) }
                // Moved to the end.
                queue.set(deadlines[1], at: queue.now + 150)
                let box = LoopConfined((queue, log))
                func look() {
                    if box.value.0.count == 0 { return continuation.resume(returning: box.value.1.passed) }
                    _ = loop.timer(afterMilliseconds: 1) { look() }
                }
                look()
            }
        }
        let expected = (0..<100).filter { $0 % 3 != 0 && $0 != 1 }.sorted { ($0 * 37) % 100 < ($1 * 37) % 100 } + [1]
        #expect(passed == expected)
    }
}

/// Peers that break or strain the protocol, over real sockets.
@Suite(.timeLimit(.minutes(2)))
struct FloodTests {
    private static let empty = RawConnection.frame(4, flags: 0, stream: 0, [])

    /// What a connection gets back until the server closes it; nil where it does not.
    private func end(_ server: TestServer, _ bytes: [UInt8]) throws -> [UInt8]? {
        let connection = try RawConnection(port: server.port)
        defer { connection.close() }
        connection.send(RawConnection.preface + FloodTests.empty)
        var position = 0
        while position < bytes.count {
            let count = connection.sendSome(Array(bytes[position..<min(bytes.count, position + 100_000)]))
            if count <= 0 { break }
            position += count
        }
        return connection.receiveAll()
    }

    private func goesOn(_ server: TestServer) async {
        let result = await TestClient(port: server.port).call("Unary", [1])
        #expect(result.messages == [[1]])
    }

    private func contains(_ bytes: [UInt8]?, _ text: String) -> Bool {
        bytes.map { String(decoding: $0, as: UTF8.self).contains(text) } ?? false
    }

    /// Peers were found at these faults, and at no others.
    private func expect(_ server: TestServer, _ faults: [HTTP2PeerFault: Int]) async {
        await until { server.server.counters.faults == faults }
        #expect(server.server.counters.faults == faults)
    }

    @Test func `A peer that pings too often is told so and cut off`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let ping = RawConnection.frame(6, flags: 0, stream: 0, [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(contains(try end(server, (0..<5).flatMap { _ in ping }), "too_many_pings"))
        await expect(server, [.tooManyPings: 1])
        await goesOn(server)
    }

    @Test func `Floods of frames that ask for nothing end`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let update = RawConnection.frame(8, flags: 0, stream: 0, [0, 0, 0, 1])
        #expect(contains(try end(server, (0..<11_000).flatMap { _ in update }), "too_many_frames"))
        let open = RawConnection.frame(1, flags: 4, stream: 1, RawConnection.headers(RawConnection.fields("Unary")))
        let empty = RawConnection.frame(0, flags: 0, stream: 1, [])
        #expect(contains(try end(server, open + (0..<11_000).flatMap { _ in empty }), "too_many_frames"))
        await expect(server, [.tooManyFrames: 2])
        await goesOn(server)
    }

    @Test func `Rapid resets, settings floods and endless header blocks end`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        var resets: [UInt8] = []
        for number in 0..<3000 {
            let stream = UInt32(2 * number + 1)
            resets += RawConnection.frame(
                1, flags: 4, stream: stream, RawConnection.headers(RawConnection.fields("Never")))
            resets += RawConnection.frame(3, flags: 0, stream: stream, [0, 0, 0, 8])
        }
        #expect(try end(server, resets) != nil)
        await expect(server, [.tooManyResets: 1])
        #expect(try end(server, (0..<20_000).flatMap { _ in FloodTests.empty }) != nil)
        await expect(server, [.tooManyResets: 1, .tooManyAnswers: 1])
        var block = RawConnection.frame(1, flags: 0, stream: 1, RawConnection.headers(RawConnection.fields("Never")))
        for _ in 0..<2000 { block += RawConnection.frame(9, flags: 0, stream: 1, RawConnection.headers([("a", "b")])) }
        #expect(try end(server, block) != nil)
        await expect(server, [.tooManyResets: 1, .tooManyAnswers: 1, .tooManyContinuations: 1])
        await goesOn(server)
    }

    @Test func `A peer that gives no sign of life is given up, and counted as silent`() async throws {
        let world = try StreamingWorld {
            $0.http2.keepaliveMilliseconds = 20
            $0.http2.keepaliveTimeoutMilliseconds = 20
        }
        defer { world.stop() }
        let connection = try RawConnection(port: world.port)
        connection.send(RawConnection.preface + FloodTests.empty)
        #expect(connection.receiveAll() != nil)
        connection.close()
        await until { world.server.counters.faults == [.silent: 1] }
        #expect(world.server.counters.faults == [.silent: 1])
    }

    @Test func `Connections above the limits are refused with a reason, and counted`() async throws {
        let world = try StreamingWorld { $0.connectionsPerAddressMax = 2 }
        defer { world.stop() }
        let first = try RawConnection(port: world.port)
        let second = try RawConnection(port: world.port)
        await until { world.server.connectionCount == 2 }
        let third = try RawConnection(port: world.port)
        #expect(contains(third.receiveAll(), "too_many_connections_of_one_address"))
        #expect(world.server.counters.connectionsRefusedPerAddress == 1)
        first.close()
        await until { world.server.connectionCount == 1 }
        let call = try world.call("Echo")
        call.send([], ends: true)
        #expect(await call.end().status == "0")
        second.close()
    }

    @Test func `All connections together have their own limit, over all loops and addresses`() async throws {
        let world = try StreamingWorld { $0.connectionsMax = 3 }
        defer { world.stop() }
        let open = try (0..<3).map { _ in try RawConnection(port: world.port) }
        await until { world.server.connectionCount == 3 }
        for refused in 1...2 {
            let more = try RawConnection(port: world.port)
            defer { more.close() }
            let answer = more.receiveAll()
            #expect(contains(answer, "too_many_connections") && !contains(answer, "of_one_address"))
            #expect(world.server.counters.connectionsRefused == refused)
        }
        #expect(world.server.counters.connectionsRefusedPerAddress == 0)
        // What was refused takes no place: one that leaves makes room for one.
        open[0].close()
        await until { world.server.connectionCount == 2 }
        let call = try world.call("Echo")
        call.send([], ends: true)
        #expect(await call.end().status == "0")
        for connection in open.dropFirst() { connection.close() }
    }

    @Test func `Calls that hold more than the server may are refused`() async throws {
        let world = try StreamingWorld { $0.heldBytesMax = 500_000 }
        defer { world.stop() }
        let call = try world.call("Collect")
        for _ in 0..<700 { call.send(StreamingWorld.frame([UInt8](repeating: 1, count: 1000))) }
        #expect(await call.end().status == "8")
        #expect(world.server.counters.callsOutOfMemory == 1)
        await world.gate.open()
        await until { world.server.counters.heldBytes == 0 }
        #expect(world.server.counters.heldBytes == 0)
    }

    @Test func `Age ends a connection without failing a call`() async throws {
        let world = try StreamingWorld { $0.http2.ageMilliseconds = 100 }
        defer { world.stop() }
        let call = try world.call("Echo")
        call.send(StreamingWorld.frame([1]))
        await until { call.goAways.load(ordering: .relaxed) >= 1 }
        call.send(StreamingWorld.frame([2]), ends: true)
        let answer = await call.end()
        #expect(answer.status == "0")
        #expect(answer.bytes == StreamingWorld.frame([1]) + StreamingWorld.frame([2]))
        await until { world.server.connectionCount == 0 }
        #expect(world.server.connectionCount == 0)
    }
}
