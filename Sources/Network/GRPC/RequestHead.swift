import Glibc
import HTTP2

/// What a request's headers say, as bytes; valid as long as the block.
struct RequestHead {
    typealias Bytes = UnsafeRawBufferPointer

    private(set) var method = Bytes(start: nil, count: 0)
    private(set) var path = Bytes(start: nil, count: 0)
    private(set) var contentType = Bytes(start: nil, count: 0)
    private(set) var origin = Bytes(start: nil, count: 0)
    private(set) var hasTrailersTE = false
    private(set) var timeout: Bytes?
    private(set) var encoding: Bytes?
    private(set) var acceptedEncodings: Bytes?
    /// Everything that belongs to the caller and not to the protocol.
    private(set) var metadata = RawMetadata()

    mutating func read(_ name: Bytes, _ value: Bytes) {
        switch name.count {
        case 2 where RequestHead.equal(name, "te"): hasTrailersTE = RequestHead.equal(value, "trailers")
        case 5 where RequestHead.equal(name, ":path"): path = value
        case 6 where RequestHead.equal(name, "origin"):
            origin = value
            metadata.append(name, value)
        case 7 where RequestHead.equal(name, ":method"): method = value
        case 12 where RequestHead.equal(name, "content-type"): contentType = value
        case 12 where RequestHead.equal(name, "grpc-timeout"): timeout = value
        case 13 where RequestHead.equal(name, "grpc-encoding"): encoding = value
        case 20 where RequestHead.equal(name, "grpc-accept-encoding"): acceptedEncodings = value
        default:
            if name.first == UInt8(ascii: ":") || RequestHead.isReserved(name) { return }
            metadata.append(name, value)
        }
    }

    private static func isReserved(_ name: Bytes) -> Bool {
        equal(name, "grpc-status") || equal(name, "grpc-message") || equal(name, "grpc-message-type")
    }

    static func equal(_ bytes: Bytes, _ text: StaticString) -> Bool {
        bytes.count == text.utf8CodeUnitCount
            && (bytes.isEmpty || memcmp(bytes.baseAddress!, text.utf8Start, bytes.count) == 0)
    }

    static func string(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }
}

/// Metadata as bytes: most calls are answered without a look at it.
struct RawMetadata {
    private(set) var bytes: [UInt8] = []
    private(set) var places: [(name: Int, value: Int)] = []

    mutating func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        places.append((name.count, value.count))
        bytes.append(contentsOf: name)
        bytes.append(contentsOf: value)
    }

    /// As strings.
    var metadata: GRPCMetadata {
        var metadata = GRPCMetadata()
        var position = 0
        for place in places {
            let middle = position + place.name
            metadata.addWire(
                String(decoding: bytes[position..<middle], as: UTF8.self),
                String(decoding: bytes[middle..<(middle + place.value)], as: UTF8.self))
            position = middle + place.value
        }
        return metadata
    }

    /// Whether every value of a `-bin` name is base64.
    var isBinaryValid: Bool {
        var position = 0
        for place in places {
            let middle = position + place.name
            defer { position = middle + place.value }
            guard place.name >= 4, bytes[(middle - 4)..<middle].elementsEqual("-bin".utf8) else { continue }
            for part in bytes[middle..<(middle + place.value)].split(separator: UInt8(ascii: ",")) {
                guard Base64.decode(part) != nil else { return false }
            }
        }
        return true
    }
}
