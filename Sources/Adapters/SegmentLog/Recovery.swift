import Disk
import EventLog
import TimeSource

/// What opening a stream found, before anything is changed on disk.
///
/// A torn tail is the first append that is not whole and that no later append proves to have been synced: it and what
/// follows were never acknowledged as durable, and go. A bad append that a later one proves synced is damage: it stays,
/// and readers are told.
struct StreamFinding {
    /// What to cut: the last segment ends here.
    var cut: (segment: Segment, length: UInt64, lostBytes: UInt64)?
    /// Segment files without a whole header or any append: a beginning that was never finished.
    var unfinished: [String] = []
    /// From here on no append proves that it was synced: the bytes are written again before they are called durable,
    /// since a failed sync may have left them in memory only.
    var unproven: (segment: Segment, position: UInt64)?
    /// Appends at the tail whose records are lost to damage, so that offsets may be given out again.
    var lostAtTail = false
    var wasScanned = false
}

extension AppendStream {
    typealias Progress = (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void

    /// Finds the stream's files and its state: from a clean stop's tail, or by scanning the last segment. Changes
    /// nothing on disk. Only called before the log is shared.
    func recover(_ tail: Metadata.Tail?, progress: Progress) throws(LogError) -> StreamFinding {
        do {
            var finding = StreamFinding()
            try findSegments(&finding)
            guard let last = segments.last else {
                if let tail {
                    // A clean stop left files, and they are gone.
                    lostFiles.append("\(Segment.name(durability, tail.ordinal)) is missing or empty")
                    finding.wasScanned = true
                }
                return finding
            }
            if let tail, try restore(tail, last) {
                setStarts()
                return finding
            }
            finding.wasScanned = true
            try scan(&finding, progress)
            setStarts()
            return finding
        } catch let error as DiskError {
            throw LogError.from(error)
        } catch let error as LogError {
            throw error
        } catch {
            throw LogError(.damaged, "\(error)")
        }
    }

    private func findSegments(_ finding: inout StreamFinding) throws {
        let ordinals = try disk.list("").compactMap { Segment.ordinal($0, of: durability) }.sorted()
        for (number, ordinal) in ordinals.enumerated() {
            let name = Segment.name(durability, ordinal)
            let file = try disk.open(name, create: false)
            let size = try file.size()
            let isLast = number == ordinals.count - 1
            if let header = try readHead(file, name), try !isLast || isBegun(file, header, size) {
                guard header.logID == logID, header.stream == durability, header.ordinal == ordinal else {
                    throw LogError(.damaged, "\(name) belongs to another log; move it away, or restore from a backup")
                }
                segments.append(Segment(header, length: max(size, UInt64(header.headerLength)), file: file))
                continue
            }
            var scanner = AppendScanner(file, end: size)
            let first = try scanner.next(after: 0, numberMin: 0)
            if first == nil, isLast {
                finding.unfinished.append(name)
            } else if let first {
                segments.append(try standIn(for: ordinal, first, size: size, file: file))
            } else {
                lostFiles.append("\(name) byte 0: nothing in the file can be read")
            }
        }
    }

    /// False for a file whose head was stored and the checkpoint behind it was not: no append followed it.
    private func isBegun(_ file: any DiskFile, _ header: SegmentHeader, _ size: UInt64) throws -> Bool {
        if size > UInt64(header.headerLength) { return true }
        var scanner = AppendScanner(file, end: size)
        let bytes = try scanner.bytes(at: 0, count: header.headerLength)
        guard bytes.count == header.headerLength else { return false }
        return (try? SegmentHeader.checkpoint(bytes, headLength: header.headLength)) != nil
    }

    /// The head of a segment file, nil when there is none that can be trusted.
    private func readHead(_ file: any DiskFile, _ name: String) throws -> SegmentHeader? {
        var scanner = AppendScanner(file, end: try file.size(), readLength: 16 << 10)
        var bytes = try scanner.bytes(at: 0, count: 16 << 10)
        if bytes.count >= 16 {
            let length = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self)))
            if length > bytes.count, length <= SegmentHeader.lengthMax {
                bytes = try scanner.bytes(at: 0, count: length)
            }
        }
        do throws(SegmentHeader.Problem) {
            return try SegmentHeader(head: bytes)
        } catch {
            if case .newerFormat(let version) = error { throw LogError.newerFormat(name, version) }
            return nil
        }
    }

    /// A segment whose header is damaged and whose appends are not: where it starts the segment before it tells, or,
    /// where it is the oldest, its own first records.
    private func standIn(
        for ordinal: UInt64, _ first: (position: UInt64, header: AppendHeader), size: UInt64, file: any DiskFile
    ) throws -> Segment {
        var starts: [TopicPartition: UInt64] = [:]
        var startTimeNs = first.header.appendTimeNs
        if let before = segments.last {
            try loadIndex(before)
            starts = before.starts
            for place in before.index?.places ?? [] { starts[place.place] = place.endOffset }
            startTimeNs = max(before.startTimeNs, before.index?.lastTimeNs ?? 0)
        } else {
            let index = try Segment.buildIndex(file, from: first.position, end: size)
            for place in index.places { starts[place.place] = place.points[0].offset }
        }
        let header = SegmentHeader(
            headLength: 0, headerLength: Int(first.position), generation: first.header.generation, logID: logID,
            ordinal: ordinal, firstAppendNumber: first.header.number,
            startTimeNs: startTimeNs, commitNumber: 0, stream: durability,
            starts: starts.map { SegmentHeader.PlaceOffset(place: $0.key, offset: $0.value) })
        let segment = Segment(header, length: size, file: file)
        segment.hasCheckpoint = false
        segment.damaged.append("\(segment.name) byte 0: the segment header is damaged")
        return segment
    }

    /// Takes over the state of a clean stop; false when the files are not as it left them.
    private func restore(_ tail: Metadata.Tail, _ last: Segment) throws -> Bool {
        guard tail.ordinal == last.ordinal, tail.length == last.length, try last.file(on: disk).size() == tail.length,
            let index = try readIndexFile(last, length: tail.length)
        else { return false }
        last.index = index
        take(tail.checkpoint)
        for end in tail.ends {
            let partition = partitions.findOrMake(end.place)
            partition.writtenEnd = end.offset
            partition.durableEnd = end.offset
        }
        writtenNumber = tail.appendNumber
        durableNumber = tail.appendNumber
        lastTimeNs = tail.lastTimeNs
        return true
    }

    private func take(_ checkpoint: Checkpoint) {
        for entry in checkpoint.lastPlaces { _ = lastPlaces.insert(entry) }
        for entry in checkpoint.groups {
            groups[GroupKey(group: entry.offset.group, place: entry.offset.place)] = (
                entry.offset.offset, entry.commitNumber
            )
        }
    }

    private func setStarts() {
        guard let first = segments.first else { return }
        for partition in partitions.all {
            partition.start = min(first.start(of: partition.place), partition.writtenEnd)
        }
    }

    /// Reads everything from the newest trustworthy checkpoint on.
    private func scan(_ finding: inout StreamFinding, _ progress: Progress) throws {
        var number = segments.count - 1
        while try !takeStart(of: segments[number]) {
            guard number > 0 else {
                throw LogError(
                    .damaged, "\(segments[0].name): no checkpoint can be read; restore the log from a backup")
            }
            number -= 1
        }
        let total = segments[number...].reduce(0) { $0 + $1.length }
        var done: UInt64 = 0
        for segment in segments[number...] {
            var scan = SegmentScan(segment, isLast: segment === segments.last)
            try scan.run(self, &finding) { progress(done + $0, total) }
            done += segment.length
        }
        for partition in partitions.all { partition.durableEnd = partition.writtenEnd }
        durableNumber = writtenNumber
    }

    /// Takes the state recorded at a segment's start; false when it cannot be read.
    private func takeStart(of segment: Segment) throws -> Bool {
        guard segment.hasCheckpoint else { return false }
        let file = try segment.file(on: disk)
        var scanner = AppendScanner(file, end: try file.size())
        let head = try scanner.bytes(at: 0, count: Int(segment.headerLength))
        guard head.count == Int(segment.headerLength), let header = try? SegmentHeader(head: head),
            let checkpoint = try? SegmentHeader.checkpoint(head, headLength: header.headLength)
        else {
            segment.hasCheckpoint = false
            segment.damaged.append("\(segment.name) byte 0: the checkpoint is damaged")
            return false
        }
        take(checkpoint)
        for start in header.starts { partitions.findOrMake(start.place).writtenEnd = start.offset }
        writtenNumber = header.firstAppendNumber - 1
        lastTimeNs = header.startTimeNs
        return true
    }

    /// Takes one append found on disk into the state.
    func take(_ header: AppendHeader, _ images: UnsafeRawBufferPointer?, position: UInt64, in segment: Segment) {
        for entry in header.blocks {
            let partition = partitions.findOrMake(entry.place)
            partition.writtenEnd = max(partition.writtenEnd, entry.endOffset)
        }
        segment.index?.add(header, position: position)
        for group in header.groups {
            groups[GroupKey(group: group.group, place: group.place)] = (group.offset, header.commitNumber)
        }
        writtenNumber = header.number
        lastTimeNs = max(lastTimeNs, header.appendTimeNs)
        guard let images else { return }
        var chain = WriterChain()
        var start = 0
        for entry in header.blocks {
            defer { start += entry.imageLength }
            let image = UnsafeMutableRawBufferPointer.allocate(byteCount: entry.imageLength, alignment: 8)
            image.copyMemory(from: UnsafeRawBufferPointer(rebasing: images[start..<(start + entry.imageLength)]))
            // The checksum was compared by the scan; a block whose layout is wrong all the same is reported when it is
            // read.
            guard let block = try? Block(owning: image, checkCRC: false), block.topicPartition == entry.place,
                block.firstOffset == entry.firstOffset, block.recordCount == entry.recordCount
            else { continue }
            chain.begin(lastPlaces)
            chain.resolve(block, lastPlaces) { lastPlaces.insert($0) }
            chain.advance(block)
            for change in chain.changes {
                lastPlaces.update(
                    change.entry, offset: change.offset, epoch: change.epoch, sequence: change.sequence,
                    appendNumber: header.number, generation: header.generation)
            }
            tip.add(block, to: partitions.findOrMake(entry.place))
        }
    }

    /// A group never stands past what exists, whatever damage took.
    func clampGroups(end: (TopicPartition) -> UInt64) {
        for (key, value) in groups { groups[key] = (min(value.offset, end(key.place)), value.commitNumber) }
    }
}

