import GRPC
import MarketProto
import Protobuf
import TickCodec

/// Knows the last sequence of every (feed, epoch, exchange, symbol) and says of each update whether it is new, and what
/// is missing before it. Pure; bounded by the number of instruments.
struct SequenceTracker {
    enum Verdict: Equatable {
        case new
        /// Delivered before, by itself or within a conflated update.
        case old
        /// New, and these before it are missing.
        case gap(ClosedRange<UInt64>)
    }

    /// Epochs of one instrument that are remembered.
    static let epochsMax = 4

    private struct Line {
        /// Exchange, symbol and feed, a zero byte behind each.
        let name: [UInt8]
        /// Ascending.
        var epochs: [(epoch: UInt64, last: UInt64)]
        /// Another line with the same hash.
        var next: Int?
    }

    private var lines: [Line] = []
    private var indexOfHash: [UInt64: Int] = [:]

    /// Takes the next update as it came.
    mutating func check(_ reader: TickReader) -> Verdict {
        let sequence = reader.sequence
        // A publisher that does not number its updates.
        guard sequence > 0 else { return .new }
        var first = sequence
        if reader.hasConflation, let range = try? Proto.Conflation(decoding: reader.conflation),
            range.firstSequence > 0, range.firstSequence < sequence
        {
            first = range.firstSequence
        }
        let index = line(reader)
        guard let place = lines[index].epochs.firstIndex(where: { $0.epoch == reader.epoch }) else {
            return begin(index, reader.epoch, first: first, sequence)
        }
        let last = lines[index].epochs[place].last
        guard sequence > last else { return .old }
        lines[index].epochs[place].last = sequence
        return first > last + 1 ? .gap((last + 1)...(first - 1)) : .new
    }

    /// The first update of an epoch: one that follows another epoch begins at 1.
    private mutating func begin(_ index: Int, _ epoch: UInt64, first: UInt64, _ sequence: UInt64) -> Verdict {
        let place = lines[index].epochs.firstIndex { $0.epoch > epoch } ?? lines[index].epochs.count
        if lines[index].epochs.count == SequenceTracker.epochsMax {
            // Older than all that are remembered: it comes again, from a token of before it was forgotten.
            guard place > 0 else { return .old }
            lines[index].epochs.removeFirst()
            lines[index].epochs.insert((epoch, sequence), at: place - 1)
        } else {
            lines[index].epochs.insert((epoch, sequence), at: place)
        }
        let isFollowing = place > 0
        return isFollowing && first > 1 ? .gap(1...(first - 1)) : .new
    }

    private mutating func line(_ reader: TickReader) -> Int {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for part in [reader.exchange, reader.symbol, reader.feed] {
            for byte in part { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
            hash = hash &* 0x100_0000_01b3
        }
        let head = indexOfHash[hash]
        var index = head
        while let candidate = index {
            if matches(lines[candidate].name, reader) { return candidate }
            index = lines[candidate].next
        }
        let name = Array(reader.exchange) + [0] + Array(reader.symbol) + [0] + Array(reader.feed) + [0]
        lines.append(Line(name: name, epochs: [], next: head))
        indexOfHash[hash] = lines.count - 1
        return lines.count - 1
    }

    private func matches(_ name: [UInt8], _ reader: TickReader) -> Bool {
        var position = 0
        for part in [reader.exchange, reader.symbol, reader.feed] {
            guard name.count - position > part.count, name[position + part.count] == 0,
                name[position..<(position + part.count)].elementsEqual(part)
            else { return false }
            position += part.count + 1
        }
        return position == name.count
    }
}
