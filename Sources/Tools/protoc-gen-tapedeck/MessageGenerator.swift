/// Writes one message as a Swift struct.
struct MessageGenerator {
    /// Messages whose JSON form is their own: the runtime has it.
    static let ownJSON: Set<String> = [
        ".google.protobuf.Timestamp", ".google.protobuf.Duration", ".google.protobuf.FieldMask",
        ".google.protobuf.Struct",
        ".google.protobuf.Value", ".google.protobuf.ListValue", ".google.protobuf.DoubleValue",
        ".google.protobuf.FloatValue", ".google.protobuf.Int64Value", ".google.protobuf.UInt64Value",
        ".google.protobuf.Int32Value", ".google.protobuf.UInt32Value", ".google.protobuf.BoolValue",
        ".google.protobuf.StringValue", ".google.protobuf.BytesValue",
    ]

    private let message: MessageDescriptor
    private let protoName: String
    private let types: TypeTable
    private let file: FileDescriptor
    private let path: [Int]
    private let fields: [SwiftField]
    /// Real oneofs: index and Swift name. Those of proto3 optional fields are not real.
    private let oneofs: [(index: Int, name: String, type: String)]

    init(_ message: MessageDescriptor, _ protoName: String, _ types: TypeTable, _ file: FileDescriptor, _ path: [Int]) {
        self.message = message
        self.protoName = protoName
        self.types = types
        self.file = file
        self.path = path
        fields = message.fields.sorted { $0.number < $1.number }.map { SwiftField($0, in: protoName, types) }
        oneofs = message.oneofs.indices.compactMap { index in
            let members = message.fields.filter { $0.oneofIndex == index }
            guard members.contains(where: { !$0.isOptional }) else { return nil }
            let name = message.oneofs[index]
            return (index, Names.member(name), "OneOf_" + Names.upperCamel(name))
        }
    }

    func write(to out: inout SourceWriter) {
        out.documentation(file.comments[path])
        out.block("public struct \(TypeTable.typeName(message.name)): ProtoMessage") { out in
            writeProperties(&out)
            out.line("public var unknownFields = UnknownFields()")
            out.line()
            out.line("public init() {}")
            out.line()
            out.line("public static let protoName = \"\(protoName.dropFirst())\"")
            out.line()
            writeEncoding(&out)
            out.line()
            writeDecoding(&out)
            if !MessageGenerator.ownJSON.contains(protoName) {
                out.line()
                writeJSON(&out)
            }
            writeNested(&out)
        }
    }

    private func oneof(_ field: SwiftField) -> (index: Int, name: String, type: String)? {
        oneofs.first { $0.index == field.descriptor.oneofIndex }
    }

    // MARK: Properties

    private func writeProperties(_ out: inout SourceWriter) {
        for (index, descriptor) in message.fields.enumerated() {
            guard let field = fields.first(where: { $0.descriptor.number == descriptor.number }), oneof(field) == nil
            else {
                continue
            }
            out.documentation(file.comments[path + [2, index]])
            switch field.shape {
            case .plain:
                out.line(
                    "public var \(field.name): \(field.type) = \(SwiftField.defaultValue(descriptor.kind, field.type))")
            case .optional: out.line("public var \(field.name): \(field.type)?")
            case .boxed:
                out.block("public var \(field.name): \(field.type)?") { out in
                    out.line("get { _\(descriptor.name)?.value }")
                    out.line("set { _\(descriptor.name) = newValue.map { ProtoBox($0) } }")
                }
                out.line("private var _\(descriptor.name): ProtoBox<\(field.type)>?")
            case .list: out.line("public var \(field.name): [\(field.type)] = []")
            case .map(let key, let value):
                let types = (SwiftField.type(key, types), SwiftField.type(value, types))
                out.line("public var \(field.name): [\(types.0): \(types.1)] = [:]")
            }
        }
        for oneof in oneofs {
            out.documentation(file.comments[path + [8, oneof.index]])
            out.line("public var \(oneof.name): \(oneof.type)?")
        }
    }

