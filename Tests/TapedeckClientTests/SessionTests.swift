import GRPC
import MarketProto
import Protobuf
import Simulation
import Testing
import TickCodec

@testable import TapedeckClient

/// A session against the edge itself, and its machine without one.
@Suite(.timeLimit(.minutes(1)))
struct SessionTests {
    @Test func `Subscriptions go on through cuts and restarts, are changed, filled and removed`() async throws {
        let world = try EdgeWorld()
        let proxy = try CuttingProxy(to: world.port)
        defer {
            proxy.stop()
            world.stop()
        }
        let client = try ClientTests.client(port: proxy.port)
        defer { client.close() }
        try world.publish(1)
        let session = client.subscribe()
        let (all, latest) = (session.add(["A"], exchange: "X"), session.add(policy: .latest))
        let log = SessionLog()
        let task = Task { await log.read(session) }
        await ClientTests.wait { log.now.sequences.count == 2 }
        var published: UInt64 = 1
        for round in 1...12 {
            try world.publish(200)
            published += 200
            switch round % 3 {
            case 0:
                world.stop()
                try world.start()
            case 1: proxy.cut()
            default: await ClientTests.wait { log.now.sequences[all]?["A"]?.last ?? 0 >= published - 100 }
            }
        }
        func isThere() -> Bool { [all, latest].allSatisfy { log.now.sequences[$0]?["A"]?.last == published } }
        await ClientTests.wait(isThere)
        #expect(isThere())
        var got = log.now
        #expect(got.sequences[all]?["A"] == Array(1...published))
        #expect(got.sequences[latest]?["A"]?.first == 1 && got.wrong == [])
        #expect(got.gaps == [] && got.refusals == [] && got.interruptions.count >= 2)
        var range = Proto.FillRange()
        (range.exchange, range.symbol, range.firstSequence, range.lastSequence) = (
            "X", "A", published - 9, published + 5
        )
        let fill = session.fill([range])
        await ClientTests.wait { log.now.fillEnds[fill] != nil }
        // What exists comes, and the end says why the rest does not.
        #expect(log.now.filled[fill] == Array((published - 9)...published))
        let missing = log.now.fillEnds[fill]?.results.first?.missing ?? []
        #expect(missing.map(\.firstSequence) == [published + 1] && missing.map(\.reason) == [.notPublished])
        session.remove(latest)
        session.changePolicy(of: all, to: .interval)
        await ClientTests.wait { !log.now.refusals.isEmpty }
        // INTERVAL wants a time; the policy stays.
        #expect(log.now.refusals.map(\.request) == [.changePolicy] && log.now.refusals.map(\.id) == [all])
        try world.publish(5)
        await ClientTests.wait { log.now.sequences[all]?["A"]?.last == published + 5 }
        got = log.now
        #expect(got.sequences[all]?["A"] == Array(1...(published + 5)))
        #expect(got.sequences[latest]?["A"]?.last == published)
        session.cancel()
        await task.value
        #expect(log.now.isEnded && log.now.end == nil)
    }

    @Test func `A session that is ended while it waits to begin again ends at once`() async throws {
        let world = try EdgeWorld()
        let proxy = try CuttingProxy(to: world.port)
        defer {
            proxy.stop()
            world.stop()
        }
        let client = try ClientTests.client(port: proxy.port) {
            $0.resume.initialMilliseconds = 3_600_000
            $0.resume.maxMilliseconds = 3_600_000
        }
        defer { client.close() }
        try world.publish(1)
        let session = client.subscribe()
        let all = session.add()
        let log = SessionLog()
        let task = Task { await log.read(session) }
        await ClientTests.wait { log.now.sequences[all] != nil }
        proxy.cut()
        await ClientTests.wait { !log.now.interruptions.isEmpty }
        session.cancel()
        await task.value
        #expect(log.now.isEnded && log.now.end == nil)
    }

    @Test func `What cannot be subscribed to is refused by its id, the others go on`() async throws {
        let world = try EdgeWorld()
        defer { world.stop() }
        let client = try ClientTests.client(port: world.port)
        defer { client.close() }
        try world.publish(3)
        let session = client.subscribe()
        var wrong = Proto.PriceSubscription()
        wrong.resumeToken = [1, 2, 3]
        let ids = [session.add(wrong), session.add(policy: .interval)]
        let good = session.add()
        let log = SessionLog()
        let task = Task { await log.read(session) }
        await ClientTests.wait { log.now.sequences[good] != nil && log.now.refusals.count == 2 }
        #expect(log.now.refusals.map(\.id) == ids && log.now.refusals.allSatisfy { $0.request == .add })
        #expect(log.now.refusals.map(\.error) == [.tokenInvalid, .invalidArgument])
        #expect(log.now.sequences[good]?["A"] == [3])
        task.cancel()
        await task.value
        #expect(log.now.isEnded && log.now.end == nil)
    }
}

