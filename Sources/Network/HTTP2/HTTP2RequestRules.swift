import Glibc

/// The rules of RFC 9113 section 8 for the fields of one request, up to a field: what nghttp2 would check for each
/// request anew. Checked here, since most of what a client sends it has sent before (``HTTP2FieldBlock``).
struct HTTP2RequestRules: Equatable {
    private var contentLength: Int?
    private var seen: Seen = []

    private struct Seen: OptionSet, Equatable {
        let rawValue: UInt16
        static let method = Seen(rawValue: 1)
        static let scheme = Seen(rawValue: 2)
        static let path = Seen(rawValue: 4)
        static let authority = Seen(rawValue: 8)
        static let host = Seen(rawValue: 16)
        /// A field that is none of HTTP/2's own: none of those may come any more.
        static let regular = Seen(rawValue: 32)
        static let pseudo = Seen(rawValue: 64)
        static let isConnect = Seen(rawValue: 128)
        static let isOptions = Seen(rawValue: 256)
        /// `http` or `https`, whose paths begin with a slash.
        static let isHTTP = Seen(rawValue: 512)
        static let pathIsRegular = Seen(rawValue: 1024)
        static let pathIsAsterisk = Seen(rawValue: 2048)
    }

    /// Whether the fields are those of a request.
    var isRequest: Bool {
        if seen.contains(.isConnect) { return seen.isDisjoint(with: [.scheme, .path]) && seen.contains(.authority) }
        guard seen.isSuperset(of: [.method, .scheme, .path]), !seen.isDisjoint(with: [.authority, .host]) else {
            return false
        }
        return !seen.contains(.isHTTP) || seen.contains(.pathIsRegular)
            || seen.isSuperset(of: [.isOptions, .pathIsAsterisk])
    }

    /// Whether the fields are those behind a body.
    var isTrailers: Bool { !seen.contains(.pseudo) }

    /// Bytes of the body by `content-length`; nil where there is none.
    var bodyLength: Int? { seen.contains(.isConnect) ? nil : contentLength }

    /// The next field: false where it makes the request malformed.
    mutating func accept(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        if name.first == UInt8(ascii: ":") { return acceptPseudo(name, value) }
        guard FieldBytes.isName(name), FieldBytes.isValue(value) else { return false }
        seen.insert(.regular)
        if FieldBytes.equal(name, "host") { return FieldBytes.isAuthority(value) && isFirst(.host, value) }
        if FieldBytes.equal(name, "te") { return FieldBytes.equalIgnoringCase(value, "trailers") }
        if FieldBytes.equal(name, "content-length") {
            guard contentLength == nil, let length = FieldBytes.length(value) else { return false }
            contentLength = length
        }
        return !FieldBytes.isOfConnection(name)
    }

    private mutating func acceptPseudo(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        guard !seen.contains(.regular) else { return false }
        seen.insert(.pseudo)
        if FieldBytes.equal(name, ":path") {
            if value.first == UInt8(ascii: "/") { seen.insert(.pathIsRegular) }
            if FieldBytes.equal(value, "*") { seen.insert(.pathIsAsterisk) }
            return FieldBytes.isPath(value) && isFirst(.path, value)
        }
        if FieldBytes.equal(name, ":method") {
            if FieldBytes.equal(value, "CONNECT") { seen.insert(.isConnect) }
            if FieldBytes.equal(value, "OPTIONS") { seen.insert(.isOptions) }
            return FieldBytes.isMethod(value) && isFirst(.method, value)
        }
        if FieldBytes.equal(name, ":scheme") {
            let isHTTP =
                FieldBytes.equalIgnoringCase(value, "http") || FieldBytes.equalIgnoringCase(value, "https")
            if isHTTP { seen.insert(.isHTTP) }
            return FieldBytes.isScheme(value) && isFirst(.scheme, value)
        }
        return FieldBytes.equal(name, ":authority") && FieldBytes.isAuthority(value) && isFirst(.authority, value)
    }