    private func writeNested(_ out: inout SourceWriter) {
        for oneof in oneofs {
            out.line()
            let members = message.fields.filter { $0.oneofIndex == oneof.index }
            out.block("public indirect enum \(oneof.type): Hashable, Sendable") { out in
                for member in members {
                    out.line("case \(Names.member(member.name))(\(SwiftField.type(member, types)))")
                }
            }
        }
        for (index, inner) in message.enums.enumerated() {
            out.line()
            EnumGenerator(inner, file, path + [4, index]).write(to: &out)
        }
        for (index, inner) in message.messages.enumerated() where !inner.isMapEntry {
            out.line()
            MessageGenerator(inner, "\(protoName).\(inner.name)", types, file, path + [3, index]).write(to: &out)
        }
    }

    // MARK: Encoding

    private func writeEncoding(_ out: inout SourceWriter) {
        out.block("public func write(to writer: inout ProtoWriter)") { out in
            for field in fields { writeEncoding(field, &out) }
            out.line("writer.unknown(unknownFields)")
        }
    }

    private func writeEncoding(_ field: SwiftField, _ out: inout SourceWriter) {
        func put(_ head: String, _ value: String) {
            out.line("\(head) { writer.\(field.method)(\(field.tag), \(value)) }")
        }
        if let oneof = oneof(field) { return put("if case .\(field.name)(let value)? = \(oneof.name)", "value") }
        switch field.shape {
        case .plain: put("if \(SwiftField.isSet(field.descriptor.kind, field.name))", field.name)
        case .optional, .boxed: put("if let value = \(field.name)", "value")
        case .list where field.isPacked:
            out.line("writer.packed(\(field.packedTag), \(field.name)) { $0.\(field.method)(0, $1) }")
        case .list: put("for value in \(field.name)", "value")
        case .map(let key, let value):
            let order = key.kind == .bool ? "!$0.key && $1.key" : "$0.key < $1.key"
            out.block("for (key, value) in \(field.name).sorted(by: { \(order) })") { out in
                out.line("let start = writer.begin(\(field.tag))")
                out.line("writer.\(SwiftField.method(key.kind))(\(SwiftField.tag(key)), key)")
                out.line("writer.\(SwiftField.method(value.kind))(\(SwiftField.tag(value)), value)")
                out.line("writer.end(start)")
            }
        }
    }

    // MARK: Decoding

    private func writeDecoding(_ out: inout SourceWriter) {
        out.block("public mutating func merge(from reader: inout ProtoReader) throws(DecodingError)") { out in
            out.block("while let tag = try reader.nextTag()") { out in
                guard !fields.isEmpty else { return out.line("try reader.unknown(tag, into: &unknownFields)") }
                out.line("switch tag {")
                for field in fields { writeDecoding(field, &out) }
                out.line("default: try reader.unknown(tag, into: &unknownFields)")
                out.line("}")
            }
        }
    }

    private func writeDecoding(_ field: SwiftField, _ out: inout SourceWriter) {
        let name = field.name
        if let oneof = oneof(field) {
            guard field.descriptor.kind == .message else {
                return out.line("case \(field.tag): \(oneof.name) = .\(name)(try reader.\(field.method)())")
            }
            out.line("case \(field.tag):")
            return out.indented { out in
                out.line("var value = \(field.type)()")
                out.line("if case .\(name)(let current)? = \(oneof.name) { value = current }")
                out.line("try reader.message(into: &value)")
                out.line("\(oneof.name) = .\(name)(value)")
            }
        }
        switch field.shape {
        case .plain: out.line("case \(field.tag): \(name) = try reader.\(field.method)()")
        case .optional where field.descriptor.kind != .message:
            out.line("case \(field.tag): \(name) = try reader.\(field.method)()")
        case .optional, .boxed:
            out.line("case \(field.tag):")
            out.indented { out in
                out.line("var value = \(name) ?? \(field.type)()")
                out.line("try reader.message(into: &value)")
                out.line("\(name) = value")
            }
        case .list where field.descriptor.kind == .message:
            out.line("case \(field.tag):")
            out.indented { out in
                out.line("var value = \(field.type)()")
                out.line("try reader.message(into: &value)")
                out.line("\(name).append(value)")
            }
        case .list where field.canBePacked:
            out.line("case \(field.tag): \(name).append(try reader.\(field.method)())")
            let reading = "\(name).append(try inner.\(field.method)())"
            out.line("case \(field.packedTag): try reader.packed { inner throws(DecodingError) in \(reading) }")
        case .list: out.line("case \(field.tag): \(name).append(try reader.\(field.method)())")
        case .map(let key, let value): writeMapDecoding(field, key, value, &out)
        }
    }

