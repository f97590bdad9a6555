import Glibc

/// Bytes that wait, first in, first out. Empty, it holds no memory.
struct ByteQueue: ~Copyable {
    private var base: UnsafeMutableRawPointer?
    private var start = 0
    private(set) var count = 0
    private var capacity = 0

    deinit { free(base) }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base.map { $0 + start }, count: count) }

    mutating func append(_ source: UnsafeRawBufferPointer) {
        guard let address = source.baseAddress, source.count > 0 else { return }
        if source.count > capacity - start - count { makeRoom(for: source.count) }
        if let base { (base + start + count).copyMemory(from: address, byteCount: source.count) }
        count += source.count
    }

    /// Forgets the first `size` bytes.
    mutating func removeFirst(_ size: Int) {
        start += size
        count -= size
        if count == 0 { removeAll() }
    }

    mutating func removeAll() {
        free(base)
        base = nil
        start = 0
        count = 0
        capacity = 0
    }

    private mutating func makeRoom(for size: Int) {
        let larger = max(count + size, capacity * 2, 256)
        guard let memory = malloc(larger) else { preconditionFailure("no memory for bytes that wait") }
        if let base { memory.copyMemory(from: base + start, byteCount: count) }
        free(base)
        base = memory
        start = 0
        capacity = larger
    }
}
