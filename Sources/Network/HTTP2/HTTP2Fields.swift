import CNGHTTP2
import Glibc

/// The fields of one header block as they came, valid during the call that brings them.
public final class HTTP2FieldBlock {
    fileprivate struct Place {
        let start: Int
        let nameLength: Int
        let valueLength: Int
    }

    private var bytes: [UInt8] = []
    private var places: [Place] = []
    /// Size by RFC 9113 section 6.5.2: names, values and 32 for each field.
    private(set) var listBytes = 0

    init() {}

    /// Number of fields.
    public var count: Int { places.count }

    /// The fields, in order, as long as their bytes stay where they are.
    public struct Fields {
        fileprivate let bytes: UnsafeRawBufferPointer
        fileprivate let places: [Place]

        /// Calls `body` with each field's name and value.
        public func forEach(_ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void) {
            for place in places {
                let middle = place.start + place.nameLength
                body(
                    UnsafeRawBufferPointer(rebasing: bytes[place.start..<middle]),
                    UnsafeRawBufferPointer(rebasing: bytes[middle..<(middle + place.valueLength)]))
            }
        }
    }

    /// Calls `body` with the fields; they and all their bytes are valid during the call.
    public func withFields(_ body: (Fields) -> Void) {
        // Both are held apart from the block, which a re-entered connection would clear.
        let places = places
        bytes.withUnsafeBytes { body(Fields(bytes: $0, places: places)) }
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
        bytes.removeAll(keepingCapacity: bytes.count <= 4096)
        places.removeAll(keepingCapacity: true)
        listBytes = 0
    }

    /// Keeps the field, unless the list would be larger than the limit; its size counts all the same.
    func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, listBytesMax: Int) {
        listBytes += name.count + value.count + 32
        guard listBytes <= listBytesMax else { return }
        places.append(Place(start: bytes.count, nameLength: name.count, valueLength: value.count))
        bytes.append(contentsOf: name)
        bytes.append(contentsOf: value)
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
