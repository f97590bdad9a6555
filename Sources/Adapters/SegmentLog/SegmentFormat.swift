import EventLog

/// The bytes of a segment file, all little endian:
///
///     segment header   magic, format version, lengths, two checksums; log, generation, number; where each partition
///                      starts; then the checkpoint: last places and group offsets as of the segment's start
///     append           header (below), then its blocks' images, each a multiple of 8 bytes
///     append           …
///
/// An append's header names every block's length and checksum, so that one checksum over the header decides whether all
/// of the append is there, and an index can be made from headers alone.
enum SegmentFormat {
    /// Of everything in the log's directory. A newer one is refused.
    static let version: UInt32 = 1
    static let segmentMagic: UInt32 = 0x3153_4454  // "TDS1"
    static let appendMagic: UInt32 = 0x3141_4454  // "TDA1"
    static let indexMagic: UInt32 = 0x3149_4454  // "TDI1"
    static let metadataMagic: UInt32 = 0x314d_4454  // "TDM1"
}

/// The header of one append.
///
///     0 magic, 4 checksum of the rest, 8 header length, 12 block count, 16 total length (8), 24 append number,
///     32 number of the newest append that was synced before this one was written, 40 commit number, 48 append time,
///     56 generation, 60 group offset count
///     64 per block 24 bytes: image length, checksum, topic (2), partition (2), record count, first offset (8)
///     group offsets: topic (2), partition (2), offset (8), group name; padding to a multiple of 8
struct AppendHeader: Equatable {
    static let fixedLength = 64
    static let blockLength = 24
    /// The largest header accepted, in bytes.
    static let lengthMax = 4 << 20

    struct BlockEntry: Equatable {
        var imageLength: Int
        var crc: UInt32
        var place: TopicPartition
        var recordCount: Int
        var firstOffset: UInt64
        var endOffset: UInt64 { firstOffset &+ UInt64(recordCount) }
    }

    var headerLength: Int
    var totalLength: Int
    var number: UInt64

    /// Numbers count from 1; one that no log can reach is damage, and the next one could not be computed.
    static func checked(number: UInt64) throws(FormatError) -> UInt64 {
        guard (1...UInt64.max / 2).contains(number) else { throw FormatError("append number \(number) is none") }
        return number
    }

    /// What this append proves of earlier ones: those up to here were synced, so none may be taken for a torn tail.
    var syncedNumber: UInt64
    var commitNumber: UInt64
    var appendTimeNs: Int64
    var generation: UInt32
    var blocks: [BlockEntry]
    var groups: [GroupOffset]

    /// Writes the header of stamped blocks. `bytes` is emptied first and keeps its capacity.
    static func encode(
        into writer: inout ByteWriter, blocks: [Block], groups: [GroupOffset], number: UInt64, syncedNumber: UInt64,
        commitNumber: UInt64, appendTimeNs: Int64, generation: UInt32
    ) -> Int {
        writer.bytes.removeAll(keepingCapacity: true)
        for _ in 0..<8 { writer.put(UInt64(0)) }
        var total = 0
        for block in blocks {
            total += block.image.count
            writer.put(UInt32(block.image.count))
            writer.put(block.image.loadUnaligned(fromByteOffset: Block.Field.crc, as: UInt32.self).littleEndian)
            writer.put(block.topicPartition.topic.number)
            writer.put(block.topicPartition.partition)
            writer.put(UInt32(block.recordCount))
            writer.put(block.firstOffset)
        }
        for group in groups { writer.putGroup(group) }
        writer.pad(to: 8)
        total += writer.bytes.count
        writer.set(SegmentFormat.appendMagic, at: 0)
        writer.set(UInt32(writer.bytes.count), at: 8)
        writer.set(UInt32(blocks.count), at: 12)
        writer.set(UInt64(total), at: 16)
        writer.set(number, at: 24)
        writer.set(syncedNumber, at: 32)
        writer.set(commitNumber, at: 40)
        writer.set(appendTimeNs, at: 48)
        writer.set(generation, at: 56)
        writer.set(UInt32(groups.count), at: 60)
        let crc = writer.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[8...])) }
        writer.set(crc, at: 4)
        return total
    }

    static func length(blocks: Int, groups: [GroupOffset]) -> Int {
        let names = groups.reduce(0) { $0 + 14 + $1.group.utf8.count }
        return (fixedLength + blocks * blockLength + names + 7) & ~7
    }

    /// The header's length if these 12 bytes can begin one, else nil.
    static func length(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard bytes.count >= 12,
            UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == SegmentFormat.appendMagic
        else { return nil }
        let length = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
        guard length >= fixedLength, length <= lengthMax, length % 8 == 0 else { return nil }
        return length
    }

    /// Reads a header that begins at the first byte. Throws for any bytes that are not one.
    init(_ bytes: UnsafeRawBufferPointer) throws(FormatError) {
        guard let length = AppendHeader.length(bytes), length <= bytes.count else {
            throw FormatError("no append header")
        }
        let own = UnsafeRawBufferPointer(rebasing: bytes[..<length])
        var reader = ByteReader(own, at: 4)
        let stored: UInt32 = try reader.get()
        guard crc32c(UnsafeRawBufferPointer(rebasing: own[8...])) == stored else {
            throw FormatError("the append header's checksum is wrong")
        }
        headerLength = Int(try reader.get(UInt32.self))
        let blockCount = Int(try reader.get(UInt32.self))
        totalLength = Int(clamping: try reader.get(UInt64.self))
        number = try AppendHeader.checked(number: reader.get())
        syncedNumber = try reader.get()
        commitNumber = try reader.get()
        appendTimeNs = try reader.get()
        generation = try reader.get()
        let groupCount = Int(try reader.get(UInt32.self))
        guard blockCount <= (length - AppendHeader.fixedLength) / AppendHeader.blockLength else {
            throw FormatError("\(blockCount) blocks do not fit the append header")
        }
        blocks = []
        blocks.reserveCapacity(blockCount)
        var sum = length
        for _ in 0..<blockCount {
            let entry = try BlockEntry(&reader)
            sum += entry.imageLength
            blocks.append(entry)
        }
        guard groupCount <= (length - reader.position) / 14 else { throw FormatError("group offsets do not fit") }
        groups = []
        for _ in 0..<groupCount { groups.append(try reader.group()) }
        guard sum == totalLength else { throw FormatError("the append's length is not that of its blocks") }
    }
}

