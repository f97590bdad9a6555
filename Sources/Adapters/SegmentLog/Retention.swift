import Disk
import EventLog
import TimeSource

/// Records that retention removed though a named reader had not finished with them.
public struct HolderLoss: Sendable, Hashable {
    public let reader: String
    public let place: TopicPartition
    public let offsets: Range<UInt64>

    public init(reader: String, place: TopicPartition, offsets: Range<UInt64>) {
        self.reader = reader
        self.place = place
        self.offsets = offsets
    }
}

extension SegmentLog {
    /// Removes what is too old or too much, oldest segments first; the segment being written stays. A failure to remove
    /// is tried again next time. *Blocking.*
    public func enforceRetention() {
        for stream in [ticks, orders] { stream.enforceRetention() }
    }

    /// What retention took from readers that held it (``hold(reader:_:from:)``), oldest first, adjoining ranges joined.
    public var holderLosses: [HolderLoss] {
        [ticks, orders].flatMap { stream in stream.state.locked { stream.holderLosses } }
    }
}

extension AppendStream {
    func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {
        state.locked {
            if let number = holds.firstIndex(where: { $0.reader == reader && $0.place == place }) {
                holds[number].offset = offset
            } else {
                holds.append(Hold(reader: reader, place: place, offset: offset))
            }
        }
    }

    func enforceRetention() {
        do throws(DiskError) {
            try writeIndexFiles(includingLast: false)
            while let name = try removeOldest() {
                try disk.remove(name.segment)
                if try disk.exists(name.index) { try disk.remove(name.index) }
            }
        } catch {
            // Removing is tried again at the next interval; the share of the disk is not kept until then.
        }
        expireTopics()
    }

    /// Takes the oldest segment out of the log when it may go; its files are to be removed then.
    private func removeOldest() throws(DiskError) -> (segment: String, index: String)? {
        let isOverShare = try isOverShare()
        let nowNs = time.wallNs()
        // The index tells what the segment holds.
        if let oldest = state.locked({ segments.count > 1 && segments[0].index == nil ? segments[0] : nil }) {
            try loadIndex(oldest)
        }
        return state.locked {
            guard segments.count > 1, pinCount == 0 else { return nil }
            let oldest = segments[0]
            let next = segments[1]
            let isExpired = isExpired(oldest, endTimeNs: next.startTimeNs, nowNs)
            let isHeld = holds.contains { hold in
                let end = next.start(of: hold.place)
                return hold.offset < end && oldest.start(of: hold.place) < end
            }
            guard isOverShare || (isExpired && !isHeld) else { return nil }
            noteLosses(before: next)
            segments.removeFirst()
            for partition in partitions.all { partition.start = max(partition.start, next.start(of: partition.place)) }
            return (oldest.name, oldest.indexName)
        }
    }

    /// With `state`: no topic of the segment wants it any longer.
    private func isExpired(_ segment: Segment, endTimeNs: Int64, _ nowNs: Int64) -> Bool {
        for place in segment.index?.places ?? [] {
            let retention = configuration.retention(of: place.place.topic)
            let isOld = retention.timeNs.map { nowNs - endTimeNs >= $0 } ?? false
            let isMuch = retention.bytes.map { byteCount(of: place.place.topic) > $0 } ?? false
            if !isOld && !isMuch { return false }
        }
        return true
    }

    /// With `state`: bytes of a topic's blocks in segments whose index is known, the rest counted whole.
    private func byteCount(of topic: Topic) -> UInt64 {
        segments.reduce(0) { sum, segment in
            guard let index = segment.index else { return sum + segment.length }
            return sum + index.places.reduce(0) { $0 + ($1.place.topic == topic ? $1.byteCount : 0) }
        }
    }

    /// Whether the tick stream has more than its share of the disk, or leaves too little free.
    private func isOverShare() throws(DiskError) -> Bool {
        guard durability == .ticks, configuration.diskSharePercent < 100 || configuration.freeBytesMin > 0 else {
            return false
        }
        let space = try disk.space()
        let own = state.locked { segments.reduce(0) { $0 + $1.length } }
        return own > space.totalBytes / 100 * UInt64(max(configuration.diskSharePercent, 0))
            || space.freeBytes < configuration.freeBytesMin
    }

    /// With `state`: records what readers lose that held something before `next`.
    private func noteLosses(before next: Segment) {
        for hold in holds {
            guard let partition = partitions.find(hold.place) else { continue }
            let end = next.start(of: hold.place)
            let lost = max(hold.offset, partition.start)..<max(end, max(hold.offset, partition.start))
            if lost.isEmpty { continue }
            if let number = holderLosses.firstIndex(where: {
                $0.reader == hold.reader && $0.place == hold.place && $0.offsets.upperBound == lost.lowerBound
            }) {
                let joined = holderLosses[number].offsets.lowerBound..<lost.upperBound
                holderLosses[number] = HolderLoss(reader: hold.reader, place: hold.place, offsets: joined)
            } else {
                holderLosses.append(HolderLoss(reader: hold.reader, place: hold.place, offsets: lost))
            }
        }
    }

    /// Records of a topic that are too old are answered as expired although another topic keeps their file.
    private func expireTopics() {
        let nowNs = time.wallNs()
        state.locked {
            guard let last = segments.last else { return }
            for partition in partitions.all {
                guard let keptNs = configuration.retention(of: partition.place.topic).timeNs else { continue }
                let held = holds.filter { $0.place == partition.place }.map(\.offset).min() ?? UInt64.max
                // Everything before a segment is at least as old as the last append before it.
                let number = segments.partition { nowNs - $0.startTimeNs < keptNs } - 1
                guard number > 0, segments[0] !== last else { continue }
                let start = min(segments[number].start(of: partition.place), held)
                partition.start = max(partition.start, min(start, partition.writtenEnd))
            }
        }
    }
}
