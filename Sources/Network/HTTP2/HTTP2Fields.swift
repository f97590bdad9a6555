import CNGHTTP2
import Glibc

/// The fields of one header block as they came, valid during the call that brings them.
public final class HTTP2FieldBlock {
    /// One after the other: two lengths of 32 bits, name and value.
    @exclusivity(unchecked) private var bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
    @exclusivity(unchecked) private var used = 0
    /// Number of fields.
    @exclusivity(unchecked) public private(set) var count = 0
    /// Size by RFC 9113 section 6.5.2: names, values and 32 for each field.
    @exclusivity(unchecked) private(set) var listBytes = 0
    /// Calls that are given the fields now; what they see stays until the last of them returns.
    @exclusivity(unchecked) private var readers = 0
    @exclusivity(unchecked) private var left: [UnsafeMutableRawBufferPointer] = []
    private static let keptBytesMax = 4096

    init() {}

    deinit {
        bytes.deallocate()
        for old in left { old.deallocate() }
    }

    /// The fields, in order, as long as their bytes stay where they are.
    public struct Fields {
        fileprivate let bytes: UnsafeRawBufferPointer

        /// Calls `body` with each field's name and value.
        public func forEach(_ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void) {
            var position = 0
            while position < bytes.count {
                let name = Int(bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self))
                let value = Int(bytes.loadUnaligned(fromByteOffset: position + 4, as: UInt32.self))
                let start = position + 8
                let middle = start + name
                position = middle + value
                body(
                    UnsafeRawBufferPointer(rebasing: bytes[start..<middle]),
                    UnsafeRawBufferPointer(rebasing: bytes[middle..<position]))
            }
        }
    }

    /// Calls `body` with the fields; they and all their bytes are valid during the call.
    public func withFields(_ body: (Fields) -> Void) {
        readers += 1
        body(Fields(bytes: UnsafeRawBufferPointer(rebasing: bytes[..<used])))
        readers -= 1
        if readers == 0, !left.isEmpty {
            for old in left { old.deallocate() }
            left = []
        }
    }

    /// The fields as strings.
    public var headers: [HTTP2Header] {
        var headers: [HTTP2Header] = []
        headers.reserveCapacity(count)
        withFields { fields in
            fields.forEach { name, value in
                headers.append(
                    HTTP2Header(String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self)))
            }
        }
        return headers
    }

    func clear() {
        if readers > 0 || bytes.count > HTTP2FieldBlock.keptBytesMax { replace(byteCount: 1024) }
        used = 0
        count = 0
        listBytes = 0
    }

    /// Takes other memory; the old is kept for those that read it.
    private func replace(byteCount: Int) {
        let new = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 8)
        if used > 0, used <= byteCount { new.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<used])) }
        if readers > 0 { left.append(bytes) } else { bytes.deallocate() }
        bytes = new
    }

    /// Keeps the field, unless the list would be larger than the limit; its size counts all the same.
    func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, listBytesMax: Int) {
        listBytes += name.count + value.count + 32
        guard listBytes <= listBytesMax else { return }
        let end = used + 8 + name.count + value.count
        if end > bytes.count { replace(byteCount: max(end, bytes.count * 2)) }
        let start = bytes.baseAddress! + used
        start.storeBytes(of: UInt32(name.count), as: UInt32.self)
        start.storeBytes(of: UInt32(value.count), toByteOffset: 4, as: UInt32.self)
        if let from = name.baseAddress { (start + 8).copyMemory(from: from, byteCount: name.count) }
        if let from = value.baseAddress { (start + 8 + name.count).copyMemory(from: from, byteCount: value.count) }
        used = end
        count += 1
    }
}

/// Header fields that are the same every time: made once, never copied again, kept for ever.
public final class HTTP2FixedHeaders: @unchecked Sendable {
    let fields: UnsafePointer<nghttp2_nv>
    let count: Int

    public init(_ headers: [HTTP2Header]) {
        let fields = UnsafeMutablePointer<nghttp2_nv>.allocate(capacity: max(1, headers.count))
        let flags = UInt8(NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue | NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue)
        for (index, header) in headers.enumerated() {
            let (name, nameLength) = HTTP2FixedHeaders.keep(header.name)
            let (value, valueLength) = HTTP2FixedHeaders.keep(header.value)
            (fields + index).initialize(
                to: nghttp2_nv(name: name, value: value, namelen: nameLength, valuelen: valueLength, flags: flags))
        }
        self.fields = UnsafePointer(fields)
        count = headers.count
    }

    deinit {
        for index in 0..<count {
            fields[index].name.deallocate()
            fields[index].value.deallocate()
        }
        fields.deallocate()
    }

    private static func keep(_ text: String) -> (UnsafeMutablePointer<UInt8>, Int) {
        let bytes = Array(text.utf8)
        let kept = UnsafeMutablePointer<UInt8>.allocate(capacity: max(1, bytes.count))
        kept.initialize(from: bytes, count: bytes.count)
        return (kept, bytes.count)
    }
}

/// Calls `body` with the headers as nghttp2 takes them; it copies them.
func withFields<R>(_ headers: [HTTP2Header], _ body: (UnsafePointer<nghttp2_nv>, Int) -> R) -> R {
    var bytes: [UInt8] = []
    for header in headers {
        bytes.append(contentsOf: header.name.utf8)
        bytes.append(contentsOf: header.value.utf8)
    }
    // Never empty, so that there is an address.
    bytes.append(0)
    return bytes.withUnsafeMutableBufferPointer { buffer in
        withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: max(1, headers.count)) { fields in
            var place = buffer.baseAddress!
            for (index, header) in headers.enumerated() {
                let nameLength = header.name.utf8.count
                let valueLength = header.value.utf8.count
                fields.baseAddress!.advanced(by: index).initialize(
                    to: nghttp2_nv(
                        name: place, value: place + nameLength, namelen: nameLength, valuelen: valueLength, flags: 0))
                place += nameLength + valueLength
            }
            return body(UnsafePointer(fields.baseAddress!), headers.count)
        }
    }
}
