import GRPC
import MarketProto
import Protobuf

@testable import TapedeckClient

extension FuzzTarget {
    /// Messages of `Subscribe`, whose updates the client leaves as they came: what the decoder takes, it takes, and
    /// means the same. A session takes or refuses them.
    static let subscribeFrames = FuzzTarget(
        name: "subscribe-frames", lengthMax: 400,
        seeds: {
            var update = Proto.PriceUpdate()
            (update.exchange, update.symbol, update.feedHandlerId) = ("X", "A", "f")
            (update.epoch, update.sequence) = (1, 2)
            var updates = Proto.SubscribeResponse()
            updates.subscriptionId = 1
            updates.updates = [update, update]
            var heartbeat = Proto.SubscribeResponse()
            heartbeat.event = .heartbeat(Proto.Heartbeat())
            var result = Proto.SubscribeResponse()
            var answer = Proto.RequestResult()
            (answer.requestId, answer.snapshotCount) = (3, 1)
            result.event = .result(answer)
            var ended = Proto.SubscribeResponse()
            ended.subscriptionId = 1
            ended.event = .subscriptionEnd(Proto.SubscriptionEnd())
            return [updates, heartbeat, result, ended].map { $0.encodedBytes() }
        },
        run: { bytes in
            var machine = SessionMachine()
            _ = machine.add(Proto.PriceSubscription())
            machine.begin()
            try? machine.receive(bytes)
            guard var decoded = try? Proto.SubscribeResponse(decoding: bytes) else { return }
            guard let read = SubscribeFrames(bytes) else { return require(false, "refused, and is a message") }
            var updates: [Proto.PriceUpdate] = []
            read.frames.withUnsafeBytes { frames in
                for message in MessageSequence(frames: frames) {
                    if let update = try? Proto.PriceUpdate(decoding: message) { updates.append(update) }
                }
            }
            require(updates == decoded.updates, "other updates")
            decoded.updates = []
            require(read.rest == decoded, "another message")
        })
}
