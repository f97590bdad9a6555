import Conflation
import DayFigures

/// Of an update that waits for its reader: where it lies in the log, and since when it waits.
struct UpdateOrigin {
    let partition: Int
    let offset: UInt64
    /// Loop time.
    let sinceMilliseconds: UInt64

    /// Lowers the place of the partition to this one.
    func lower(_ offsets: inout [UInt64]) { offsets[partition] = min(offsets[partition], offset) }
}

/// Bytes that wait for one stream's reader, whichever subscriptions they are of. Confined to the stream's loop.
final class Backlog {
    let bytesMax: Int
    var bytes = 0

    init(bytesMax: Int) { self.bytesMax = bytesMax }

    func hasRoom(for count: Int) -> Bool { bytes + count <= bytesMax }
}

/// Updates in the order in which they came, each with its frame: what MAX_STALENESS keeps while the reader keeps up.
struct WaitingUpdates {
    struct Update {
        let record: TapeRecordNumbers
        let origin: UpdateOrigin
        let length: Int
    }

    private var updates: [Update] = []
    private var start = 0
    private var frames = PendingBytes()

    var byteCount: Int { frames.count }
    /// Bytes of memory that hold them and what is known of them.
    var heldBytes: Int { frames.heldBytes + updates.capacity * MemoryLayout<Update>.stride }
    var first: Update? { start < updates.count ? updates[start] : nil }

    mutating func append(_ record: TapeRecord, _ origin: UpdateOrigin) {
        updates.append(Update(record: TapeRecordNumbers(record), origin: origin, length: record.frame.count))
        frames.append(record.frame)
    }

    /// Hands over the oldest with its frame.
    mutating func removeFirst(_ body: (Update, UnsafeRawBufferPointer) -> Void) {
        guard let update = first else { return }
        frames.peek { body(update, UnsafeRawBufferPointer(rebasing: $0[..<update.length])) }
        frames.drop(update.length)
        start += 1
        if start == updates.count {
            updates.removeAll(keepingCapacity: true)
            start = 0
        } else if start > 1024, start > updates.count / 2 {
            updates.removeFirst(start)
            start = 0
        }
    }

    /// Empties it, handing over each update with the place of its frame among all frames; the oldest first.
    mutating func takeAll(_ body: (_ update: Update, _ place: Int, _ frames: UnsafeRawBufferPointer) -> Void) {
        let all = self
        self = WaitingUpdates()
        var place = 0
        all.frames.peek { frames in
            for update in all.updates[all.start...] {
                body(update, place, frames)
                place += update.length
            }
        }
    }

    mutating func removeAll(where condition: (_ line: Int) -> Bool) {
        var kept = WaitingUpdates()
        while first != nil {
            removeFirst { update, frame in
                guard !condition(update.record.line) else { return }
                kept.updates.append(update)
                kept.frames.append(frame)
            }
        }
        self = kept
    }

    func forEachOrigin(_ body: (UpdateOrigin) -> Void) {
        for update in updates[start...] { body(update.origin) }
    }
}

/// What conflation needs of a record.
struct TapeRecordNumbers {
    let line: Int
    let epoch: UInt64
    let sequence: UInt64
    let trade: ConflationTrade?

    init(_ record: TapeRecord) {
        line = record.line
        epoch = record.epoch
        sequence = record.sequence
        trade = record.trade.map { ConflationTrade(price: $0.price, size: $0.size) }
    }
}
