import EventLog

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

    /// What this log can still give from the token on.
    func check(against log: any EventLog) throws(TokenError) {
        let identity = log.identity
        guard logID == identity.id else { throw .otherLog }
        guard generation <= identity.generation else {
            throw .malformed("generation \(generation) is newer than the log's \(identity.generation)")
        }
        var missing: [MissingRange] = []
        for entry in offsets {
            guard Int(entry.partition) < log.partitionCount(.ticksRaw) else {
                throw .malformed("partition \(entry.partition) does not exist")
            }
            let place = TopicPartition(.ticksRaw, entry.partition)
            // The first cut after the token's generation decides: what lay past it was seen and is gone.
            if let cut = identity.cuts.first(where: { $0.generation > generation }), let end = cut.ends[place],
                entry.offset > end
            {
                missing.append(MissingRange(place: place, from: end, to: entry.offset, reason: "cut"))
                continue
            }
            let oldest = log.startOffset(place)
            if entry.offset < oldest {
                missing.append(MissingRange(place: place, from: entry.offset, to: oldest, reason: "expired"))
            } else if entry.offset > log.endOffset(place, .written) {
                throw .malformed("offset \(entry.offset) of \(place) is past the end")
            }
        }
        if !missing.isEmpty { throw .missing(missing) }
    }
}

/// Records that a token counts as not yet delivered, or as delivered, and that no longer exist.
struct MissingRange: Hashable, CustomStringConvertible {
    let place: TopicPartition
    let from: UInt64
    let to: UInt64
    /// `expired`: retention removed them before they were delivered. `cut`: a power loss took them after they were
    /// delivered.
    let reason: String

    var description: String { "\(place) \(from)-\(to) \(reason)" }
}

enum TokenError: Error, Hashable {
    case malformed(String)
    case otherLog
    case missing([MissingRange])
}