/// One segment's part of the scan.
private struct SegmentScan {
    let segment: Segment
    let isLast: Bool
    private var position: UInt64
    /// The highest proof of a sync in the appends from `provenFrom` on; known once something bad was met.
    private var proof: (from: UInt64, number: UInt64)?
    private var appends: [(number: UInt64, position: UInt64)] = []
    private var highestProof: UInt64 = 0

    init(_ segment: Segment, isLast: Bool) {
        self.segment = segment
        self.isLast = isLast
        position = segment.headerLength
    }

    mutating func run(_ stream: AppendStream, _ finding: inout StreamFinding, _ progress: (UInt64) -> Void) throws {
        segment.index = SegmentIndex()
        let file = try segment.file(on: stream.disk)
        let size = try file.size()
        var scanner = AppendScanner(file, end: size, readLength: 4 << 20)
        var toldAt: UInt64 = 0
        while true {
            if position - toldAt >= 4 << 20 {
                progress(position)
                toldAt = position
            }
            let step = try scanner.step(at: position, withBlocks: true)
            if case .end = step { break }
            if case .append(let header) = step, header.number == stream.writtenNumber + 1 {
                let images = try scanner.bytes(
                    at: position + UInt64(header.headerLength), count: header.totalLength - header.headerLength)
                stream.take(header, images, position: position, in: segment)
                note(header)
                position += UInt64(header.totalLength)
                continue
            }
            guard try passDamage(stream, &scanner, &finding, step) else { break }
        }
        guard isLast else { return }
        segment.length = position
        if position < size { finding.cut = (segment, position, size - position) }
        finding.unproven = appends.first { $0.number > highestProof }.map { (segment, $0.position) }
    }

