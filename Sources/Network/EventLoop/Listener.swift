import CLinux
import CUV
import Glibc
import Synchronization

/// Several loops as one.
public final class EventLoopGroup: Sendable {
    public let loops: [EventLoop]

    /// `count` is at least 1.
    public init(count: Int, name: String = "loop") {
        precondition(count >= 1)
        loops = (0..<count).map { EventLoop(name: "\(name)-\($0)") }
    }

    /// The loop with the fewest connections.
    public var leastLoaded: EventLoop {
        loops.min { $0.connectionCount.load(ordering: .relaxed) < $1.connectionCount.load(ordering: .relaxed) }!
    }

    /// Ends the loops' threads, as ``EventLoop/stop()`` does: what uses the loops has ended before.
    public func stop() { for loop in loops { loop.stop() } }
}

/// Why a listener or a name failed.
public struct AddressError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Accepts TCP connections on one loop and hands each to the least loaded loop of a group.
public final class Listener: @unchecked Sendable {
    public let port: Int
    private let descriptor: Int32
    private let loop: EventLoop
    private let poll = UnsafeMutablePointer<uv_poll_t>.allocate(capacity: 1)
    private let group: EventLoopGroup
    private let accepted: @Sendable (Socket) -> Void

    /// Binds and listens; port 0 takes a free one. `accepted` is called on the connection's own loop. Never on a loop.
    public convenience init(
        host: String, port: Int, group: EventLoopGroup, accepted: @escaping @Sendable (Socket) -> Void
    ) throws(AddressError) {
        self.init(on: try ListeningSocket(host: host, port: port), group: group, accepted: accepted)
    }

    /// Takes the connections of a socket, which is its own from now on. `accepted` is called on the connection's own
    /// loop. Never on a loop.
    public init(
        on socket: ListeningSocket, group: EventLoopGroup, accepted: @escaping @Sendable (Socket) -> Void
    ) {
        descriptor = socket.descriptor
        port = socket.port
        self.group = group
        self.accepted = accepted
        loop = group.loops[0]
        let box = LoopConfined(self)
        loop.execute { box.value.start() }
    }

    private func start() {
        poll.pointee.data = Unmanaged.passRetained(self).toOpaque()
        uv_poll_init(loop.uv, poll, descriptor)
        uv_poll_start(poll, Int32(UV_READABLE.rawValue)) { handle, _, _ in
            Unmanaged<Listener>.fromOpaque(handle!.pointee.data).takeUnretainedValue().acceptAll()
        }
    }

    private func acceptAll() {
        while case let connection = clinux_accept(descriptor), connection >= 0 {
            Socket.handOver(connection, to: group.leastLoaded, accepted)
        }
    }

    /// Stops listening. From any thread, once.
    public func close() {
        let box = LoopConfined(self)
        loop.execute { box.value.stop() }
    }

    private func stop() {
        uv_poll_stop(poll)
        uv_close(UnsafeMutableRawPointer(poll).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            let listener = Unmanaged<Listener>.fromOpaque(handle!.pointee.data).takeRetainedValue()
            Glibc.close(listener.descriptor)
            listener.poll.deallocate()
        }
    }
}

/// A numeric address of a host, resolved by the system. Making one may block.
public struct SocketAddress: Sendable {
    let storage: sockaddr_storage

    public init(host: String, port: Int) throws(AddressError) {
        storage = try Resolver.resolve(host: host, port: port)
    }
}

enum Resolver {
    /// The first address of a name. `passive` is for binding: an empty host is every interface.
    static func resolve(host: String, port: Int, passive: Bool = false) throws(AddressError) -> sockaddr_storage {
        guard (0...65535).contains(port) else { throw AddressError("port \(port) is not in 0...65535") }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = passive ? AI_PASSIVE : 0
        var list: UnsafeMutablePointer<addrinfo>?
        let error = getaddrinfo(host.isEmpty ? nil : host, "\(port)", &hints, &list)
        guard error == 0, let first = list else {
            throw AddressError("cannot resolve \(host): \(String(cString: gai_strerror(error)))")
        }
        defer { freeaddrinfo(list) }
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.copyMemory(
                from: UnsafeRawBufferPointer(start: first.pointee.ai_addr, count: Int(first.pointee.ai_addrlen)))
        }
        return storage
    }

    static func withAddress<R>(_ storage: sockaddr_storage, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var storage = storage
        let isV6 = Int32(storage.ss_family) == AF_INET6
        let length = isV6 ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
        return withUnsafePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) }
        }
    }

    /// An address as numbers; empty where it has none.
    static func numericHost(_ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> String {
        var name = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        guard getnameinfo(address, length, &name, socklen_t(name.count), nil, 0, NI_NUMERICHOST) == 0 else { return "" }
        return name.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    static func boundPort(_ descriptor: Int32) -> Int {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = getsockname(descriptor, $0, &length) }
        }
        // The port is at the same place in both families.
        return withUnsafeBytes(of: &storage) {
            Int(UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
        }
    }
}
