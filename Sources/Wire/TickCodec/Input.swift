/// A place in bounded bytes: every read is checked, byte by byte. What the fast path of ``TickReader`` leaves over.
struct Input {
    let base: UnsafeRawPointer
    let end: Int
    var place = 0
    /// The field of the message being read and where it began, for errors.
    var field = 0
    var fieldStart = 0

    init(base: UnsafeRawPointer, end: Int) {
        self.base = base
        self.end = end
    }

    func error(_ problem: TickCodecError.Problem) -> TickCodecError {
        TickCodecError(problem, field: field, offset: fieldStart)
    }

    mutating func tag() throws(TickCodecError) -> UInt32 {
        let start = place
        let tag = try varint()
        guard tag >> 3 != 0, tag <= UInt64(UInt32.max) else {
            throw TickCodecError(.fieldNumber, field: 0, offset: start)
        }
        return UInt32(tag)
    }

    mutating func varint() throws(TickCodecError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while place < end {
            let byte = base.load(fromByteOffset: place, as: UInt8.self)
            place += 1
            // The tenth byte holds the 64th bit and nothing else.
            if shift == 63, byte > 1 { throw error(.varintTooLong) }
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        throw error(.truncated)
    }

    /// The bytes of a length-delimited field.
    mutating func bytes() throws(TickCodecError) -> Range<Int> {
        let length = try varint()
        guard length <= UInt64(end - place) else { throw error(.truncated) }
        let start = place
        place += Int(length)
        return start..<place
    }

    /// Skips the value of an unknown field.
    mutating func skip(wireType: UInt32, field: UInt32, depth: Int) throws(TickCodecError) {
        switch wireType {
        case 0: _ = try varint()
        case 1: try skip(count: 8)
        case 2: _ = try bytes()
        case 3:
            guard depth < TickReader.groupDepthMax else { throw error(.group) }
            while true {
                guard place < end else { throw error(.truncated) }
                let inner = try tag()
                if inner & 7 == 4 {
                    guard inner >> 3 == field else { throw error(.group) }
                    return
                }
                try skip(wireType: inner & 7, field: inner >> 3, depth: depth + 1)
            }
        case 4: throw error(.group)
        case 5: try skip(count: 4)
        default: throw error(.wireType)
        }
    }

    private mutating func skip(count: Int) throws(TickCodecError) {
        guard end - place >= count else { throw error(.truncated) }
        place += count
    }
}
