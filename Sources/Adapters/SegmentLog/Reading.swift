import Disk
import EventLog

extension AppendStream {
    /// With `state`.
    func visibleEnd(_ partition: Partition, _ visibility: Visibility) -> UInt64 {
        visibility == .written && durability == .ticks ? partition.writtenEnd : partition.durableEnd
    }

    /// The block that holds `offset`, if it is in memory: appended lately, or read from its file lately.
    func read(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, _ cache: BlockCache
    ) -> ReadResult {
        let result = state.locked { readInMemory(place, at: offset, visibility) }
        guard case .onDisk = result, let block = cache.find(place, offset) else { return result }
        return .block(block, index: Int(offset - block.firstOffset))
    }

    private func readInMemory(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        guard let partition = partitions.find(place) else { return .atEnd }
        if offset < partition.start { return .expired(oldest: partition.start) }
        if offset >= visibleEnd(partition, visibility) { return .atEnd }
        if let block = partition.inTip(offset) { return .block(block, index: Int(offset - block.firstOffset)) }
        return .onDisk
    }

    func readBlocking(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, _ cache: BlockCache)
        throws(LogError) -> ReadResult
    {
        while true {
            let result = read(place, at: offset, visibility, cache)
            guard case .onDisk = result else { return result }
            do throws(DiskError) {
                if let found = try load(place, at: offset, cache) { return found }
            } catch {
                // Retention may have removed the file meanwhile; then the next turn answers that it expired.
                if error.kind == .notFound, case .expired = read(place, at: offset, visibility, cache) { continue }
                throw LogError.from(error)
            }
        }
    }

    /// Where to look for an offset.
    private struct Target {
        let segment: Segment
        let length: UInt64
        /// nil when the segment's index has to be loaded first.
        let position: UInt64?
        /// Where the partition goes on in the next segment, or at the end.
        let nextStart: UInt64
    }

    private func target(_ place: TopicPartition, at offset: UInt64) -> Target? {
        state.locked {
            let after = segments.partition { $0.start(of: place) > offset }
            guard after > 0 else { return nil }
            let segment = segments[after - 1]
            let next =
                after < segments.count
                ? segments[after].start(of: place) : partitions.find(place)?.writtenEnd ?? offset + 1
            let position = segment.index.map { $0.position(place, at: offset) ?? segment.headerLength }
            return Target(segment: segment, length: segment.length, position: position, nextStart: next)
        }
    }

    /// Reads the block from its file; nil when it has to be tried again.
    private func load(_ place: TopicPartition, at offset: UInt64, _ cache: BlockCache) throws(DiskError) -> ReadResult?
    {
        guard let target = target(place, at: offset) else {
            return .damaged(next: state.locked { segments.first?.start(of: place) ?? 0 }, reason: "no file holds it")
        }
        guard let start = target.position else {
            try loadIndex(target.segment)
            return nil
        }
        let segment = target.segment
        var scanner = AppendScanner(try segment.file(on: disk), end: target.length, readLength: 256 << 10)
        var position = start
        var damage: String?
        while true {
            switch try scanner.step(at: position, withBlocks: false) {
            case .append(let header):
                if let result = try find(place, offset, header, position, &scanner, segment, damage) {
                    if case .block(let block, _) = result {
                        let before = readBehind(block, from: start, to: position, &scanner, cache)
                        cache.add(before + [block] + readAhead(block, from: position, &scanner, cache))
                    }
                    return result
                }
                position += UInt64(header.totalLength)
            case .bad(let reason):
                damage = note(segment, "byte \(position): \(reason)")
                guard let found = try scanner.next(after: position + 8, numberMin: 0) else {
                    return .damaged(next: target.nextStart, reason: damage ?? reason)
                }
                position = found.position
            case .end:
                return .damaged(
                    next: target.nextStart, reason: damage ?? note(segment, "records are missing at the end"))
            }
        }
    }