    /// Whether the field is there once, and not empty.
    private mutating func isFirst(_ field: Seen, _ value: UnsafeRawBufferPointer) -> Bool {
        !value.isEmpty && seen.insert(field).inserted
    }
}

/// What names and values are made of.
private enum FieldBytes {
    typealias Bytes = UnsafeRawBufferPointer

    static func equal(_ bytes: Bytes, _ text: StaticString) -> Bool {
        bytes.count == text.utf8CodeUnitCount
            && (bytes.isEmpty || memcmp(bytes.baseAddress!, text.utf8Start, bytes.count) == 0)
    }

    static func equalIgnoringCase(_ bytes: Bytes, _ text: StaticString) -> Bool {
        bytes.count == text.utf8CodeUnitCount
            && (bytes.isEmpty || strncasecmp(bytes.baseAddress!, text.utf8Start, bytes.count) == 0)
    }

    private static func isUpperCase(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") }

    private static func isLowerCase(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "a") && byte <= UInt8(ascii: "z") }

    private static func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

    /// A token without upper case.
    static func isName(_ name: Bytes) -> Bool {
        !name.isEmpty && name.allSatisfy { isLowerCase($0) || isDigit($0) || isTokenMark($0) }
    }

    static func isMethod(_ value: Bytes) -> Bool {
        !value.isEmpty
            && value.allSatisfy { isLowerCase($0) || isUpperCase($0) || isDigit($0) || isTokenMark($0) }
    }

    private static func isTokenMark(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "!"), UInt8(ascii: "#"),
            UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"), UInt8(ascii: "'"), UInt8(ascii: "*"),
            UInt8(ascii: "+"), UInt8(ascii: "^"), UInt8(ascii: "`"), UInt8(ascii: "|"), UInt8(ascii: "~"):
            true
        default: false
        }
    }

    /// Anything printable, spaces and tabs within.
    static func isValue(_ value: Bytes) -> Bool {
        guard let first = value.first else { return true }
        return !isBlank(first) && !isBlank(value[value.count - 1])
            && value.allSatisfy { $0 >= 0x20 && $0 != 0x7f || $0 == UInt8(ascii: "\t") }
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }

    static func isPath(_ value: Bytes) -> Bool { value.allSatisfy { $0 > 0x20 && $0 != 0x7f } }

    static func isScheme(_ value: Bytes) -> Bool {
        guard let first = value.first, isLowerCase(first) || isUpperCase(first) else { return false }
        return value.allSatisfy {
            isLowerCase($0) || isUpperCase($0) || isDigit($0) || $0 == UInt8(ascii: "+") || $0 == UInt8(ascii: "-")
                || $0 == UInt8(ascii: ".")
        }
    }

    static func isAuthority(_ value: Bytes) -> Bool {
        value.allSatisfy { byte in
            if isLowerCase(byte) || isUpperCase(byte) || isDigit(byte) { return true }
            switch byte {
            case UInt8(ascii: "!"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"), UInt8(ascii: "'"),
                UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: ","),
                UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: ":"), UInt8(ascii: ";"), UInt8(ascii: "="),
                UInt8(ascii: "@"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "_"), UInt8(ascii: "~"):
                return true
            default: return false
            }
        }
    }

    /// A number of bytes.
    static func length(_ value: Bytes) -> Int? {
        guard !value.isEmpty else { return nil }
        var number = 0
        for byte in value {
            guard isDigit(byte) else { return nil }
            let (tens, tensOverflow) = number.multipliedReportingOverflow(by: 10)
            let (sum, overflow) = tens.addingReportingOverflow(Int(byte - UInt8(ascii: "0")))
            guard !tensOverflow, !overflow else { return nil }
            number = sum
        }
        return number
    }

    /// What speaks of one connection of HTTP/1.
    static func isOfConnection(_ name: Bytes) -> Bool {
        equal(name, "connection") || equal(name, "keep-alive") || equal(name, "proxy-connection")
            || equal(name, "transfer-encoding") || equal(name, "upgrade")
    }
}