extension AppendHeader.BlockEntry {
    init(_ reader: inout ByteReader) throws(FormatError) {
        imageLength = Int(try reader.get(UInt32.self))
        crc = try reader.get()
        place = try reader.place()
        recordCount = Int(try reader.get(UInt32.self))
        firstOffset = try reader.get()
        guard imageLength >= Block.headerLength, imageLength <= Block.imageLengthMax, imageLength % 8 == 0,
            recordCount > 0,
            firstOffset < UInt64.max - UInt64(recordCount)
        else { throw FormatError("a block entry is out of range") }
    }
}

extension ByteWriter {
    mutating func put(_ place: TopicPartition) {
        put(place.topic.number)
        put(place.partition)
    }

    mutating func putGroup(_ group: GroupOffset) {
        put(group.place)
        put(group.offset)
        put(group.group)
    }
}

extension ByteReader {
    mutating func place() throws(FormatError) -> TopicPartition {
        let number: UInt16 = try get()
        guard let topic = Topic(number: number) else { throw FormatError("unknown topic number \(number)") }
        return TopicPartition(topic, try get())
    }

    mutating func group() throws(FormatError) -> GroupOffset {
        let place = try place()
        let offset: UInt64 = try get()
        return GroupOffset(group: try text(), place: place, offset: offset)
    }
}

/// What a stream knows besides its records, as of some point: written at each segment's start and at a clean stop.
struct Checkpoint: Equatable {
    struct LastPlaceEntry: Equatable {
        var place: TopicPartition
        var exchange: [UInt8]
        var symbol: [UInt8]
        var feed: [UInt8]
        var offset: UInt64
        var epoch: UInt64
        var sequence: UInt64
        var appendNumber: UInt64
        var generation: UInt32
    }

    struct GroupEntry: Equatable {
        var offset: GroupOffset
        var commitNumber: UInt64
    }

    var lastPlaces: [LastPlaceEntry] = []
    var groups: [GroupEntry] = []

    func encode(into writer: inout ByteWriter) {
        writer.put(UInt32(lastPlaces.count))
        for entry in lastPlaces {
            writer.put(entry.place)
            writer.put(entry.offset)
            writer.put(entry.epoch)
            writer.put(entry.sequence)
            writer.put(entry.appendNumber)
            writer.put(entry.generation)
            writer.put(entry.exchange)
            writer.put(entry.symbol)
            writer.put(entry.feed)
        }
        writer.put(UInt32(groups.count))
        for entry in groups {
            writer.put(entry.commitNumber)
            writer.putGroup(entry.offset)
        }
    }

    init() {}

    init(_ reader: inout ByteReader) throws(FormatError) {
        for _ in 0..<(try reader.count(of: 46)) {
            lastPlaces.append(
                LastPlaceEntry(
                    place: try reader.place(), exchange: [], symbol: [], feed: [], offset: try reader.get(),
                    epoch: try reader.get(), sequence: try reader.get(), appendNumber: try reader.get(),
                    generation: try reader.get()))
            let last = lastPlaces.count - 1
            lastPlaces[last].exchange = try reader.name()
            lastPlaces[last].symbol = try reader.name()
            lastPlaces[last].feed = try reader.name()
        }
        for _ in 0..<(try reader.count(of: 22)) {
            let commit: UInt64 = try reader.get()
            groups.append(GroupEntry(offset: try reader.group(), commitNumber: commit))
        }
    }
}

