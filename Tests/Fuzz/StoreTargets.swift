import CZstd
import EventLog
import MarketModel
import TickCodec
import TickStore

@testable import RocksStore

extension FuzzTarget {
    /// A block of rows: the first byte says how its body is packed, the rest is the block with the body unpacked, so
    /// that mutations reach behind the compression. Its checksum is put right. Rows that are read make a block, in
    /// each codec, of the same rows.
    static let rowBlock = FuzzTarget(
        name: "rowblock", lengthMax: 4096,
        seeds: {
            RowSamples.blocks.flatMap { block in (0...3).map { [UInt8($0)] + RowSamples.unpacked(block) } }
        },
        run: { bytes in
            guard let first = bytes.first else { return }
            let reader = RowBlockReader()
            guard let value = RowSamples.packed(bytes.dropping(1), Int(first) % 4) else { return }
            guard let rows = RowSamples.rows(value, reader) else { return }
            for codec in [RowBlock.Codec.plain, .zstd, .planes] {
                let builder = RowBlockBuilder()
                builder.begin(hour: rows.hour)
                var kept: [RowSamples.FramedRow] = []
                for row in rows.rows {
                    let isNew = row.frame.withUnsafeBytes {
                        builder.append(row.key, filingTimeNs: row.filingTimeNs, frame: $0)
                    }
                    if isNew { kept.append(row) }
                }
                guard let again = RowSamples.rows(Array(builder.build(codec)), reader) else {
                    return require(false, "a block that was built as \(codec) is refused")
                }
                require(again.rows == kept, "\(codec): other rows than were put in")
            }
        })

    /// An instrument's record, and keys of the store.
    static let storeRecord = FuzzTarget(
        name: "storerecord", lengthMax: 512,
        seeds: {
            var record = InstrumentRecord(primaryFeed: 3, place: TopicPartition(.ticksRaw, 1))
            let plain = record.bytes
            record.update = [1, 2, 3]
            var full = record.bytes
            // All that there is: flags, then what they announce.
            full.replaceSubrange(11...11, with: [7] + [UInt8](repeating: 5, count: 16 + 96 + 36))
            let times = FilingTimes(ranges: [1...5, 90...100_000_000_000]) ?? FilingTimes()
            let run = FiledRecords(offsets: 7..<300, times: times)
            let filed = MetaKey.filed(TopicPartition(.ticksRaw, 3), 7) + FiledIndex.bytes(run)
            let held = FiledIndex.bytes(HeldOffsets(ranges: [3..<9, 10..<4000]) ?? HeldOffsets())
            return [plain, record.bytes, full, filed, held]
                + [BlockKey(instrument: 1, hour: 480_000, first: .least, origin: nil).bytes, BlockKey.end(1, -1)]
        },
        run: { bytes in
            if let record = InstrumentRecord(bytes) {
                let encoded = record.bytes
                let again = encoded.withUnsafeBytes { InstrumentRecord($0) }
                require(again == record, "a record written and read")
            }
            if let key = BlockKey(bytes) { require(key.bytes.elementsEqual(bytes), "a key written") }
            _ = MetaKey.hour(bytes)
            if let held = FiledIndex.offsets(bytes) {
                require(FiledIndex.bytes(held).elementsEqual(bytes), "held offsets written")
            }
            let keyLength = min(13, bytes.count)
            let key = UnsafeRawBufferPointer(rebasing: bytes[..<keyLength])
            if let (place, run) = FiledIndex.entry(key, UnsafeRawBufferPointer(rebasing: bytes[keyLength...])) {
                require(
                    (MetaKey.filed(place, run.offsets.lowerBound) + FiledIndex.bytes(run)).elementsEqual(bytes),
                    "a run written")
                // Any two can be joined, or not.
                _ = run.joined(by: FiledRecords(offsets: run.offsets.upperBound..<UInt64.max, times: run.times))
            }
        })
}

/// Blocks of rows to start from, and their bodies packed and unpacked.
private enum RowSamples {
    struct FramedRow: Equatable {
        let key: RowKey
        let filingTimeNs: Int64
        let frame: [UInt8]
    }

