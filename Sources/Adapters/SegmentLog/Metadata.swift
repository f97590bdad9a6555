import Disk
import EventLog

/// The file `log.meta`: which log this is, its generations, and how it stopped. Replaced as a whole, never changed.
struct Metadata: Equatable {
    static let fileName = "log.meta"
    private static let temporaryName = "log.meta.new"

    /// Where a stream stood at a clean stop, so that the start need not scan.
    struct Tail: Equatable {
        var stream: DurabilityClass
        var ordinal: UInt64
        var length: UInt64
        var appendNumber: UInt64
        var lastTimeNs: Int64
        var ends: [SegmentHeader.PlaceOffset]
        var checkpoint: Checkpoint
    }

    var id: UInt64
    var generation: UInt32
    var cuts: [LogIdentity.Cut] = []
    /// Of the boot in which the log was last open.
    var bootID: String
    /// Whether the log was closed; false while it is open.
    var isClean = false
    /// The streams' tails after a clean stop; a stream without files has none.
    var tails: [Tail] = []

    /// nil when there is none. Throws `.damaged` or `.unknownFormat`.
    static func read(_ disk: any Disk) throws(LogError) -> Metadata? {
        let bytes: [UInt8]
        do throws(DiskError) {
            guard try disk.exists(fileName) else { return nil }
            bytes = try contents(of: try disk.open(fileName, create: false))
        } catch {
            throw LogError.from(error)
        }
        let read = bytes.withUnsafeBytes { bytes in
            Result { () throws(SegmentHeader.Problem) in try Metadata(bytes) }
        }
        do throws(SegmentHeader.Problem) {
            return try read.get()
        } catch {
            switch error {
            case .newerFormat(let version): throw LogError.newerFormat(fileName, version)
            case .notAHeader(let reason):
                throw LogError(.damaged, "\(fileName): \(reason); restore the log from a backup")
            }
        }
    }

    func write(_ disk: any Disk) throws(DiskError) {
        let bytes = encode()
        let file = try disk.open(Metadata.temporaryName, create: true)
        try file.truncate(to: 0)
        try file.write(at: 0, bytes)
        try file.sync()
        file.close()
        try disk.rename(Metadata.temporaryName, to: Metadata.fileName)
        try disk.syncDirectory("")
    }

    /// Magic, checksum of the rest, format version, then the fields.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.put(SegmentFormat.metadataMagic)
        writer.put(UInt32(0))
        writer.put(SegmentFormat.version)
        writer.put(generation)
        writer.put(id)
        writer.put(UInt8(isClean ? 1 : 0))
        writer.put(bootID)
        writer.put(UInt32(cuts.count))
        for cut in cuts {
            writer.put(cut.generation)
            let ends = cut.ends.sorted {
                ($0.key.topic.number, $0.key.partition) < ($1.key.topic.number, $1.key.partition)
            }
            writer.put(UInt32(ends.count))
            for (place, offset) in ends {
                writer.put(place)
                writer.put(offset)
            }
        }
        writer.put(UInt32(tails.count))
        for tail in tails {
            writer.put(tail.stream.rawValue)
            writer.put(tail.ordinal)
            writer.put(tail.length)
            writer.put(tail.appendNumber)
            writer.put(tail.lastTimeNs)
            writer.put(UInt32(tail.ends.count))
            for end in tail.ends {
                writer.put(end.place)
                writer.put(end.offset)
            }
            tail.checkpoint.encode(into: &writer)
        }
        writer.set(writer.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[8...])) }, at: 4)
        return writer.bytes
    }

    init(id: UInt64, generation: UInt32, bootID: String) {
        self.id = id
        self.generation = generation
        self.bootID = bootID
    }

    init(_ bytes: UnsafeRawBufferPointer) throws(SegmentHeader.Problem) {
        do {
            var reader = ByteReader(bytes)
            guard try reader.get(UInt32.self) == SegmentFormat.metadataMagic else {
                throw FormatError("not log metadata")
            }
            let stored: UInt32 = try reader.get()
            guard crc32c(UnsafeRawBufferPointer(rebasing: bytes[8...])) == stored else {
                throw FormatError("the checksum is wrong")
            }
            let version: UInt32 = try reader.get()
            guard version == SegmentFormat.version else { throw SegmentHeader.Problem.newerFormat(version) }
            generation = try reader.get()
            id = try reader.get()
            isClean = try reader.get(UInt8.self) == 1
            bootID = try reader.text()
            for _ in 0..<(try reader.count(of: 8)) {
                let generation: UInt32 = try reader.get()
                var ends: [TopicPartition: UInt64] = [:]
                for end in try Metadata.ends(&reader) { ends[end.place] = end.offset }
                cuts.append(LogIdentity.Cut(generation: generation, ends: ends))
            }
            for _ in 0..<(try reader.count(of: 41)) {
                guard let stream = DurabilityClass(rawValue: try reader.get()) else {
                    throw FormatError("unknown stream")
                }
                tails.append(
                    Tail(
                        stream: stream, ordinal: try reader.get(), length: try reader.get(),
                        // 0 where nothing was appended yet.
                        appendNumber: try AppendHeader.checked(number: reader.get() &+ 1) - 1,
                        lastTimeNs: try reader.get(), ends: try Metadata.ends(&reader),
                        checkpoint: try Checkpoint(&reader)))
            }
        } catch let error as FormatError {
            throw .notAHeader(error.reason)
        } catch let problem as SegmentHeader.Problem {
            throw problem
        } catch {
            throw .notAHeader("unreadable")
        }
    }

    private static func ends(_ reader: inout ByteReader) throws(FormatError) -> [SegmentHeader.PlaceOffset] {
        var ends: [SegmentHeader.PlaceOffset] = []
        for _ in 0..<(try reader.count(of: 12)) {
            ends.append(SegmentHeader.PlaceOffset(place: try reader.place(), offset: try reader.get()))
        }
        return ends
    }
}

extension LogError {
    static func newerFormat(_ file: String, _ version: UInt32) -> LogError {
        LogError(
            .unknownFormat,
            "\(file) has format \(version), this program knows \(SegmentFormat.version): use the version that "
                + "wrote it, or newer"
        )
    }
}
