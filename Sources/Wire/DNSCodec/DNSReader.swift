/// Walks a message. Every read is checked.
struct DNSReader {
    private let message: UnsafeRawBufferPointer
    private(set) var position = 0

    init(_ message: UnsafeRawBufferPointer) { self.message = message }

    mutating func uint16() throws(DNSMalformed) -> UInt16 {
        let bytes = try take(2)
        return UInt16(bytes[0]) << 8 | UInt16(bytes[1])
    }

    mutating func take(_ count: Int) throws(DNSMalformed) -> UnsafeRawBufferPointer {
        guard count <= message.count - position else { throw DNSMalformed("the message ends too early") }
        defer { position += count }
        return UnsafeRawBufferPointer(rebasing: message[position..<(position + count)])
    }

    /// A name, which may go on earlier in the message (RFC 1035, 4.1.4). A pointer leads before the place where what it
    /// continues begins, so that there is an end.
    mutating func name() throws(DNSMalformed) -> DNSName {
        var wire: [UInt8] = []
        var place = position
        var start = position
        var end: Int?
        while true {
            guard place < message.count else { throw DNSMalformed("a name ends too early") }
            let length = Int(message[place])
            switch length {
            case 0:
                position = end ?? place + 1
                return DNSName(wire: wire + [0])
            case 1...DNSName.labelLengthMax:
                guard place + 1 + length <= message.count else { throw DNSMalformed("a name ends too early") }
                wire.append(UInt8(length))
                for byte in message[(place + 1)..<(place + 1 + length)] { wire.append(DNSName.lowercase(byte)) }
                guard wire.count < DNSName.lengthMax else { throw DNSMalformed("a name that is too long") }
                place += 1 + length
            case 0xc0...:
                guard place + 1 < message.count else { throw DNSMalformed("a name ends too early") }
                let target = (length & 0x3f) << 8 | Int(message[place + 1])
                guard target < start else { throw DNSMalformed("a name that does not continue earlier") }
                if end == nil { end = place + 2 }
                place = target
                start = target
            default: throw DNSMalformed("a label of an unknown kind")
            }
        }
    }
}

/// The first 12 bytes (RFC 1035, 4.1.1).
struct DNSHeader {
    let id: UInt16
    /// A reply to a standard query.
    let isReply: Bool
    let isTruncated: Bool
    let code: UInt8
    let questions: Int
    let answers: Int

    init(_ reader: inout DNSReader) throws(DNSMalformed) {
        id = try reader.uint16()
        let flags = try reader.uint16()
        isReply = flags & 0xf800 == 0x8000
        isTruncated = flags & 0x0200 != 0
        code = UInt8(flags & 15)
        questions = Int(try reader.uint16())
        answers = Int(try reader.uint16())
        _ = try reader.take(4)
    }
}

/// A resource record (RFC 1035, 4.1.3).
struct DNSRecord {
    static let internet: UInt16 = 1
    static let alias: UInt16 = 5

    let name: DNSName
    let type: UInt16
    let recordClass: UInt16
    let data: [UInt8]
    /// What an alias stands for.
    let target: DNSName?

    init(_ reader: inout DNSReader) throws(DNSMalformed) {
        name = try reader.name()
        type = try reader.uint16()
        recordClass = try reader.uint16()
        // How long it may be kept: names are asked for again at the channel's own interval.
        _ = try reader.take(4)
        let length = Int(try reader.uint16())
        var inside = reader
        data = Array(try reader.take(length))
        guard type == DNSRecord.alias else {
            target = nil
            return
        }
        target = try inside.name()
        guard inside.position == reader.position else { throw DNSMalformed("an alias of the wrong length") }
    }
}
