import EventLog
import KafkaLog
import MarketModel
import TickCodec

/// A tick whose price is its sequence.
package func encodedTick(
    exchange: String = "SIMX", symbol: String = "AAPL", feed: String = "sim", epoch: UInt64 = 1, sequence: UInt64
) -> [UInt8] {
    let encoder = TickEncoder(exchange: exchange, symbol: symbol, feed: feed)
    var tick = Tick(
        kind: .trade, receivedTimeNs: 1_700_000_000_000_000_000 + Int64(sequence),
        publishTimeNs: 1_700_000_000_000_000_000 + Int64(sequence), epoch: epoch, sequence: sequence)
    tick.last = Int64(sequence) * 1_000_000_000
    tick.lastSize = 100_000_000
    return [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
        count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
    }
}

/// Ticks of one instrument, sequences ascending from `from`, in the partition that is theirs.
package func tickBlock(
    _ log: any EventLog, symbol: String = "AAPL", feed: String = "sim", epoch: UInt64 = 1, from: UInt64, count: Int
) -> Block {
    let place = TopicPartition(.ticksRaw, log.partition(of: .ticksRaw, exchange: "SIMX", symbol: symbol))
    let builder = BlockBuilder(place)
    let key = builder.register(BlockBuilder.Key(exchange: "SIMX", symbol: symbol, feed: feed))
    for sequence in from..<(from + UInt64(count)) {
        encodedTick(symbol: symbol, feed: feed, epoch: epoch, sequence: sequence).withUnsafeBytes {
            builder.append(key: key, epoch: epoch, sequence: sequence, payload: $0)
        }
    }
    return builder.build()
}

/// Records of any bytes, with the key's hash and names as a writer of other programs might give them.
package func rawBlock(_ place: TopicPartition, symbol: String = "", _ values: [[UInt8]]) -> Block {
    let builder = BlockBuilder(place)
    let key = builder.register(BlockBuilder.Key(exchange: "", symbol: symbol, feed: ""))
    for (index, value) in values.enumerated() {
        value.withUnsafeBytes { builder.append(key: key, epoch: 0, sequence: UInt64(index), payload: $0) }
    }
    return builder.build()
}

/// One record as it came out of a log.
package struct ReadRecord: Hashable {
    package let offset: UInt64
    package let symbol: String
    package let feed: String
    package let epoch: UInt64
    package let sequence: UInt64
    package let bytes: [UInt8]
}

package struct Unexpected: Error {
    package let what: String
    package init(what: String) { self.what = what }
}

extension Block {
    package func readRecords(from index: Int) -> [ReadRecord] {
        (index..<recordCount).map { record in
            let track = track(of: record)
            return ReadRecord(
                offset: firstOffset + UInt64(record), symbol: symbol(track: track), feed: feed(track: track),
                epoch: epoch(track: track), sequence: sequence(of: record), bytes: Array(payload(record)))
        }
    }
}

/// Every record from an offset to the end.
package func readAll(_ log: any EventLog, _ place: TopicPartition, from offset: UInt64 = 0) throws -> [ReadRecord] {
    var records: [ReadRecord] = []
    var offset = offset
    while true {
        switch try log.readBlocking(place, at: offset, .durable) {
        case .block(let block, let index):
            records += block.readRecords(from: index)
            offset = block.endOffset
        case .atEnd: return records
        case .onDisk: throw Unexpected(what: "onDisk from readBlocking")
        case .expired(let oldest): throw Unexpected(what: "expired, oldest \(oldest)")
        case .damaged(let next, let reason): throw Unexpected(what: "damaged to \(next): \(reason)")
        }
    }
}

/// The messages of gRPC frames.
package func frames(_ bytes: UnsafeRawBufferPointer) -> [UnsafeRawBufferPointer] {
    var found: [UnsafeRawBufferPointer] = []
    var position = 0
    while position + 5 <= bytes.count {
        let length = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
        found.append(UnsafeRawBufferPointer(rebasing: bytes[(position + 5)..<(position + 5 + length)]))
        position += 5 + length
    }
    return found
}

package func sequence(of update: UnsafeRawBufferPointer) -> UInt64 { (try? TickReader(update).sequence) ?? 0 }

/// A resume token as an edge makes one, by partition.
package func resumeToken(_ log: any EventLog, _ offsets: [UInt64]) -> [UInt8] {
    var bytes: [UInt8] = [1]
    func put(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    put(log.identity.id)
    put(log.identity.generation)
    put(UInt16(offsets.count))
    for (partition, offset) in offsets.enumerated() {
        put(UInt16(partition))
        put(offset)
    }
    put(bytes.withUnsafeBytes { Checksum.crc32c($0) })
    return bytes
}
