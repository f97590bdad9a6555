/// Flags of a frame (2.2 of the specification).
public struct CQLFrameFlags: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// v4 only: v5 compresses segments.
    public static let compression = CQLFrameFlags(rawValue: 0x01)
    public static let tracing = CQLFrameFlags(rawValue: 0x02)
    public static let customPayload = CQLFrameFlags(rawValue: 0x04)
    public static let warning = CQLFrameFlags(rawValue: 0x08)
    public static let beta = CQLFrameFlags(rawValue: 0x10)
}

/// The first nine bytes of a frame.
public struct CQLFrameHeader: Hashable, Sendable {
    public static let byteCount = 9

    public var version: CQLVersion
    public var isResponse: Bool
    public var flags: CQLFrameFlags
    /// Which request an answer is for: 0 and above of a client, -1 of an event.
    public var stream: Int16
    public var opcode: CQLOpcode
    /// Bytes of the body.
    public var length: Int

    public init(
        version: CQLVersion, isResponse: Bool, flags: CQLFrameFlags, stream: Int16, opcode: CQLOpcode, length: Int
    ) {
        self.version = version
        self.isResponse = isResponse
        self.flags = flags
        self.stream = stream
        self.opcode = opcode
        self.length = length
    }

    /// Reads nine bytes.
    public init(_ bytes: UnsafeRawBufferPointer, lengthMax: Int) throws(CQLFormatError) {
        precondition(bytes.count >= CQLFrameHeader.byteCount)
        let first = bytes[0]
        guard let version = CQLVersion(rawValue: first & 0x7f) else {
            throw CQLFormatError(.unknown, at: 0, "protocol version \(first & 0x7f)")
        }
        guard let opcode = CQLOpcode(rawValue: bytes[4]) else {
            throw CQLFormatError(.unknown, at: 4, "opcode \(bytes[4])")
        }
        let length = Int(Int32(bigEndian: bytes.loadUnaligned(fromByteOffset: 5, as: Int32.self)))
        guard (0...lengthMax).contains(length) else {
            throw CQLFormatError(.tooLarge, at: 5, "a frame of \(length) bytes; at most \(lengthMax) are taken")
        }
        self.version = version
        isResponse = first & 0x80 != 0
        flags = CQLFrameFlags(rawValue: bytes[1])
        stream = Int16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: Int16.self))
        self.opcode = opcode
        self.length = length
        guard isResponse == opcode.isResponse else {
            throw CQLFormatError(.invalid, at: 4, "opcode \(opcode) from the wrong side")
        }
    }

    /// Appends the header; returns where it begins.
    public func begin(_ buffer: CQLBuffer) -> Int {
        let start = buffer.count
        buffer.append(byte: version.rawValue | (isResponse ? 0x80 : 0))
        buffer.append(byte: flags.rawValue)
        buffer.append(bigEndian: stream)
        buffer.append(byte: opcode.rawValue)
        buffer.append(bigEndian: Int32(length))
        return start
    }

    /// Says how long the frame that began there is, which the buffer ends with.
    public static func end(_ buffer: CQLBuffer, _ start: Int) {
        buffer.set(bigEndian: Int32(buffer.count - start - byteCount), at: start + 5)
    }

    /// Gives a frame that is written another stream.
    public static func setStream(_ stream: Int16, in buffer: CQLBuffer, at start: Int) {
        buffer.set(bigEndian: stream, at: start + 2)
    }
}

/// How a connection's bytes are compressed.
public enum CQLCompression: String, CaseIterable, Sendable {
    case none
    case lz4
}