    private func writeMapDecoding(
        _ field: SwiftField, _ key: FieldDescriptor, _ value: FieldDescriptor, _ out: inout SourceWriter
    ) {
        let keyType = SwiftField.type(key, types)
        let valueType = SwiftField.type(value, types)
        out.line("case \(field.tag):")
        out.indented { out in
            out.line("var entry = try reader.nested()")
            out.line("var key: \(keyType) = \(SwiftField.defaultValue(key.kind, keyType))")
            out.line("var value: \(valueType) = \(SwiftField.defaultValue(value.kind, valueType))")
            out.line("var ignored = UnknownFields()")
            out.block("while let tag = try entry.nextTag()") { out in
                out.line("switch tag {")
                out.line("case \(SwiftField.tag(key)): key = try entry.\(SwiftField.method(key.kind))()")
                let reading =
                    value.kind == .message
                    ? "try entry.message(into: &value)" : "value = try entry.\(SwiftField.method(value.kind))()"
                out.line("case \(SwiftField.tag(value)): \(reading)")
                out.line("default: try entry.unknown(tag, into: &ignored)")
                out.line("}")
            }
            out.line("\(field.name)[key] = value")
        }
    }

    // MARK: JSON

    private func writeJSON(_ out: inout SourceWriter) {
        out.block("public func writeJSON(to writer: inout JSONWriter)") { out in
            out.line("writer.beginObject()")
            for field in fields { writeJSON(field, &out) }
            out.line("writer.endObject()")
        }
    }

    private func writeJSON(_ field: SwiftField, _ out: inout SourceWriter) {
        let jsonName = field.descriptor.jsonName
        func put(_ head: String, _ value: String) {
            out.block(head) { out in
                out.line("writer.name(\"\(jsonName)\")")
                out.line("writer.\(field.method)(\(value))")
            }
        }
        if let oneof = oneof(field) { return put("if case .\(field.name)(let value)? = \(oneof.name)", "value") }
        switch field.shape {
        case .plain: put("if \(SwiftField.isSet(field.descriptor.kind, field.name))", field.name)
        case .optional, .boxed: put("if let value = \(field.name)", "value")
        case .list:
            out.block("if !\(field.name).isEmpty") { out in
                out.line("writer.name(\"\(jsonName)\")")
                out.line("writer.beginArray()")
                out.block("for value in \(field.name)") { out in
                    out.line("writer.element()")
                    out.line("writer.\(field.method)(value)")
                }
                out.line("writer.endArray()")
            }
        case .map(let key, let value):
            let order = key.kind == .bool ? "!$0.key && $1.key" : "$0.key < $1.key"
            out.block("if !\(field.name).isEmpty") { out in
                out.line("writer.name(\"\(jsonName)\")")
                out.line("writer.beginObject()")
                out.block("for (key, value) in \(field.name).sorted(by: { \(order) })") { out in
                    out.line("writer.name(\"\\(key)\")")
                    out.line("writer.\(SwiftField.method(value.kind))(value)")
                }
                out.line("writer.endObject()")
            }
        }
    }
}