/// The machine behind a session, told what a stream brings.
struct SessionMachineTests {
    private static func message(_ change: (inout Proto.SubscribeResponse) -> Void) -> [UInt8] {
        var response = Proto.SubscribeResponse()
        change(&response)
        return response.encodedBytes()
    }

    private static func result(_ id: UInt64, _ change: (inout Proto.RequestResult) -> Void = { _ in }) -> [UInt8] {
        var result = Proto.RequestResult()
        result.requestId = id
        change(&result)
        return message { $0.event = .result(result) }
    }

    private static func heartbeat(_ token: String) -> [UInt8] {
        var heartbeat = Proto.Heartbeat()
        heartbeat.resumeToken = Array(token.utf8)
        return message { $0.event = .heartbeat(heartbeat) }
    }

    private static func updates(
        _ id: UInt64, _ sequences: [UInt64], isSnapshot: Bool = false, fill: UInt64 = 0
    ) -> [UInt8] {
        message { response in
            response.subscriptionId = fill == 0 ? id : 0
            response.fillRequestId = fill
            response.snapshot = isSnapshot
            response.updates = sequences.map { sequence in
                var update = Proto.PriceUpdate()
                (update.exchange, update.symbol, update.feedHandlerId) = ("X", "A", "test")
                (update.epoch, update.sequence) = (1, sequence)
                return update
            }
        }
    }

    /// A machine, and what it told and asked.
    private struct World {
        var machine = SessionMachine()
        var log = SessionLog()

        mutating func take(_ message: [UInt8]) throws {
            try message.withUnsafeBytes { bytes in try machine.receive(bytes) }
            for event in machine.takeEvents() { log.add(event) }
        }

        /// Requests that add: id, token, and whether a snapshot is to be completed; by the id of the request.
        mutating func adds() -> [(request: UInt64, text: String)] {
            machine.takeRequests().compactMap { request in
                guard case .add(let add) = request.request else { return nil }
                let token = String(decoding: add.subscription?.resumeToken ?? [], as: UTF8.self)
                let snapshot = add.subscription?.resumeSnapshot == true ? " and snapshot" : ""
                return (request.requestId, "\(add.subscriptionId) from \(token)\(snapshot)")
            }
        }
    }

    @Test func `Each subscription goes on from its own last token, with what is left of its snapshot`() throws {
        var world = World()
        let (first, second) = (
            world.machine.add(Proto.PriceSubscription()), world.machine.add(Proto.PriceSubscription())
        )
        world.machine.begin()
        var adds = world.adds()
        #expect(adds.map(\.text) == ["\(first) from ", "\(second) from "])
        try world.take(
            SessionMachineTests.result(adds[0].request) {
                $0.resumeToken = Array("one".utf8)
                $0.snapshotCount = 2
            })
        try world.take(SessionMachineTests.updates(first, [5], isSnapshot: true))
        world.machine.interrupted()
        world.machine.begin()
        adds = world.adds()
        #expect(adds.map(\.text) == ["\(first) from one and snapshot", "\(second) from "])
        for add in adds {
            try world.take(SessionMachineTests.result(add.request) { $0.resumeToken = Array("two".utf8) })
        }
        try world.take(SessionMachineTests.updates(first, [5, 6, 7]))
        try world.take(SessionMachineTests.updates(second, [9]))
        try world.take(SessionMachineTests.heartbeat("three"))
        let third = world.machine.add(Proto.PriceSubscription())
        world.machine.interrupted()
        world.machine.begin()
        #expect(world.adds().map(\.text) == ["\(first) from three", "\(second) from three", "\(third) from "])
        // What came comes again, and more.
        try world.take(SessionMachineTests.updates(first, [6, 7, 8]))
        try world.take(SessionMachineTests.updates(second, [9, 12]))
        #expect(world.log.now.sequences[first]?["A"] == [5, 6, 7, 8])
        #expect(world.log.now.sequences[second]?["A"] == [9, 12])
        #expect(world.log.now.gaps.map(\.sequences) == [10...11])
        let range = world.log.now.gaps[0].range
        #expect(range.symbol == "A" && range.epoch == 1 && range.firstSequence == 10 && range.lastSequence == 11)
    }

