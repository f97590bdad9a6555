import EventLog
import TickStore

/// Where a stream ended, for the client to come back with. Opaque to clients; it grants nothing, so nothing is signed.
///
/// Version 1, little endian: version (1), log id (8), generation (4), partitions (2), per partition its number (2) and
/// the offset of the first record not delivered (8), CRC-32C of all before (4).
struct ResumeToken: Hashable {
    static let version: UInt8 = 1
    static let partitionCountMax = 4096

    let logID: UInt64
    let generation: UInt32
    /// Next offset by partition of `ticks.raw`, ascending by partition.
    let offsets: [(partition: UInt16, offset: UInt64)]

    static func == (a: ResumeToken, b: ResumeToken) -> Bool { a.encoded() == b.encoded() }
    func hash(into hasher: inout Hasher) { hasher.combine(encoded()) }

    init(logID: UInt64, generation: UInt32, offsets: [(partition: UInt16, offset: UInt64)]) {
        self.logID = logID
        self.generation = generation
        self.offsets = offsets
    }

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = [ResumeToken.version]
        func put(_ value: some FixedWidthInteger) {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
        put(logID)
        put(generation)
        put(UInt16(offsets.count))
        for entry in offsets {
            put(entry.partition)
            put(entry.offset)
        }
        put(bytes.withUnsafeBytes { Checksum.crc32c($0) })
        return bytes
    }

    /// Refuses anything that ``encoded()`` did not make.
    init(decoding bytes: [UInt8]) throws(TokenError) {
        guard let version = bytes.first else { throw .malformed("it is empty") }
        guard version == ResumeToken.version else { throw .malformed("version \(version) is unknown") }
        guard bytes.count >= 19 else { throw .malformed("\(bytes.count) bytes are too short") }
        var position = 1
        func take<T: FixedWidthInteger>() -> T {
            defer { position += MemoryLayout<T>.size }
            return bytes.withUnsafeBytes { T(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: T.self)) }
        }
        let logID: UInt64 = take()
        let generation: UInt32 = take()
        let count = Int(take() as UInt16)
        guard count <= ResumeToken.partitionCountMax, bytes.count == 15 + count * 10 + 4 else {
            throw .malformed("\(bytes.count) bytes do not fit \(count) partitions")
        }
        var offsets: [(partition: UInt16, offset: UInt64)] = []
        for _ in 0..<count { offsets.append((take(), take())) }
        let stored: UInt32 = take()
        let computed = bytes.withUnsafeBytes {
            Checksum.crc32c(UnsafeRawBufferPointer(rebasing: $0[..<($0.count - 4)]))
        }
        guard stored == computed else { throw .malformed("its checksum is wrong") }
        self.init(logID: logID, generation: generation, offsets: offsets)
    }

    /// Where the log goes on from the token: an offset for each of its partitions; where the log has no more what a
    /// store holds, that of the first record there. Throws what is gone from both.
    func offsets(in log: any EventLog, store: StoreReader? = nil) throws(TokenError) -> [UInt64] {
        let identity = log.identity
        guard logID == identity.id else { throw .malformed("it is of another log; subscribe without it") }
        guard generation <= identity.generation else {
            throw .malformed("generation \(generation) is newer than the log's \(identity.generation)")
        }
        // A partition that the token does not name had no record when it was made.
        var next = [UInt64](repeating: 0, count: log.partitionCount(.ticksRaw))
        for entry in offsets {
            guard Int(entry.partition) < next.count else {
                throw .malformed("partition \(entry.partition) does not exist")
            }
            next[Int(entry.partition)] = entry.offset
        }
        var missing: [MissingRange] = []
        for partition in next.indices {
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            func miss(_ range: Range<UInt64>, _ reason: String, goOnAt offset: UInt64) {
                missing.append(MissingRange(place: place, from: range.lowerBound, to: range.upperBound, reason: reason))
                next[partition] = offset
            }
            // What lay past a later generation's cut was seen and is gone.
            for cut in identity.cuts where cut.generation > generation {
                let end = cut.ends[place] ?? 0
                if next[partition] > end {
                    miss(end..<next[partition], "cut by generation \(cut.generation)", goOnAt: end)
                }
            }
            let oldest = log.startOffset(place)
            if next[partition] < oldest {
                let held = store?.heldOffsets(place).range(at: next[partition])
                let found = min(oldest, held?.lowerBound ?? oldest)
                if found > next[partition] { miss(next[partition]..<found, "expired", goOnAt: found) }
            }
            guard next[partition] <= log.endOffset(place, .written) else {
                throw .malformed("offset \(next[partition]) of \(place) is past the end")
            }
        }
        if !missing.isEmpty { throw .missing(missing, next: next) }
        return next
    }
}

/// Records that are gone from the log and come from the store.
struct StoredRange: Hashable, CustomStringConvertible {
    let place: TopicPartition
    let from: UInt64
    /// One past the last.
    let to: UInt64

    var description: String { "\(place) \(from)-\(to)" }
}

/// Records that a token counts as not yet delivered, or as delivered, and that no longer exist.
struct MissingRange: Hashable, CustomStringConvertible {
    let place: TopicPartition
    let from: UInt64
    /// One past the last.
    let to: UInt64
    /// `expired`: retention removed them before they were delivered. `cut by generation N`: a power loss took them
    /// after they were delivered. `damaged: …`: they cannot be read.
    let reason: String

    var description: String { "\(place) \(from)-\(to) \(reason)" }
}

enum TokenError: Error, Hashable {
    case malformed(String)
    /// What is gone, and where each partition goes on.
    case missing([MissingRange], next: [UInt64])
}
