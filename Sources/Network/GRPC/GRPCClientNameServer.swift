import DNSCodec
import EventLoop

/// Asks a name server for both kinds of addresses of a name. Confined to its loop; lives until it is done.
final class GRPCNameServerLookup {
    private let name: GRPCAddress
    private let done: (Result<[GRPCAddress], GRPCStatus>) -> Void
    private var waiting = DNSAddressType.allCases.count
    private var found: [DNSAddressType: [[UInt8]]] = [:]
    private var failure: GRPCStatus?

    /// `done` is called once, on the loop.
    static func start(
        _ name: GRPCAddress, _ server: GRPCAddress, _ loop: EventLoop, _ options: GRPCNameServerOptions,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void
    ) {
        guard let asked = DNSName(name.host) else {
            return done(.failure(GRPCStatus(.unavailable, "\(name.host) is no name that a name server can know")))
        }
        guard let address = SocketAddress(numericHost: server.host, port: server.port) else {
            return done(.failure(GRPCStatus(.unavailable, "the name server \(server) is no numeric address")))
        }
        let lookup = GRPCNameServerLookup(name, done)
        for type in DNSAddressType.allCases {
            let query = GRPCNameQuery(DNSQuestion(asked, type), server: server, options: options)
            NameServerExchange(query, address, loop) { lookup.ended(type, $0) }.start()
        }
    }

    private init(_ name: GRPCAddress, _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void) {
        self.name = name
        self.done = done
    }

    private func ended(_ type: DNSAddressType, _ result: Result<[[UInt8]], GRPCStatus>) {
        waiting -= 1
        switch result {
        case .success(let addresses): found[type] = addresses
        case .failure(let status): failure = failure ?? status
        }
        guard waiting == 0 else { return }
        var addresses: [GRPCAddress] = []
        for type in DNSAddressType.allCases {
            let sorted = Set(found[type] ?? []).sorted { $0.lexicographicallyPrecedes($1) }
            addresses += sorted.compactMap { SocketAddress(bytes: $0, port: name.port) }.map {
                GRPCAddress(host: $0.numericHost, port: name.port)
            }
        }
        // One kind of addresses is enough.
        if !addresses.isEmpty { return done(.success(addresses)) }
        done(.failure(failure ?? GRPCStatus(.unavailable, "the name \(name.host) has no addresses")))
    }
}

/// One question and its answer: performs what the machine says. Held by what it waits for.
private final class NameServerExchange: ByteStreamOwner {
    private var query: GRPCNameQuery
    private let server: SocketAddress
    private let loop: EventLoop
    private let done: (Result<[[UInt8]], GRPCStatus>) -> Void
    private var socket: DatagramSocket?
    private var stream: Socket?
    private var timer: (any LoopTimer)?
    private var attempt = 0

    init(
        _ query: GRPCNameQuery, _ server: SocketAddress, _ loop: EventLoop,
        _ done: @escaping (Result<[[UInt8]], GRPCStatus>) -> Void
    ) {
        self.query = query
        self.server = server
        self.loop = loop
        self.done = done
    }

    /// Ids come from the system's randomness: who can guess one can answer in the server's place.
    private static func newID() -> UInt16 { UInt16(truncatingIfNeeded: RandomSeed.make()) }

    func start() { perform(query.start(id: NameServerExchange.newID())) }

    private func perform(_ action: GRPCNameQuery.Action) {
        switch action {
        case .wait: break
        case .sendDatagram(let message, let milliseconds):
            release()
            wait(milliseconds)
            send(message)
        case .sendStream(let message, let milliseconds):
            release()
            wait(milliseconds)
            connect(message)
        case .finish(let result):
            release()
            done(result)
        }
    }

    private func release() {
        attempt += 1
        timer?.cancel()
        timer = nil
        socket?.close()
        socket = nil
        stream?.owner = nil
        stream?.close()
        stream = nil
    }

    /// The timer holds the exchange.
    private func wait(_ milliseconds: Int) {
        timer = loop.timer(afterMilliseconds: milliseconds) { [self] in
            perform(query.timedOut(nextID: NameServerExchange.newID()))
        }
    }

    private func failed(_ error: StreamError) {
        perform(query.failed(error.description, nextID: NameServerExchange.newID()))
    }

    private func send(_ message: [UInt8]) {
        do throws(StreamError) {
            let socket = try DatagramSocket(to: server, loop: loop) { [weak self] result in
                guard let self else { return }
                switch result {
                case .success(let bytes):
                    perform(query.received(datagram: bytes, nextID: NameServerExchange.newID()))
                case .failure(let error): failed(error)
                }
            }
            self.socket = socket
            try socket.send(message)
        } catch {
            failed(error)
        }
    }

    private func connect(_ message: [UInt8]) {
        let attempt = attempt
        Socket.connect(server, loop: loop) { [weak self] result in
            guard let self, self.attempt == attempt else {
                if case .success(let late) = result { late.close() }
                return
            }
            switch result {
            case .failure(let error): failed(error)
            case .success(let stream):
                self.stream = stream
                stream.owner = self
                stream.startReading()
                message.withUnsafeBytes { stream.write($0) }
            }
        }
    }

    func received(_ bytes: UnsafeRawBufferPointer) { perform(query.received(stream: bytes)) }
    func drained() {}
    func closed(_ error: StreamError?) { failed(error ?? StreamError("it closed the connection")) }
}