    /// Plain blocks: of one feed and epoch, whose keys can be read from the rows, and of several.
    static let blocks: [[UInt8]] = [1, 3].map { feeds in
        let hour: Int32 = 481_111
        let builder = RowBlockBuilder()
        builder.begin(hour: hour)
        builder.note(appendTimeNs: 1_732_000_000_000_000_000)
        let encoder = TickEncoder(exchange: "X", symbol: "AAPL", feed: "sim")
        for index in 0..<12 {
            let ns = Int64(hour) * Hour.lengthNs + Int64(index) * 1_000_000
            var tick = Tick(
                kind: .quote, receivedTimeNs: ns, publishTimeNs: ns, epoch: 4, sequence: UInt64(index))
            tick.bid = 1_000_000_000 * Int64(index % 5)
            let payload = FuzzTarget.encode(tick, encoder)
            let frame = [0, 0, 0, UInt8(payload.count >> 8), UInt8(payload.count & 0xff)] + payload
            let key = RowKey(filingTimeNs: ns, epoch: 4, sequence: UInt64(index), feed: UInt16(index % feeds))
            _ = frame.withUnsafeBytes { builder.append(key, filingTimeNs: ns, frame: $0) }
        }
        return feeds == 1 ? Array(builder.build(.planes)) : Array(builder.build(.plain))
    }

    /// The block with its body unpacked, which need not be what its header says.
    static func unpacked(_ block: [UInt8]) -> [UInt8] {
        block.withUnsafeBytes { block in
            guard let header = RowBlock.Header(block), header.codec == .planes else { return Array(block) }
            let body = block.dropping(header.bodyPosition)
            var plain = [UInt8](repeating: 0, count: Int(body.le(0, UInt32.self)))
            let packed = body.dropping(4)
            _ = ZSTD_decompress(&plain, plain.count, packed.baseAddress, packed.count)
            return Array(block[..<header.bodyPosition]) + plain
        }
    }

    /// The reverse: 0 leaves the block as it is, 1 names it plain, 2 packs its body, 3 packs it as planes are.
    static func packed(_ block: UnsafeRawBufferPointer, _ how: Int) -> [UInt8]? {
        guard block.count >= RowBlock.headerLength else { return nil }
        let position =
            RowBlock.headerLength + Int(block.le(RowBlock.Field.trackCount, UInt16.self)) * RowBlock.trackLength
        guard position <= block.count else { return nil }
        let body = block.dropping(position)
        var value = Array(block[..<position])
        if how < 2 {
            value += body
        } else {
            if how == 3 { value.appendLittleEndian(UInt32(body.count)) }
            var packed = [UInt8](repeating: 0, count: ZSTD_compressBound(body.count))
            value += packed[..<ZSTD_compress(&packed, packed.count, body.baseAddress, body.count, 1)]
        }
        value.withUnsafeMutableBytes { value in
            if how > 0 {
                value[RowBlock.Field.codec] = UInt8(how - 1)
                value.setLE(UInt32(value.count - position), at: RowBlock.Field.bodyLength)
            }
            value.setLE(RowBlock.crc(UnsafeRawBufferPointer(value)), at: RowBlock.Field.crc)
        }
        return value
    }

    /// The rows of a block under the hour that its header's first time names; nil where it is refused.
    static func rows(_ value: [UInt8], _ reader: RowBlockReader) -> (hour: Int32, rows: [FramedRow])? {
        // In memory of its own: reading past it is found.
        withCopy(value) { copy in
            let time: Int64 = UnsafeRawBufferPointer(copy).le(RowBlock.Field.firstTime)
            let (ns, isOverflow) = time.multipliedReportingOverflow(by: 100)
            let hour = isOverflow ? 0 : Hour.of(ns)
            guard (try? reader.open(UnsafeRawBufferPointer(copy), hour: hour)) != nil,
                (try? reader.readRows()) != nil
            else { return nil }
            require(reader.rows.count == reader.rowCount, "rows are missing")
            let rows = reader.rows.map { row in
                FramedRow(
                    key: row.key, filingTimeNs: row.filingTimeNs,
                    frame: Array(reader.frames[Int(row.start)..<Int(row.end)]))
            }
            return (hour, rows)
        }
    }
}
