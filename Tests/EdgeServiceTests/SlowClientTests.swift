import EdgeService
import EventLog
import EventLoop
import GRPC
import MarketProto
import Protobuf
import TapedeckClient
import TestSupport
import Testing

/// 64 subscribers of everything: 55 that read, 8 that read one byte of a hundred, and one that never reads.
@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 3)))
struct SlowClientTests {
    private static let promptCount = 55
    private static let steps = Checkout.isSoak ? 400 : 100
    private static let ticksPerStep = 1000
    /// Frames of the smallest kind, and messages around them.
    private static let messageBytes = 17 << 10

    private static var limits: EdgeLimits {
        var limits = EdgeLimits()
        limits.cursorLagBytesMax = 512 << 10
        limits.queueBytesMax = 512 << 10
        limits.pressureBytes = 16 << 10
        return limits
    }

    /// Everything about one run.
    private final class Crowd {
        let world: EdgeWorld
        let clients = EventLoopGroup(count: 1)
        var loop: EventLoop { clients.loops[0] }
        private var channels: [GRPCChannel] = []
        private(set) var prompt: [PromptReader] = []
        private(set) var complete: [SlowReader] = []
        private(set) var latest: [SlowReader] = []
        private(set) var latestSubscribers: [SlowSubscriber] = []
        private(set) var completeSubscriber: SlowSubscriber
        private let deaf: DeafClient
        private(set) var expected = Tally()
        private(set) var bytes = 0
        /// Of the published updates.
        private var tallied = 0

        init(_ limits: EdgeLimits) async throws {
            world = try EdgeWorld(limits: limits)
            let port = world.port
            for _ in 0..<promptCount {
                let channel = try GRPCChannel(target: "127.0.0.1:\(port)", loop: clients.loops[0])
                channels.append(channel)
                prompt.append(PromptReader(channel))
            }
            for _ in 0..<3 { complete.append(try SlowReader(port: port, loop: clients.loops[0]) { _ in }) }
            for _ in 0..<2 {
                latest.append(try SlowReader(port: port, loop: clients.loops[0]) { $0.policy = .latest })
            }
            completeSubscriber = try SlowSubscriber(port: port, loop: clients.loops[0])
            for _ in 0..<2 { latestSubscribers.append(try SlowSubscriber(port: port, loop: clients.loops[0])) }
            var everything = Proto.PriceSubscription()
            everything.skipSnapshot = true
            deaf = try DeafClient(port: port, everything)
            try await completeSubscriber.add(1) { _ in }
            for subscriber in latestSubscribers { try await subscriber.add(1) { $0.policy = .latest } }
            for reader in complete + latest { _ = try await reader.stream.metadata() }
            while prompt.contains(where: { !$0.hasBegun }) || world.edge.usage().streams < 64 { await Task.yield() }
        }

        deinit { for channel in channels { channel.close() } }

        /// Publishes, and waits until everybody who reads has all of it.
        func step() async throws {
            for _ in 0..<(ticksPerStep / 100) {
                try world.publish((0..<25).flatMap { _ in EdgeWorld.instruments })
            }
            for update in world.published[tallied...] {
                update.withUnsafeBytes { expected.add($0) }
                bytes += update.count + 5
            }
            tallied = world.published.count
            while prompt.contains(where: { $0.tally.count < tallied && !$0.hasEnded }) { await Task.yield() }
        }

        /// One byte of a hundred for each that is slow.
        func readSlowly() async throws {
            let share = bytes / 100
            for reader in complete + latest { await reader.read(to: share) }
            for subscriber in latestSubscribers + [completeSubscriber] {
                try await subscriber.read { $0.reader.bytesRead >= share || $0.end != nil }
            }
        }
    }

    @Test func `Slow readers cost bounded memory and nobody anything, and every one can have what it missed`()
        async throws
    {
        let limits = SlowClientTests.limits
        let crowd = try await Crowd(limits)
        for _ in 0..<SlowClientTests.steps {
            try await crowd.step()
            try await crowd.readSlowly()
            let usage = crowd.world.edge.usage()
            // A subscriber of everything is a place in the log: who waits there holds no bytes. The others hold what
            // their policy lets wait, a message that is being sent, and the latest of each instrument.
            #expect(usage.queuedBytesMax <= limits.pressureBytes + SlowClientTests.messageBytes)
            #expect(usage.heldBytesMax <= 3 * usage.queuedBytesMax + (256 << 10))
            #expect(usage.heldBytes <= 9 * (3 * usage.queuedBytesMax + (256 << 10)))
            #expect(usage.conflatedInstruments <= 4 * EdgeWorld.instruments.count)
        }
        #expect(crowd.prompt.allSatisfy { $0.tally == crowd.expected && !$0.hasEnded })
        // The one that never reads is behind what its kernel and connection hold.
        #expect(crowd.world.edge.usage().lagBytesMax >= limits.cursorLagBytesMax)
        for reader in crowd.complete { try await checkComplete(reader, crowd) }
        try await checkComplete(crowd.completeSubscriber, crowd)
        for reader in crowd.latest {
            try await reader.read {
                areLast(try reader.frames.suffix(20).map { try Proto.PriceUpdate(decoding: $0) }, crowd)
            }
            let updates = try reader.frames.map { try Proto.PriceUpdate(decoding: $0) }
            #expect(try missed(updates, crowd).reduce(0) { $0 + $1.lastSequence - $1.firstSequence + 1 } > 0)
        }
        for subscriber in crowd.latestSubscribers { try await checkLatest(subscriber, crowd) }
    }

