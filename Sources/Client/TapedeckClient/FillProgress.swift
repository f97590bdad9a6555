import GRPC
import MarketProto
import TickCodec

/// How far a fill has come, so that one that is asked for again brings nothing twice. Pure.
struct FillProgress {
    /// A range, and the last sequence of it.
    private struct Place: Comparable {
        var range = 0
        var sequence: UInt64 = 0

        static func < (one: Place, other: Place) -> Bool {
            (one.range, one.sequence) < (other.range, other.sequence)
        }
    }

    let request: Proto.FillRequest
    /// Of what comes now, and of the last that was handed on.
    private var place = Place()
    private var delivered = Place()

    init(_ ranges: [Proto.FillRange]) {
        var request = Proto.FillRequest()
        request.ranges = ranges
        self.request = request
    }

    /// It is asked for, perhaps again: everything comes from the beginning.
    mutating func begin() { place = Place() }

    /// What of whole frames did not come before; nil where all of it did. Refuses what is no `PriceUpdate`.
    mutating func take(_ frames: [UInt8]) throws(TickCodecError) -> TickBatch? {
        var repeats: [Int] = []
        var position = 0
        let problem = frames.withUnsafeBytes { bytes -> TickCodecError? in
            var reader = TickReader()
            for message in MessageSequence(frames: bytes) {
                do throws(TickCodecError) {
                    try reader.read(message)
                } catch {
                    return error
                }
                if move(to: reader) {
                    if place <= delivered { repeats.append(position) } else { delivered = place }
                }
                position += 1
            }
            return nil
        }
        if let problem { throw problem }
        let count = position - repeats.count
        return count > 0 ? TickBatch(frames: frames, repeats: repeats, count: count) : nil
    }

    /// Ranges come in the order they were asked for, each in the order of its sequences; some may bring nothing. False
    /// for what was not asked for.
    private mutating func move(to reader: TickReader) -> Bool {
        for range in place.range..<max(place.range, request.ranges.count) {
            let isFurther = range > place.range || reader.sequence > place.sequence
            if isFurther, FillProgress.holds(request.ranges[range], reader) {
                place = Place(range: range, sequence: reader.sequence)
                return true
            }
        }
        return false
    }

    private static func holds(_ range: Proto.FillRange, _ reader: TickReader) -> Bool {
        reader.sequence >= range.firstSequence && reader.sequence <= range.lastSequence
            && (range.epoch == 0 || range.epoch == reader.epoch)
            && reader.exchange.elementsEqual(range.exchange.utf8) && reader.symbol.elementsEqual(range.symbol.utf8)
            && (range.feedHandlerId.isEmpty || reader.feed.elementsEqual(range.feedHandlerId.utf8))
    }
}
