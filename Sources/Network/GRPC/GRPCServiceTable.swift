import Glibc

/// A method of a server.
public struct GRPCMethod: Hashable, Sendable {
    /// `/package.Service/Method`
    public let path: String
    /// `package.Service`
    public let service: String
    /// `Method`
    public let name: String
    public let clientStreaming: Bool
    public let serverStreaming: Bool
}

/// The methods of a server, as one loop serves them.
public struct GRPCServiceTable {
    enum Handler {
        case unary((ServerCall, UnsafeRawBufferPointer) -> Void)
        case streaming((ServerCall) -> any RequestSink)
    }

    final class Entry {
        let method: GRPCMethod
        let handler: Handler
        let compresses: Bool
        let pathBytes: [UInt8]
        /// Its place in ``GRPCServiceTable/methods``.
        let number: Int
        let isStream: Bool

        init(_ method: GRPCMethod, _ handler: Handler, compresses: Bool, number: Int) {
            self.method = method
            self.number = number
            isStream = method.clientStreaming || method.serverStreaming
            self.handler = handler
            self.compresses = compresses
            pathBytes = Array(method.path.utf8)
        }
    }

    private var index = PathIndex()
    private(set) var services: Set<String> = []

    /// Every method, in the order of registration.
    public private(set) var methods: [GRPCMethod] = []

    public init() {}

    /// A method with one request and one response. The handler answers on the loop, now or later:
    /// ``ServerCall/respond(_:)-([UInt8])`` or ``ServerCall/fail(_:trailers:)``. The request is valid during the call.
    /// Without `compresses` its responses are never compressed.
    public mutating func register(
        path: String, compresses: Bool = true, unary handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void
    ) {
        add(path, client: false, server: false, compresses, .unary(handler))
    }

    /// A method with one request and a stream of responses: the handler sets ``ServerCall/source``, whose frames go out
    /// as they are, or sends messages with ``ServerCall/send(_:)``.
    public mutating func register(
        path: String, compresses: Bool = true,
        serverStreaming handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void
    ) {
        add(path, client: false, server: true, compresses, .unary(handler))
    }

    /// A method whose requests are a stream: the handler is called when the call begins and gives who takes them. It
    /// may fail the call at once; the sink is not told anything then. Where the method has one response, the sink
    /// answers with ``ServerCall/respond(_:)-([UInt8])``.
    public mutating func register(
        path: String, compresses: Bool = true, serverStreaming: Bool = true,
        streaming handler: @escaping (ServerCall) -> any RequestSink
    ) {
        add(path, client: true, server: serverStreaming, compresses, .streaming(handler))
    }

    private mutating func add(_ path: String, client: Bool, server: Bool, _ compresses: Bool, _ handler: Handler) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        precondition(parts.count == 3 && parts[0].isEmpty, "a path is /package.Service/Method")
        let method = GRPCMethod(
            path: path, service: String(parts[1]), name: String(parts[2]), clientStreaming: client,
            serverStreaming: server)
        methods.append(method)
        services.insert(method.service)
        index.insert(Entry(method, handler, compresses: compresses, number: methods.count - 1))
    }

    func find(_ path: UnsafeRawBufferPointer) -> Entry? { index.find(path) }

    /// Why there is no such method.
    func refusal(_ path: String) -> GRPCStatus {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].isEmpty else {
            return GRPCStatus(.unimplemented, "malformed method name: \(path)")
        }
        guard services.contains(String(parts[1])) else {
            return GRPCStatus(.unimplemented, "unknown service \(parts[1])")
        }
        return GRPCStatus(.unimplemented, "unknown method \(parts[2]) for service \(parts[1])")
    }
}

/// Methods by the bytes of their paths, so that a lookup makes no string.
private struct PathIndex {
    private var slots: [GRPCServiceTable.Entry?] = Array(repeating: nil, count: 16)
    private var count = 0

    /// Of the length and the last bytes, where paths differ most. What is in the table is the server's own, so that no
    /// client can make a lookup long.
    private static func hash(_ path: UnsafeRawBufferPointer) -> Int {
        guard path.count >= 8 else { return path.count }
        let last = path.loadUnaligned(fromByteOffset: path.count - 8, as: UInt64.self)
        let mixed = (last ^ UInt64(path.count)) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mixed >> 32)
    }

    /// A path that is there already gets the new entry.
    mutating func insert(_ entry: GRPCServiceTable.Entry) {
        if (count + 1) * 2 > slots.count {
            let old = slots
            slots = Array(repeating: nil, count: old.count * 2)
            count = 0
            for entry in old { if let entry { insert(entry) } }
        }
        var place = entry.pathBytes.withUnsafeBytes { PathIndex.hash($0) } & (slots.count - 1)
        while let taken = slots[place] {
            if taken.pathBytes == entry.pathBytes {
                slots[place] = entry
                return
            }
            place = (place + 1) & (slots.count - 1)
        }
        slots[place] = entry
        count += 1
    }

    private static func equal(_ bytes: [UInt8], _ path: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count == path.count, let start = path.baseAddress else { return false }
        return bytes.withUnsafeBytes { memcmp($0.baseAddress!, start, path.count) == 0 }
    }

    func find(_ path: UnsafeRawBufferPointer) -> GRPCServiceTable.Entry? {
        var place = PathIndex.hash(path) & (slots.count - 1)
        while let entry = slots[place] {
            if PathIndex.equal(entry.pathBytes, path) { return entry }
            place = (place + 1) & (slots.count - 1)
        }
        return nil
    }
}
