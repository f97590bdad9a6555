/// Which addresses are asked for.
public enum DNSAddressType: UInt16, CaseIterable, Sendable {
    /// A: IPv4, 4 bytes.
    case ipv4 = 1
    /// AAAA: IPv6, 16 bytes.
    case ipv6 = 28

    var length: Int { self == .ipv4 ? 4 : 16 }
}

/// What a name server answers to a question.
public enum DNSReply: Equatable, Sendable {
    /// The addresses, as they are on the wire; none where the name has none of the type.
    case addresses([[UInt8]])
    case noSuchName
    /// The answer did not fit: ask again over TCP.
    case truncated
    /// The server cannot or will not say; with its code (RFC 1035, 4.1.1).
    case refused(code: UInt8)
    /// No answer to this question: somebody else's, a late one, or a forged one.
    case notOurs
}

/// Why an answer is none.
public struct DNSMalformed: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// The question for a name's addresses of one type.
public struct DNSQuestion: Hashable, Sendable {
    /// More addresses than this are refused.
    public static let addressesMax = 1024
    /// Aliases that are followed.
    public static let aliasesMax = 16

    public let name: DNSName
    public let type: DNSAddressType

    public init(_ name: DNSName, _ type: DNSAddressType) {
        self.name = name
        self.type = type
    }

    /// The message that asks a server that resolves for others. The id should be hard to guess.
    public func message(id: UInt16) -> [UInt8] {
        // Recursion desired; one question.
        DNSQuestion.bytes(id) + [0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0] + name.wire + DNSQuestion.bytes(type.rawValue)
            + DNSQuestion.bytes(DNSRecord.internet)
    }

    private static func bytes(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

    /// Reads an answer to the message with this id. Aliases are followed within it. Takes any bytes.
    public func reply(_ message: UnsafeRawBufferPointer, id: UInt16) throws(DNSMalformed) -> DNSReply {
        var reader = DNSReader(message)
        guard let header = try? DNSHeader(&reader), header.id == id, header.isReply, header.questions == 1,
            let asked = try? reader.name(), asked == name, (try? reader.uint16()) == type.rawValue,
            (try? reader.uint16()) == DNSRecord.internet
        else { return .notOurs }
        if header.isTruncated { return .truncated }
        switch header.code {
        case 0: return .addresses(try addresses(&reader, records: header.answers))
        case 3: return .noSuchName
        default: return .refused(code: header.code)
        }
    }

    private func addresses(_ reader: inout DNSReader, records: Int) throws(DNSMalformed) -> [[UInt8]] {
        var aliases: [DNSName: DNSName] = [:]
        var found: [DNSName: [[UInt8]]] = [:]
        for _ in 0..<records {
            let record = try DNSRecord(&reader)
            guard record.recordClass == DNSRecord.internet else { continue }
            if record.type == DNSRecord.alias {
                aliases[record.name] = aliases[record.name] ?? record.target
            } else if record.type == type.rawValue {
                guard record.data.count == type.length else {
                    throw DNSMalformed("an address of \(record.data.count) bytes")
                }
                found[record.name, default: []].append(record.data)
            }
        }
        var name = name
        for _ in 0...DNSQuestion.aliasesMax {
            if let next = aliases[name] {
                name = next
                continue
            }
            let addresses = found[name] ?? []
            guard addresses.count <= DNSQuestion.addressesMax else {
                throw DNSMalformed("\(addresses.count) addresses, more than \(DNSQuestion.addressesMax)")
            }
            return addresses
        }
        throw DNSMalformed("more than \(DNSQuestion.aliasesMax) aliases, or a circle of them")
    }
}
