import EventLoop

@testable import CassandraCQL

/// Sends a session's sockets to a proxy, whatever address the cluster gives.
struct ProxyTransport: CQLTransport {
    let port: Int

    func connect(
        _ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        CQLSockets().connect(CQLAddress(host: "127.0.0.1", port: port), loop: loop, done)
    }
}
