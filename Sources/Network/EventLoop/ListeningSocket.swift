import CLinux
import CUV
import Glibc

/// A socket that listens: connections wait in it until a ``Listener`` takes them. A process that starts another one may
/// leave it open for that one: while either has it, no connection is refused.
public final class ListeningSocket: Sendable {
    /// As it was asked for.
    public let host: String
    /// The one that was taken.
    public let port: Int
    public let descriptor: Int32

    /// Binds and listens; port 0 takes a free one.
    public init(host: String, port: Int) throws(AddressError) {
        let address = try Resolver.resolve(host: host, port: port, passive: true)
        let descriptor = clinux_stream_socket(Int32(address.ss_family))
        guard descriptor >= 0 else { throw AddressError("cannot make a socket: \(String(cString: strerror(errno)))") }
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        let bound = Resolver.withAddress(address) { bind(descriptor, $0, $1) }
        guard bound == 0, Glibc.listen(descriptor, 1024) == 0 else {
            let why = String(cString: strerror(errno))
            Glibc.close(descriptor)
            throw AddressError("cannot listen on \(host):\(port): \(why)")
        }
        self.descriptor = descriptor
        self.host = host
        self.port = Resolver.boundPort(descriptor)
    }

    /// One that the process which started this one has left open; `host` is what it was made for. Throws where the
    /// descriptor is none.
    public init(inherited descriptor: Int32, host: String) throws(AddressError) {
        var isListening: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length) == 0, isListening == 1,
            clinux_make_private(descriptor) == 0
        else { throw AddressError("descriptor \(descriptor) is no socket that listens") }
        self.descriptor = descriptor
        self.host = host
        port = Resolver.boundPort(descriptor)
    }

    /// One that a service manager has bound for this process. Throws where the descriptor is no TCP socket that
    /// listens.
    public convenience init(activated descriptor: Int32) throws(AddressError) {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        guard result == 0, [AF_INET, AF_INET6].contains(Int32(storage.ss_family)) else {
            throw AddressError("descriptor \(descriptor) is no TCP socket that listens")
        }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        let named = Resolver.withAddress(storage) {
            getnameinfo($0, $1, &host, socklen_t(host.count), nil, 0, NI_NUMERICHOST)
        }
        let name = String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        try self.init(inherited: descriptor, host: named == 0 ? name : "")
    }

    /// Closes it in this process. Once, and not where a listener has it.
    public func close() { Glibc.close(descriptor) }
}
