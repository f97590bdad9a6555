/// A type of CQL (4.2.5.2 of the specification).
public indirect enum CQLType: Hashable, Sendable {
    case ascii, bigint, blob, boolean, counter, decimal, double, float, int, timestamp, uuid, text, varint, timeuuid
    case inet, date, time, smallint, tinyint, duration
    case list(CQLType)
    case map(CQLType, CQLType)
    case set(CQLType)
    case tuple([CQLType])
    case userDefined(CQLUserType)
    /// So many elements, each as long as its type says, or behind its length.
    case vector(CQLType, dimension: Int)
    /// A type of the server's own, by its Java class; values are bytes.
    case custom(String)

    /// Types without parts, by their number on the wire.
    private static let simple: [UInt16: CQLType] = [
        0x01: .ascii, 0x02: .bigint, 0x03: .blob, 0x04: .boolean, 0x05: .counter, 0x06: .decimal, 0x07: .double,
        0x08: .float, 0x09: .int, 0x0b: .timestamp, 0x0c: .uuid, 0x0d: .text, 0x0e: .varint, 0x0f: .timeuuid,
        0x10: .inet, 0x11: .date, 0x12: .time, 0x13: .smallint, 0x14: .tinyint, 0x15: .duration,
    ]
    private static let numbers: [CQLType: UInt16] = Dictionary(uniqueKeysWithValues: simple.map { ($1, $0) })

    /// Bytes of every value; nil where they differ.
    var fixedLength: Int? {
        switch self {
        case .boolean, .tinyint: 1
        case .smallint: 2
        case .int, .float, .date: 4
        case .bigint, .counter, .double, .timestamp, .time: 8
        case .uuid, .timeuuid: 16
        case .vector(let element, let dimension): element.fixedLength.map { $0 * dimension }
        default: nil
        }
    }

    /// Whether elements of this type lie in a vector without their lengths, as Cassandra has it: not those of `date`,
    /// `time`, `smallint`, `tinyint` and `counter`, whose lengths it takes for variable.
    var hasFixedLengthInVector: Bool {
        switch self {
        case .boolean, .int, .float, .bigint, .double, .timestamp, .uuid, .timeuuid: true
        case .vector(let element, _): element.hasFixedLengthInVector
        default: false
        }
    }
}

/// A type that a user made: names and types of its fields.
public struct CQLUserType: Hashable, Sendable {
    /// A field of the type.
    public struct Field: Hashable, Sendable {
        public var name: String
        public var type: CQLType

        public init(_ name: String, _ type: CQLType) {
            self.name = name
            self.type = type
        }
    }

    public var keyspace: String
    public var name: String
    public var fields: [Field]

    public init(keyspace: String, name: String, fields: [Field]) {
        self.keyspace = keyspace
        self.name = name
        self.fields = fields
    }
}

extension CQLReader {
    /// [option] of a column.
    public mutating func type(depth: Int = 0) throws(CQLFormatError) -> CQLType {
        guard depth < CQLLimits.typeDepthMax else { throw fail(.tooLarge, "types deeper than \(depth)") }
        let start = position
        let number = try short()
        if let simple = CQLType.simpleType(number) { return simple }
        switch number {
        case 0x00:
            let name = try string()
            return CQLType(className: name) ?? .custom(name)
        case 0x20: return .list(try type(depth: depth + 1))
        case 0x21: return .map(try type(depth: depth + 1), try type(depth: depth + 1))
        case 0x22: return .set(try type(depth: depth + 1))
        case 0x30:
            let keyspace = try string()
            let name = try string()
            var fields: [CQLUserType.Field] = []
            for _ in 0..<(try count(Int(short()), bytesMin: 4, "fields")) {
                fields.append(CQLUserType.Field(try string(), try type(depth: depth + 1)))
            }
            return .userDefined(CQLUserType(keyspace: keyspace, name: name, fields: fields))
        case 0x31:
            var types: [CQLType] = []
            for _ in 0..<(try count(Int(short()), bytesMin: 2, "types")) { types.append(try type(depth: depth + 1)) }
            return .tuple(types)
        default: throw CQLFormatError(.unknown, at: start, "type \(number)")
        }
    }
}

