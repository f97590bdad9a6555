import CNGHTTP2
import Glibc

/// The fields of one header block as they came, valid during the call that brings them.
///
/// A client mostly sends again what it sent before. A field that nghttp2 has in its table, or that has the same bytes,
/// at the place where it was in the block before is not looked at again; neither are its bytes copied.
public final class HTTP2FieldBlock {
    /// One after the other: two lengths of 32 bits, name and value.
    @exclusivity(unchecked) private var bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
    @exclusivity(unchecked) private var used = 0
    /// Number of fields.
    @exclusivity(unchecked) private var count = 0
    /// Size by RFC 9113 section 6.5.2: names, values and 32 for each field.
    @exclusivity(unchecked) private(set) var listBytes = 0
    /// Server: what the fields are as those of a request, as far as they are kept.
    @exclusivity(unchecked) private(set) var rules = HTTP2RequestRules()
    /// Server: a field is none that a request may have. It and those behind it are not kept.
    @exclusivity(unchecked) private(set) var isMalformed = false
    /// What a reader made of the fields, for when they come again; nil once others came.
    public var reading: AnyObject? {
        get { storedReading }
        set { storedReading = newValue }
    }
    // The attribute is not known in other modules.
    @exclusivity(unchecked) private var storedReading: AnyObject?

    /// The first fields of the block before, or of this one.
    @exclusivity(unchecked) private var known: UnsafeMutablePointer<KnownField>
    @exclusivity(unchecked) private var knownCount = 0
    /// Fields of this block so far that are those of the block before, while `isChanged` is false.
    @exclusivity(unchecked) private var position = 0
    @exclusivity(unchecked) private var isChanged = false
    /// `known` has all fields of this block so far.
    @exclusivity(unchecked) private var isAllKnown = true
    private let isOfRequests: Bool
    /// Calls that are given the fields now; what they see stays until the last of them returns.
    @exclusivity(unchecked) private var readers = 0
    @exclusivity(unchecked) private var left: [UnsafeMutableRawBufferPointer] = []
    private static let keptBytesMax = 4096
    private static let knownMax = 16

    private struct KnownField {
        /// nghttp2's, with a reference counted for each.
        var name: OpaquePointer
        var value: OpaquePointer
        /// Where its bytes end, and what the fields up to it are.
        var end: Int
        var listBytes: Int
        var rules: HTTP2RequestRules
    }

    /// - Parameter ofRequests: The blocks are a client's, and held against the rules for those.
    init(ofRequests: Bool) {
        isOfRequests = ofRequests
        known = .allocate(capacity: HTTP2FieldBlock.knownMax)
    }

    deinit {
        bytes.deallocate()
        for old in left { old.deallocate() }
        known.deallocate()
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

    /// Another block begins.
    func begin() {
        position = 0
        isChanged = false
        isMalformed = false
        if bytes.count > HTTP2FieldBlock.keptBytesMax { cut() }
    }

    /// The block ends.
    func finish() {
        guard !isChanged else { return }
        let end = position > 0 ? known[position - 1].end : 0
        if position < knownCount || used > end { cut() } else { take(position) }
    }

    /// Forgets what it knows of nghttp2's. On the loop, before the session ends.
    func forget() {
        position = 0
        cut()
    }

    /// The fields are the first so many of those that are known.
    private func take(_ count: Int) {
        self.count = count
        listBytes = count > 0 ? known[count - 1].listBytes : 0
        rules = count > 0 ? known[count - 1].rules : HTTP2RequestRules()
    }

    /// Other fields than before follow those up to `position`.
    private func cut() {
        isChanged = true
        isAllKnown = true
        if storedReading != nil { storedReading = nil }
        for index in position..<knownCount {
            nghttp2_rcbuf_decref(known[index].name)
            nghttp2_rcbuf_decref(known[index].value)
        }
        knownCount = position
        used = position > 0 ? known[position - 1].end : 0
        take(position)
        if readers > 0 || bytes.count > HTTP2FieldBlock.keptBytesMax { replace(byteCount: max(1024, used)) }
    }

    /// Takes other memory; the old is kept for those that read it.
    private func replace(byteCount: Int) {
        let new = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 8)
        if used > 0 { new.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<used])) }
        if readers > 0 { left.append(bytes) } else { bytes.deallocate() }
        bytes = new
    }

    /// The next field, as nghttp2 has it. It is kept, unless the list would be larger than the limit; its size counts
    /// all the same.
    @inline(__always)
    func append(_ name: OpaquePointer, _ value: OpaquePointer, listBytesMax: Int) {
        if !isChanged, position < knownCount, known[position].name == name, known[position].value == value {
            position += 1
        } else {
            appendOther(name, value, listBytesMax: listBytesMax)
        }
    }

    private func appendOther(_ name: OpaquePointer, _ value: OpaquePointer, listBytesMax: Int) {
        guard !isMalformed else { return }
        let (nameBytes, valueBytes) = (HTTP2FieldBlock.bytes(name), HTTP2FieldBlock.bytes(value))
        if !isChanged {
            if position < knownCount, isKnown(nameBytes, valueBytes) {
                nghttp2_rcbuf_incref(name)
                nghttp2_rcbuf_incref(value)
                nghttp2_rcbuf_decref(known[position].name)
                nghttp2_rcbuf_decref(known[position].value)
                known[position].name = name
                known[position].value = value
                position += 1
                return
            }
            cut()
        }
        listBytes += nameBytes.count + valueBytes.count + 32
        guard !isOfRequests || rules.accept(nameBytes, valueBytes) else { return isMalformed = true }
        guard listBytes <= listBytesMax else { return isAllKnown = false }
        store(nameBytes, valueBytes)
        know(name, value)
    }

    private static func bytes(_ buffer: OpaquePointer) -> UnsafeRawBufferPointer {
        let bytes = nghttp2_rcbuf_get_buf(buffer)
        return UnsafeRawBufferPointer(start: bytes.base, count: bytes.len)
    }

    /// Whether it is the field at `position` of those that are known.
    private func isKnown(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        let start = position > 0 ? known[position - 1].end : 0
        let at = UnsafeRawPointer(bytes.baseAddress! + start)
        guard Int(at.loadUnaligned(as: UInt32.self)) == name.count,
            Int(at.loadUnaligned(fromByteOffset: 4, as: UInt32.self)) == value.count
        else { return false }
        return (name.isEmpty || memcmp(at + 8, name.baseAddress!, name.count) == 0)
            && (value.isEmpty || memcmp(at + 8 + name.count, value.baseAddress!, value.count) == 0)
    }

    private func know(_ name: OpaquePointer, _ value: OpaquePointer) {
        guard isAllKnown, knownCount < HTTP2FieldBlock.knownMax, used <= HTTP2FieldBlock.keptBytesMax else {
            return isAllKnown = false
        }
        nghttp2_rcbuf_incref(name)
        nghttp2_rcbuf_incref(value)
        (known + knownCount).initialize(
            to: KnownField(name: name, value: value, end: used, listBytes: listBytes, rules: rules))
        knownCount += 1
    }

    private func store(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
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
