import EventLoop
import GRPC
import HTTP2
import MarketProto
import Protobuf
import Synchronization
import TapedeckClient

/// Nine readers of everything that hardly read: four under ALL, four under LATEST by Subscribe, and one that never
/// does. The eight read one byte of a hundred that a prompt reader gets, through the smallest windows.
final class SlowReaders: Sendable {
    /// How often a slow reader looks whether it may read: seldom, for its own work is on the machine that is measured.
    private static let pauseMilliseconds = 100

    fileprivate static func pause(_ channel: GRPCChannel) async {
        await channel.wait(milliseconds: pauseMilliseconds)
    }

    private let channels: [GRPCChannel]
    private let complete: [Task<CompleteReader.Found, Never>]
    private let latest: [Task<LatestReader.Found, Never>]
    private let isOver = Flag()
    private let silent: SilentReader

    final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
    }

    /// Begins to read on channels of the loop; `pace` says how much a prompt reader has got.
    init(_ target: String, _ loop: EventLoop, _ pace: PromptReader) throws {
        var options = GRPCChannelOptions()
        options.readBytesMax = 1
        options.connection.http2.streamWindowBytes = 4096
        var channels: [GRPCChannel] = []
        func channel() throws -> GRPCChannel {
            let made = try GRPCChannel(target: target, options: options, loop: loop)
            channels.append(made)
            return made
        }
        let isOver = isOver
        let start = pace.bytes
        let allowance: @Sendable () -> Int = { (pace.bytes - start) / 100 }
        complete = try (0..<SlowClientDrill.slowOfEachKind).map { _ in
            let reader = CompleteReader(try channel())
            return Task { await reader.run(allowance, isOver) }
        }
        latest = try (0..<SlowClientDrill.slowOfEachKind).map { _ in
            let reader = LatestReader(try channel())
            return Task { await reader.run(allowance, isOver) }
        }
        silent = SilentReader(try channel())
        self.channels = channels
    }

    /// Has each read on at once to where it can say what it missed, and ends them. Blocks.
    func finish(into result: inout SlowClientDrill.Result) {
        isOver.set()
        let found = Mutex<(complete: [CompleteReader.Found], latest: [LatestReader.Found])?>(nil)
        let (complete, latest) = (complete, latest)
        Task {
            var ends: [CompleteReader.Found] = []
            for task in complete { ends.append(await task.value) }
            var accounts: [LatestReader.Found] = []
            for task in latest { accounts.append(await task.value) }
            let all = (ends, accounts)
            found.withLock { $0 = all }
        }
        var waited = 0
        while found.withLock({ $0 == nil }), waited < 60_000 {
            Drill.pause(milliseconds: 10)
            waited += 10
        }
        for channel in channels { channel.close() }
        guard let found = found.withLock({ $0 }) else {
            result.unaccounted += 1
            return
        }
        for end in found.complete {
            if end.isTold { result.endsTold += 1 } else { result.endsOther += 1 }
            result.lostOnResume += end.lost
        }
        for account in found.latest {
            result.missed += account.missed
            result.filled += account.filled
            result.unaccounted += account.unaccounted
            // Nothing missed is nothing shown.
            if account.missed == 0 { result.problems.append(account.problem ?? "a slow reader missed nothing") }
            if let problem = account.problem, account.missed > 0 { result.problems.append(problem) }
        }
    }
}

/// Asks for everything and reads nothing, but answers what HTTP/2 asks.
private final class SilentReader: GRPCCallOwner, Sendable {
    init(_ channel: GRPCChannel) {
        let request = Proto.PriceSubscription().encodedBytes()
        channel.call(path: Proto.MarketDataService.streamPrices.path, owner: self) { call in
            call.pauseReading()
            call.send(request)
            call.halfClose()
        }
    }

    func received(metadata: GRPCMetadata) {}
    func received(frames: UnsafeRawBufferPointer) {}
    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {}
}

/// A slow reader under ALL: reads slowly until the server ends its stream, then goes on from the token.
private final class CompleteReader: Sendable {
    struct Found: Sendable {
        /// The stream ended with READER_TOO_SLOW and a token.
        var isTold = false
        var lost: UInt64 = 0
    }

    private static let more = 2000
    private let channel: GRPCChannel

    init(_ channel: GRPCChannel) { self.channel = channel }

    func run(_ allowance: @Sendable () -> Int, _ isOver: SlowReaders.Flag) async -> Found {
        var found = Found()
        var sequences = Sequences()
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        let stream = channel.stream(path: Proto.MarketDataService.streamPrices.path)
        stream.sendOnly(subscription.encodedBytes())
        var read = 0
        do throws(GRPCStatus) {
            while true {
                while !isOver.isSet, read > allowance() { await SlowReaders.pause(channel) }
                guard let frames = try await stream.nextFrames() else { break }
                read += frames.count
                sequences.add(frames)
            }
        } catch {
            let trailers = stream.end?.trailers ?? GRPCMetadata()
            found.isTold = trailers.value("tapedeck-end-reason") == "READER_TOO_SLOW"
            subscription.resumeToken = trailers.binary("tapedeck-resume-token-bin") ?? []
        }
        guard !subscription.resumeToken.isEmpty else {
            found.isTold = false
            return found
        }
        // Some of what comes after shows whether the token was right.
        let rest = channel.stream(path: Proto.MarketDataService.streamPrices.path)
        rest.sendOnly(subscription.encodedBytes())
        let wanted = sequences.count + CompleteReader.more
        while sequences.count < wanted, let frames = try? await rest.nextFrames() { sequences.add(frames) }
        rest.cancel()
        found.lost = sequences.unaccounted + (sequences.count < wanted ? 1 : 0)
        return found
    }
}

