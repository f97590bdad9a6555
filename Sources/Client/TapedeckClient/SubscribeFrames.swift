import GRPC
import MarketProto
import Protobuf

/// A message of `Subscribe` with its updates left as they came: frames of a ``TickBatch`` in place of decoded updates.
struct SubscribeFrames {
    /// Whole gRPC frames, back to back, each a `PriceUpdate`.
    let frames: [UInt8]
    /// Everything else.
    let rest: Proto.SubscribeResponse

    private static let updatesTag: UInt8 = 10

    /// nil for what is no `SubscribeResponse`.
    init?(_ message: UnsafeRawBufferPointer) {
        var frames: [UInt8] = []
        var position = 0
        // Updates stand first, as every encoder writes fields. What stands elsewhere, or is written otherwise, is the
        // decoder's.
        while position < message.count, message[position] == SubscribeFrames.updatesTag,
            let (length, start) = SubscribeFrames.length(message, at: position + 1)
        {
            frames.append(0)
            withUnsafeBytes(of: UInt32(length).bigEndian) { frames.append(contentsOf: $0) }
            position = start + length
            frames.append(contentsOf: message[start..<position])
        }
        guard
            var rest = try? Proto.SubscribeResponse(decoding: UnsafeRawBufferPointer(rebasing: message[position...]))
        else { return nil }
        for update in rest.updates {
            let bytes = update.encodedBytes()
            frames.append(0)
            withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { frames.append(contentsOf: $0) }
            frames += bytes
        }
        rest.updates = []
        self.frames = frames
        self.rest = rest
    }

    /// A length-delimited field's length, and where its bytes begin; nil where they are not all there, or the length is
    /// longer than any need be.
    private static func length(
        _ message: UnsafeRawBufferPointer, at position: Int
    ) -> (length: Int, start: Int)? {
        var value: UInt64 = 0
        var place = position
        while place < message.count, place - position < 5 {
            value |= UInt64(message[place] & 0x7f) << UInt64(7 * (place - position))
            place += 1
            guard message[place - 1] < 0x80 else { continue }
            return value <= UInt64(message.count - place) ? (Int(value), place) : nil
        }
        return nil
    }
}
