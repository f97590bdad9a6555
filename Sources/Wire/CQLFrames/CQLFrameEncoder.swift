/// Makes a connection's bytes of frames: in v4, and before v5's first answer, frames as they are, their bodies
/// compressed; in v5 then segments of up to 128 KiB, which as many frames share as there are.
public final class CQLFrameEncoder {
    /// Bodies below are not worth compressing.
    static let compressedBytesMin = 512

    public var framing: CQLFraming
    /// What is ready for the socket.
    public let output = CQLBuffer(capacity: 64 << 10)
    /// v5: whole frames that share the next segment.
    private let gathered = CQLBuffer(capacity: 64 << 10)

    public init(_ framing: CQLFraming) { self.framing = framing }

    /// Bytes that were not taken out yet.
    public var byteCount: Int { output.count + gathered.count }

    /// Adds a whole frame. It goes out with ``finish()``.
    public func add(_ frame: UnsafeRawBufferPointer) {
        guard frame.count >= CQLFrameHeader.byteCount else { return }
        switch framing {
        case .frames(.none): output.append(frame)
        case .frames(.lz4): addCompressed(frame)
        case .segments:
            // Few others would share the segment of a large one: it is copied once, not twice.
            let isShared = frame.count <= CQLSegment.payloadBytesMax / 2
            if !isShared || gathered.count + frame.count > CQLSegment.payloadBytesMax { seal() }
            if isShared { return gathered.append(frame) }
            let isWhole = frame.count <= CQLSegment.payloadBytesMax
            var rest = frame
            while rest.count > 0 {
                let part = min(rest.count, CQLSegment.payloadBytesMax)
                CQLSegment.append(
                    UnsafeRawBufferPointer(rebasing: rest[..<part]), isSelfContained: isWhole, framing, to: output)
                rest = UnsafeRawBufferPointer(rebasing: rest[part...])
            }
        }
    }

    private func addCompressed(_ frame: UnsafeRawBufferPointer) {
        let body = UnsafeRawBufferPointer(rebasing: frame[CQLFrameHeader.byteCount...])
        // STARTUP and OPTIONS are read before the server knows of compression.
        let opcode = frame[4]
        let start = output.count
        output.append(UnsafeRawBufferPointer(rebasing: frame[..<CQLFrameHeader.byteCount]))
        guard body.count >= CQLFrameEncoder.compressedBytesMin, opcode != CQLOpcode.startup.rawValue,
            opcode != CQLOpcode.options.rawValue
        else { return output.append(body) }
        output.append(bigEndian: UInt32(body.count))
        guard LZ4.compress(body, into: output) else {
            output.truncate(to: start + CQLFrameHeader.byteCount)
            return output.append(body)
        }
        output.set(bigEndian: frame[1] | CQLFrameFlags.compression.rawValue, at: start + 1)
        CQLFrameHeader.end(output, start)
    }

    private func seal() {
        guard gathered.count > 0 else { return }
        CQLSegment.append(gathered.bytes, isSelfContained: true, framing, to: output)
        gathered.removeAll()
    }

    /// All that was added is in ``output`` now.
    public func finish() { seal() }
}

/// How frames lie in a connection's bytes.
public enum CQLFraming: Hashable, Sendable {
    /// One behind the other; bodies that say so are compressed.
    case frames(CQLCompression)
    /// In segments, which are compressed.
    case segments(CQLCompression)
}
