import EventLoop
import TLS

/// TCP on an ``EventLoop``, with TLS where there is a context. A host that is a name is looked up, and its first
/// address taken.
public struct CQLSockets: CQLTransport {
    private let tls: TLSClientContext?
    /// Whether each node's certificate must have the node's own address; else the context's name.
    private let verifiesAddress: Bool

    /// The context's configuration has no `applicationProtocols`: Cassandra offers none.
    public init(tls: TLSClientContext? = nil, verifiesAddress: Bool = false) {
        self.tls = tls
        self.verifiesAddress = verifiesAddress
    }

    public func connect(
        _ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        guard let loop = loop as? EventLoop else {
            return loop.afterTurn { done(.failure(StreamError("sockets need an EventLoop"))) }
        }
        if let place = SocketAddress(numericHost: address.host, port: address.port) {
            return connect(place, address, loop, done)
        }
        loop.lookUp(host: address.host, port: address.port) { result in
            switch result {
            case .success(let places):
                guard let place = places.first else {
                    return done(.failure(StreamError("\(address.host) has no address")))
                }
                connect(place, address, loop, done)
            case .failure(let error): done(.failure(StreamError(error.description)))
            }
        }
    }

    private func connect(
        _ place: SocketAddress, _ address: CQLAddress, _ loop: EventLoop,
        _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        Socket.connect(place, loop: loop) { result in
            switch result {
            // Some failures are known at once, inside the call.
            case .failure(let error): loop.afterTurn { done(.failure(error)) }
            case .success(let socket):
                guard let tls else { return done(.success(socket)) }
                guard verifiesAddress else { return done(.success(tls.wrap(socket))) }
                do {
                    done(.success(try tls.wrap(socket, serverName: address.host)))
                } catch {
                    socket.close()
                    done(.failure(StreamError("\(error)")))
                }
            }
        }
    }
}
