import EventLog
import MarketModel
import MarketProto
import Protobuf
import TickCodec
import TickStore

/// What one apply will store: whole blocks, the rows in them, and the records that are no ticks.
struct Batch {
    struct Corrupt {
        let offset: UInt64
        let code: String
        let reason: String
        let value: [UInt8]
    }

    private(set) var rows = TickRows()
    private(set) var corrupt: [Corrupt] = []
    private(set) var bytes = 0
    /// The most tracks of one of its blocks: about how many instruments it has.
    private(set) var tracks = 0
    /// One past the last record that the batch accounts for.
    var next: UInt64

    init(next: UInt64) { self.next = next }

    var rowCount: Int { rows.rows.count + corrupt.count }

    /// Takes the records of a block from `index` on. Corrupt ones below `deadLetteredThrough` are known already.
    mutating func add(_ block: Block, from index: Int, _ place: TopicPartition, deadLetteredThrough: UInt64) {
        let blockIndex = Int32(rows.blocks.count)
        rows.blocks.append(block)
        var checked = CheckedTicks(block)
        for record in index..<block.recordCount {
            if let row = checked?.row(record, blockIndex) {
                rows.rows.append(row)
                continue
            }
            do {
                rows.rows.append(try Batch.row(block, record, blockIndex))
            } catch {
                let offset = block.firstOffset + UInt64(record)
                if offset >= deadLetteredThrough {
                    corrupt.append(
                        Corrupt(
                            offset: offset, code: error.code, reason: error.reason, value: Array(block.payload(record)))
                    )
                }
            }
        }
        bytes += block.recordsLength
        tracks = max(tracks, block.trackCount)
        next = block.endOffset
    }

    /// Rows of a block whose records were checked when it was made: they need not be read again.
    private struct CheckedTicks {
        private enum Names { case unknown, good, bad }

        private let block: Block
        private let figures: [RecordFigures]
        /// Whether a row may have the names of a track.
        private var names: [Names]

        init?(_ block: Block) {
            guard block.isChecked, let figures = block.figures else { return nil }
            self.block = block
            self.figures = figures
            names = [Names](repeating: .unknown, count: block.trackCount)
        }

        /// nil where the record has to be read, to say what is wrong with it.
        @inline(__always)
        mutating func row(_ record: Int, _ blockIndex: Int32) -> TickRows.Row? {
            let track = block.track(of: record)
            if names[track] == .unknown { look(track) }
            guard names[track] == .good, block.sequence(of: record) <= TickRowIdentity.sequenceMax else { return nil }
            let found = figures[record]
            return TickRows.Row(
                block: blockIndex, record: Int32(truncatingIfNeeded: record), filingTimeNs: found.filingTimeNs,
                tradePrice: found.tradePrice, tradeSize: found.tradeSize)
        }

        private mutating func look(_ track: Int) {
            let isGood =
                RowNames.isInstrument(block.exchangeBytes(track: track), block.symbolBytes(track: track))
                && RowNames.isFeed(block.feedBytes(track: track))
            names[track] = isGood ? .good : .bad
        }
    }

    struct RowError: Error {
        let code: String
        let reason: String
    }

    private static func row(_ block: Block, _ record: Int, _ blockIndex: Int32) throws(RowError) -> TickRows.Row {
        let reader: TickReader
        do {
            reader = try TickReader(block.payload(record))
        } catch {
            throw RowError(code: "UNDECODABLE", reason: "\(error)")
        }
        do {
            try reader.check()
        } catch {
            throw RowError(code: "INVALID_VALUE", reason: "\(error)")
        }
        guard reader.sequence <= TickRowIdentity.sequenceMax else {
            throw RowError(
                code: "SEQUENCE_TOO_LARGE",
                reason:
                    "sequence \(reader.sequence) is past \(TickRowIdentity.sequenceMax), the largest of a row's key"
            )
        }
        let track = block.track(of: record)
        guard reader.sequence == block.sequence(of: record), reader.epoch == block.epoch(track: track),
            equal(reader.exchange, block.exchangeBytes(track: track)),
            equal(reader.symbol, block.symbolBytes(track: track)), equal(reader.feed, block.feedBytes(track: track))
        else {
            throw RowError(code: "IDENTITY_MISMATCH", reason: "the record's identity differs from the block's index")
        }
        guard RowNames.isInstrument(reader.exchange, reader.symbol) else { throw noInstrument(reader) }
        guard RowNames.isFeed(reader.feed) else { throw noFeed(reader) }
        let isTrade = reader.kind == .trade
        return TickRows.Row(
            block: blockIndex, record: Int32(record), filingTimeNs: reader.filingTimeNs,
            tradePrice: isTrade ? reader.last : nil, tradeSize: isTrade ? reader.lastSize ?? 0 : 0)
    }

    private static func noInstrument(_ reader: TickReader) -> RowError {
        var reason = "exchange or symbol is not UTF-8"
        if let exchange = String(validating: reader.exchange, as: UTF8.self),
            let symbol = String(validating: reader.symbol, as: UTF8.self)
        {
            do {
                _ = try Instrument(exchange: exchange, symbol: symbol)
            } catch {
                reason = error.description
            }
        }
        return RowError(code: "NO_INSTRUMENT", reason: reason)
    }

    private static func noFeed(_ reader: TickReader) -> RowError {
        var reason = "feed_handler_id is not UTF-8"
        if reader.feed.count > RowNames.feedBytesMax {
            reason = "feed_handler_id has \(reader.feed.count) bytes; at most \(RowNames.feedBytesMax) are allowed"
        } else if String(validating: reader.feed, as: UTF8.self) != nil {
            reason = "feed_handler_id contains a control character"
        }
        return RowError(code: "NO_FEED", reason: reason)
    }

    private static func equal(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
        a.elementsEqual(b)
    }
}

/// The value of a dead-letter record.
enum DeadLetterRecord {
    static func encode(_ record: Batch.Corrupt, _ place: TopicPartition, failedTimeNs: Int64) -> [UInt8] {
        var letter = Proto.DeadLetter()
        letter.sourceTopic = place.topic.name
        letter.sourcePartition = Int32(place.partition)
        letter.sourceOffset = record.offset
        letter.reasonCode = record.code
        letter.reason = record.reason
        letter.value = record.value
        letter.failedTime = Timestamp(ns: failedTimeNs)
        letter.consumer = WriterService.readerName
        return letter.encodedBytes()
    }

    /// Puts letters of a place behind those of its topic, with the offset they go through in the same append, and syncs
    /// them: a crash between makes neither a loss nor a second letter. There is at least one.
    static func append(
        _ corrupt: [Batch.Corrupt], of place: TopicPartition, to log: any EventLog, group: String, failedTimeNs: Int64
    ) throws(LogError) {
        let builder = BlockBuilder(TopicPartition(place.topic.deadLetter, place.partition))
        let key = builder.register(BlockBuilder.Key(exchange: "", symbol: place.description, feed: "writer"))
        for record in corrupt {
            let letter = encode(record, place, failedTimeNs: failedTimeNs)
            letter.withUnsafeBytes { builder.append(key: key, epoch: 0, sequence: record.offset, payload: $0) }
        }
        let through = GroupOffset(group: group, place: place, offset: corrupt[corrupt.count - 1].offset + 1)
        try log.append([builder.build()], consumed: [through])
        try log.sync()
    }
}
