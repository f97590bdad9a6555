import Protobuf

/// Writes one enum.
struct EnumGenerator {
    private let descriptor: EnumDescriptor
    private let file: FileDescriptor
    private let path: [Int]

    init(_ descriptor: EnumDescriptor, _ file: FileDescriptor, _ path: [Int]) {
        self.descriptor = descriptor
        self.file = file
        self.path = path
    }

    func write(to out: inout SourceWriter) {
        var names: [Int32: String] = [:]
        var cases: [(name: String, protoName: String, number: Int32, comment: String?)] = []
        var aliases: [(name: String, of: String)] = []
        for (index, value) in descriptor.values.enumerated() {
            let name = Names.enumCase(value.name, of: descriptor.name)
            if let first = names[value.number] {
                aliases.append((name, first))
            } else {
                names[value.number] = name
                cases.append((name, value.name, value.number, file.comments[path + [2, index]]))
            }
        }
        out.documentation(file.comments[path])
        out.block("public enum \(descriptor.name): ProtoEnum, CustomStringConvertible") { out in
            for entry in cases {
                out.documentation(entry.comment)
                out.line("case \(entry.name)")
            }
            out.line("/// A number that the schema does not know.")
            out.line("case unrecognized(Int32)")
            for alias in aliases { out.line("public static let \(alias.name) = \(descriptor.name).\(alias.of)") }
            out.line()
            out.block("public init(rawValue: Int32)") { out in
                out.line("switch rawValue {")
                for entry in cases { out.line("case \(entry.number): self = .\(entry.name)") }
                out.line("default: self = .unrecognized(rawValue)")
                out.line("}")
            }
            out.line()
            out.block("public var rawValue: Int32") { out in
                out.line("switch self {")
                for entry in cases { out.line("case .\(entry.name): \(entry.number)") }
                out.line("case .unrecognized(let number): number")
                out.line("}")
            }
            out.line()
            out.block("public var protoName: String?") { out in
                out.line("switch self {")
                for entry in cases { out.line("case .\(entry.name): \"\(entry.protoName)\"") }
                out.line("case .unrecognized: nil")
                out.line("}")
            }
            out.line()
            out.line("public var description: String { protoName ?? String(rawValue) }")
        }
    }
}

/// Writes one service: its methods, a client stub and a server stub.
struct ServiceGenerator {
    private let service: ServiceDescriptor
    private let file: FileDescriptor
    private let path: [Int]
    private let types: TypeTable

    init(_ service: ServiceDescriptor, _ file: FileDescriptor, _ path: [Int], _ types: TypeTable) {
        self.service = service
        self.file = file
        self.path = path
        self.types = types
    }

    private var fullName: String { file.package.isEmpty ? service.name : "\(file.package).\(service.name)" }

    func write(to out: inout SourceWriter) {
        writeMethods(&out)
        out.line()
        writeClient(&out)
        out.line()
        writeServer(&out)
    }

    private func writeMethods(_ out: inout SourceWriter) {
        out.documentation(file.comments[path])
        out.block("public enum \(service.name)") { out in
            out.line("public static let protoName = \"\(fullName)\"")
            for (index, method) in service.methods.enumerated() {
                out.documentation(file.comments[path + [2, index]])
                let shape = "RPCMethod<\(types.swiftName(method.input)), \(types.swiftName(method.output))>"
                out.line("public static let \(Names.member(method.name)) = \(shape)(")
                out.indented { out in
                    out.line("path: \"/\(fullName)/\(method.name)\", clientStreaming: \(method.clientStreaming),")
                    out.line("serverStreaming: \(method.serverStreaming))")
                }
            }
        }
    }

    private func shape(_ method: ServiceDescriptor.Method) -> String {
        switch (method.clientStreaming, method.serverStreaming) {
        case (false, false): "unary"
        case (false, true): "serverStreaming"
        case (true, false): "clientStreaming"
        case (true, true): "bidirectional"
        }
    }

    private func result(_ method: ServiceDescriptor.Method) -> String {
        let output = types.swiftName(method.output)
        return method.serverStreaming ? "-> AsyncThrowingStream<\(output), any Error>" : "async throws -> \(output)"
    }

    private func writeClient(_ out: inout SourceWriter) {
        out.line("/// Calls ``\(service.name)`` through a channel.")
        out.block("public struct \(service.name)Client<Channel: RPCChannel>: Sendable") { out in
            out.line("public let channel: Channel")
            out.line("public init(_ channel: Channel) { self.channel = channel }")
            for (index, method) in service.methods.enumerated() {
                let input = types.swiftName(method.input)
                let request = method.clientStreaming ? "_ requests: AsyncStream<\(input)>" : "_ request: \(input)"
                let argument = method.clientStreaming ? "requests" : "request"
                let call = method.serverStreaming ? "" : "try await "
                out.line()
                out.documentation(file.comments[path + [2, index]])
                out.block("public func \(Names.member(method.name))(\(request)) \(result(method))") { out in
                    out.line(
                        "\(call)channel.\(shape(method))(\(service.name).\(Names.member(method.name)), \(argument))")
                }
            }
        }
    }

