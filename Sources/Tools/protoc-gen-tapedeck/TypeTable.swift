/// Where every message and enum of the request is, in Swift.
struct TypeTable {
    private(set) var messages: [String: MessageDescriptor] = [:]
    private var swiftNames: [String: String] = [:]

    /// `namespace` holds the types of the files that are generated; others are the runtime's own well-known types.
    init(_ request: GeneratorRequest, namespace: String) {
        for file in request.files {
            let isOwn = request.filesToGenerate.contains(file.name)
            let outer = isOwn ? namespace : "WellKnown"
            let scope = file.package.isEmpty ? "" : "." + file.package
            for message in file.messages { add(message, scope, outer) }
            for descriptor in file.enums { swiftNames["\(scope).\(descriptor.name)"] = "\(outer).\(descriptor.name)" }
        }
    }

    private mutating func add(_ message: MessageDescriptor, _ scope: String, _ outer: String) {
        let name = "\(scope).\(message.name)"
        let swiftName = "\(outer).\(TypeTable.typeName(message.name))"
        messages[name] = message
        swiftNames[name] = swiftName
        for inner in message.messages { add(inner, name, swiftName) }
        for inner in message.enums { swiftNames["\(name).\(inner.name)"] = "\(swiftName).\(inner.name)" }
    }

    /// Names that Swift keeps for itself.
    static func typeName(_ name: String) -> String {
        ["Any", "Type", "Self", "Protocol"].contains(name) ? name + "Message" : name
    }

    func swiftName(_ protoName: String) -> String { swiftNames[protoName] ?? "UnknownType" }

    /// Whether a value of `from` can hold one of `target` in place, through fields that are neither repeated nor maps.
    func reaches(_ from: String, _ target: String) -> Bool {
        var seen: Set<String> = []
        var open = [from]
        while let next = open.popLast() {
            guard seen.insert(next).inserted, let message = messages[next] else { continue }
            for field in message.fields where field.kind == .message && !field.isRepeated {
                if field.typeName == target { return true }
                open.append(field.typeName)
            }
        }
        return false
    }
}

/// A field as Swift has it.
struct SwiftField {
    enum Shape {
        /// Absent is the default value.
        case plain
        /// proto3 optional scalars and message fields.
        case optional
        /// A message field whose type can hold the message that it is in.
        case boxed
        case list
        case map(key: FieldDescriptor, value: FieldDescriptor)
    }

    let descriptor: FieldDescriptor
    let name: String
    let shape: Shape
    /// Of one element.
    let type: String
    /// The method of reader, writer and sizes.
    let method: String

    init(_ field: FieldDescriptor, in messageName: String, _ types: TypeTable) {
        descriptor = field
        name = Names.member(field.name)
        type = SwiftField.type(field, types)
        method = SwiftField.method(field.kind)
        if field.isRepeated, let entry = types.messages[field.typeName], entry.isMapEntry {
            shape = .map(key: entry.fields[0], value: entry.fields[1])
        } else if field.isRepeated {
            shape = .list
        } else if field.kind == .message {
            shape = types.reaches(field.typeName, messageName) || field.typeName == messageName ? .boxed : .optional
        } else {
            shape = field.isOptional ? .optional : .plain
        }
    }

    static func type(_ field: FieldDescriptor, _ types: TypeTable) -> String {
        switch field.kind {
        case .double: "Double"
        case .float: "Float"
        case .int64, .sfixed64, .sint64: "Int64"
        case .uint64, .fixed64: "UInt64"
        case .int32, .sfixed32, .sint32: "Int32"
        case .fixed32, .uint32: "UInt32"
        case .bool: "Bool"
        case .string: "String"
        case .bytes: "[UInt8]"
        case .message, .group, .enumeration: types.swiftName(field.typeName)
        }
    }

    static func method(_ kind: FieldDescriptor.Kind) -> String { kind == .group ? "message" : "\(kind)" }

    static func wireType(_ kind: FieldDescriptor.Kind) -> UInt32 {
        switch kind {
        case .double, .fixed64, .sfixed64: 1
        case .string, .bytes, .message, .group: 2
        case .float, .fixed32, .sfixed32: 5
        default: 0
        }
    }

    static func tag(_ field: FieldDescriptor) -> UInt32 { field.number << 3 | wireType(field.kind) }

    var tag: UInt32 { SwiftField.tag(descriptor) }
    var canBePacked: Bool { SwiftField.wireType(descriptor.kind) != 2 }
    var isPacked: Bool { canBePacked && descriptor.isPacked }
    var packedTag: UInt32 { descriptor.number << 3 | 2 }

    static func defaultValue(_ kind: FieldDescriptor.Kind, _ type: String) -> String {
        switch kind {
        case .bool: "false"
        case .string: "\"\""
        case .bytes: "[]"
        case .message, .group: "\(type)()"
        case .enumeration: "\(type)(rawValue: 0)"
        default: "0"
        }
    }

    /// The condition under which a plain field is written.
    static func isSet(_ kind: FieldDescriptor.Kind, _ name: String) -> String {
        switch kind {
        case .bool: name
        case .string, .bytes: "!\(name).isEmpty"
        case .enumeration: "\(name).rawValue != 0"
        // Negative zero is a value of its own.
        case .float, .double: "\(name).bitPattern != 0"
        default: "\(name) != 0"
        }
    }
}
