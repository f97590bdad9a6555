import EventLog
import GRPC
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TestSupport
import Testing

@testable import EdgeService

@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 1)))
struct SubscribeTests {
    @Test func `A subscription begins with its result and snapshot, and ends with its removal`() throws {
        let world = try SubscribeWorld()
        try world.publish(["A", "B", "A"])
        let client = world.open()
        let result = try #require(client.add(5) { $0.symbols = ["A"] })
        #expect(result.error == SubscribeErrors.none && result.snapshotCount == 1 && !result.resumeToken.isEmpty)
        #expect(client.updates(5, snapshot: true).map(\.sequence) == [2])
        try world.publish(["A", "B"])
        client.readAll()
        #expect(client.updates(5).map(\.sequence) == [3])
        try world.publish(["A"])
        var remove = Proto.RemoveSubscription()
        remove.subscriptionId = 5
        #expect(client.ask(.remove(remove))?.error == SubscribeErrors.none)
        try world.publish(["A"])
        client.readAll()
        #expect(client.updates(5).map(\.sequence) == [3])
        #expect(client.ask(.remove(remove))?.error == .subscriptionUnknown)
        // The id is free again.
        #expect(client.add(5) { $0.skipSnapshot = true }?.snapshotCount == 0)
    }

    @Test func `Symbols come and go in flight, with a snapshot of those that come`() throws {
        let world = try SubscribeWorld()
        try world.publish(["A", "B", "C"])
        let client = world.open()
        _ = client.add(1) {
            $0.symbols = ["A"]
            $0.policy = .latest
        }
        var change = Proto.ChangeSubscription()
        change.subscriptionId = 1
        change.addSymbols = ["B", "NEW", "A"]
        change.removeSymbols = ["A"]
        #expect(client.ask(.change(change))?.snapshotCount == 1)
        try world.publish(["A", "B", "NEW", "C"])
        client.readAll()
        #expect(client.updates(1, snapshot: true).map(\.symbol) == ["A", "B"])
        #expect(Set(client.updates(1).map(\.symbol)) == ["A", "B", "NEW"])
        change.addSymbols = []
        change.removeSymbols = ["A", "B"]
        #expect(client.ask(.change(change))?.error == SubscribeErrors.none)
        try world.publish(["A", "B", "NEW"])
        client.readAll()
        #expect(client.updates(1).suffix(1).map(\.symbol) == ["NEW"])
        change.removeSymbols = ["NEW"]
        #expect(client.ask(.change(change))?.error == .invalidArgument)
        _ = client.add(2)
        change.subscriptionId = 2
        #expect(client.ask(.change(change))?.error == .invalidArgument)
    }

    @Test func `A heartbeat comes at its interval, with the time and a token, quiet or busy`() throws {
        let world = try SubscribeWorld()
        let client = world.open()
        world.loop.advance(milliseconds: 4999)
        client.readAll()
        #expect(client.heartbeats.isEmpty)
        world.loop.advance(milliseconds: 1)
        client.readAll()
        #expect(client.heartbeats.count == 1 && client.isWoken)
        #expect(client.heartbeats[0].time?.seconds == 1_700_000_000)
        #expect(try ResumeToken(decoding: client.heartbeats[0].resumeToken).offsets.map(\.offset) == [0, 0])
        var options = Proto.SubscribeOptions()
        for (asked, given) in [(1000, 1000), (0, 5000), (100, 100)] as [(UInt32, UInt32)] {
            options.heartbeatMs = asked
            #expect(client.ask(.options(options))?.heartbeatMs == given)
        }
        for asked in [99, 60_001, .max] as [UInt32] {
            options.heartbeatMs = asked
            #expect(client.ask(.options(options))?.error == .invalidArgument)
        }
        _ = client.add(1)
        for _ in 0..<100 {
            try world.publish(["A"])
            world.loop.advance(milliseconds: 10)
            client.readAll()
        }
        #expect(client.heartbeats.count == 11)
        // One that is not read is the only one.
        world.loop.advance(milliseconds: 5000)
        client.readAll()
        #expect(client.heartbeats.count == 12)
    }

