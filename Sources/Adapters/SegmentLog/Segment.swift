import Disk
import EventLog
import Synchronization

/// One file of a stream. What changes in it is guarded by the stream's state lock, except the open file.
final class Segment: @unchecked Sendable {
    let stream: DurabilityClass
    let ordinal: UInt64
    let headerLength: UInt64
    let firstAppendNumber: UInt64
    let startTimeNs: Int64
    let starts: [TopicPartition: UInt64]

    /// Bytes written and acknowledged; reads go no further.
    var length: UInt64
    /// nil until something is looked for in an older segment.
    var index: SegmentIndex?
    var hasIndexFile = false
    /// False when its header or checkpoint is damaged, so that a start must look at an earlier segment.
    var hasCheckpoint = true
    /// Where damage was met, by a reader or at the start.
    var damaged: [String] = []

    private let openFile: Mutex<(any DiskFile)?>

    init(_ header: SegmentHeader, length: UInt64, file: (any DiskFile)?) {
        stream = header.stream
        ordinal = header.ordinal
        headerLength = UInt64(header.headerLength)
        firstAppendNumber = header.firstAppendNumber
        startTimeNs = header.startTimeNs
        starts = Dictionary(header.starts.map { ($0.place, $0.offset) }, uniquingKeysWith: { $1 })
        self.length = length
        openFile = Mutex(file)
    }

    var name: String { Segment.name(stream, ordinal) }
    var indexName: String { Segment.indexName(stream, ordinal) }

    /// The offset of the partition's first record at or after this segment's start.
    func start(of place: TopicPartition) -> UInt64 { starts[place] ?? 0 }

    func file(on disk: any Disk) throws(DiskError) -> any DiskFile {
        if let file = openFile.withLock({ $0 }) { return file }
        let file = try disk.open(name, create: false)
        openFile.withLock { $0 = file }
        return file
    }

    static func prefix(_ stream: DurabilityClass) -> String { stream == .ticks ? "ticks-" : "orders-" }

    static func name(_ stream: DurabilityClass, _ ordinal: UInt64) -> String {
        prefix(stream) + digits(ordinal) + ".seg"
    }

    static func indexName(_ stream: DurabilityClass, _ ordinal: UInt64) -> String {
        prefix(stream) + digits(ordinal) + ".idx"
    }

    /// The ordinal in a segment's file name, nil for other files.
    static func ordinal(_ name: String, of stream: DurabilityClass) -> UInt64? {
        guard name.hasPrefix(prefix(stream)), name.hasSuffix(".seg") else { return nil }
        return UInt64(name.dropFirst(prefix(stream).count).dropLast(4))
    }

    private static func digits(_ ordinal: UInt64) -> String {
        let text = String(ordinal)
        return String(repeating: "0", count: max(12 - text.count, 0)) + text
    }

    /// Builds the index from the append headers alone, stepping over damage.
    static func buildIndex(_ file: any DiskFile, from start: UInt64, end: UInt64) throws(DiskError) -> SegmentIndex {
        var index = SegmentIndex()
        var scanner = AppendScanner(file, end: end, readLength: 64 << 10)
        var position = start
        while true {
            switch try scanner.step(at: position, withBlocks: false) {
            case .append(let header):
                index.add(header, position: position)
                position += UInt64(header.totalLength)
            case .bad:
                guard let found = try scanner.next(after: position + 8, numberMin: 0) else { return index }
                position = found.position
            case .end:
                return index
            }
        }
    }
}
