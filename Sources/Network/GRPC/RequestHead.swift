import Glibc
import HTTP2

/// What a request's headers say, as bytes; valid as long as the block.
struct RequestHead {
    typealias Bytes = UnsafeRawBufferPointer

    private(set) var method = Bytes(start: nil, count: 0)
    private(set) var path = Bytes(start: nil, count: 0)
    private(set) var contentType = Bytes(start: nil, count: 0)
    private(set) var origin = Bytes(start: nil, count: 0)
    /// `access-control-request-headers`
    private(set) var requestedHeaders = Bytes(start: nil, count: 0)
    private(set) var hasTrailersTE = false
    private(set) var timeout: Bytes?
    private(set) var encoding: Bytes?
    private(set) var acceptedEncodings: Bytes?
    /// Whether there is a header that proves an identity.
    private(set) var hasAuthorization = false

    /// Notes a field. True where it is the caller's and not the protocol's: it is metadata then.
    mutating func read(_ name: Bytes, _ value: Bytes) -> Bool {
        switch name.count {
        case 2 where RequestHead.equal(name, "te"): hasTrailersTE = RequestHead.equal(value, "trailers")
        case 5 where RequestHead.equal(name, ":path"): path = value
        case 6 where RequestHead.equal(name, "origin"):
            origin = value
            return true
        case 7 where RequestHead.equal(name, ":method"): method = value
        case 12 where RequestHead.equal(name, "content-type"): contentType = value
        case 12 where RequestHead.equal(name, "grpc-timeout"): timeout = value
        case 13 where RequestHead.equal(name, "grpc-encoding"): encoding = value
        case 13 where RequestHead.equal(name, "authorization"):
            hasAuthorization = true
            return true
        case 20 where RequestHead.equal(name, "grpc-accept-encoding"): acceptedEncodings = value
        case 30 where RequestHead.equal(name, "access-control-request-headers"): requestedHeaders = value
        default:
            return name.first != UInt8(ascii: ":") && !RequestHead.isReserved(name)
        }
        return false
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

/// What a head comes to that has nothing of its own, such as a deadline: clients send the same with each call, and the
/// connection's fields keep it for when they come again.
final class PlainHead {
    let entry: GRPCServiceTable.Entry
    let metadata: RawMetadata
    let hasAuthorization: Bool
    let acceptedCompressions: [GRPCCompression]

    init(
        entry: GRPCServiceTable.Entry, metadata: RawMetadata, hasAuthorization: Bool,
        acceptedCompressions: [GRPCCompression]
    ) {
        self.entry = entry
        self.metadata = metadata
        self.hasAuthorization = hasAuthorization
        self.acceptedCompressions = acceptedCompressions
    }
}

extension UnsafeRawBufferPointer {
    /// Without spaces at either end.
    var trimmed: UnsafeRawBufferPointer {
        var slice = self[...]
        while slice.first == UInt8(ascii: " ") { slice = slice.dropFirst() }
        while slice.last == UInt8(ascii: " ") { slice = slice.dropLast() }
        return UnsafeRawBufferPointer(rebasing: slice)
    }
}

/// Metadata as bytes: most calls are answered without a look at it.
struct RawMetadata {
    /// Entries, each two lengths of 32 bits, name and value.
    private let bytes: [UInt8]
    /// Whether every value of a `-bin` name is base64.
    private(set) var isBinaryValid = true

    init() { bytes = [] }

    fileprivate init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = Array(bytes)
        var isValid = true
        forEach { name, value in
            guard name.count >= 4, RequestHead.equal(UnsafeRawBufferPointer(rebasing: name.suffix(4)), "-bin") else {
                return
            }
            for part in value.split(separator: UInt8(ascii: ",")) where Base64.decode(part) == nil { isValid = false }
        }
        isBinaryValid = isValid
    }

    fileprivate func equals(_ other: UnsafeRawBufferPointer) -> Bool {
        bytes.count == other.count
            && bytes.withUnsafeBytes { memcmp($0.baseAddress!, other.baseAddress!, other.count) == 0 }
    }

    /// What `body` makes of the first entry of which it makes anything; nil where there is none.
    @inline(__always)
    private func first<R>(_ body: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> R?) -> R? {
        bytes.withUnsafeBytes { bytes in
            var position = 0
            while position < bytes.count {
                let name = Int(bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self))
                let value = Int(bytes.loadUnaligned(fromByteOffset: position + 4, as: UInt32.self))
                let middle = position + 8 + name
                let found = body(
                    UnsafeRawBufferPointer(rebasing: bytes[(position + 8)..<middle]),
                    UnsafeRawBufferPointer(rebasing: bytes[middle..<(middle + value)]))
                if let found { return found }
                position = middle + value
            }
            return nil
        }
    }

    private func forEach(_ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void) {
        let _: Never? = first {
            body($0, $1)
            return nil
        }
    }

    /// Calls `body` with the first value of a name; nil where there is none.
    func withValue<R>(_ name: StaticString, _ body: (UnsafeRawBufferPointer) -> R) -> R? {
        first { RequestHead.equal($0, name) ? body($1) : nil }
    }

    /// As strings.
    var metadata: GRPCMetadata {
        var metadata = GRPCMetadata()
        forEach { metadata.addWire(RequestHead.string($0), RequestHead.string($1)) }
        return metadata
    }
}

/// Makes the metadata of a loop's calls. Clients send the same with each call: those calls share it. Confined to the
/// loop.
final class MetadataMaker {
    private static let keptBytesMax = 512
    @exclusivity(unchecked) private var bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
    @exclusivity(unchecked) private var count = 0
    /// What was made lately, by length and last byte.
    @exclusivity(unchecked) private var made = [RawMetadata](repeating: RawMetadata(), count: 16)

    deinit { bytes.deallocate() }

    func begin() { count = 0 }

    func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        let end = count + 8 + name.count + value.count
        if end > bytes.count { grow(end) }
        let start = bytes.baseAddress! + count
        start.storeBytes(of: UInt32(name.count), as: UInt32.self)
        start.storeBytes(of: UInt32(value.count), toByteOffset: 4, as: UInt32.self)
        if let from = name.baseAddress { (start + 8).copyMemory(from: from, byteCount: name.count) }
        if let from = value.baseAddress { (start + 8 + name.count).copyMemory(from: from, byteCount: value.count) }
        count = end
    }

    private func grow(_ countMin: Int) {
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: max(countMin, bytes.count * 2), alignment: 8)
        larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        bytes.deallocate()
        bytes = larger
    }

    func finish() -> RawMetadata {
        guard count > 0 else { return RawMetadata() }
        let new = UnsafeRawBufferPointer(rebasing: bytes[..<count])
        guard count <= MetadataMaker.keptBytesMax else { return RawMetadata(new) }
        let slot = (count &+ Int(new[count - 1])) & (made.count - 1)
        if !made[slot].equals(new) { made[slot] = RawMetadata(new) }
        return made[slot]
    }
}
