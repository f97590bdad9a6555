import EventLoop

/// Makes streams of bytes to servers: TCP on an ``EventLoop``, with TLS where there is a context. A host that is a name
/// is looked up, and its first address taken.
public struct StreamConnector: Sendable {
    private let tls: TLSClientContext?
    private let verifiesAddress: Bool

    /// `verifiesAddress`: whether each server's certificate must have the host that it is reached by; else the
    /// context's name.
    public init(tls: TLSClientContext? = nil, verifiesAddress: Bool = false) {
        self.tls = tls
        self.verifiesAddress = verifiesAddress
    }

    /// On the loop; `done` is called once on it, never inside the call.
    public func connect(
        host: String, port: Int, loop: EventLoop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        if let place = SocketAddress(numericHost: host, port: port) { return connect(place, host, loop, done) }
        loop.lookUp(host: host, port: port) { result in
            switch result {
            case .success(let places):
                guard let place = places.first else { return done(.failure(StreamError("\(host) has no address"))) }
                connect(place, host, loop, done)
            case .failure(let error): done(.failure(StreamError(error.description)))
            }
        }
    }

    private func connect(
        _ place: SocketAddress, _ host: String, _ loop: EventLoop,
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
                    done(.success(try tls.wrap(socket, serverName: host)))
                } catch {
                    socket.close()
                    done(.failure(StreamError("\(error)")))
                }
            }
        }
    }
}
