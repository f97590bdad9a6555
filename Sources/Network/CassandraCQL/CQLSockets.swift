import EventLoop
import TLS

/// TCP on an ``EventLoop``, with TLS where there is a context. A host that is a name is looked up, and its first
/// address taken.
public struct CQLSockets: CQLTransport {
    private let connector: StreamConnector

    /// The context's configuration has no `applicationProtocols`: Cassandra offers none. `verifiesAddress`: whether
    /// each node's certificate must have the node's own address; else the context's name.
    public init(tls: TLSClientContext? = nil, verifiesAddress: Bool = false) {
        connector = StreamConnector(tls: tls, verifiesAddress: verifiesAddress)
    }

    public func connect(
        _ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        guard let loop = loop as? EventLoop else {
            return loop.afterTurn { done(.failure(StreamError("sockets need an EventLoop"))) }
        }
        connector.connect(host: address.host, port: address.port, loop: loop, done)
    }
}