    private func writeServer(_ out: inout SourceWriter) {
        out.line("/// What a server of ``\(service.name)`` implements.")
        out.block("public protocol \(service.name)Handler: Sendable") { out in
            for method in service.methods {
                let (input, output) = (types.swiftName(method.input), types.swiftName(method.output))
                let request = method.clientStreaming ? "_ requests: RPCRequests<\(input)>" : "_ request: \(input)"
                let responses = method.serverStreaming ? ", _ responses: RPCResponses<\(output)>" : ""
                let result = method.serverStreaming ? "" : " -> \(output)"
                out.line("func \(Names.member(method.name))(\(request)\(responses)) async throws\(result)")
            }
        }
    }

    /// Outside the namespace: protocol extensions cannot be nested.
    func writeRegistration(_ out: inout SourceWriter, namespace: String) {
        out.block("extension \(namespace).\(service.name)Handler") { out in
            out.line("/// Registers every method.")
            out.block("public func register(on registry: inout some RPCRegistry)") { out in
                for method in service.methods {
                    let name = Names.member(method.name)
                    let arguments = method.serverStreaming ? "$0, $1" : "$0"
                    out.line("registry.\(shape(method))(\(namespace).\(service.name).\(name)) {")
                    out.line("    try await self.\(name)(\(arguments))")
                    out.line("}")
                }
            }
        }
    }
}

/// Writes one .proto file as a Swift file.
struct FileGenerator {
    private let file: FileDescriptor
    private let types: TypeTable
    private let namespace: String
    /// Whether the runtime's module is the one that is generated.
    private let isRuntime: Bool

    init(_ file: FileDescriptor, _ types: TypeTable, namespace: String, isRuntime: Bool) {
        self.file = file
        self.types = types
        self.namespace = namespace
        self.isRuntime = isRuntime
    }

    /// `a/b/market_data.proto` to `market_data.pb.swift`.
    var outputName: String {
        let base = file.name.split(separator: "/").last.map(String.init) ?? file.name
        return (base.hasSuffix(".proto") ? String(base.dropLast(6)) : base) + ".pb.swift"
    }

    func generate() -> String {
        var out = SourceWriter()
        out.line("// Generated by protoc-gen-tapedeck from \(file.name). Do not edit: `make proto`.")
        out.line("// swift-format-ignore-file")
        out.line()
        if !isRuntime {
            out.line("import Protobuf")
            out.line()
        }
        let scope = file.package.isEmpty ? "" : "." + file.package
        out.block("extension \(namespace)") { out in
            writeDescriptor(&out)
            for (index, descriptor) in file.enums.enumerated() {
                out.line()
                EnumGenerator(descriptor, file, [5, index]).write(to: &out)
            }
            for (index, message) in file.messages.enumerated() {
                out.line()
                MessageGenerator(message, "\(scope).\(message.name)", types, file, [4, index]).write(to: &out)
            }
            for (index, service) in file.services.enumerated() {
                out.line()
                ServiceGenerator(service, file, [6, index], types).write(to: &out)
            }
        }
        for (index, service) in file.services.enumerated() {
            out.line()
            ServiceGenerator(service, file, [6, index], types).writeRegistration(&out, namespace: namespace)
        }
        return out.text
    }

    /// The descriptor's bytes, in lines that editors bear.
    private func writeDescriptor(_ out: inout SourceWriter) {
        let base64 = Array(ProtoBase64.encode(file.bytes))
        let name = Names.lowerCamel(outputName.replacingDots()) + "File"
        out.line("/// The descriptor of \(file.name).")
        out.line("public static let \(name) = ProtoFile(")
        out.indented { out in
            out.line("name: \"\(file.name)\",")
            out.line("base64: \"\"\"")
            out.indented { out in
                for start in stride(from: 0, to: base64.count, by: 110) {
                    let isLast = start + 110 >= base64.count
                    out.line(String(base64[start..<min(start + 110, base64.count)]) + (isLast ? "" : "\\"))
                }
                out.line("\"\"\")")
            }
        }
    }
}

extension String {
    /// `market_data.pb.swift` to `market_data`.
    func replacingDots() -> String { String(split(separator: ".").first ?? "") }
}
