/// Bytes on their way to a reader: appended at one end, taken from the other. Grows as needed; who appends keeps the
/// bound.
struct PendingBytes {
    private var bytes: [UInt8] = []
    private var start = 0

    var count: Int { bytes.count - start }
    var isEmpty: Bool { start == bytes.count }
    /// Bytes of memory that hold them: at most three times as many, and 256 KiB.
    var heldBytes: Int { bytes.capacity }

    mutating func append(_ source: UnsafeRawBufferPointer) {
        makeRoom(source.count)
        bytes.append(contentsOf: source)
    }

    /// What was taken gives its place to what comes, before more memory is asked for.
    private mutating func makeRoom(_ added: Int) {
        guard bytes.count + added > bytes.capacity else { return }
        if start > bytes.count / 4 {
            bytes.removeFirst(start)
            start = 0
        }
        let needed = bytes.count + added
        if needed > bytes.capacity { bytes.reserveCapacity(needed + needed / 2) }
    }

    /// Moves as many bytes as fit; returns how many.
    mutating func take(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let taken = min(count, buffer.count)
        guard taken > 0 else { return 0 }
        peek { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<taken])) }
        drop(taken)
        return taken
    }

    /// What waits, without taking it; valid during the call.
    func peek<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R {
        bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start...])) }
    }

    /// Appends bytes and lets `patch` change what was appended.
    mutating func append(_ source: UnsafeRawBufferPointer, patch: (UnsafeMutableRawBufferPointer) -> Void) {
        makeRoom(source.count)
        let position = bytes.count
        bytes.append(contentsOf: source)
        bytes.withUnsafeMutableBytes { patch(UnsafeMutableRawBufferPointer(rebasing: $0[position...])) }
    }

    /// Appends bytes to the last frame, whose first byte is `length` bytes before the end.
    mutating func extendFrame(ofLength length: Int, by source: [UInt8]) {
        precondition(length > 0 && length <= count)
        source.withUnsafeBytes { append($0) }
        // Now: making room may have moved what was not taken.
        let frame = bytes.count - source.count - length
        bytes.withUnsafeMutableBytes {
            Frame.lengthen(UnsafeMutableRawBufferPointer(rebasing: $0[frame...]), by: source.count)
        }
    }

    /// Takes bytes that were looked at.
    mutating func drop(_ count: Int) {
        precondition(count >= 0 && count <= self.count)
        start += count
        if start == bytes.count {
            bytes.removeAll(keepingCapacity: bytes.capacity <= 256 << 10)
            start = 0
        } else if start > 64 << 10, start > bytes.count / 2 {
            bytes.removeFirst(start)
            start = 0
        }
    }
}

/// gRPC frames on their way to a reader, of which some are a snapshot.
struct FrameQueue {
    private var bytes = PendingBytes()
    /// Bytes ever taken.
    private(set) var taken: UInt64 = 0
    /// Where in all bytes ever appended snapshots lie, those that were taken left out.
    private var snapshots: [Range<UInt64>] = []

    var count: Int { bytes.count }
    var isEmpty: Bool { bytes.isEmpty }
    /// Bytes of memory that hold them.
    var heldBytes: Int { bytes.heldBytes }
    /// Bytes ever appended.
    var appended: UInt64 { taken + UInt64(bytes.count) }

    /// What waits; valid during the call.
    func peek<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R { bytes.peek(body) }

    /// Whole frames.
    mutating func append(_ frames: UnsafeRawBufferPointer) { bytes.append(frames) }

    /// Appends bytes to the last frame of those that wait, which is `length` bytes long.
    mutating func extendFrame(ofLength length: Int, by source: [UInt8]) {
        bytes.extendFrame(ofLength: length, by: source)
    }

    mutating func append(snapshot: PendingBytes) {
        guard !snapshot.isEmpty else { return }
        snapshots.append(appended..<(appended + UInt64(snapshot.count)))
        snapshot.peek { bytes.append($0) }
    }

    /// Moves as many bytes as fit, cut anywhere; returns how many.
    mutating func take(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let count = bytes.take(into: buffer)
        taken += UInt64(count)
        forgetTaken()
        return count
    }

    /// Hands over whole frames that are alike, about as many bytes as asked for and at least one frame. Returns how
    /// many bytes. Not to be mixed with ``take(into:)``.
    mutating func takeFrames(
        about bytesWanted: Int, _ body: (_ frames: UnsafeRawBufferPointer, _ isSnapshot: Bool) -> Void
    ) -> Int {
        guard !bytes.isEmpty else { return 0 }
        let position = taken
        let next = snapshots.first
        let isSnapshot = next.map { $0.lowerBound <= position } ?? false
        let end = isSnapshot ? next?.upperBound : next?.lowerBound
        let limit = end.map { Int($0 - position) } ?? Int.max
        let count = bytes.peek { waiting in
            var count = 0
            while count < waiting.count, count < limit {
                let length = Frame.length(waiting, at: count)
                if count > 0, count + length > bytesWanted { break }
                count += length
            }
            body(UnsafeRawBufferPointer(rebasing: waiting[..<count]), isSnapshot)
            return count
        }
        bytes.drop(count)
        taken += UInt64(count)
        forgetTaken()
        return count
    }

    private mutating func forgetTaken() {
        while let first = snapshots.first, first.upperBound <= taken { snapshots.removeFirst() }
    }
}

/// gRPC frames that the edge has made or the log has checked.
enum Frame {
    /// Length of the frame at a position, prefix included.
    static func length(_ frames: UnsafeRawBufferPointer, at position: Int) -> Int {
        5 + Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
    }

    /// Says in a frame's prefix that it is longer.
    static func lengthen(_ frame: UnsafeMutableRawBufferPointer, by count: Int) {
        let old = length(UnsafeRawBufferPointer(frame), at: 0) - 5
        frame.storeBytes(of: UInt32(old + count).bigEndian, toByteOffset: 1, as: UInt32.self)
    }
}