    /// The answer, if this append decides it.
    private func find(
        _ place: TopicPartition, _ offset: UInt64, _ header: AppendHeader, _ position: UInt64,
        _ scanner: inout AppendScanner, _ segment: Segment, _ damage: String?
    ) throws(DiskError) -> ReadResult? {
        var start = position + UInt64(header.headerLength)
        for entry in header.blocks {
            defer { start += UInt64(entry.imageLength) }
            guard entry.place == place, entry.endOffset > offset else { continue }
            if entry.firstOffset > offset {
                let reason =
                    damage ?? note(segment, "byte \(position): records before offset \(entry.firstOffset) are missing")
                return .damaged(next: entry.firstOffset, reason: reason)
            }
            do throws(BlockError) {
                let block = try Block(owning: try image(entry, at: start, &scanner))
                guard block.topicPartition == place, block.firstOffset == entry.firstOffset,
                    block.recordCount == entry.recordCount
                else { throw BlockError.badLayout("the block is not the one its append names") }
                return .block(block, index: Int(offset - block.firstOffset))
            } catch {
                return .damaged(next: entry.endOffset, reason: note(segment, "byte \(start): \(error)"))
            }
        }
        return nil
    }

    /// Blocks of the same partition that follow and lie in the buffer already are verified too, up to one that is held:
    /// a reader that is behind wants them next.
    private func readAhead(
        _ first: Block, from position: UInt64, _ scanner: inout AppendScanner, _ cache: BlockCache
    ) -> [Block] {
        var position = position
        var end = first.endOffset
        var blocks: [Block] = []
        while let append = appendInBuffer(position, first.topicPartition, &scanner) {
            for (entry, start) in append.entries where entry.firstOffset >= end {
                guard entry.firstOffset == end, cache.find(entry.place, end) == nil,
                    let block = verified(entry, at: start, &scanner)
                else { return blocks }
                blocks.append(block)
                end = block.endOffset
            }
            position = append.end
        }
        return blocks
    }

    /// And those on the way from where the search began: a reader that looks back wants them next.
    private func readBehind(
        _ last: Block, from start: UInt64, to end: UInt64, _ scanner: inout AppendScanner, _ cache: BlockCache
    ) -> [Block] {
        var position = start
        var blocks: [Block] = []
        while position <= end, let append = appendInBuffer(position, last.topicPartition, &scanner) {
            for (entry, start) in append.entries where entry.endOffset <= last.firstOffset {
                if let before = blocks.last, before.endOffset != entry.firstOffset { blocks = [] }
                guard cache.find(entry.place, entry.firstOffset) == nil,
                    let block = verified(entry, at: start, &scanner)
                else {
                    blocks = []
                    continue
                }
                blocks.append(block)
            }
            position = append.end
        }
        return blocks.last?.endOffset == last.firstOffset ? blocks : []
    }

    /// What the append at `position` has of a partition, if all of it lies in the buffer.
    private func appendInBuffer(
        _ position: UInt64, _ place: TopicPartition, _ scanner: inout AppendScanner
    ) -> (entries: [(AppendHeader.BlockEntry, start: UInt64)], end: UInt64)? {
        guard scanner.holds(position, AppendHeader.fixedLength),
            case .append(let header)? = try? scanner.step(at: position, withBlocks: false),
            scanner.holds(position, header.totalLength)
        else { return nil }
        var entries: [(AppendHeader.BlockEntry, start: UInt64)] = []
        var start = position + UInt64(header.headerLength)
        for entry in header.blocks {
            if entry.place == place { entries.append((entry, start)) }
            start += UInt64(entry.imageLength)
        }
        return (entries, position + UInt64(header.totalLength))
    }

    /// nil where it is damaged or not the one that its append names.
    private func verified(
        _ entry: AppendHeader.BlockEntry, at start: UInt64, _ scanner: inout AppendScanner
    ) -> Block? {
        guard let block = try? Block(owning: try image(entry, at: start, &scanner)),
            block.topicPartition == entry.place, block.firstOffset == entry.firstOffset,
            block.recordCount == entry.recordCount
        else { return nil }
        return block
    }

