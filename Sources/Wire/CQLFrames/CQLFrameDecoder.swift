/// Finds frames in a connection's bytes, however they are cut.
///
/// Feed what arrived, take frames until there are none, end the feed. ``framing`` may change between two frames, as it
/// does behind v5's first answer.
public final class CQLFrameDecoder {
    /// A frame whose body is decompressed; valid until the next call.
    public struct Frame {
        public let header: CQLFrameHeader
        public let body: UnsafeRawBufferPointer
    }

    public var framing: CQLFraming
    private let limits: CQLLimits
    /// What arrived and was not taken: the caller's bytes, or `kept` where some were left over.
    private var input = UnsafeRawBufferPointer(start: nil, count: 0)
    private var position = 0
    private let kept = CQLBuffer()
    private var usesKept = false
    /// Whole frames of a segment that were not taken yet.
    private var payload = UnsafeRawBufferPointer(start: nil, count: 0)
    private var payloadPosition = 0
    private let inflated = CQLBuffer()
    private let body = CQLBuffer()
    /// A frame that is longer than a segment, as far as it is there, and its whole length.
    private let large = CQLBuffer()
    private var largeLength = 0
    private var isLargeTaken = false

    public init(_ framing: CQLFraming, limits: CQLLimits = CQLLimits()) {
        self.framing = framing
        self.limits = limits
    }

    /// Bytes kept of frames that are not whole yet.
    public var keptBytes: Int { kept.count + large.count }

    /// Bytes that arrived; valid until ``endFeed()``.
    public func feed(_ bytes: UnsafeRawBufferPointer) {
        usesKept = kept.count > 0
        if usesKept {
            kept.append(bytes)
            input = kept.bytes
        } else {
            input = bytes
        }
        position = 0
    }

    /// Keeps what was not taken.
    public func endFeed() {
        let rest = UnsafeRawBufferPointer(rebasing: input[position...])
        if usesKept {
            if position > 0 {
                let left = Array(rest)
                kept.removeAll()
                kept.append(left)
            }
        } else {
            kept.append(rest)
        }
        payload = UnsafeRawBufferPointer(start: nil, count: 0)
        payloadPosition = 0
        input = UnsafeRawBufferPointer(start: nil, count: 0)
        position = 0
        usesKept = false
    }

    private var rest: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: input[position...]) }

    /// The next frame; nil where it is not whole yet. After an error nothing more can be read.
    public func next() throws(CQLFormatError) -> Frame? {
        if isLargeTaken {
            large.removeAll()
            isLargeTaken = false
        }
        guard case .segments(let compression) = framing else { return try nextPlain() }
        while true {
            if payloadPosition < payload.count { return try nextInPayload() }
            guard try takeSegment(compression) else { return nil }
            if largeLength > 0, large.count >= largeLength { return try takeLarge() }
        }
    }

    private func nextPlain() throws(CQLFormatError) -> Frame? {
        let rest = rest
        guard rest.count >= CQLFrameHeader.byteCount else { return nil }
        let header = try CQLFrameHeader(rest, lengthMax: limits.frameBytesMax)
        let end = CQLFrameHeader.byteCount + header.length
        guard rest.count >= end else { return nil }
        position += end
        return try frame(header, UnsafeRawBufferPointer(rebasing: rest[CQLFrameHeader.byteCount..<end]))
    }

    private func nextInPayload() throws(CQLFormatError) -> Frame? {
        let rest = UnsafeRawBufferPointer(rebasing: payload[payloadPosition...])
        guard rest.count >= CQLFrameHeader.byteCount else {
            throw CQLFormatError(.truncated, at: payloadPosition, "a segment ends within a frame's header")
        }
        let header = try CQLFrameHeader(rest, lengthMax: limits.frameBytesMax)
        let end = CQLFrameHeader.byteCount + header.length
        guard rest.count >= end else {
            throw CQLFormatError(.truncated, at: payloadPosition, "a self-contained segment ends within a frame")
        }
        payloadPosition += end
        return try frame(header, UnsafeRawBufferPointer(rebasing: rest[CQLFrameHeader.byteCount..<end]))
    }

    /// Takes a segment: its frames are to be taken next, or it went to the large frame. False where it is not whole.
    private func takeSegment(_ compression: CQLCompression) throws(CQLFormatError) -> Bool {
        let rest = rest
        let headerBytes = CQLSegment.headerBytes(compression)
        guard rest.count >= headerBytes else { return false }
        let header = try CQLSegment.header(rest, compression)
        let end = headerBytes + header.payloadLength
        guard rest.count >= end + CQLSegment.trailerBytes else { return false }
        var content = UnsafeRawBufferPointer(rebasing: rest[headerBytes..<end])
        try CQLSegment.check(
            content, UnsafeRawBufferPointer(rebasing: rest[end..<(end + CQLSegment.trailerBytes)]))
        position += end + CQLSegment.trailerBytes
        if header.uncompressedLength > 0 {
            inflated.removeAll()
            try LZ4.decompress(content, length: header.uncompressedLength, into: inflated)
            content = inflated.bytes
        }
        guard !header.isSelfContained else {
            guard largeLength == 0 else {
                throw CQLFormatError(.invalid, at: 0, "a self-contained segment within a frame of several")
            }
            payload = content
            payloadPosition = 0
            return true
        }
        if largeLength == 0 {
            guard content.count >= CQLFrameHeader.byteCount else {
                throw CQLFormatError(.truncated, at: 0, "a frame of several segments without a header in the first")
            }
            largeLength =
                CQLFrameHeader.byteCount + (try CQLFrameHeader(content, lengthMax: limits.frameBytesMax)).length
        }
        guard content.count <= largeLength - large.count else {
            throw CQLFormatError(.invalid, at: 0, "segments with more than their frame")
        }
        large.append(content)
        return true
    }

    private func takeLarge() throws(CQLFormatError) -> Frame {
        let bytes = large.bytes
        isLargeTaken = true
        largeLength = 0
        let header = try CQLFrameHeader(bytes, lengthMax: limits.frameBytesMax)
        return try frame(header, UnsafeRawBufferPointer(rebasing: bytes[CQLFrameHeader.byteCount...]))
    }

    private func frame(
        _ header: CQLFrameHeader, _ bytes: UnsafeRawBufferPointer
    ) throws(CQLFormatError) -> Frame {
        guard header.flags.contains(.compression) else { return Frame(header: header, body: bytes) }
        // v5 ignores the flag: its segments are compressed.
        if case .segments = framing { return Frame(header: header, body: bytes) }
        guard framing == .frames(.lz4) else {
            throw CQLFormatError(.compression, at: 1, "a compressed frame on a connection without compression")
        }
        var reader = CQLReader(bytes)
        let length = Int(UInt32(bitPattern: try reader.int()))
        guard length <= limits.frameBytesMax else {
            throw CQLFormatError(.tooLarge, at: 0, "\(length) bytes compressed into \(bytes.count)")
        }
        body.removeAll()
        try LZ4.decompress(try reader.take(reader.remaining), length: length, into: body)
        return Frame(header: header, body: body.bytes)
    }
}