    /// Whether the last updates among these are the last that were published of each instrument.
    private func areLast(_ updates: [Proto.PriceUpdate], _ crowd: Crowd) -> Bool {
        let each = UInt64(crowd.world.published.count / EdgeWorld.instruments.count)
        let last = updates.filter { $0.sequence == each }.map { "\($0.exchange)|\($0.symbol)" }
        return Set(last) == Set(EdgeWorld.instruments)
    }

    /// What a slow reader under ALL got is the beginning of everything; its token brings the rest.
    private func checkComplete(_ reader: SlowReader, _ crowd: Crowd) async throws {
        await reader.read { false }
        #expect(reader.end?.code == .resourceExhausted)
        #expect(reader.trailers.value("tapedeck-end-reason") == "READER_TOO_SLOW")
        let token = try #require(reader.trailers.binary("tapedeck-resume-token-bin"))
        #expect(reader.frames.count < crowd.world.published.count)
        #expect(reader.frames[...] == crowd.world.published.prefix(reader.frames.count))
        let channel = try GRPCChannel(target: "127.0.0.1:\(crowd.world.port)", loop: crowd.loop)
        defer { channel.close() }
        let rest = PromptReader(channel) { $0.resumeToken = token }
        let left = crowd.world.published.dropFirst(reader.frames.count)
        while rest.tally.count < left.count, !rest.hasEnded { await Task.yield() }
        var expected = Tally()
        for update in left { update.withUnsafeBytes { expected.add($0) } }
        #expect(rest.tally == expected)
    }

    private func checkComplete(_ subscriber: SlowSubscriber, _ crowd: Crowd) async throws {
        try await subscriber.read { $0.end != nil }
        let end = try #require(subscriber.end)
        #expect(end.reason == .readerTooSlow)
        let got = subscriber.updates.count
        #expect(got < crowd.world.published.count)
        try await subscriber.add(2) { $0.resumeToken = end.resumeToken }
        try await subscriber.read { $0.updates.count >= crowd.world.published.count }
        let published = try crowd.world.published.map { try Proto.PriceUpdate(decoding: $0) }
        #expect(subscriber.updates == published)
    }

    /// Ranges that conflated updates stand for: with the updates themselves they are every sequence, once.
    private func missed(_ updates: [Proto.PriceUpdate], _ crowd: Crowd) throws -> [Proto.FillRange] {
        var next: [String: UInt64] = [:]
        var ranges: [Proto.FillRange] = []
        for update in updates {
            let name = "\(update.exchange)|\(update.symbol)"
            var first = update.sequence
            if let conflated = update.conflated {
                first = conflated.firstSequence
                #expect(conflated.lastSequence + 1 == update.sequence)
                #expect(conflated.count == conflated.lastSequence - conflated.firstSequence + 1)
                ranges.append(try #require(update.conflatedRange))
            }
            #expect(first == next[name, default: 1])
            next[name] = update.sequence + 1
        }
        let each = UInt64(crowd.world.published.count / EdgeWorld.instruments.count)
        #expect(next == Dictionary(uniqueKeysWithValues: EdgeWorld.instruments.map { ($0, each + 1) }))
        return ranges
    }

    /// A slow reader under LATEST knows every sequence that it missed, and `Fill` brings exactly these.
    private func checkLatest(_ subscriber: SlowSubscriber, _ crowd: Crowd) async throws {
        try await subscriber.read { areLast(Array($0.updates.suffix(20)), crowd) }
        let ranges = try missed(subscriber.updates, crowd)
        #expect(!ranges.isEmpty)
        var all = subscriber.updates
        for index in all.indices { all[index].conflated = nil }
        for start in stride(from: 0, to: ranges.count, by: 64) {
            var fill = Proto.FillRequest()
            fill.ranges = Array(ranges[start..<min(start + 64, ranges.count)])
            let id = await subscriber.send(.fill(fill))
            try await subscriber.read { $0.fillEnds[id] != nil }
            #expect(subscriber.fillEnds[id]?.outcome == .completed)
            #expect(subscriber.fillEnds[id]?.results.allSatisfy { $0.missing.isEmpty } == true)
            all += subscriber.filled[id] ?? []
        }
        let order = { (update: Proto.PriceUpdate) in (update.exchange, update.symbol, update.sequence) }
        let published = try crowd.world.published.map { try Proto.PriceUpdate(decoding: $0) }
        #expect(all.sorted { order($0) < order($1) } == published.sorted { order($0) < order($1) })
    }
}
