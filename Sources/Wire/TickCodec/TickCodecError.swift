/// Why bytes are not a `PriceUpdate` or `BookDelta`, or not one that a ``Tick`` or `BookRecord` can hold.
public struct TickCodecError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What is wrong.
    public enum Problem: Hashable, Sendable {
        /// The bytes end inside a field.
        case truncated
        /// A varint of more than ten bytes or 64 bits.
        case varintTooLong
        /// Field number 0, or one past 2^29 - 1.
        case fieldNumber
        /// A known field with another wire type than the schema's, or a wire type that does not exist.
        case wireType
        /// A group without its end, an end without its group, or groups nested deeper than
        /// ``TickReader/groupDepthMax``.
        case group
        /// A time, remainder, size or enum outside what the schema allows or ``Tick`` can hold exactly.
        case outOfRange
        /// A field without which there is no tick is absent.
        case missing
    }

    public let problem: Problem
    /// Number of the message's field; 0 where the tag itself could not be read.
    public let field: Int
    /// Where in the bytes the field begins; -1 where the value, not the bytes, is at fault.
    public let offset: Int

    public init(_ problem: Problem, field: Int, offset: Int) {
        self.problem = problem
        self.field = field
        self.offset = offset
    }

    public var description: String {
        let place = offset < 0 ? "" : " at byte \(offset)"
        return "field \(field)\(place): \(text)"
    }

    private var text: String {
        switch problem {
        case .truncated: "the bytes end inside it"
        case .varintTooLong: "a varint is longer than 64 bits"
        case .fieldNumber: "the field number is not in 1...536870911"
        case .wireType: "the wire type is not the schema's"
        case .group: "a group does not end or nests too deep"
        case .outOfRange: "the value is out of range"
        case .missing: "it is absent"
        }
    }
}
