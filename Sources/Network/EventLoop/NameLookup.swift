import CUV
import Glibc

extension SocketAddress {
    /// Of a host that is numeric already (`127.0.0.1`, `::1`, `fe80::1%eth0`); nil for a name. Never blocks.
    public init?(numericHost host: String, port: Int) {
        guard (0...65535).contains(port) else { return nil }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, "\(port)", &hints, &list) == 0, let first = list else { return nil }
        defer { freeaddrinfo(list) }
        self.init(first.pointee)
    }

    /// Of an address as it is in a packet: 4 bytes of IPv4, or 16 of IPv6; nil for any other count.
    public init?(bytes: [UInt8], port: Int) {
        guard let family = [4: AF_INET, 16: AF_INET6][bytes.count] else { return nil }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil else { return nil }
        self.init(numericHost: text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }, port: port)
    }

    init(_ info: addrinfo) {
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.copyMemory(from: UnsafeRawBufferPointer(start: info.ai_addr, count: Int(info.ai_addrlen)))
        }
        self.storage = storage
    }

    /// Whether it is an IPv6 address.
    public var isIPv6: Bool { Int32(storage.ss_family) == AF_INET6 }

    /// The host as numbers.
    public var numericHost: String { Resolver.withAddress(storage) { Resolver.numericHost($0, $1) } }

    /// The address as it is in a packet.
    public var bytes: [UInt8] {
        withUnsafeBytes(of: storage) { isIPv6 ? Array($0[8..<24]) : Array($0[4..<8]) }
    }
}

extension EventLoop {
    /// All addresses of a name, as the system finds them (`/etc/hosts`, `/etc/resolv.conf`), on another thread; `done`
    /// is called once, on the loop, later.
    ///
    /// In an order that does not change from one time to the next: the family that the system prefers first (RFC 6724),
    /// ascending in each, none twice. On the loop only.
    public func lookUp(
        host: String, port: Int, _ done: @escaping (Result<[SocketAddress], AddressError>) -> Void
    ) {
        let lookup = NameLookup(host: host, done)
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        lookup.request.pointee.data = Unmanaged.passRetained(lookup).toOpaque()
        let error = uv_getaddrinfo(
            uv, lookup.request,
            { request, status, list in
                let lookup = Unmanaged<NameLookup>.fromOpaque(request!.pointee.data).takeRetainedValue()
                lookup.finish(status, list)
            }, host, "\(port)", &hints)
        guard error != 0 else { return }
        afterTurn {
            Unmanaged<NameLookup>.fromOpaque(lookup.request.pointee.data).takeRetainedValue().finish(error, nil)
        }
    }
}

/// One question to the system.
private final class NameLookup {
    let request = UnsafeMutablePointer<uv_getaddrinfo_t>.allocate(capacity: 1)
    private let host: String
    private let done: (Result<[SocketAddress], AddressError>) -> Void

    init(host: String, _ done: @escaping (Result<[SocketAddress], AddressError>) -> Void) {
        self.host = host
        self.done = done
    }

    deinit { request.deallocate() }

    func finish(_ status: Int32, _ list: UnsafeMutablePointer<addrinfo>?) {
        defer { uv_freeaddrinfo(list) }
        guard status == 0 else {
            return done(.failure(AddressError("cannot resolve \(host): \(String(cString: uv_strerror(status)))")))
        }
        var addresses: [SocketAddress] = []
        var next = list
        while let info = next?.pointee {
            if info.ai_family == AF_INET || info.ai_family == AF_INET6 { addresses.append(SocketAddress(info)) }
            next = info.ai_next
        }
        done(.success(SocketAddress.ordered(addresses)))
    }
}

extension SocketAddress {
    /// The family of the first before the other, ascending in each, none twice.
    static func ordered(_ addresses: [SocketAddress]) -> [SocketAddress] {
        guard let first = addresses.first else { return [] }
        var seen = Set<[UInt8]>()
        return addresses.filter { seen.insert($0.bytes).inserted }.sorted { left, right in
            if left.isIPv6 != right.isIPv6 { return left.isIPv6 == first.isIPv6 }
            return left.bytes.lexicographicallyPrecedes(right.bytes)
        }
    }
}
