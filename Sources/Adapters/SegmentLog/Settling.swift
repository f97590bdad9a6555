import Disk
import EventLog
import TimeSource

extension AppendStream {
    /// Brings the files to what recovery found: cuts the torn tail and makes all that stays durable.
    func settle(_ finding: StreamFinding) throws(DiskError) {
        for name in finding.unfinished { try disk.remove(name) }
        if let cut = finding.cut { try cut.segment.file(on: disk).truncate(to: cut.length) }
        if let unproven = finding.unproven { try rewrite(unproven.segment, from: unproven.position) }
        if finding.wasScanned, let last = segments.last { try last.file(on: disk).sync() }
    }

    /// Writes bytes over themselves: a sync that failed before may have marked them clean without having stored them.
    private func rewrite(_ segment: Segment, from start: UInt64) throws(DiskError) {
        let file = try segment.file(on: disk)
        var scanner = AppendScanner(file, end: segment.length)
        var position = start
        while position < segment.length {
            let bytes = try scanner.bytes(at: position, count: 1 << 20)
            guard !bytes.isEmpty else { return }
            try file.write(at: position, [bytes])
            position += UInt64(bytes.count)
        }
    }

    /// Where a clean stop leaves the stream; nil when it has no file.
    func tail() -> Metadata.Tail? {
        state.locked {
            guard let last = segments.last else { return nil }
            return Metadata.Tail(
                stream: durability, ordinal: last.ordinal, length: last.length, appendNumber: writtenNumber,
                lastTimeNs: lastTimeNs,
                ends: partitions.all.map { SegmentHeader.PlaceOffset(place: $0.place, offset: $0.writtenEnd) },
                checkpoint: checkpoint())
        }
    }

    func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        let condition: Monitor.Condition = visibility == .written && durability == .ticks ? .written : .durable
        let untilNs = time.monotonicNs() &+ max(timeoutNs, 0)
        return state.locked {
            while true {
                if let partition = partitions.find(place), visibleEnd(partition, visibility) > offset { return true }
                if isClosing || health.failure != nil { return false }
                let leftNs = untilNs &- time.monotonicNs()
                if leftNs <= 0 { return false }
                if configuration.work == .manual {
                    time.sleep(ns: leftNs)
                } else {
                    _ = state.wait(condition, ns: leftNs)
                }
            }
        }
    }
}