    /// Steps over something bad that was durable once; false when it is a torn tail.
    private mutating func passDamage(
        _ stream: AppendStream, _ scanner: inout AppendScanner, _ finding: inout StreamFinding,
        _ step: AppendScanner.Step
    ) throws -> Bool {
        let expected = stream.writtenNumber + 1
        if isLast, try provenNumber(&scanner, after: position) < expected { return false }
        var reason = "an append is out of order"
        if case .bad(let what) = step { reason = what }
        segment.damaged.append("\(segment.name) byte \(position): \(reason)")
        // When the header itself is whole, it says which offsets are lost.
        if case .append(let header) = try scanner.step(at: position, withBlocks: false), header.number == expected {
            stream.take(header, nil, position: position, in: segment)
            note(header)
            position += UInt64(header.totalLength)
            return true
        }
        guard let next = try scanner.next(after: position + 8, numberMin: expected) else {
            finding.lostAtTail = finding.lostAtTail || isLast
            position = scanner.end
            return !isLast
        }
        position = next.position
        stream.writtenNumber = next.header.number - 1
        return true
    }

    private mutating func note(_ header: AppendHeader) {
        highestProof = max(highestProof, header.syncedNumber)
        if isLast { appends.append((header.number, position)) }
    }

    /// The newest append that those after `position` prove synced; 0 when there are none.
    private mutating func provenNumber(_ scanner: inout AppendScanner, after position: UInt64) throws -> UInt64 {
        if let proof, proof.from > position { return proof.number }
        var best: (from: UInt64, number: UInt64) = (position, 0)
        var at = position + 8
        while let next = try scanner.next(after: at, numberMin: 0) {
            if next.header.syncedNumber >= best.number { best = (next.position, next.header.syncedNumber) }
            at = next.position + UInt64(next.header.totalLength)
        }
        proof = best
        return best.number
    }
}