    private func image(_ entry: AppendHeader.BlockEntry, at start: UInt64, _ scanner: inout AppendScanner)
        throws(BlockError) -> UnsafeMutableRawBufferPointer
    {
        let bytes: UnsafeRawBufferPointer
        do {
            bytes = try scanner.bytes(at: start, count: entry.imageLength)
        } catch {
            throw .badLayout(error.description)
        }
        let image = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
        image.copyMemory(from: bytes)
        return image
    }

    @discardableResult
    func note(_ segment: Segment, _ what: String) -> String {
        let reason = "\(segment.name) \(what)"
        state.locked {
            if segment.damaged.count < 1000, !segment.damaged.contains(reason) { segment.damaged.append(reason) }
        }
        return reason
    }

    /// Loads an older segment's index from its file, or makes it from the append headers.
    func loadIndex(_ segment: Segment) throws(DiskError) {
        let length = state.locked { segment.length }
        if let index = try readIndexFile(segment, length: length) {
            state.locked {
                segment.index = segment.index ?? index
                segment.hasIndexFile = true
            }
            return
        }
        let index = try Segment.buildIndex(try segment.file(on: disk), from: segment.headerLength, end: length)
        state.locked { segment.index = segment.index ?? index }
    }

    func readIndexFile(_ segment: Segment, length: UInt64) throws(DiskError) -> SegmentIndex? {
        guard try disk.exists(segment.indexName) else { return nil }
        let bytes = try contents(of: try disk.open(segment.indexName, create: false))
        return bytes.withUnsafeBytes { try? SegmentIndex($0, fileLength: length) }
    }

    /// Writes the index files that are missing of closed segments. A lost or damaged one costs a walk over the headers.
    func writeIndexFiles(includingLast: Bool) throws(DiskError) {
        let due: [(Segment, [UInt8])] = state.locked {
            segments[..<(includingLast ? segments.count : max(segments.count - 1, 0))].compactMap { segment in
                guard !segment.hasIndexFile || segment === segments.last, let index = segment.index else { return nil }
                return (segment, index.encode(fileLength: segment.length))
            }
        }
        for (segment, bytes) in due {
            let file = try disk.open(segment.indexName, create: true)
            try file.truncate(to: 0)
            try file.write(at: 0, bytes)
            try file.sync()
            state.locked { segment.hasIndexFile = true }
        }
    }

    /// The first offset of the partition that was appended at or after a time; its end when there is none.
    func offset(of place: TopicPartition, atOrAfter timeNs: Int64) throws(DiskError) -> UInt64 {
        while true {
            let found:
                (segment: Segment, length: UInt64, position: UInt64?, end: UInt64, start: UInt64, next: UInt64?)? =
                    state.locked {
                        guard let partition = partitions.find(place) else { return nil }
                        // startTimeNs is of the last append before a segment, so the one sought is not before the last
                        // segment that starts earlier than the time.
                        let number = max(segments.partition { $0.startTimeNs >= timeNs } - 1, 0)
                        let segment = segments[number]
                        let position = segment.index.map { $0.position(place, before: timeNs) ?? segment.length }
                        return (
                            segment, segment.length, position, partition.writtenEnd, partition.start,
                            number + 1 < segments.count ? segments[number + 1].start(of: place) : nil
                        )
                    }
            guard let found else { return 0 }
            guard var position = found.position else {
                try loadIndex(found.segment)
                continue
            }
            var scanner = AppendScanner(try found.segment.file(on: disk), end: found.length, readLength: 64 << 10)
            search: while true {
                switch try scanner.step(at: position, withBlocks: false) {
                case .append(let header):
                    if header.appendTimeNs >= timeNs, let entry = header.blocks.first(where: { $0.place == place }) {
                        return max(entry.firstOffset, found.start)
                    }
                    position += UInt64(header.totalLength)
                case .bad:
                    guard let next = try scanner.next(after: position + 8, numberMin: 0) else { break search }
                    position = next.position
                case .end:
                    break search
                }
            }
            return max(found.next ?? found.end, found.start)
        }
    }
}
