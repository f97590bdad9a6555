import MarketModel

/// The yardstick of the codec bench: the same trade or quote encoded and read by plain loops over bytes, a varint one
/// byte after the other, as a careful program without tricks does it. Machines differ; the ratio to this does not.
struct ByteLoopCodec {
    let exchange: [UInt8]
    let symbol: [UInt8]
    let feed: [UInt8]

    /// Writes the fields that the bench's ticks have; the buffer has room. Returns the length.
    func encode(_ tick: UnsafePointer<Tick>, into buffer: UnsafeMutablePointer<UInt8>) -> Int {
        var at = buffer
        ByteLoopCodec.put(1, exchange, &at)
        ByteLoopCodec.put(2, symbol, &at)
        ByteLoopCodec.put(3, price: tick.pointee.bid, &at)
        ByteLoopCodec.put(4, price: tick.pointee.ask, &at)
        ByteLoopCodec.put(5, price: tick.pointee.last, &at)
        if let size = tick.pointee.lastSize { ByteLoopCodec.put(6, UInt64(size / 100_000_000), &at) }
        if let time = tick.pointee.eventTimeNs { ByteLoopCodec.put(7, time: time, &at) }
        ByteLoopCodec.put(8, time: tick.pointee.receivedTimeNs, &at)
        ByteLoopCodec.put(9, feed, &at)
        ByteLoopCodec.put(10, tick.pointee.sequence, &at)
        ByteLoopCodec.put(11, tick.pointee.epoch, &at)
        ByteLoopCodec.put(12, UInt64(tick.pointee.kind.rawValue), &at)
        ByteLoopCodec.put(13, size: tick.pointee.bidSize, &at)
        ByteLoopCodec.put(14, size: tick.pointee.askSize, &at)
        ByteLoopCodec.put(15, time: tick.pointee.publishTimeNs, &at)
        if tick.pointee.aggressorSide != .unspecified {
            ByteLoopCodec.put(25, UInt64(tick.pointee.aggressorSide.rawValue), &at)
        }
        return at - buffer
    }

    private typealias Cursor = UnsafeMutablePointer<UInt8>

    @inline(__always)
    private static func varint(_ value: UInt64, _ at: inout Cursor) {
        var value = value
        while value >= 0x80 {
            at.pointee = UInt8(truncatingIfNeeded: value) | 0x80
            at += 1
            value >>= 7
        }
        at.pointee = UInt8(truncatingIfNeeded: value)
        at += 1
    }

    @inline(__always)
    private static func put(_ field: UInt64, _ value: UInt64, _ at: inout Cursor) {
        varint(field << 3, &at)
        varint(value, &at)
    }

    @inline(__always)
    private static func put(_ field: UInt64, price: Int64?, _ at: inout Cursor) {
        if let price { put(field, UInt64(bitPattern: price / 1000), &at) }
    }

    @inline(__always)
    private static func put(_ field: UInt64, size: Int64?, _ at: inout Cursor) {
        if let size { put(field, UInt64(bitPattern: size / 100), &at) }
    }

    @inline(__always)
    private static func put(_ field: UInt64, _ bytes: [UInt8], _ at: inout Cursor) {
        varint(field << 3 | 2, &at)
        varint(UInt64(bytes.count), &at)
        bytes.withUnsafeBufferPointer { at.update(from: $0.baseAddress!, count: $0.count) }
        at += bytes.count
    }

    @inline(__always)
    private static func put(_ field: UInt64, time: Int64, _ at: inout Cursor) {
        varint(field << 3 | 2, &at)
        let length = at
        at += 1
        put(1, UInt64(time / 1_000_000_000), &at)
        put(2, UInt64(time % 1_000_000_000), &at)
        length.pointee = UInt8(truncatingIfNeeded: at - length - 1)
    }

    /// Values of all fields put together, so that none can be left out; nil for bytes that are no message.
    static func digest(_ bytes: UnsafeRawBufferPointer) -> UInt64? {
        var sum: UInt64 = 0
        var position = 0
        while position < bytes.count {
            guard let tag = varint(bytes, &position) else { return nil }
            switch tag & 7 {
            case 0:
                guard let value = varint(bytes, &position) else { return nil }
                sum &+= value
            case 2:
                guard let length = varint(bytes, &position), length <= UInt64(bytes.count - position) else {
                    return nil
                }
                let end = position + Int(length)
                let field = tag >> 3
                if field == 7 || field == 8 || field == 15 {
                    guard let time = time(bytes, &position, end) else { return nil }
                    sum &+= time
                } else {
                    sum &+= length
                }
                position = end
            default: return nil
            }
        }
        return sum
    }

    @inline(__always)
    private static func time(_ bytes: UnsafeRawBufferPointer, _ position: inout Int, _ end: Int) -> UInt64? {
        var ns: UInt64 = 0
        while position < end {
            guard let tag = varint(bytes, &position), let value = varint(bytes, &position) else { return nil }
            ns &+= tag == 8 ? value &* 1_000_000_000 : value
        }
        return ns
    }

    @inline(__always)
    private static func varint(_ bytes: UnsafeRawBufferPointer, _ position: inout Int) -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < bytes.count, shift < 64 {
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7f) &<< shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }
}
