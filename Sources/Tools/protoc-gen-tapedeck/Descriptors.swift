import Protobuf

// What the plugin needs of descriptor.proto and plugin.proto, read by hand: the generator cannot depend on what it
// generates.

/// A field of a wire message, as it came.
struct RawField {
    let number: UInt32
    let varint: UInt64
    let bytes: [UInt8]
    var string: String { String(decoding: bytes, as: UTF8.self) }
}

/// Splits a message into its fields.
func rawFields(_ bytes: [UInt8]) throws(DecodingError) -> [RawField] {
    var fields: [RawField] = []
    var position = 0
    func varint() throws(DecodingError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < bytes.count, shift < 70 {
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        throw DecodingError(.truncated, position: position)
    }
    func take(_ count: UInt64) throws(DecodingError) -> [UInt8] {
        guard count <= UInt64(bytes.count - position) else { throw DecodingError(.truncated, position: position) }
        defer { position += Int(count) }
        return Array(bytes[position..<(position + Int(count))])
    }
    while position < bytes.count {
        let tag = try varint()
        let number = UInt32(truncatingIfNeeded: tag >> 3)
        switch tag & 7 {
        case 0: fields.append(RawField(number: number, varint: try varint(), bytes: []))
        case 1: fields.append(RawField(number: number, varint: 0, bytes: try take(8)))
        case 2: fields.append(RawField(number: number, varint: 0, bytes: try take(try varint())))
        case 5: fields.append(RawField(number: number, varint: 0, bytes: try take(4)))
        default: throw DecodingError(.invalidTag, position: position)
        }
    }
    return fields
}

struct GeneratorRequest {
    var filesToGenerate: [String] = []
    var parameter = ""
    var files: [FileDescriptor] = []

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            switch field.number {
            case 1: filesToGenerate.append(field.string)
            case 2: parameter = field.string
            case 15: files.append(try FileDescriptor(field.bytes))
            default: break
            }
        }
    }
}

struct FileDescriptor {
    var name = ""
    var package = ""
    var messages: [MessageDescriptor] = []
    var enums: [EnumDescriptor] = []
    var services: [ServiceDescriptor] = []
    var comments: [[Int]: String] = [:]
    /// As it came, without source info.
    var bytes: [UInt8] = []

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            switch field.number {
            case 1: name = field.string
            case 2: package = field.string
            case 4: messages.append(try MessageDescriptor(field.bytes))
            case 5: enums.append(try EnumDescriptor(field.bytes))
            case 6: services.append(try ServiceDescriptor(field.bytes))
            case 9: comments = try FileDescriptor.comments(field.bytes)
            default: break
            }
            if field.number != 9 { FileDescriptor.append(field, to: &self.bytes) }
        }
    }

    /// Every field of a FileDescriptorProto but its enums is length-delimited; numbers are below 16.
    private static func append(_ field: RawField, to bytes: inout [UInt8]) {
        let isVarint = field.number == 10 || field.number == 11 || field.number == 14
        bytes.append(UInt8(field.number << 3) | (isVarint ? 0 : 2))
        var value = isVarint ? field.varint : UInt64(field.bytes.count)
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(value))
        bytes += field.bytes
    }

    /// Leading comments by path (descriptor.proto, SourceCodeInfo).
    private static func comments(_ bytes: [UInt8]) throws(DecodingError) -> [[Int]: String] {
        var comments: [[Int]: String] = [:]
        for location in try rawFields(bytes) where location.number == 1 {
            var path: [Int] = []
            var leading = ""
            for field in try rawFields(location.bytes) {
                if field.number == 1 { path = field.bytes.map(Int.init) }
                if field.number == 3 { leading = field.string }
            }
            // Numbers of 128 and more take two bytes; no schema here nests that far.
            if !leading.isEmpty { comments[path] = leading }
        }
        return comments
    }
}

struct MessageDescriptor {
    var name = ""
    var fields: [FieldDescriptor] = []
    var messages: [MessageDescriptor] = []
    var enums: [EnumDescriptor] = []
    var oneofs: [String] = []
    var isMapEntry = false

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            switch field.number {
            case 1: name = field.string
            case 2: fields.append(try FieldDescriptor(field.bytes))
            case 3: messages.append(try MessageDescriptor(field.bytes))
            case 4: enums.append(try EnumDescriptor(field.bytes))
            case 7: isMapEntry = try rawFields(field.bytes).contains { $0.number == 7 && $0.varint != 0 }
            case 8: oneofs.append(try rawFields(field.bytes).first { $0.number == 1 }?.string ?? "")
            default: break
            }
        }
    }
}

struct FieldDescriptor {
    enum Kind: UInt64 {
        case double = 1, float, int64, uint64, int32, fixed64, fixed32, bool, string, group, message, bytes, uint32,
            enumeration,
            sfixed32, sfixed64, sint32, sint64
    }

    var name = ""
    var jsonName = ""
    var number: UInt32 = 0
    var isRepeated = false
    var kind = Kind.int32
    var typeName = ""
    var oneofIndex: Int?
    var isOptional = false
    /// proto3's default; `[packed = false]` turns it off.
    var isPacked = true

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            switch field.number {
            case 1: name = field.string
            case 3: number = UInt32(truncatingIfNeeded: field.varint)
            case 4: isRepeated = field.varint == 3
            case 5: kind = Kind(rawValue: field.varint) ?? .group
            case 6: typeName = field.string
            case 8:
                if let packed = try rawFields(field.bytes).first(where: { $0.number == 2 }) {
                    isPacked = packed.varint != 0
                }
            case 9: oneofIndex = Int(truncatingIfNeeded: field.varint)
            case 10: jsonName = field.string
            case 17: isOptional = field.varint != 0
            default: break
            }
        }
    }
}

struct EnumDescriptor {
    var name = ""
    var values: [(name: String, number: Int32)] = []

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            if field.number == 1 { name = field.string }
            guard field.number == 2 else { continue }
            var value = (name: "", number: Int32(0))
            for part in try rawFields(field.bytes) {
                if part.number == 1 { value.name = part.string }
                if part.number == 2 { value.number = Int32(truncatingIfNeeded: part.varint) }
            }
            values.append(value)
        }
    }
}

struct ServiceDescriptor {
    struct Method {
        var name = ""
        var input = ""
        var output = ""
        var clientStreaming = false
        var serverStreaming = false
    }

    var name = ""
    var methods: [Method] = []

    init(_ bytes: [UInt8]) throws(DecodingError) {
        for field in try rawFields(bytes) {
            if field.number == 1 { name = field.string }
            guard field.number == 2 else { continue }
            var method = Method()
            for part in try rawFields(field.bytes) {
                switch part.number {
                case 1: method.name = part.string
                case 2: method.input = part.string
                case 3: method.output = part.string
                case 5: method.clientStreaming = part.varint != 0
                case 6: method.serverStreaming = part.varint != 0
                default: break
                }
            }
            methods.append(method)
        }
    }
}