/// A slow reader under LATEST: reads slowly, then to the end of what there was, and has what it missed filled.
private final class LatestReader: Sendable {
    struct Found: Sendable {
        var missed: UInt64 = 0
        var filled: UInt64 = 0
        var unaccounted: UInt64 = 0
        /// Why its stream ended by itself.
        var problem: String?
    }

    private static let rangesPerFill = 64
    private static let heartbeatMilliseconds: UInt32 = 200
    private let channel: GRPCChannel

    init(_ channel: GRPCChannel) { self.channel = channel }

    func run(_ allowance: @Sendable () -> Int, _ isOver: SlowReaders.Flag) async -> Found {
        var found = Found()
        var sequences = Sequences()
        let stream = channel.stream(path: Proto.MarketDataService.subscribe.path)
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        subscription.policy = .latest
        var add = Proto.AddSubscription()
        add.subscriptionId = 1
        add.subscription = subscription
        var options = Proto.SubscribeOptions()
        options.heartbeatMs = LatestReader.heartbeatMilliseconds
        await stream.send(LatestReader.request(1, .options(options)))
        await stream.send(LatestReader.request(2, .add(add)))
        var read = 0
        do throws(GRPCStatus) {
            while !isOver.isSet, let frames = try await stream.nextFrames() {
                read += frames.count
                sequences.add(responses: frames)
                while !isOver.isSet, read > allowance() { await SlowReaders.pause(channel) }
            }
            // Under ALL nothing replaces what waits any more; a heartbeat that was due after that stands for all of it.
            var change = Proto.ChangeSubscription()
            change.subscriptionId = 1
            change.policy = .all
            await stream.send(LatestReader.request(3, .change(change)))
            var enough = Int.max
            while sequences.heartbeats < enough, let frames = try await stream.nextFrames() {
                sequences.add(responses: frames)
                if enough == .max, sequences.results.contains(3) { enough = sequences.heartbeats + 2 }
            }
            var remove = Proto.RemoveSubscription()
            remove.subscriptionId = 1
            await stream.send(LatestReader.request(4, .remove(remove)))
            while !sequences.results.contains(4), let frames = try await stream.nextFrames() {
                sequences.add(responses: frames)
            }
            found.missed = sequences.missed.reduce(0) { $0 + $1.lastSequence - $1.firstSequence + 1 }
            found.unaccounted = sequences.unaccounted
            found.filled = try await fill(stream, &sequences)
        } catch {
            found.problem = "\(error)"
        }
        stream.cancel()
        if found.filled != sequences.filledCount { found.unaccounted += 1 }
        return found
    }

    /// Has everything filled that was missed; how many updates the ends of the fills say that there were.
    private func fill(_ stream: GRPCClientStream, _ sequences: inout Sequences) async throws(GRPCStatus) -> UInt64 {
        var filled: UInt64 = 0
        var request: UInt64 = 4
        var ranges = sequences.missed[...]
        while !ranges.isEmpty {
            request += 1
            var fill = Proto.FillRequest()
            fill.ranges = Array(ranges.prefix(LatestReader.rangesPerFill))
            ranges = ranges.dropFirst(LatestReader.rangesPerFill)
            await stream.send(LatestReader.request(request, .fill(fill)))
            while sequences.fillEnds[request] == nil, let frames = try await stream.nextFrames() {
                sequences.add(responses: frames)
            }
            for result in sequences.fillEnds[request]?.results ?? [] { filled += result.count }
        }
        return filled
    }

    private static func request(_ id: UInt64, _ what: Proto.SubscribeRequest.OneOf_Request) -> [UInt8] {
        var request = Proto.SubscribeRequest()
        request.requestId = id
        request.request = what
        return request.encodedBytes()
    }
}

/// What a reader got, and what it can say of the rest.
private struct Sequences {
    private(set) var count = 0
    /// Places where an instrument's next update was neither the next sequence nor said which it stands for.
    private(set) var unaccounted: UInt64 = 0
    private(set) var missed: [Proto.FillRange] = []
    private(set) var filledCount: UInt64 = 0
    private(set) var results: Set<UInt64> = []
    private(set) var heartbeats = 0
    private(set) var fillEnds: [UInt64: Proto.FillEnd] = [:]
    private var next: [String: UInt64] = [:]

    mutating func add(_ frames: [UInt8]) {
        frames.withUnsafeBytes { frames in
            for message in MessageSequence(frames: frames) {
                if let update = try? Proto.PriceUpdate(decoding: message) { add(update) } else { unaccounted += 1 }
            }
        }
    }

    mutating func add(responses frames: [UInt8]) {
        frames.withUnsafeBytes { frames in
            for message in MessageSequence(frames: frames) {
                guard let response = try? Proto.SubscribeResponse(decoding: message) else {
                    unaccounted += 1
                    continue
                }
                if response.fillRequestId != 0 {
                    filledCount += UInt64(response.updates.count)
                } else {
                    for update in response.updates { add(update) }
                }
                switch response.event {
                case .result(let result): results.insert(result.requestId)
                case .fillEnd(let end): fillEnds[end.fillRequestId] = end
                case .heartbeat: heartbeats += 1
                default: break
                }
            }
        }
    }

    private mutating func add(_ update: Proto.PriceUpdate) {
        count += 1
        let line = "\(update.feedHandlerId)|\(update.epoch)|\(update.exchange)|\(update.symbol)"
        let first = update.conflated?.firstSequence ?? update.sequence
        if let expected = next[line], expected != first { unaccounted += 1 }
        next[line] = update.sequence + 1
        if let range = update.conflatedRange { missed.append(range) }
    }
}
