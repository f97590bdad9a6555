import MarketProto
import Protobuf

/// Messages of a `Subscribe` stream on their way to the reader, as gRPC frames.
struct ResponseOutput {
    private(set) var bytes = PendingBytes()

    var count: Int { bytes.count }
    /// Bytes of memory that hold them.
    var heldBytes: Int { bytes.heldBytes }

    mutating func take(into buffer: UnsafeMutableRawBufferPointer) -> Int { bytes.take(into: buffer) }

    mutating func append(_ response: Proto.SubscribeResponse) {
        let message = response.encodedBytes()
        appendPrefix(length: message.count)
        message.withUnsafeBytes { bytes.append($0) }
    }

    /// One message with all updates of `frames`, which are copied, not encoded again: `updates = 1` with a length
    /// padded to four bytes takes exactly the five bytes of a gRPC frame's prefix. Returns how many updates there are.
    mutating func append(
        updates frames: UnsafeRawBufferPointer, subscription: UInt64, fill: UInt64, isSnapshot: Bool
    ) -> Int {
        var rest: [UInt8] = []
        if subscription != 0 { ResponseOutput.append(tag: 0x10, subscription, to: &rest) }
        if fill != 0 { ResponseOutput.append(tag: 0x18, fill, to: &rest) }
        if isSnapshot { ResponseOutput.append(tag: 0x20, 1, to: &rest) }
        appendPrefix(length: frames.count + rest.count)
        var count = 0
        bytes.append(frames) { copy in
            var position = 0
            while position < copy.count {
                let length = Frame.length(UnsafeRawBufferPointer(copy), at: position)
                ResponseOutput.patch(copy, at: position, length: length - 5)
                position += length
                count += 1
            }
        }
        rest.withUnsafeBytes { bytes.append($0) }
        return count
    }

    private mutating func appendPrefix(length: Int) {
        var prefix: (UInt8, UInt32) = (0, 0)
        prefix.1 = UInt32(length).bigEndian
        withUnsafeBytes(of: &prefix.0) { bytes.append($0) }
        withUnsafeBytes(of: &prefix.1) { bytes.append($0) }
    }

    private static func patch(_ copy: UnsafeMutableRawBufferPointer, at position: Int, length: Int) {
        precondition(length < 1 << 28, "an update of \(length) bytes")
        copy[position] = 0x0a
        copy[position + 1] = UInt8(length & 0x7f) | 0x80
        copy[position + 2] = UInt8(length >> 7 & 0x7f) | 0x80
        copy[position + 3] = UInt8(length >> 14 & 0x7f) | 0x80
        copy[position + 4] = UInt8(length >> 21)
    }

    private static func append(tag: UInt8, _ value: UInt64, to bytes: inout [UInt8]) {
        bytes.append(tag)
        var value = value
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(value))
    }
}
