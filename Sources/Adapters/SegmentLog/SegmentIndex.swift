import EventLog

/// Where in a segment's file to begin looking for an offset or an append time: a point per partition about every 64
/// KiB.
struct SegmentIndex: Equatable {
    struct Point: Equatable {
        var offset: UInt64
        /// Of the append's header in the file.
        var position: UInt64
        var timeNs: Int64
    }

    struct Place: Equatable {
        let place: TopicPartition
        var points: [Point]
        /// Bytes of the partition's blocks in this segment.
        var byteCount: UInt64
        var endOffset: UInt64
    }

    /// Bytes of file between two points of a partition.
    static let spacing: UInt64 = 64 << 10

    private(set) var places: [Place] = []
    private var numbers: [TopicPartition: Int] = [:]
    private(set) var firstTimeNs: Int64 = 0
    private(set) var lastTimeNs: Int64 = 0

    mutating func add(
        _ place: TopicPartition, _ offsets: Range<UInt64>, position: UInt64, timeNs: Int64, byteCount: Int
    ) {
        if places.isEmpty { firstTimeNs = timeNs }
        lastTimeNs = timeNs
        let point = Point(offset: offsets.lowerBound, position: position, timeNs: timeNs)
        guard let number = numbers[place] else {
            numbers[place] = places.count
            places.append(
                Place(place: place, points: [point], byteCount: UInt64(byteCount), endOffset: offsets.upperBound))
            return
        }
        places[number].byteCount += UInt64(byteCount)
        places[number].endOffset = offsets.upperBound
        if let last = places[number].points.last, position >= last.position + SegmentIndex.spacing {
            places[number].points.append(point)
        }
    }

    mutating func add(_ header: AppendHeader, position: UInt64) {
        for block in header.blocks {
            add(
                block.place, block.firstOffset..<block.endOffset, position: position, timeNs: header.appendTimeNs,
                byteCount: block.imageLength)
        }
    }

    subscript(place: TopicPartition) -> Place? { numbers[place].map { places[$0] } }

    /// The latest append known to begin at or before the offset; nil when the segment holds none of the partition.
    func position(_ place: TopicPartition, at offset: UInt64) -> UInt64? {
        guard let entry = self[place] else { return nil }
        return entry.points[max(entry.points.partition { $0.offset > offset } - 1, 0)].position
    }

    /// The latest append known to be before a time.
    func position(_ place: TopicPartition, before timeNs: Int64) -> UInt64? {
        guard let entry = self[place] else { return nil }
        return entry.points[max(entry.points.partition { $0.timeNs >= timeNs } - 1, 0)].position
    }

    /// The index file's bytes: magic, checksum of the rest, format version, the length of the file that it covers.
    func encode(fileLength: UInt64) -> [UInt8] {
        var writer = ByteWriter()
        writer.put(SegmentFormat.indexMagic)
        writer.put(UInt32(0))
        writer.put(SegmentFormat.version)
        writer.put(fileLength)
        writer.put(firstTimeNs)
        writer.put(lastTimeNs)
        writer.put(UInt32(places.count))
        for entry in places {
            writer.put(entry.place)
            writer.put(entry.byteCount)
            writer.put(entry.endOffset)
            writer.put(UInt32(entry.points.count))
            for point in entry.points {
                writer.put(point.offset)
                writer.put(point.position)
                writer.put(point.timeNs)
            }
        }
        writer.set(writer.bytes.withUnsafeBytes { crc32c(UnsafeRawBufferPointer(rebasing: $0[8...])) }, at: 4)
        return writer.bytes
    }

    init() {}

    init(_ bytes: UnsafeRawBufferPointer, fileLength: UInt64) throws(FormatError) {
        var reader = ByteReader(bytes)
        guard try reader.get(UInt32.self) == SegmentFormat.indexMagic else { throw FormatError("not an index") }
        let stored: UInt32 = try reader.get()
        guard crc32c(UnsafeRawBufferPointer(rebasing: bytes[8...])) == stored else { throw FormatError("bad checksum") }
        guard try reader.get(UInt32.self) == SegmentFormat.version, try reader.get(UInt64.self) == fileLength else {
            throw FormatError("of another file")
        }
        firstTimeNs = try reader.get()
        lastTimeNs = try reader.get()
        for number in 0..<(try reader.count(of: 24)) {
            let place = try reader.place()
            let byteCount: UInt64 = try reader.get()
            let end: UInt64 = try reader.get()
            var points: [Point] = []
            for _ in 0..<(try reader.count(of: 24)) {
                points.append(Point(offset: try reader.get(), position: try reader.get(), timeNs: try reader.get()))
            }
            guard !points.isEmpty, numbers[place] == nil else { throw FormatError("no points") }
            numbers[place] = number
            places.append(Place(place: place, points: points, byteCount: byteCount, endOffset: end))
        }
    }
}

extension Array {
    /// The first index whose element `isAfter`; elements before must not be.
    func partition(_ isAfter: (Element) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
