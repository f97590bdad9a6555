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
    final class Entry {
        let method: GRPCMethod
        /// One of the two is there.
        private let unary: ((ServerCall, UnsafeRawBufferPointer) -> Void)?
        private let streaming: ((ServerCall) -> any RequestSink)?
        let compresses: Bool
        let pathBytes: [UInt8]
        /// Its place in ``GRPCServiceTable/methods``.
        let number: Int
        let isStream: Bool

        init(
            _ method: GRPCMethod, compresses: Bool, number: Int,
            unary: ((ServerCall, UnsafeRawBufferPointer) -> Void)? = nil,
            streaming: ((ServerCall) -> any RequestSink)? = nil
        ) {
            self.method = method
            self.number = number
            isStream = method.clientStreaming || method.serverStreaming
            self.unary = unary
            self.streaming = streaming
            self.compresses = compresses
            pathBytes = Array(method.path.utf8)
        }

        /// Whether requests are a stream.
        var takesStream: Bool { streaming != nil }

        /// Begins a call whose requests are a stream; nil for another.
        func begin(_ call: ServerCall) -> (any RequestSink)? { streaming?(call) }

        /// Answers a call that has one request.
        func handle(_ call: ServerCall, _ request: UnsafeRawBufferPointer) { unary?(call, request) }
    }

    private(set) var paths = PathIndex()
    private(set) var services: Set<String> = []
    private var uncompressed: Set<String> = []

    /// Every method, in the order of registration.
    public private(set) var methods: [GRPCMethod] = []

    public init() {}

    /// Has the responses of a method never compressed, in whichever form it is registered, before this or after it.
    public mutating func leaveUncompressed(path: String) { uncompressed.insert(path) }

    func isUncompressed(_ path: String) -> Bool { !uncompressed.isEmpty && uncompressed.contains(path) }

    /// A method with one request and one response. The handler answers on the loop, now or later:
    /// ``ServerCall/respond(_:)-([UInt8])`` or ``ServerCall/fail(_:trailers:)``. The request is valid during the call.
    /// Without `compresses` its responses are never compressed.
    public mutating func register(
        path: String, compresses: Bool = true, unary handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void
    ) {
        add(path, client: false, server: false, compresses, unary: handler)
    }

    /// A method with one request and a stream of responses: the handler sets ``ServerCall/source``, whose frames go out
    /// as they are, or sends messages with ``ServerCall/send(_:)``.
    public mutating func register(
        path: String, compresses: Bool = true,
        serverStreaming handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void
    ) {
        add(path, client: false, server: true, compresses, unary: handler)
    }

    /// A method whose requests are a stream: the handler is called when the call begins and gives who takes them. It
    /// may fail the call at once; the sink is not told anything then. Where the method has one response, the sink
    /// answers with ``ServerCall/respond(_:)-([UInt8])``.
    public mutating func register(
        path: String, compresses: Bool = true, serverStreaming: Bool = true,
        streaming handler: @escaping (ServerCall) -> any RequestSink
    ) {
        add(path, client: true, server: serverStreaming, compresses, streaming: handler)
    }

    private mutating func add(
        _ path: String, client: Bool, server: Bool, _ compresses: Bool,
        unary: ((ServerCall, UnsafeRawBufferPointer) -> Void)? = nil,
        streaming: ((ServerCall) -> any RequestSink)? = nil
    ) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        precondition(parts.count == 3 && parts[0].isEmpty, "a path is /package.Service/Method")
        let method = GRPCMethod(
            path: path, service: String(parts[1]), name: String(parts[2]), clientStreaming: client,
            serverStreaming: server)
        methods.append(method)
        services.insert(method.service)
        if !isKnownUniquelyReferenced(&paths) { paths = PathIndex(copying: paths) }
        paths.insert(
            Entry(
                method, compresses: compresses, number: methods.count - 1, unary: unary, streaming: streaming))
    }

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

/// Methods by the bytes of their paths, so that a lookup makes no string. Filled before the first lookup.
final class PathIndex {
    private var slots: UnsafeMutablePointer<Unmanaged<GRPCServiceTable.Entry>?>
    private var mask = 15
    private var count = 0

    init() {
        slots = .allocate(capacity: 16)
        slots.initialize(repeating: nil, count: 16)
    }

    init(copying other: PathIndex) {
        mask = other.mask
        count = other.count
        slots = .allocate(capacity: mask + 1)
        slots.initialize(repeating: nil, count: mask + 1)
        for place in 0...mask { slots[place] = other.slots[place]?.retain() }
    }

    deinit {
        for place in 0...mask { slots[place]?.release() }
        slots.deallocate()
    }

    /// Of the length and the last bytes, where paths differ most. What is in the table is the server's own, so that no
    /// client can make a lookup long.
    private static func hash(_ path: UnsafeRawBufferPointer) -> Int {
        guard path.count >= 8 else { return path.count }
        let last = path.loadUnaligned(fromByteOffset: path.count - 8, as: UInt64.self)
        let mixed = (last ^ UInt64(path.count)) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mixed >> 32)
    }

    /// Where a path is, or would be.
    @inline(__always)
    private func place(_ path: UnsafeRawBufferPointer) -> Int {
        var place = PathIndex.hash(path) & mask
        while let entry = slots[place] {
            if entry._withUnsafeGuaranteedRef({ PathIndex.equal($0.pathBytes, path) }) { break }
            place = (place + 1) & mask
        }
        return place
    }

    /// A path that is there already gets the new entry.
    func insert(_ entry: GRPCServiceTable.Entry) {
        if (count + 1) * 2 > mask + 1 { grow() }
        put(Unmanaged.passRetained(entry))
    }

    private func put(_ entry: Unmanaged<GRPCServiceTable.Entry>) {
        let place = entry._withUnsafeGuaranteedRef { $0.pathBytes.withUnsafeBytes { self.place($0) } }
        if let old = slots[place] { old.release() } else { count += 1 }
        slots[place] = entry
    }

    private func grow() {
        let (old, oldMask) = (slots, mask)
        mask = mask * 2 + 1
        count = 0
        slots = .allocate(capacity: mask + 1)
        slots.initialize(repeating: nil, count: mask + 1)
        for place in 0...oldMask { if let entry = old[place] { put(entry) } }
        old.deallocate()
    }

    private static func equal(_ bytes: [UInt8], _ path: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count == path.count, let start = path.baseAddress else { return false }
        return bytes.withUnsafeBytes { memcmp($0.baseAddress!, start, path.count) == 0 }
    }

    func find(_ path: UnsafeRawBufferPointer) -> GRPCServiceTable.Entry? { slots[place(path)]?.takeUnretainedValue() }
}
