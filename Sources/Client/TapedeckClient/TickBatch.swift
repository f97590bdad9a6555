import GRPC
import MarketProto
import Protobuf
import TickCodec

/// Updates that arrived together, as encoded. Read in place with ``forEach(_:)``, or decoded with ``updates``.
public struct TickBatch: Sendable {
    /// Whole gRPC frames, back to back; each is a `PriceUpdate`.
    private let frames: [UInt8]
    /// Positions, among the frames, of those that were delivered before; ascending.
    private let repeats: [Int]
    /// Updates in the batch, at least one.
    public let count: Int

    init(frames: [UInt8], repeats: [Int], count: Int) {
        self.frames = frames
        self.repeats = repeats
        self.count = count
    }

    /// Calls `body` with each update in order. What the reader gives is valid during the call.
    public func forEach<Failure: Error>(_ body: (TickReader) throws(Failure) -> Void) throws(Failure) {
        var failure: Failure?
        var reader = TickReader()
        walk { message in
            do throws(Failure) {
                // All were read once when they came.
                if (try? reader.read(message)) != nil { try body(reader) }
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
    }

    /// Every update, decoded.
    public var updates: [Proto.PriceUpdate] {
        var updates: [Proto.PriceUpdate] = []
        updates.reserveCapacity(count)
        walk { message in
            if var update = try? Proto.PriceUpdate(decoding: message) {
                // The client's own business.
                update.resumeToken = []
                updates.append(update)
            }
            return true
        }
        return updates
    }

    /// Calls `body` with each message that is no repeat, until it says false.
    private func walk(_ body: (UnsafeRawBufferPointer) -> Bool) {
        frames.withUnsafeBytes { bytes in
            var skip = repeats.makeIterator()
            var next = skip.next()
            for (position, message) in MessageSequence(frames: bytes).enumerated() {
                if position == next {
                    next = skip.next()
                } else if !body(message) {
                    return
                }
            }
        }
    }
}

/// Updates of an instrument that were neither delivered nor accounted for by a conflated update.
public struct SequenceGap: Hashable, Sendable {
    public let exchange: String
    public let symbol: String
    public let feed: String
    public let epoch: UInt64
    /// First and last missing.
    public let sequences: ClosedRange<UInt64>

    /// What ``PriceSession/fill(_:)-([FillRange])`` and `Fill` of `Subscribe` are asked for it with.
    public var range: Proto.FillRange {
        Proto.FillRange(
            exchange, symbol, feed: feed, epoch: epoch, first: sequences.lowerBound, last: sequences.upperBound)
    }
}