    @Test func `Messages that are none end the stream, with reason and token`() throws {
        for bytes in [[0xff], [8, 0], Array("not a request".utf8), []] as [[UInt8]] {
            let world = try SubscribeWorld()
            let client = world.open()
            _ = client.add(1)
            try world.publish(["A"])
            client.send(bytes: bytes)
            client.readAll()
            #expect(client.updates(1).count == 1)
            #expect(client.streamEnd?.reason == .badRequest && client.end?.status.code == .invalidArgument, "\(bytes)")
            #expect(client.end?.trailers.value("tapedeck-end-reason") == "BAD_REQUEST")
        }
    }

    @Test func `A client that asks without reading is cut off`() throws {
        var limits = EdgeLimits()
        limits.answerBytesMax = 10_000
        let world = try SubscribeWorld(limits: limits)
        let client = world.open()
        for _ in 0..<2000 { client.send(.list(Proto.ListRequest())) }
        client.readAll()
        #expect(client.streamEnd?.reason == .tooManyRequests && client.end?.status.code == .resourceExhausted)
        #expect(client.responses.count < 2000)
    }

    @Test func `What a client asked for goes on after it closed its side, and ends when nothing is left`() throws {
        let world = try SubscribeWorld()
        let client = world.open()
        _ = client.add(1)
        client.stream.receivedEnd()
        try world.publish(["A"])
        client.readAll()
        #expect(client.updates(1).count == 1 && client.end == nil)
        let other = world.open()
        other.stream.receivedEnd()
        other.readAll()
        #expect(other.streamEnd?.reason == .completed && other.end?.status.isOK == true)
    }

    @Test func `A stop ends a stream with everything, its reason and a token; fills are given up`() async throws {
        let world = try SubscribeWorld()
        let client = world.open()
        _ = client.add(1)
        _ = client.add(2) {
            $0.policy = .interval
            $0.throttleMs = 60_000
        }
        try world.publish(["A", "B", "A"])
        client.stream.end()
        #expect(client.add(3)?.error == nil)
        await world.run(client) { client.end != nil }
        #expect(client.updates(1).count == 3 && client.updates(2).count == 2)
        #expect(client.streamEnd?.reason == .serverStopping && client.end?.status.code == .unavailable)
        let token = try #require(client.streamEnd?.resumeToken)
        #expect(try ResumeToken(decoding: token).offsets.map(\.offset) == world.tape.next)
    }

    @Test func `A token before what exists brings what there is, and says what is gone`() throws {
        let world = try SubscribeWorld(partitions: 1) {
            $0.segmentBytes = 2 << 10
            $0.tipBytes = 1
            $0.retentions[.ticksRaw] = .init(timeNs: 3_600_000_000_000)
        }
        let client = world.open()
        let begin = try #require(client.add(1)?.resumeToken)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        world.time.advance(ns: 7_200_000_000_000)
        try world.publish(["A"])
        try world.log.pump()
        let oldest = world.log.startOffset(TopicPartition(.ticksRaw, 0))
        let result = try #require(client.add(2) { $0.resumeToken = begin })
        #expect(oldest > 0 && result.error == SubscribeErrors.none)
        #expect(result.lost.map(\.firstOffset) == [0] && result.lost.map(\.lastOffset) == [oldest - 1])
        #expect(result.lost.map(\.reason) == ["expired"])
        #expect(try ResumeToken(decoding: result.resumeToken).offsets.map(\.offset) == [oldest])
        client.readAll()
        #expect(client.updates(2).count == 81 - Int(oldest))
        #expect(client.add(3) { $0.resumeToken = [1, 2, 3] }?.error == .tokenInvalid)
        // A refused one leaves its id free.
        #expect(client.add(3)?.error == SubscribeErrors.none)
    }

