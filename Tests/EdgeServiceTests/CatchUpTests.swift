import EventLog
import MarketProto
import Protobuf
import Simulation
import TestSupport
import Testing

@testable import EdgeService

/// Subscriptions that begin at a token far back.
@Suite(.timeLimit(.minutes(1)))
struct CatchUpTests {
    private static func token(_ world: SubscribeWorld) -> [UInt8] {
        let client = world.open()
        client.stream.heartbeatIsDue()
        client.readAll()
        return client.heartbeats.first?.resumeToken ?? []
    }

    @Test(arguments: [
        (Proto.DeliveryPolicy.latest, 0, 0), (.interval, 20, 0), (.maxStaleness, 0, 20),
    ])
    func `A reader that is slower than the market catches up, and every sequence is accounted for`(
        _ policy: Proto.DeliveryPolicy, _ throttle: Int32, _ staleness: UInt32
    ) throws {
        var limits = EdgeLimits()
        limits.pressureBytes = 2000
        limits.stalenessBytesMax = 2000
        let world = try SubscribeWorld(limits: limits)
        let token = CatchUpTests.token(world)
        let symbols = (0..<20).map { "S\($0)" }
        for _ in 0..<300 { try world.publish(symbols + symbols) }
        let client = world.open()
        client.send(
            SubscribeClient.adding(1) {
                $0.policy = policy
                $0.throttleMs = throttle
                $0.maxStalenessMs = staleness
                $0.resumeToken = token
            })
        // One byte of a hundred of what is published.
        for _ in 0..<100 {
            try world.publish(symbols)
            world.loop.advance(milliseconds: 25)
            client.read(20)
        }
        // What waits is what the policy lets wait, not the log.
        #expect(client.stream.usage.queuedBytes <= 2 * limits.pressureBytes + 20_000)
        let list = client.ask(.list(Proto.ListRequest()))?.list
        #expect(list?.subscriptions.first?.catchingUp == false)
        for _ in 0..<3 {
            world.loop.advance(milliseconds: 50)
            client.readAll()
        }
        var next: [String: UInt64] = [:]
        for update in client.updates(1) {
            #expect((update.conflated?.firstSequence ?? update.sequence) == next[update.symbol, default: 1])
            next[update.symbol] = update.sequence + 1
            var plain = update
            plain.conflated = nil
            plain.stalenessViolationMs = 0
            let published = try #require(world.published[update.symbol]?[1])
            #expect(try Proto.PriceUpdate(decoding: published[Int(update.sequence) - 1]) == plain)
        }
        for symbol in symbols { #expect(next[symbol] == 701) }
    }

    @Test func `Reading far back leaves the loop to others again and again`() throws {
        let world = try SubscribeWorld(partitions: 1)
        let token = CatchUpTests.token(world)
        for _ in 0..<640 { try world.publish(["A"]) }
        try world.publish(["Z"])
        for (symbols, policy) in [(["Z"], Proto.DeliveryPolicy.all), (["Z"], .latest)] {
            let client = world.open()
            let before = world.loop.turnCount
            client.send(
                SubscribeClient.adding(1) {
                    $0.symbols = symbols
                    $0.policy = policy
                    $0.resumeToken = token
                })
            for _ in 0..<1000 where client.updates(1).isEmpty { client.readAll() }
            #expect(client.updates(1).map(\.symbol) == ["Z"])
            #expect(world.loop.turnCount - before >= 640 / PriceSubscriber.blocksPerReadMax)
        }
    }
}
