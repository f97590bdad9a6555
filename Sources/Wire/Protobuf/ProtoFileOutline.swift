/// The names in a descriptor: what reflection looks files up by.
public struct ProtoFileOutline: Sendable {
    /// Paths of the files that it imports.
    public private(set) var dependencies: [String] = []
    /// Full names of its services.
    public private(set) var services: [String] = []
    /// Full names of everything that it declares: messages, fields, enums, values, services and methods.
    public private(set) var symbols: [String] = []
    /// Full names of its messages.
    public private(set) var messages: [String] = []

    /// Reads the bytes of a FileDescriptorProto (descriptor.proto). Throws where they are none.
    public init(_ descriptor: [UInt8]) throws(DecodingError) {
        let result = descriptor.withUnsafeBytes { bytes -> Result<ProtoFileOutline, DecodingError> in
            var outline = ProtoFileOutline()
            do throws(DecodingError) {
                try outline.readFile(bytes)
                return .success(outline)
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }

    private init() {}

    private mutating func readFile(_ bytes: UnsafeRawBufferPointer) throws(DecodingError) {
        // The package stands before what it names, but nothing promises that.
        var packageReader = ProtoReader(bytes, depthLeft: 100)
        var scope = ""
        var ignored = UnknownFields()
        while let tag = try packageReader.nextTag() {
            if tag == 2 << 3 | 2 {
                scope = try packageReader.string()
            } else {
                try packageReader.unknown(tag, into: &ignored)
            }
        }
        var reader = ProtoReader(bytes, depthLeft: 100)
        while let tag = try reader.nextTag() {
            switch tag {
            case 3 << 3 | 2: dependencies.append(try reader.string())
            case 4 << 3 | 2: try readMessage(try reader.nested(), scope)
            case 5 << 3 | 2: try readEnum(try reader.nested(), scope)
            case 6 << 3 | 2: try readService(try reader.nested(), scope)
            default: try reader.unknown(tag, into: &ignored)
            }
        }
    }

    private static func join(_ scope: String, _ name: String) -> String { scope.isEmpty ? name : "\(scope).\(name)" }

    /// The name (field 1) of a declaration.
    private static func name(_ reader: ProtoReader) throws(DecodingError) -> String {
        var reader = reader
        var name = ""
        var ignored = UnknownFields()
        while let tag = try reader.nextTag() {
            if tag == 1 << 3 | 2 { name = try reader.string() } else { try reader.unknown(tag, into: &ignored) }
        }
        return name
    }

    private mutating func readMessage(_ message: ProtoReader, _ scope: String) throws(DecodingError) {
        let name = ProtoFileOutline.join(scope, try ProtoFileOutline.name(message))
        symbols.append(name)
        messages.append(name)
        var reader = message
        var ignored = UnknownFields()
        while let tag = try reader.nextTag() {
            switch tag {
            case 2 << 3 | 2, 8 << 3 | 2:
                symbols.append(ProtoFileOutline.join(name, try ProtoFileOutline.name(try reader.nested())))
            case 3 << 3 | 2: try readMessage(try reader.nested(), name)
            case 4 << 3 | 2: try readEnum(try reader.nested(), name)
            default: try reader.unknown(tag, into: &ignored)
            }
        }
    }

    /// Values stand in the scope of their enum (descriptor.proto).
    private mutating func readEnum(_ declaration: ProtoReader, _ scope: String) throws(DecodingError) {
        symbols.append(ProtoFileOutline.join(scope, try ProtoFileOutline.name(declaration)))
        try readMembers(declaration, scope)
    }

    private mutating func readService(_ service: ProtoReader, _ scope: String) throws(DecodingError) {
        let name = ProtoFileOutline.join(scope, try ProtoFileOutline.name(service))
        symbols.append(name)
        services.append(name)
        try readMembers(service, name)
    }

    private mutating func readMembers(_ declaration: ProtoReader, _ scope: String) throws(DecodingError) {
        var reader = declaration
        var ignored = UnknownFields()
        while let tag = try reader.nextTag() {
            if tag == 2 << 3 | 2 {
                symbols.append(ProtoFileOutline.join(scope, try ProtoFileOutline.name(try reader.nested())))
            } else {
                try reader.unknown(tag, into: &ignored)
            }
        }
    }
}

extension ProtoFile {
    /// The descriptor without the services that are not among `services` (full names): what a server shows of a file of
    /// which it serves a part.
    public func descriptorBytes(withServices services: Set<String>) throws(DecodingError) -> [UInt8] {
        let whole = descriptorBytes
        let outline = try ProtoFileOutline(whole)
        if services.isSuperset(of: outline.services) { return whole }
        var kept: [UInt8] = []
        let result = whole.withUnsafeBytes { bytes -> Result<Void, DecodingError> in
            do throws(DecodingError) {
                var reader = ProtoReader(bytes, depthLeft: 100)
                var number = 0
                while let tag = try reader.nextTag() {
                    let start = reader.fieldStart
                    if tag == 6 << 3 | 2 {
                        _ = try reader.nested()
                        number += 1
                        if !services.contains(outline.services[number - 1]) { continue }
                    } else {
                        var ignored = UnknownFields()
                        try reader.unknown(tag, into: &ignored)
                    }
                    kept += bytes[start..<reader.place]
                }
                return .success(())
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        return kept
    }
}
