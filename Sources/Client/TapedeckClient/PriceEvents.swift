import EventLoop
import GRPC
import MarketProto
import Protobuf
import TickCodec

/// What a subscription to prices brings.
public enum PriceEvent: Sendable {
    case ticks(TickBatch)
    /// Updates that did not come and will not: comes before the batch with the update behind them.
    case gap(SequenceGap)
    /// The stream ended and is begun again where it ended; the error says why.
    case interrupted(TapedeckError)
    /// The stream has begun again.
    case resumed
}

/// Prices as an asynchronous sequence that survives disconnects. Each iteration is a subscription of its own.
///
/// Nothing is read ahead but a bounded buffer: a reader that does not keep up is felt by the server, which conflates or
/// ends the stream as the subscription's policy says. After a disconnect the stream goes on from its token; updates
/// that come again are left out, and those that are missing are reported. Ends with nil when its task is cancelled, and
/// throws what cannot be helped by trying again.
public struct PriceEvents: AsyncSequence, Sendable {
    /// What the sequence brings.
    public typealias Element = PriceEvent
    /// How it ends where it does not end well.
    public typealias Failure = TapedeckError

    let channel: GRPCChannel
    let subscription: Proto.PriceSubscription
    let backoff: GRPCBackoff

    /// Begins the sequence; once, by one task.
    public func makeAsyncIterator() -> Iterator {
        Iterator(PriceReader(channel, subscription, backoff))
    }

    /// Reads one subscription, from one task at a time.
    public struct Iterator: AsyncIteratorProtocol {
        private let reader: PriceReader

        fileprivate init(_ reader: PriceReader) { self.reader = reader }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(TapedeckError) -> PriceEvent? {
            try await reader.next()
        }
    }
}

/// One subscription: its stream now, what was delivered, and how it goes on.
private final class PriceReader {
    /// How often the server is to say where the stream goes on, unless the subscription says it: what was sent since
    /// then comes again after a cut.
    private static let tokenIntervalMilliseconds: UInt32 = 2000

    private let channel: GRPCChannel
    private var subscription: Proto.PriceSubscription
    private var resume: PriceResume
    private var random: SplitMix64
    private var tracker = SequenceTracker()
    private var stream: GRPCClientStream?
    private var hasBegun = false
    private var isInterrupted = false
    private var isFinished = false
    /// Before the stream begins again.
    private var waitMilliseconds = 0
    /// To be handed out before more is read, the next one last.
    private var pending: [PriceEvent] = []

    init(_ channel: GRPCChannel, _ subscription: Proto.PriceSubscription, _ backoff: GRPCBackoff) {
        self.channel = channel
        self.subscription = subscription
        if subscription.tokenIntervalMs == 0 {
            self.subscription.tokenIntervalMs = PriceReader.tokenIntervalMilliseconds
        }
        random = SplitMix64(seed: channel.options.seed)
        let hasToken = !subscription.resumeToken.isEmpty
        resume = PriceResume(
            token: hasToken ? subscription.resumeToken : nil,
            wantsSnapshot: hasToken ? subscription.resumeSnapshot : !subscription.skipSnapshot, backoff: backoff)
    }

    nonisolated(nonsending) func next() async throws(TapedeckError) -> PriceEvent? {
        while true {
            if let event = pending.popLast() { return event }
            if isFinished { return nil }
            if Task.isCancelled {
                finish()
                return nil
            }
            if waitMilliseconds > 0 {
                await channel.wait(milliseconds: waitMilliseconds)
                waitMilliseconds = 0
                continue
            }
            let stream = stream ?? begin()
            do throws(GRPCStatus) {
                let frames = try await stream.nextFrames()
                noteBeginning(stream)
                if let frames { try deliver(frames) } else { finish() }
            } catch {
                noteBeginning(stream)
                let failure = TapedeckError(error, trailers: stream.end?.trailers ?? GRPCMetadata())
                try goOn(after: failure)
            }
        }
    }

    private func begin() -> GRPCClientStream {
        let method = Proto.MarketDataService.streamPrices
        let stream = channel.stream(path: method.path)
        stream.sendOnly(subscription.encodedBytes())
        self.stream = stream
        hasBegun = false
        return stream
    }

    private func noteBeginning(_ stream: GRPCClientStream) {
        guard !hasBegun, let metadata = stream.receivedMetadata else { return }
        hasBegun = true
        resume.began(token: metadata.binary("tapedeck-resume-token-bin"))
    }

    private func finish() {
        isFinished = true
        stream?.cancel()
        stream = nil
    }

    private func goOn(after error: TapedeckError) throws(TapedeckError) {
        stream = nil
        if Task.isCancelled { return finish() }
        if channel.isClosed {
            finish()
            throw error
        }
        switch resume.ended(error, using: &random) {
        case .finish: finish()
        case .fail:
            finish()
            throw error
        case .resume(let token, let milliseconds):
            subscription.resumeToken = token ?? []
            if token == nil { subscription.skipSnapshot = false }
            subscription.resumeSnapshot = token != nil && resume.wantsSnapshot
            waitMilliseconds = milliseconds
            if !isInterrupted { pending.append(.interrupted(error)) }
            isInterrupted = true
        }
    }

    /// Makes events of frames: gaps first, then the batch.
    private func deliver(_ frames: [UInt8]) throws(GRPCStatus) {
        let checked: CheckedFrames
        do throws(TickCodecError) {
            checked = try CheckedFrames(frames, &tracker)
        } catch {
            stream?.cancel()
            throw GRPCStatus(.internalError, "the server sent what is no PriceUpdate: \(error)")
        }
        resume.delivered(token: checked.token)
        if let batch = checked.batch { pending.append(.ticks(batch)) }
        pending += checked.gaps.reversed().map { .gap($0) }
        if isInterrupted {
            isInterrupted = false
            pending.append(.resumed)
        }
    }
}
