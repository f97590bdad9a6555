import Disk
import EventLog
import GRPC
import Simulation

@testable import SegmentLog

extension FuzzTarget {
    /// A block's image, as it is and with its checksum put right. What is accepted can be walked; its records, built
    /// into a block anew, are accepted and the same.
    static let block = FuzzTarget(
        name: "block", lengthMax: 2048,
        seeds: {
            [LogSamples.block(.ticksRaw, count: 3), LogSamples.block(.auditEvents, count: 1)].map { block in
                withExtendedLifetime(block) { Array(block.image) }
            }
        },
        run: { bytes in
            walk(bytes, checkCRC: true)
            walk(bytes, checkCRC: false)
        })

    private static func walk(_ bytes: UnsafeRawBufferPointer, checkCRC: Bool) {
        let image = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
        image.copyMemory(from: bytes)
        guard let block = try? Block(owning: image, checkCRC: checkCRC) else { return }
        withExtendedLifetime(block) { rebuild(block) }
    }

    private static func rebuild(_ block: Block) {
        let frames = MessageSequence(frames: block.records).map { Array($0) }
        require(frames.count == block.recordCount, "\(frames.count) frames of \(block.recordCount) records")
        let builder = BlockBuilder(block.topicPartition, capacity: 64)
        var keys: [Int: Int] = [:]
        for record in 0..<block.recordCount {
            let track = block.track(of: record)
            let key = BlockBuilder.Key(
                exchange: block.exchange(track: track), symbol: block.symbol(track: track),
                feed: block.feed(track: track))
            _ = (block.keyHash(track: track), block.previousOffset(track: track))
            let number = keys[track] ?? builder.register(key)
            keys[track] = number
            require(block.payload(record).elementsEqual(frames[record]), "record \(record) is not its frame")
            builder.append(
                key: number, epoch: block.epoch(track: track), sequence: block.sequence(of: record),
                payload: block.payload(record))
        }
        let rebuilt = builder.build()
        rebuilt.stamp(firstOffset: block.firstOffset, appendTimeNs: block.appendTimeNs) { _ in Block.noOffset }
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: rebuilt.image.count, alignment: 8)
        withExtendedLifetime(rebuilt) { copy.copyMemory(from: rebuilt.image) }
        guard let again = try? Block(owning: copy) else { return require(false, "a block that was built is refused") }
        defer { withExtendedLifetime(again) {} }
        for record in 0..<block.recordCount {
            let (old, new) = (block.track(of: record), again.track(of: record))
            require(again.payload(record).elementsEqual(block.payload(record)), "payload of \(record)")
            require(
                again.sequence(of: record) == block.sequence(of: record)
                    && again.epoch(track: new) == block.epoch(track: old)
                    && again.symbol(track: new) == block.symbol(track: old), "identity of \(record)")
        }
    }

    /// A segment file (or an index, or the log's metadata: by its magic), its checksums put right as far as they can
    /// be. Every append is walked, and what was read is written and read again.
    static let segment = FuzzTarget(
        name: "segment", lengthMax: 4096,
        seeds: { LogSamples.files.map(\.bytes) },
        run: { bytes in
            read(Array(bytes))
            read(LogSamples.sealed(Array(bytes)))
        })

    private static func read(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { buffer in
            if let metadata = try? Metadata(buffer) {
                let encoded = metadata.encode()
                let again = encoded.withUnsafeBytes { try? Metadata($0) }
                require(again == metadata, "metadata written and read")
            }
            if buffer.count >= 20, let index = try? SegmentIndex(buffer, fileLength: buffer.le(12)) {
                for place in index.places {
                    _ = (index.position(place.place, at: place.endOffset), index.position(place.place, before: 0))
                }
                let encoded = index.encode(fileLength: 9)
                let again = encoded.withUnsafeBytes { try? SegmentIndex($0, fileLength: 9) }
                require(again == index, "an index written and read")
            }
            if let header = try? SegmentHeader(head: buffer), header.headerLength <= buffer.count {
                let whole = UnsafeRawBufferPointer(rebasing: buffer[..<header.headerLength])
                if let checkpoint = try? SegmentHeader.checkpoint(whole, headLength: header.headLength) {
                    let encoded = header.encode(checkpoint: checkpoint)
                    encoded.withUnsafeBytes { encoded in
                        guard let again = try? SegmentHeader(head: encoded) else {
                            return require(false, "a segment header that was written is refused")
                        }
                        require(again.starts == header.starts && again.ordinal == header.ordinal, "a segment header")
                        let checked = try? SegmentHeader.checkpoint(encoded, headLength: again.headLength)
                        require(checked == checkpoint, "a checkpoint written and read")
                    }
                }
            }
        }
        walkAppends(bytes)
    }

    private static func walkAppends(_ bytes: [UInt8]) {
        let file = FileInMemory(bytes)
        let end = UInt64(bytes.count)
        var scanner = AppendScanner(file, end: end, readLength: 256)
        var position: UInt64 = 0
        while let found = try? scanner.next(after: position, numberMin: 0) {
            require(found.position >= position && found.position < end, "found at \(found.position)")
            position = found.position + UInt64(found.header.totalLength)
            require(position <= end, "an append past the end")
            if case .append(let header) = try? scanner.step(at: found.position, withBlocks: true) {
                require(header == found.header, "another header")
            }
        }
        if let index = try? Segment.buildIndex(file, from: 0, end: end) {
            for place in index.places { require(!place.points.isEmpty, "a place without points") }
        }
    }

    /// A log whose newest segment file is the input, its checksums put right: it opens, to look at and to go on with,
    /// or says why not; what can be read is read to its end, and an append goes on behind it.
    static let recovery = FuzzTarget(
        name: "recovery", lengthMax: 4096,
        seeds: { LogSamples.files.filter { $0.name.hasSuffix(".seg") }.map(\.bytes) },
        run: { bytes in
            for file in [Array(bytes), LogSamples.sealed(Array(bytes))] {
                let disk = SimulatedDisk(seed: 1)
                let ordinal = file.withUnsafeBytes { try? SegmentHeader(head: $0) }?.ordinal ?? 1
                guard LogSamples.write(file, to: Segment.name(.ticks, ordinal), on: disk),
                    LogSamples.write(LogSamples.metadata, to: Metadata.fileName, on: disk)
                else { return require(false, "the simulated disk refuses a file") }
                if let log = try? SegmentLog(
                    reading: disk, time: VirtualTime(), configuration: LogSamples.configuration)
                {
                    readAll(log)
                    try? log.close()
                }
                guard
                    let log = try? SegmentLog(disk: disk, time: VirtualTime(), configuration: LogSamples.configuration)
                else { continue }
                readAll(log)
                let place = TopicPartition(.ticksRaw, 0)
                let before = log.endOffset(place, .written)
                if (try? log.append([LogSamples.block(.ticksRaw, count: 2)], consumed: [])) != nil {
                    require(log.endOffset(place, .written) == before + 2, "an append did not go on at the end")
                }
                try? log.close()
            }
        })

    private static func readAll(_ log: SegmentLog) {
        for place in Topic.sources.map({ TopicPartition($0, 0) }) {
            var offset = log.startOffset(place)
            let end = log.endOffset(place, .written)
            while offset < end {
                switch try? log.readBlocking(place, at: offset, .written) {
                case .block(let block, let index):
                    require(index >= 0 && index < block.recordCount && block.endOffset > offset, "no step at \(offset)")
                    for record in index..<block.recordCount {
                        _ = withExtendedLifetime(block) { block.payload(record).last }
                    }
                    offset = block.endOffset
                case .damaged(let next, _), .expired(let next):
                    require(next > offset, "damage ends at \(next), not past \(offset)")
                    offset = next
                default: return
                }
            }
        }
    }
}
