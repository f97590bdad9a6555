import EventLog
import MarketModel
import TickStore

/// Where a tape begins: what the store knows, and the offsets from which the log goes on. Read once, by a thread that
/// may wait.
struct TapeStart: Sendable {
    struct KnownLine: Sendable {
        let instrument: Instrument
        let latest: LatestTick
    }

    let offsets: [UInt64]
    let lines: [KnownLine]

    /// The offsets are read before the values, so the values may be newer, never older.
    init(log: any EventLog, store: any TickStore) throws {
        offsets = try (0..<log.partitionCount(.ticksRaw)).map { partition in
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            let oldest = log.startOffset(place)
            return min(max(try store.nextOffset(place) ?? oldest, oldest), log.endOffset(place, .written))
        }
        lines = try store.instruments().compactMap { instrument in
            try store.latest(instrument).map { KnownLine(instrument: instrument, latest: $0) }
        }
    }
}
