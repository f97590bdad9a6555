// Kafka's wire format: requests out, answers in, and the batches of records in both. Fed by and feeds KafkaClient;
// knows no sockets. Layouts and names are those of Kafka's message schemas (clients/src/main/resources/common/message).

/// Bytes that are written: grows, and lends its memory to whoever writes it to a socket. One thread at a time.
public final class KafkaBuffer {
    // Each access is over before anything else happens: to check that at run time would be most of a record's cost.
    @exclusivity(unchecked) private var base: UnsafeMutableRawPointer
    @exclusivity(unchecked) private var capacity: Int
    @exclusivity(unchecked) public private(set) var count = 0

    public init(capacity: Int = 256) {
        self.capacity = max(64, capacity)
        base = .allocate(byteCount: self.capacity, alignment: 16)
    }

    deinit { base.deallocate() }

    /// Valid until the next write.
    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    /// Forgets the bytes, keeps the memory; what is larger than `keeping` is given back.
    public func removeAll(keeping: Int = 1 << 20) {
        count = 0
        guard capacity > keeping else { return }
        base.deallocate()
        capacity = max(64, keeping)
        base = .allocate(byteCount: capacity, alignment: 16)
    }

    /// Cuts back to the first `count` bytes.
    func truncate(to count: Int) {
        precondition(count >= 0 && count <= self.count)
        self.count = count
    }

    @inline(never)
    private func grow(_ more: Int) {
        let wanted = max(count + more, capacity * 2)
        let larger = UnsafeMutableRawPointer.allocate(byteCount: wanted, alignment: 16)
        larger.copyMemory(from: base, byteCount: count)
        base.deallocate()
        base = larger
        capacity = wanted
    }

    /// Room for so many bytes, which the caller fills; they count as written.
    @inline(__always)
    func append(uninitialized more: Int) -> UnsafeMutableRawPointer {
        if count &+ more > capacity { grow(more) }
        let place = base + count
        count &+= more
        return place
    }

    @inline(__always)
    func append<T: FixedWidthInteger>(_ value: T) {
        append(uninitialized: MemoryLayout<T>.size).storeBytes(of: value.bigEndian, as: T.self)
    }

    public func append(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return }
        append(uninitialized: bytes.count).copyMemory(from: start, byteCount: bytes.count)
    }

    /// Overwrites what was written before.
    func set<T: FixedWidthInteger>(_ value: T, at place: Int) {
        precondition(place >= 0 && place <= count - MemoryLayout<T>.size)
        (base + place).storeBytes(of: value.bigEndian, as: T.self)
    }

    // MARK: Notations of the protocol

    /// STRING, NULLABLE_STRING: at most 32,767 bytes; longer text is cut by whoever makes it.
    func append(string text: String?) {
        guard var text else { return append(Int16(-1)) }
        text.withUTF8 { utf8 in
            precondition(utf8.count <= Int16.max, "a STRING of more than 32,767 bytes")
            append(Int16(utf8.count))
            append(UnsafeRawBufferPointer(utf8))
        }
    }

    /// BYTES
    func append(bytes: [UInt8]) {
        append(Int32(bytes.count))
        bytes.withUnsafeBytes { append($0) }
    }

    /// VARINT, VARLONG: zigzag, seven bits a byte, the lowest first.
    @inline(__always)
    func append(varint value: Int) {
        var left = UInt64(bitPattern: Int64(value &<< 1 ^ value &>> 63))
        while left >= 0x80 {
            append(UInt8(truncatingIfNeeded: left | 0x80))
            left &>>= 7
        }
        append(UInt8(truncatingIfNeeded: left))
    }

    /// Bytes that a value takes by ``append(varint:)``.
    @inline(__always)
    static func varintLength(_ value: Int) -> Int {
        let zigzag = UInt64(bitPattern: Int64(value &<< 1 ^ value &>> 63))
        return (64 &- (zigzag | 1).leadingZeroBitCount &+ 6) / 7
    }
}
