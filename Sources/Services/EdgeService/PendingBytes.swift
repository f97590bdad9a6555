/// Bytes on their way to a reader: appended at one end, taken from the other. Grows as needed; who appends keeps the
/// bound.
struct PendingBytes {
    private var bytes: [UInt8] = []
    private var start = 0

    var count: Int { bytes.count - start }
    var isEmpty: Bool { start == bytes.count }

    mutating func append(_ source: UnsafeRawBufferPointer) { bytes.append(contentsOf: source) }

    /// Moves as many bytes as fit; returns how many.
    mutating func take(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let taken = min(count, buffer.count)
        guard taken > 0 else { return 0 }
        bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + taken)])) }
        start += taken
        if start == bytes.count {
            bytes.removeAll(keepingCapacity: bytes.capacity <= 256 << 10)
            start = 0
        } else if start > 64 << 10, start > bytes.count / 2 {
            bytes.removeFirst(start)
            start = 0
        }
        return taken
    }
}
