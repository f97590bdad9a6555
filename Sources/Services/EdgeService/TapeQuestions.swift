import EventLog
import GRPC
import MarketModel
import MarketProto
import TickCodec
import TickStore

// What streams ask of the tape besides its records.
extension Tape {
    /// Last values as gRPC frames, in the order in which their instruments were first seen.
    struct Snapshot {
        var frames = PendingBytes()
        var count = 0
        /// Bytes of the last frame.
        var lastLength = 0
    }

    /// The last value of each instrument that the filter matches; where `symbols` are given, of these alone; with
    /// `before`, of those that have no record at or after these offsets.
    func snapshot(
        _ filter: InstrumentFilter, of symbols: Set<String>? = nil, before offsets: [UInt64]? = nil
    ) -> Snapshot {
        var snapshot = Snapshot()
        if let symbols, symbols.isEmpty { return snapshot }
        for index in lines.candidates(symbols ?? filter.symbols)
        where lines[index].isPrimary && !lines[index].frame.isEmpty {
            guard filter.matches(lines[index].instrument) else { continue }
            if let offsets, hasRecord(lines[index], from: offsets) { continue }
            lines[index].frame.withBytes {
                snapshot.frames.append($0)
                snapshot.lastLength = $0.count
            }
            snapshot.count += 1
        }
        return snapshot
    }

    /// What a subscription that begins at these offsets, or at the tape, is sent first.
    func snapshot(_ filter: InstrumentFilter, from offsets: [UInt64]?, isWanted: Bool) -> Snapshot {
        isWanted ? snapshot(filter, before: offsets) : Snapshot()
    }

    /// Whether a line has a record at or after these offsets, which may be past the tape.
    private func hasRecord(_ line: Line, from offsets: [UInt64]) -> Bool {
        let place = log.lastPlace(
            .ticksRaw, feed: line.feed, exchange: line.instrument.exchange, symbol: line.instrument.symbol)
        return place.map { $0.offset >= offsets[Int($0.place.partition)] } ?? false
    }

    /// What of these offsets on is gone from the log and comes from the store, in each partition as far as it goes.
    func stored(from offsets: [UInt64]) -> [StoredRange] {
        offsets.indices.compactMap { partition in
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            let oldest = log.startOffset(place)
            guard offsets[partition] < oldest,
                let held = store?.heldOffsets(place).range(at: offsets[partition]), held.contains(offsets[partition])
            else { return nil }
            return StoredRange(place: place, from: offsets[partition], to: min(held.upperBound, oldest))
        }
    }

    /// Whether an instrument's records may be in a partition: all of one are in the same.
    func mayLie(_ instrument: Instrument, in place: TopicPartition) -> Bool {
        guard let line = lines.primary(instrument) else { return true }
        let last = log.lastPlace(
            .ticksRaw, feed: lines[line].feed, exchange: instrument.exchange, symbol: instrument.symbol)
        return last.map { $0.place == place } ?? true
    }

    /// The line of an update that did not come by the tape, made when it is new; nil for names that are no instrument.
    func line(_ update: TickReader) -> Int? {
        let (exchange, symbol) = (
            String(decoding: update.exchange, as: UTF8.self), String(decoding: update.symbol, as: UTF8.self)
        )
        let feed = String(decoding: update.feed, as: UTF8.self)
        guard let instrument = try? Instrument(exchange: exchange, symbol: symbol) else { return nil }
        return lines.find(instrument, feed: feed) ?? add(instrument, feed: feed)
    }

    /// Whether a caller may not see an instrument. With an empty exchange: whether exchanges are known to list the
    /// symbol and the caller may see none of those.
    func denies(_ permissions: (any CallerPermissions)?, _ exchange: String, _ symbol: String) -> Bool {
        guard let permissions, !permissions.allowsEverySymbol else { return false }
        guard exchange.isEmpty else { return !permissions.allows(exchange: exchange, symbol: symbol) }
        let listings = lines.primaries(symbol: symbol)
        return !listings.isEmpty
            && !listings.contains { permissions.allows(exchange: lines[$0].instrument.exchange, symbol: symbol) }
    }

    /// A range with its feed and epoch filled in; nil where the instrument or the feed is not known.
    func resolve(_ range: Proto.FillRange) -> Proto.FillRange? {
        guard let instrument = try? Instrument(exchange: range.exchange, symbol: range.symbol),
            let primary = lines.primary(instrument)
        else { return nil }
        var resolved = range
        if range.feedHandlerId.isEmpty { resolved.feedHandlerId = lines[primary].feed }
        guard range.epoch == 0 else { return resolved }
        let newest = log.lastPlace(
            .ticksRaw, feed: resolved.feedHandlerId, exchange: range.exchange, symbol: range.symbol)
        if let newest {
            resolved.epoch = newest.epoch
        } else if resolved.feedHandlerId == lines[primary].feed, !lines[primary].frame.isEmpty {
            resolved.epoch = lines[primary].epoch
        } else {
            return nil
        }
        return resolved
    }
}
