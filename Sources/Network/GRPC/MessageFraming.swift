/// Length-prefixed messages out of DATA bytes. Keeps what is incomplete, never more than one message.
struct MessageReader {
    /// Why bytes are no messages.
    enum Problem: Error {
        case tooLarge(Int)
        case compressed

        var status: GRPCStatus {
            switch self {
            case .tooLarge(let length):
                GRPCStatus(.resourceExhausted, "a message of \(length) bytes is larger than the limit")
            case .compressed: GRPCStatus(.internalError, "a compressed message without grpc-encoding")
            }
        }
    }

    static let prefixLength = 5

    private var pending: [UInt8] = []
    private let lengthMax: Int

    init(lengthMax: Int) { self.lengthMax = lengthMax }

    var isEmpty: Bool { pending.isEmpty }

    /// Calls `body` with runs of complete frames (prefix and payload, back to back). Bytes are valid during the call.
    mutating func read(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) throws(Problem) {
        var rest = bytes
        if !pending.isEmpty {
            rest = try completePending(rest, body)
            if rest.isEmpty { return }
        }
        let complete = try completeLength(rest)
        if complete > 0 { body(UnsafeRawBufferPointer(rebasing: rest[..<complete])) }
        if complete < rest.count { pending.append(contentsOf: rest[complete...]) }
    }

    /// Bytes at the start that are whole frames.
    private func completeLength(_ bytes: UnsafeRawBufferPointer) throws(Problem) -> Int {
        var position = 0
        while bytes.count - position >= MessageReader.prefixLength {
            let length = try length(bytes, position)
            guard bytes.count - position >= MessageReader.prefixLength + length else { break }
            position += MessageReader.prefixLength + length
        }
        return position
    }

    private func length(_ bytes: UnsafeRawBufferPointer, _ position: Int) throws(Problem) -> Int {
        let length = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self))
        return try check(flag: bytes[position], length: length)
    }

    private func check(flag: UInt8, length: UInt32) throws(Problem) -> Int {
        guard flag == 0 else { throw .compressed }
        guard Int(length) <= lengthMax else { throw .tooLarge(Int(length)) }
        return Int(length)
    }

    /// Fills up the incomplete frame; returns what is left.
    private mutating func completePending(
        _ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void
    ) throws(Problem) -> UnsafeRawBufferPointer {
        var rest = bytes
        func take(_ count: Int) {
            let taken = min(count, rest.count)
            pending.append(contentsOf: rest[..<taken])
            rest = UnsafeRawBufferPointer(rebasing: rest[taken...])
        }
        if pending.count < MessageReader.prefixLength { take(MessageReader.prefixLength - pending.count) }
        guard pending.count >= MessageReader.prefixLength else { return rest }
        let needed = try check(
            flag: pending[0], length: pending[1..<5].reduce(0) { $0 << 8 | UInt32($1) })
        take(MessageReader.prefixLength + needed - pending.count)
        if pending.count == MessageReader.prefixLength + needed {
            pending.withUnsafeBytes { body($0) }
            pending.removeAll(keepingCapacity: pending.count <= 64 << 10)
        }
        return rest
    }
}

/// Walks complete frames.
public struct MessageSequence: Sequence, IteratorProtocol {
    private let frames: UnsafeRawBufferPointer
    private var position = 0

    /// `frames` holds whole frames only, back to back.
    public init(frames: UnsafeRawBufferPointer) { self.frames = frames }

    /// The next payload, valid as long as the frames.
    public mutating func next() -> UnsafeRawBufferPointer? {
        guard frames.count - position >= MessageReader.prefixLength else { return nil }
        let length = Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
        let start = position + MessageReader.prefixLength
        guard frames.count - start >= length else { return nil }
        position = start + length
        return UnsafeRawBufferPointer(rebasing: frames[start..<position])
    }
}

/// A message with its prefix.
enum MessageFrame {
    static func make(_ payload: [UInt8], isCompressed: Bool = false) -> [UInt8] {
        payload.withUnsafeBytes { make($0, isCompressed: isCompressed) }
    }

    static func make(_ payload: UnsafeRawBufferPointer, isCompressed: Bool = false) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: payload.count + MessageReader.prefixLength) { buffer, count in
            let raw = UnsafeMutableRawBufferPointer(buffer)
            raw[0] = isCompressed ? 1 : 0
            raw.storeBytes(of: UInt32(payload.count).bigEndian, toByteOffset: 1, as: UInt32.self)
            if payload.count > 0 {
                (raw.baseAddress! + 5).copyMemory(from: payload.baseAddress!, byteCount: payload.count)
            }
            count = payload.count + MessageReader.prefixLength
        }
    }
}