/// The beginning of a segment file.
///
///     0 magic, 4 checksum of 8 ..< head length, 8 format version, 12 head length, 16 header length (8),
///     24 checkpoint's checksum, 28 generation, 32 log id, 40 ordinal, 48 first append number, 56 append time so far,
///     64 commit number so far, 72 stream (1), 73 padding, 76 partition count,
///     80 per partition 16 bytes: topic, partition, padding (4), offset
///     head length: the checkpoint; padding to a multiple of 8
struct SegmentHeader: Equatable {
    static let fixedLength = 80
    static let lengthMax = 256 << 20

    var headLength = 0
    var headerLength = 0
    var generation: UInt32
    var logID: UInt64
    var ordinal: UInt64
    var firstAppendNumber: UInt64
    /// The newest append time before this segment; no append of it is older.
    var startTimeNs: Int64
    var commitNumber: UInt64
    var stream: DurabilityClass
    /// Where each partition that ever had records stands at the segment's start.
    var starts: [PlaceOffset]

    struct PlaceOffset: Equatable {
        var place: TopicPartition
        var offset: UInt64
    }

    func encode(checkpoint: Checkpoint) -> [UInt8] {
        var writer = ByteWriter()
        for _ in 0..<(SegmentHeader.fixedLength / 8) { writer.put(UInt64(0)) }
        for start in starts {
            writer.put(start.place)
            writer.put(UInt32(0))
            writer.put(start.offset)
        }
        let head = writer.bytes.count
        checkpoint.encode(into: &writer)
        writer.pad(to: 8)
        let tail = writer.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[head...])) }
        writer.set(SegmentFormat.segmentMagic, at: 0)
        writer.set(SegmentFormat.version, at: 8)
        writer.set(UInt32(head), at: 12)
        writer.set(UInt64(writer.bytes.count), at: 16)
        writer.set(tail, at: 24)
        writer.set(generation, at: 28)
        writer.set(logID, at: 32)
        writer.set(ordinal, at: 40)
        writer.set(firstAppendNumber, at: 48)
        writer.set(startTimeNs, at: 56)
        writer.set(commitNumber, at: 64)
        writer.set(stream.rawValue, at: 72)
        writer.set(UInt32(starts.count), at: 76)
        let crc = writer.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[8..<head])) }
        writer.set(crc, at: 4)
        return writer.bytes
    }
}

extension SegmentHeader {
    enum Problem: Error {
        case notAHeader(String)
        case newerFormat(UInt32)
    }

    /// Reads the head alone: enough to place the segment, without its checkpoint.
    init(head bytes: UnsafeRawBufferPointer) throws(Problem) {
        do {
            var reader = ByteReader(bytes)
            guard try reader.get(UInt32.self) == SegmentFormat.segmentMagic else {
                throw FormatError("not a segment file")
            }
            let stored: UInt32 = try reader.get()
            let version: UInt32 = try reader.get()
            headLength = Int(try reader.get(UInt32.self))
            guard headLength >= SegmentHeader.fixedLength, headLength <= bytes.count else {
                throw FormatError("the segment header is cut short")
            }
            guard crc32c(UnsafeRawBufferPointer(rebasing: bytes[8..<headLength])) == stored else {
                throw FormatError("the segment header's checksum is wrong")
            }
            guard version == SegmentFormat.version else { throw Problem.newerFormat(version) }
            headerLength = Int(clamping: try reader.get(UInt64.self))
            _ = try reader.get(UInt32.self)
            generation = try reader.get()
            logID = try reader.get()
            ordinal = try reader.get()
            firstAppendNumber = try AppendHeader.checked(number: reader.get())
            startTimeNs = try reader.get()
            commitNumber = try reader.get()
            guard let stream = DurabilityClass(rawValue: try reader.get()) else { throw FormatError("unknown stream") }
            self.stream = stream
            _ = try reader.get(UInt8.self)
            _ = try reader.get(UInt16.self)
            starts = []
            for _ in 0..<(try reader.count(of: 16)) {
                let place = try reader.place()
                _ = try reader.get(UInt32.self)
                starts.append(PlaceOffset(place: place, offset: try reader.get()))
            }
            guard headerLength >= headLength, headerLength <= SegmentHeader.lengthMax, headerLength % 8 == 0 else {
                throw FormatError("the segment header's length is out of range")
            }
        } catch let error as FormatError {
            throw .notAHeader(error.reason)
        } catch let problem as Problem {
            throw problem
        } catch {
            throw .notAHeader("unreadable")
        }
    }

    /// The checkpoint behind the head; `bytes` is the whole header.
    static func checkpoint(_ bytes: UnsafeRawBufferPointer, headLength: Int) throws(FormatError) -> Checkpoint {
        guard headLength <= bytes.count, bytes.count >= fixedLength else { throw FormatError("too short") }
        let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
        guard crc32c(UnsafeRawBufferPointer(rebasing: bytes[headLength...])) == stored else {
            throw FormatError("the checkpoint's checksum is wrong")
        }
        var reader = ByteReader(bytes, at: headLength)
        return try Checkpoint(&reader)
    }
}
