import EventLoop
import Protobuf

/// `grpc.reflection`, v1 and v1alpha: tells callers what the table serves, from the descriptors of the schemas.
final class ReflectionService {
    private typealias Request = GRPCReflectionProto.ServerReflectionRequest
    private typealias Response = GRPCReflectionProto.ServerReflectionResponse

    private struct File {
        let bytes: [UInt8]
        let dependencies: [String]
    }

    private var files: [String: File] = [:]
    private var fileOfSymbol: [String: String] = [:]
    private var messages: Set<String> = []
    private let services: [String]

    /// `files` are the schemas of the services and all that they import; services that are not served are left out.
    init(services: Set<String>, files: [ProtoFile]) throws(DecodingError) {
        self.services = services.sorted()
        for file in files {
            let bytes = try file.descriptorBytes(withServices: services)
            let outline = try ProtoFileOutline(bytes)
            self.files[file.name] = File(bytes: bytes, dependencies: outline.dependencies)
            for symbol in outline.symbols { fileOfSymbol[symbol] = file.name }
            messages.formUnion(outline.messages)
        }
    }

    /// Takes the requests of one call and answers each; a client that does not read the answers is not read from.
    final class Session: RequestSink {
        private let service: ReflectionService

        init(_ service: ReflectionService, _ call: ServerCall) {
            self.service = service
            call.onWritable = { [weak call] in call?.resumeRequests() }
        }

        func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
            guard let request: Request = call.decode(message) else { return }
            call.send(service.answer(request).encodedBytes())
            if !call.isWritable { call.pauseRequests() }
        }

        func receivedEnd(_ call: ServerCall) { call.finish() }
    }

    private func answer(_ request: Request) -> Response {
        var response = Response()
        response.validHost = request.host
        response.originalRequest = request
        switch request.messageRequest {
        case .fileByFilename(let name): response.messageResponse = file(name)
        case .fileContainingSymbol(let symbol):
            response.messageResponse =
                fileOfSymbol[symbol].map { file($0) } ?? ReflectionService.error(.notFound, "unknown symbol \(symbol)")
        case .fileContainingExtension(let request):
            response.messageResponse = ReflectionService.error(
                .notFound, "\(request.containingType) has no extension \(request.extensionNumber)")
        case .allExtensionNumbersOfType(let type):
            guard messages.contains(type) else {
                response.messageResponse = ReflectionService.error(.notFound, "unknown type \(type)")
                break
            }
            var numbers = GRPCReflectionProto.ExtensionNumberResponse()
            numbers.baseTypeName = type
            response.messageResponse = .allExtensionNumbersResponse(numbers)
        case .listServices:
            var list = GRPCReflectionProto.ListServiceResponse()
            for name in services {
                var service = GRPCReflectionProto.ServiceResponse()
                service.name = name
                list.service.append(service)
            }
            response.messageResponse = .listServicesResponse(list)
        case nil: response.messageResponse = ReflectionService.error(.invalidArgument, "the request asks for nothing")
        }
        return response
    }

    private static func error(_ code: GRPCStatus.Code, _ message: String) -> Response.OneOf_MessageResponse {
        var error = GRPCReflectionProto.ErrorResponse()
        error.errorCode = Int32(code.rawValue)
        error.errorMessage = message
        return .errorResponse(error)
    }

    /// A file and all that it needs, itself first.
    private func file(_ name: String) -> Response.OneOf_MessageResponse {
        guard files[name] != nil else { return ReflectionService.error(.notFound, "unknown file \(name)") }
        var response = GRPCReflectionProto.FileDescriptorResponse()
        var names = [name]
        var next = 0
        while next < names.count {
            if let file = files[names[next]] {
                response.fileDescriptorProto.append(file.bytes)
                for dependency in file.dependencies where !names.contains(dependency) { names.append(dependency) }
            }
            next += 1
        }
        return .fileDescriptorResponse(response)
    }
}

extension GRPCServiceTable {
    /// Adds reflection (v1 and v1alpha) of every service that is in the table by now, from their schemas. Register it
    /// last. Files that google.protobuf's types need are known. Throws where a descriptor is none.
    public mutating func registerReflection(files: [ProtoFile]) throws(DecodingError) {
        let paths = [
            GRPCReflectionProto.ServerReflection.serverReflectionInfo.path,
            GRPCReflectionAlphaProto.ServerReflection.serverReflectionInfo.path,
        ]
        let standard = [
            GRPCHealthProto.healthFile, GRPCChannelzProto.channelzFile, GRPCReflectionProto.reflectionFile,
            GRPCReflectionAlphaProto.reflectionV1alphaFile,
        ]
        let names = [
            GRPCReflectionProto.ServerReflection.protoName, GRPCReflectionAlphaProto.ServerReflection.protoName,
        ]
        let service = try ReflectionService(
            services: services.union(names), files: WellKnown.files + standard + files)
        // The messages of both versions are the same on the wire.
        let handle = { (call: ServerCall) -> any RequestSink in ReflectionService.Session(service, call) }
        for path in paths { register(path: path, streaming: handle) }
    }
}
