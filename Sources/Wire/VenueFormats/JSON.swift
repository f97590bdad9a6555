import CSimdJSON
import Glibc

/// A parsed JSON document, reused from message to message. Used by one thread.
///
/// Numbers with a fraction or an exponent are never turned into values: venues send decimals as text.
public final class JSONParser {
    private let parser: OpaquePointer

    public init() {
        guard let parser = csj_new() else { preconditionFailure("out of memory") }
        self.parser = parser
    }

    deinit { csj_free(parser) }

    /// Parses one whole document. Values are valid until the next call.
    public func parse(_ bytes: UnsafeRawBufferPointer) throws(FormatError) -> JSONValue {
        var tokens: UnsafePointer<csj_token>?
        var count = 0
        // A null pointer is no document; neither is an empty one.
        let error = csj_parse(
            parser, bytes.baseAddress?.assumingMemoryBound(to: CChar.self) ?? JSONParser.empty, bytes.count, &tokens,
            &count)
        guard error == 0, let tokens, count > 0 else { throw .json(String(cString: csj_message(error))) }
        return JSONValue(tokens: tokens, index: 0)
    }

    private nonisolated(unsafe) static let empty = UnsafePointer(UnsafeMutablePointer<CChar>.allocate(capacity: 1))
}

/// One value of a document; valid as long as it.
public struct JSONValue {
    let tokens: UnsafePointer<csj_token>
    let index: Int

    private var token: csj_token { tokens[index] }

    var isArray: Bool { token.kind == CSJ_ARRAY.rawValue }
    var isObject: Bool { token.kind == CSJ_OBJECT.rawValue }

    /// UTF-8 bytes of a string.
    var text: UnsafeRawBufferPointer? {
        guard token.kind == CSJ_STRING.rawValue else { return nil }
        return UnsafeRawBufferPointer(start: token.value.text, count: Int(token.length))
    }

    var string: String? { text.map { String(decoding: $0, as: UTF8.self) } }

    /// A whole number that is not negative.
    var unsigned: UInt64? {
        switch token.kind {
        case CSJ_INTEGER.rawValue: UInt64(exactly: token.value.integer)
        case CSJ_UNSIGNED.rawValue: token.value.uinteger
        default: nil
        }
    }

    var bool: Bool? {
        switch token.kind {
        case CSJ_TRUE.rawValue: true
        case CSJ_FALSE.rawValue: false
        default: nil
        }
    }

    /// Values of an array, or names and values of an object in turn.
    var children: Children {
        Children(tokens: tokens, index: index + 1, end: isArray || isObject ? Int(token.end) : index + 1)
    }

    struct Children: Sequence, IteratorProtocol {
        let tokens: UnsafePointer<csj_token>
        var index: Int
        let end: Int
        mutating func next() -> JSONValue? {
            guard index < end else { return nil }
            defer { index = Int(tokens[index].end) }
            return JSONValue(tokens: tokens, index: index)
        }
    }

    /// The value of a member; the last where a name stands twice.
    subscript(name: StaticString) -> JSONValue? {
        guard isObject else { return nil }
        var found: JSONValue?
        var members = children
        while let key = members.next(), let value = members.next() {
            guard let text = key.text, text.count == name.utf8CodeUnitCount,
                memcmp(text.baseAddress!, name.utf8Start, text.count) == 0
            else { continue }
            found = value
        }
        return found
    }
}

extension JSONValue {
    /// For readers of other documents: a member's text.
    public func text(of name: StaticString) -> String? { self[name]?.string }

    /// A member that is a whole number and not negative.
    public func number(of name: StaticString) -> UInt64? { self[name]?.unsigned }

    /// Whether there is a member of this name.
    public func has(_ name: StaticString) -> Bool { self[name] != nil }
}

/// Why a line or message cannot be used.
public enum FormatError: Error, Hashable, Sendable, CustomStringConvertible {
    case json(String)
    case field(String)
    case number(String)
    /// A decimal that the instrument's scale cannot hold.
    case outOfRange(String)
    case unknownMessage(String)
    case line(String)

    /// The case without its text: what counts and log lines are told apart by.
    public enum Kind: String, Sendable, CaseIterable {
        case json, field, number, outOfRange, unknownMessage, line
    }

    public var kind: Kind {
        switch self {
        case .json: .json
        case .field: .field
        case .number: .number
        case .outOfRange: .outOfRange
        case .unknownMessage: .unknownMessage
        case .line: .line
        }
    }

    public var description: String {
        switch self {
        case .json(let what): "no JSON: \(what)"
        case .field(let name): "the field \(name) is missing or of another type"
        case .number(let what): what
        case .outOfRange(let name): "\(name) is out of range at the instrument's scale"
        case .unknownMessage(let what): "a message of no known kind: \(what)"
        case .line(let what): what
        }
    }
}
