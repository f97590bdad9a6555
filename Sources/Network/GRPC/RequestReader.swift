/// Length-prefixed messages out of the bytes of a request, one at a time. Keeps what is incomplete, never more than one
/// message.
struct RequestReader {
    /// A message and whether it is compressed.
    struct Message {
        fileprivate enum Storage {
            case inPlace(UnsafeRawBufferPointer)
            /// With its prefix.
            case gathered([UInt8])
        }
        fileprivate let storage: Storage
        let isCompressed: Bool

        /// The payload; valid during the call.
        func withPayload(_ body: (UnsafeRawBufferPointer) -> Void) {
            switch storage {
            case .inPlace(let bytes): body(bytes)
            case .gathered(let frame):
                frame.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[MessageReader.prefixLength...])) }
            }
        }
    }

    private var pending: [UInt8] = []
    private let lengthMax: Int

    init(lengthMax: Int) { self.lengthMax = lengthMax }

    /// Bytes kept.
    var count: Int { pending.count }

    /// Takes the next message off the front of `bytes`; nil when all was taken and the message is not whole yet.
    mutating func next(_ bytes: inout UnsafeRawBufferPointer) throws(GRPCStatus) -> Message? {
        if pending.isEmpty, let message = try whole(&bytes) { return message }
        if pending.count < MessageReader.prefixLength { take(MessageReader.prefixLength - pending.count, &bytes) }
        guard pending.count >= MessageReader.prefixLength else { return nil }
        let length = pending[1..<5].reduce(0) { $0 << 8 | Int($1) }
        let isCompressed = try check(flag: pending[0], length)
        let frameLength = MessageReader.prefixLength + length
        take(frameLength - pending.count, &bytes)
        guard pending.count == frameLength else { return nil }
        let frame = pending
        pending = []
        return Message(storage: .gathered(frame), isCompressed: isCompressed)
    }

    private func whole(_ bytes: inout UnsafeRawBufferPointer) throws(GRPCStatus) -> Message? {
        guard bytes.count >= MessageReader.prefixLength else { return nil }
        let length = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
        let isCompressed = try check(flag: bytes[0], length)
        let end = MessageReader.prefixLength + length
        guard bytes.count >= end else { return nil }
        let payload = UnsafeRawBufferPointer(rebasing: bytes[MessageReader.prefixLength..<end])
        bytes = UnsafeRawBufferPointer(rebasing: bytes[end...])
        return Message(storage: .inPlace(payload), isCompressed: isCompressed)
    }

    private func check(flag: UInt8, _ length: Int) throws(GRPCStatus) -> Bool {
        guard flag <= 1 else { throw GRPCStatus(.internalError, "a message with the unknown flags \(flag)") }
        guard length <= lengthMax else {
            throw GRPCStatus(
                .resourceExhausted, "a message of \(length) bytes is larger than the limit of \(lengthMax)")
        }
        return flag == 1
    }

    private mutating func take(_ count: Int, _ bytes: inout UnsafeRawBufferPointer) {
        let taken = min(count, bytes.count)
        guard taken > 0 else { return }
        pending.append(contentsOf: bytes[..<taken])
        bytes = UnsafeRawBufferPointer(rebasing: bytes[taken...])
    }
}

/// Counts the messages in frames that pass in pieces, cut anywhere.
struct FrameCounter {
    private var prefix: UInt64 = 0
    private var prefixCount = 0
    private var payloadLeft = 0

    /// Whether the bytes so far end between frames.
    var isBetweenFrames: Bool { prefixCount == 0 && payloadLeft == 0 }

    /// Frames that end in the bytes.
    mutating func count(_ bytes: UnsafeRawBufferPointer) -> Int {
        var frames = 0
        var position = 0
        while position < bytes.count {
            if payloadLeft > 0 {
                let taken = min(payloadLeft, bytes.count - position)
                payloadLeft -= taken
                position += taken
                if payloadLeft == 0 { frames += 1 }
                continue
            }
            // Most prefixes lie in one piece.
            if prefixCount == 0, bytes.count - position >= MessageReader.prefixLength {
                let length = bytes.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)
                payloadLeft = Int(UInt32(bigEndian: length))
                position += MessageReader.prefixLength
                if payloadLeft == 0 { frames += 1 }
                continue
            }
            prefix = prefix << 8 | UInt64(bytes[position])
            prefixCount += 1
            position += 1
            guard prefixCount == MessageReader.prefixLength else { continue }
            payloadLeft = Int(prefix & 0xffff_ffff)
            prefix = 0
            prefixCount = 0
            if payloadLeft == 0 { frames += 1 }
        }
        return frames
    }
}