extension CQLBuffer {
    /// [option] of a column.
    public func append(type: CQLType) {
        if let number = type.simpleNumber { return append(bigEndian: number) }
        switch type {
        case .list(let element):
            append(bigEndian: UInt16(0x20))
            append(type: element)
        case .map(let key, let value):
            append(bigEndian: UInt16(0x21))
            append(type: key)
            append(type: value)
        case .set(let element):
            append(bigEndian: UInt16(0x22))
            append(type: element)
        case .userDefined(let user):
            append(bigEndian: UInt16(0x30))
            append(string: user.keyspace)
            append(string: user.name)
            append(bigEndian: UInt16(user.fields.count))
            for field in user.fields {
                append(string: field.name)
                append(type: field.type)
            }
        case .tuple(let types):
            append(bigEndian: UInt16(0x31))
            append(bigEndian: UInt16(types.count))
            for type in types { append(type: type) }
        default:
            append(bigEndian: UInt16(0))
            append(string: type.className)
        }
    }
}

// MARK: Types by the server's class names

extension CQLType {
    /// The most elements of a vector, Cassandra's own limit.
    static let dimensionMax = 8192
    private static let package = "org.apache.cassandra.db.marshal."
    private static let classes: [(String, CQLType)] = [
        ("AsciiType", .ascii), ("LongType", .bigint), ("BytesType", .blob), ("BooleanType", .boolean),
        ("CounterColumnType", .counter), ("DecimalType", .decimal), ("DoubleType", .double), ("FloatType", .float),
        ("Int32Type", .int), ("TimestampType", .timestamp), ("UUIDType", .uuid), ("UTF8Type", .text),
        ("IntegerType", .varint), ("TimeUUIDType", .timeuuid), ("InetAddressType", .inet), ("SimpleDateType", .date),
        ("TimeType", .time), ("ShortType", .smallint), ("ByteType", .tinyint), ("DurationType", .duration),
    ]

    fileprivate static func simpleType(_ number: UInt16) -> CQLType? { simple[number] }
    fileprivate var simpleNumber: UInt16? { CQLType.numbers[self] }

    /// nil for a class that is not known, and then is a custom type.
    public init?(className: String) {
        var text = Substring(className)
        guard let type = CQLType.parse(&text, depth: 0), text.isEmpty else { return nil }
        self = type
    }

    /// The class that stands for the type where the protocol has no number for it.
    var className: String {
        switch self {
        case .list(let element): CQLType.package + "ListType(\(element.className))"
        case .set(let element): CQLType.package + "SetType(\(element.className))"
        case .map(let key, let value): CQLType.package + "MapType(\(key.className),\(value.className))"
        case .tuple(let types): CQLType.package + "TupleType(\(types.map(\.className).joined(separator: ",")))"
        case .vector(let element, let dimension):
            CQLType.package + "VectorType(\(element.className) , \(dimension))"
        case .custom(let name): name
        // A user's type within a vector: the class has names as hexadecimal digits, so bytes are all that is known.
        case .userDefined: CQLType.package + "BytesType"
        default: CQLType.package + (CQLType.classes.first { $0.1 == self }?.0 ?? "BytesType")
        }
    }

    private static func parse(_ text: inout Substring, depth: Int) -> CQLType? {
        guard depth < CQLLimits.typeDepthMax else { return nil }
        text = text.drop { $0 == " " }
        let name = text.prefix { $0 != "(" && $0 != ")" && $0 != "," && $0 != " " }
        text = text.dropFirst(name.count)
        guard name.hasPrefix(package) else { return nil }
        let short = name.dropFirst(package.count)
        if let simple = classes.first(where: { $0.0 == short }) { return simple.1 }
        guard take("(", &text) else { return nil }
        switch short {
        case "FrozenType", "ReversedType":
            guard let inner = parse(&text, depth: depth + 1), take(")", &text) else { return nil }
            return inner
        case "ListType", "SetType":
            guard let inner = parse(&text, depth: depth + 1), take(")", &text) else { return nil }
            return short == "ListType" ? .list(inner) : .set(inner)
        case "MapType":
            guard let key = parse(&text, depth: depth + 1), take(",", &text),
                let value = parse(&text, depth: depth + 1), take(")", &text)
            else { return nil }
            return .map(key, value)
        case "TupleType":
            var types: [CQLType] = []
            repeat {
                guard let next = parse(&text, depth: depth + 1) else { return nil }
                types.append(next)
            } while take(",", &text)
            return take(")", &text) ? .tuple(types) : nil
        case "VectorType":
            guard let element = parse(&text, depth: depth + 1), take(",", &text) else { return nil }
            text = text.drop { $0 == " " }
            let digits = text.prefix { ("0"..."9").contains($0) }
            text = text.dropFirst(digits.count)
            guard let dimension = Int(digits), (1...dimensionMax).contains(dimension), take(")", &text) else {
                return nil
            }
            return .vector(element, dimension: dimension)
        default: return nil
        }
    }

    private static func take(_ character: Character, _ text: inout Substring) -> Bool {
        text = text.drop { $0 == " " }
        guard text.first == character else { return false }
        text = text.dropFirst()
        return true
    }
}
