import Disk
import EventLog

extension SegmentLog {
    /// Copies everything that is durable now into an empty directory, while the log goes on. The copy opens as a log;
    /// its first start begins a new generation, since the original goes on from the same offsets. `onProgress` gets
    /// bytes copied and to copy. *Blocking*; appends wait for one sync. Throws `.io`, `.diskFull`, `.invalid` when the
    /// directory holds a log.
    public func backup(
        to target: any Disk, onProgress: (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void = { _, _ in }
    ) throws(LogError) {
        do throws(DiskError) {
            guard try target.list("").allSatisfy({ !$0.hasSuffix(".seg") && $0 != Metadata.fileName }) else {
                throw DiskError(
                    kind: .locked, operation: "backup", path: "", detail: "the directory holds a log already")
            }
        } catch {
            throw error.kind == .locked
                ? LogError(.invalid, error.description + "; choose an empty one") : LogError.from(error)
        }
        let files = try pin()
        defer { for stream in [ticks, orders] { stream.state.locked { stream.pinCount -= 1 } } }
        let total = files.reduce(0) { $0 + $1.length }
        var done: UInt64 = 0
        do throws(DiskError) {
            for (stream, segment, length) in files {
                try SegmentLog.copy(try segment.file(on: stream.disk), length, segment.name, to: target)
                done += length
                onProgress(done, total)
            }
            var copied = metadata
            copied.isClean = false
            copied.tails = []
            copied.bootID = ""
            try copied.write(target)
        } catch {
            throw LogError.from(error)
        }
    }

    /// One point of both streams, all of it synced, whose files stay.
    private func pin() throws(LogError) -> [(stream: AppendStream, segment: Segment, length: UInt64)] {
        try ticks.writing.locked { () throws(LogError) in
            try orders.writing.locked { () throws(LogError) in
                if !isReadOnly {
                    try ticks.sync()
                    try orders.sync()
                }
                return [ticks, orders].flatMap { stream in
                    stream.state.locked {
                        stream.pinCount += 1
                        return stream.segments.map { (stream, $0, $0.length) }
                    }
                }
            }
        }
    }

    private static func copy(_ file: any DiskFile, _ length: UInt64, _ name: String, to target: any Disk)
        throws(DiskError)
    {
        let copy = try target.open(name, create: true)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        var position: UInt64 = 0
        while position < length {
            let wanted = UnsafeMutableRawBufferPointer(
                rebasing: buffer[..<Int(min(UInt64(buffer.count), length - position))])
            let count = try file.read(at: position, into: wanted)
            if count == 0 { break }
            try copy.write(at: position, [UnsafeRawBufferPointer(rebasing: wanted[..<count])])
            position += UInt64(count)
        }
        try copy.sync()
        copy.close()
    }
}