    private final class OnlySome: CallerPermissions {
        var identity: CallerIdentity { CallerIdentity(name: "some", source: .token) }
        func allows(exchange: String, symbol: String) -> Bool { exchange == "X" && symbol != "B" }
        func allows(account: String) -> Bool { false }
        var allowsEverySymbol: Bool { false }
    }

    @Test func `A caller sees what it may: the rest is refused by name, or left out of everything`() throws {
        let world = try SubscribeWorld()
        try world.publish(["A", "B"])
        let client = world.open(OnlySome())
        let refused = client.add(1) { $0.symbols = ["A", "B"] }
        #expect(refused?.error == .permissionDenied && refused?.message.contains("B") == true)
        let elsewhere = client.add(1) {
            $0.exchange = "Y"
            $0.symbols = ["A"]
        }
        #expect(elsewhere?.error == .permissionDenied)
        #expect(client.add(1)?.snapshotCount == 1)
        try world.publish(["A", "B", "C"])
        client.readAll()
        #expect(client.updates(1).map(\.symbol).sorted() == ["A", "C"])
        var fill = Proto.FillRequest()
        var range = Proto.FillRange()
        range.exchange = "X"
        range.symbol = "B"
        range.firstSequence = 1
        range.lastSequence = 1
        fill.ranges = [range]
        #expect(client.ask(.fill(fill))?.error == .permissionDenied)
    }

    @Test(arguments: 1...(Checkout.isSoak ? 500 : 30) as ClosedRange<UInt64>)
    func `Any requests in any order get one answer each, and the list is what they made`(_ seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var limits = EdgeLimits()
        limits.subscriptionsMax = 4
        limits.symbolsMax = 5
        limits.streamSymbolsMax = 9
        let world = try SubscribeWorld(limits: limits)
        let client = world.open()
        var open: Set<UInt64> = []
        for _ in 0..<200 {
            if random.once(in: 3) { try world.publish(["A", "B", "C"]) }
            let id = UInt64.random(in: 0...6, using: &random)
            let names = (0..<Int.random(in: 0...6, using: &random)).map { _ in
                random.once(in: 30) ? "x|y" : ["A", "B", "C", "D", "E", "F"].randomElement(using: &random)!
            }
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1:
                let result = client.add(id) {
                    $0.symbols = names
                    $0.policy = Proto.DeliveryPolicy(rawValue: Int32.random(in: 0...6, using: &random))
                    $0.maxStalenessMs = random.once(in: 2) ? 5 : 0
                    $0.throttleMs = random.once(in: 3) ? 5 : 0
                }
                if try #require(result).error == SubscribeErrors.none { #expect(open.insert(id).inserted) }
            case 2:
                var remove = Proto.RemoveSubscription()
                remove.subscriptionId = id
                let result = try #require(client.ask(.remove(remove)))
                #expect((result.error == SubscribeErrors.none) == (open.remove(id) != nil))
            case 3:
                var change = Proto.ChangeSubscription()
                change.subscriptionId = id
                change.addSymbols = Array(names.prefix(3))
                change.removeSymbols = Array(names.suffix(2))
                #expect(client.ask(.change(change)) != nil)
            case 4:
                var cancel = Proto.CancelFill()
                cancel.fillRequestId = id
                #expect(client.ask(.cancelFill(cancel))?.error == .fillUnknown)
            default:
                let list = try #require(client.ask(.list(Proto.ListRequest()))?.list)
                #expect(list.subscriptions.map(\.subscriptionId) == open.sorted(), "seed \(seed)")
                #expect(open.count <= 4)
                let symbols = list.subscriptions.map { $0.subscription?.symbols.count ?? 0 }
                #expect(symbols.allSatisfy { $0 <= 5 } && symbols.reduce(0, +) <= 9, "seed \(seed)")
            }
            client.read(Int.random(in: 1...500, using: &random))
        }
        #expect(client.end == nil)
    }
}
