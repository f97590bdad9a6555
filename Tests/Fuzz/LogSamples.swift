import Disk
import EventLog
import Simulation

@testable import SegmentLog

/// Files of a log that was written to and closed, to start from, and checksums put right.
enum LogSamples {
    static let configuration: SegmentLog.Configuration = {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.segmentBytes = 1600
        configuration.tipBytes = 1 << 16
        configuration.cacheBytes = 1 << 16
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        return configuration
    }()

    static func block(_ topic: Topic, count: Int, from sequence: UInt64 = 1) -> Block {
        let builder = BlockBuilder(TopicPartition(topic, 0))
        let keys = ["AAPL", "MSFT"].map { builder.register(BlockBuilder.Key(exchange: "X", symbol: $0, feed: "sim")) }
        for index in 0..<count {
            [UInt8]("record \(index)".utf8).withUnsafeBytes {
                builder.append(key: keys[index % 2], epoch: 1, sequence: sequence + UInt64(index), payload: $0)
            }
        }
        return builder.build()
    }

    /// All files of a closed log, and an index.
    static let files: [(name: String, bytes: [UInt8])] = {
        let disk = SimulatedDisk(seed: 1)
        guard let log = try? SegmentLog(disk: disk, time: VirtualTime(), configuration: configuration) else {
            return []
        }
        let ticks = TopicPartition(.ticksRaw, 0)
        for round in 0..<6 {
            let blocks = [block(.ticksRaw, count: 3, from: UInt64(round * 3)), block(.booksDeltas, count: 1)]
            let groups = [GroupOffset(group: "writer", place: ticks, offset: UInt64(round))]
            _ = try? log.append(round % 3 == 2 ? Array(blocks.prefix(1)) : blocks, consumed: round > 1 ? groups : [])
            _ = try? log.append([block(.ordersCommands, count: 1)], consumed: [])
        }
        try? log.close()
        var index = SegmentIndex()
        index.add(ticks, 4..<9, position: 200, timeNs: 5, byteCount: 300)
        index.add(ticks, 9..<12, position: 100_000, timeNs: 7, byteCount: 300)
        let names = (try? disk.list("")) ?? []
        return names.map { ($0, disk.bytes(of: $0)) } + [("index", index.encode(fileLength: 9))]
    }()

    /// The metadata of that log as if it had been killed.
    static let metadata: [UInt8] = {
        guard let bytes = files.first(where: { $0.name == Metadata.fileName })?.bytes,
            var metadata = bytes.withUnsafeBytes({ try? Metadata($0) })
        else { return [] }
        metadata.isClean = false
        metadata.tails = []
        return metadata.encode()
    }()

    static func write(_ bytes: [UInt8], to name: String, on disk: some Disk) -> Bool {
        guard let file = try? disk.open(name, create: true) else { return false }
        return (try? file.write(at: 0, bytes)) != nil
    }

    /// The bytes with every checksum that can be found put right.
    static func sealed(_ bytes: [UInt8]) -> [UInt8] {
        guard bytes.count >= 16 else { return bytes }
        return withCopy(bytes) { copy in
            let file = UnsafeRawBufferPointer(copy)
            var position = 0
            switch file.le(0, UInt32.self) {
            case SegmentFormat.indexMagic, SegmentFormat.metadataMagic:
                copy.setLE(crc32c(file.dropping(8)), at: 4)
                return Array(copy)
            case SegmentFormat.segmentMagic: position = sealHeader(copy)
            default: break
            }
            while position + AppendHeader.fixedLength <= file.count {
                position += max(sealAppend(UnsafeMutableRawBufferPointer(rebasing: copy[position...])), 8)
            }
            return Array(copy)
        }
    }

    /// Returns where the appends begin.
    private static func sealHeader(_ copy: UnsafeMutableRawBufferPointer) -> Int {
        let file = UnsafeRawBufferPointer(copy)
        let head = Int(file.le(12, UInt32.self))
        guard head >= SegmentHeader.fixedLength, head <= file.count else { return 0 }
        let length = Int(clamping: file.le(16, UInt64.self))
        if length >= head, length <= file.count {
            copy.setLE(crc32c(UnsafeRawBufferPointer(rebasing: file[head..<length])), at: 24)
        }
        copy.setLE(crc32c(UnsafeRawBufferPointer(rebasing: file[8..<head])), at: 4)
        return length <= file.count ? (length + 7) & ~7 : head
    }

    /// Returns the append's length; 0 where none begins.
    private static func sealAppend(_ copy: UnsafeMutableRawBufferPointer) -> Int {
        let file = UnsafeRawBufferPointer(copy)
        guard let length = AppendHeader.length(file), length <= file.count else { return 0 }
        var position = length
        for entry in 0..<Int(file.le(12, UInt32.self)) {
            let place = AppendHeader.fixedLength + entry * AppendHeader.blockLength
            guard place + AppendHeader.blockLength <= length else { break }
            let imageLength = Int(file.le(place, UInt32.self))
            guard imageLength >= Block.headerLength, imageLength <= file.count - position else { break }
            let image = UnsafeRawBufferPointer(rebasing: file[position..<(position + imageLength)])
            let crc = crc32c(image.dropping(Block.Field.imageLength))
            copy.setLE(crc, at: position + Block.Field.crc)
            copy.setLE(crc, at: place + 4)
            position += imageLength
        }
        copy.setLE(UInt64(position), at: 16)
        copy.setLE(crc32c(UnsafeRawBufferPointer(rebasing: file[8..<length])), at: 4)
        return position
    }
}

/// A file that is only read.
final class FileInMemory: DiskFile {
    private let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func size() throws(DiskError) -> UInt64 { UInt64(bytes.count) }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskError) -> Int {
        guard offset < UInt64(bytes.count) else { return 0 }
        let part = bytes[Int(offset)...].prefix(buffer.count)
        buffer.copyBytes(from: part)
        return part.count
    }

    func write(at offset: UInt64, _ buffers: [UnsafeRawBufferPointer]) throws(DiskError) { throw refusal("write") }
    func sync() throws(DiskError) { throw refusal("sync") }
    func truncate(to size: UInt64) throws(DiskError) { throw refusal("truncate") }
    func close() {}

    private func refusal(_ operation: String) -> DiskError {
        DiskError(kind: .readOnly, operation: operation, path: "memory", detail: "a file that is only read")
    }
}