    @Test func `A subscription that the server ends or cannot take now is asked for again with a heartbeat`() throws {
        var world = World()
        let id = world.machine.add(Proto.PriceSubscription())
        world.machine.begin()
        try world.take(SessionMachineTests.result(world.adds()[0].request) { $0.error = .readerTooSlow })
        #expect(world.adds().isEmpty)
        try world.take(SessionMachineTests.heartbeat("one"))
        var adds = world.adds()
        #expect(adds.map(\.text) == ["\(id) from "])
        try world.take(SessionMachineTests.result(adds[0].request) { $0.resumeToken = Array("two".utf8) })
        var end = Proto.SubscriptionEnd()
        (end.reason, end.resumeToken) = (.readerTooSlow, Array("three".utf8))
        try world.take(
            SessionMachineTests.message {
                $0.subscriptionId = id
                $0.event = .subscriptionEnd(end)
            })
        try world.take(SessionMachineTests.heartbeat("four"))
        adds = world.adds()
        // Not from the heartbeat's: that stands for others.
        #expect(adds.map(\.text) == ["\(id) from three"])
        #expect(world.log.now.ended[id]?.reason == .readerTooSlow && world.log.now.refusals == [])
        // Of another log, after a failover: from the latest values on.
        try world.take(SessionMachineTests.result(adds[0].request) { $0.error = .tokenInvalid })
        #expect(world.adds().map(\.text) == ["\(id) from "])
        end.reason = .logFailed
        try world.take(
            SessionMachineTests.message {
                $0.subscriptionId = id
                $0.event = .subscriptionEnd(end)
            })
        try world.take(SessionMachineTests.heartbeat("five"))
        #expect(world.adds().isEmpty)
    }

    @Test func `A fill that was cut off is asked for again whole, and brings nothing twice`() throws {
        var world = World()
        let ranges = ([(10, 14), (1, 4), (1, 4)] as [(UInt64, UInt64)]).map { first, last in
            var range = Proto.FillRange()
            (range.exchange, range.symbol) = ("X", "A")
            (range.firstSequence, range.lastSequence) = (first, last)
            return range
        }
        world.machine.begin()
        let fill = world.machine.fill(ranges)
        func asked(_ world: inout World) -> [[UInt64]] {
            world.machine.takeRequests().compactMap { request in
                guard case .fill(let asked) = request.request, request.requestId == fill else { return nil }
                return asked.ranges.map(\.firstSequence)
            }
        }
        #expect(asked(&world) == [[10, 1, 1]])
        try world.take(SessionMachineTests.updates(0, [10, 12, 14, 1, 2], fill: fill))
        world.machine.interrupted()
        world.machine.begin()
        #expect(asked(&world) == [[10, 1, 1]])
        try world.take(SessionMachineTests.updates(0, [10, 12, 14], fill: fill))
        try world.take(SessionMachineTests.updates(0, [1, 2, 3, 1], fill: fill))
        try world.take(SessionMachineTests.updates(0, [2, 4], fill: fill))
        #expect(world.log.now.filled[fill] == [10, 12, 14, 1, 2, 3, 1, 2, 4])
        var end = Proto.FillEnd()
        end.fillRequestId = fill
        try world.take(SessionMachineTests.message { $0.event = .fillEnd(end) })
        #expect(world.log.now.fillEnds[fill] != nil)
        world.machine.interrupted()
        world.machine.begin()
        #expect(asked(&world) == [])
    }

    @Test func `Any bytes are a message or refused, and never a trap`() {
        var random = SeededRandom(seed: 3)
        let good = SessionMachineTests.updates(1, [1, 2, 3]) + SessionMachineTests.heartbeat("t")
        for _ in 0..<20_000 {
            var machine = SessionMachine()
            _ = machine.add(Proto.PriceSubscription())
            machine.begin()
            var bytes = good
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &random)))
            bytes.withUnsafeBytes { bytes in try? machine.receive(bytes) }
            // What the decoder takes means the same.
            guard var decoded = try? Proto.SubscribeResponse(decoding: bytes),
                let read = bytes.withUnsafeBytes({ SubscribeFrames($0) })
            else { continue }
            let updates = read.frames.withUnsafeBytes { frames in
                MessageSequence(frames: frames).compactMap { try? Proto.PriceUpdate(decoding: $0) }
            }
            #expect(updates == decoded.updates)
            decoded.updates = []
            #expect(read.rest == decoded)
        }
    }
}
