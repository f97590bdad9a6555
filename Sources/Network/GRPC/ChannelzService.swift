import EventLoop
import Glibc
import HTTP2
import Protobuf
import Synchronization

/// `grpc.channelz.v1.Channelz` of a server: who is connected, and how many calls each connection has had. It reads, and
/// changes nothing. From any thread.
///
/// Ids: the server is 1, its listening sockets follow, connections begin at 2^32; none is given again.
public final class GRPCChannelz: Sendable {
    private typealias Schema = GRPCChannelzProto

    private static let serverID: Int64 = 1
    /// Results in one answer, unless fewer are asked for.
    private static let resultsMax = 100

    private struct State {
        weak var server: GRPCServer?
    }

    private let state = Mutex(State())

    /// Answers of a server that it is shown later.
    public init() {}

    /// Shows it the server that it is registered on. Until then there is none.
    public func show(_ server: GRPCServer) { state.withLock { $0.server = server } }

    private var server: GRPCServer? { state.withLock { $0.server } }

    /// Adds the service to a table.
    public func register(on table: inout GRPCServiceTable) {
        let service = Schema.Channelz.self
        table.register(path: service.getServers.path, unary: getServers)
        table.register(path: service.getServer.path, unary: getServer)
        table.register(path: service.getServerSockets.path, unary: getServerSockets)
        table.register(path: service.getSocket.path, unary: getSocket)
        table.register(path: service.getTopChannels.path, unary: getTopChannels)
        for path in [service.getChannel.path, service.getSubchannel.path] {
            table.register(path: path, unary: getChannel)
        }
    }

    private func getTopChannels(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        var response = Schema.GetTopChannelsResponse()
        response.end = true
        call.respond(response)
    }

    private func getChannel(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        call.fail(GRPCStatus(.notFound, "a server has no channels"))
    }

    // MARK: Servers

    private static func describe(_ server: GRPCServer) -> Schema.Server {
        var description = Schema.Server()
        var ref = Schema.ServerRef()
        ref.serverId = serverID
        ref.name = "tapedeck"
        description.ref = ref
        var data = Schema.ServerData()
        let counters = server.counters
        data.callsStarted = Int64(clamping: counters.calls)
        description.data = data
        description.listenSocket = server.listenerAddresses.enumerated().map { socketRef($0.offset, $0.element) }
        return description
    }

    private static func socketRef(_ number: Int, _ address: (host: String, port: Int)) -> Schema.SocketRef {
        var ref = Schema.SocketRef()
        ref.socketId = serverID + 1 + Int64(number)
        ref.name = "listening on \(address.host):\(address.port)"
        return ref
    }

    private func getServers(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: Schema.GetServersRequest = call.decode(request) else { return }
        var response = Schema.GetServersResponse()
        if let server, request.startServerId <= GRPCChannelz.serverID {
            response.server = [GRPCChannelz.describe(server)]
        }
        response.end = true
        call.respond(response)
    }

    private func getServer(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: Schema.GetServerRequest = call.decode(request) else { return }
        guard let server = find(call, request.serverId) else { return }
        var response = Schema.GetServerResponse()
        response.server = GRPCChannelz.describe(server)
        call.respond(response)
    }

    /// Ends the call where there is no such server.
    private func find(_ call: ServerCall, _ id: Int64) -> GRPCServer? {
        if id == GRPCChannelz.serverID, let server { return server }
        call.fail(GRPCStatus(.notFound, "there is no server \(id)"))
        return nil
    }

    // MARK: Sockets

    private func getServerSockets(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: Schema.GetServerSocketsRequest = call.decode(request) else { return }
        guard let server = find(call, request.serverId) else { return }
        guard request.maxResults >= 0 else {
            return call.fail(GRPCStatus(.invalidArgument, "max_results is \(request.maxResults)"))
        }
        let wanted = request.maxResults == 0 ? GRPCChannelz.resultsMax : Int(clamping: request.maxResults)
        let start = request.startSocketId
        GRPCChannelz.gather(server, for: call) { call, connections in
            let left = connections.filter { $0.id >= start }
            var response = Schema.GetServerSocketsResponse()
            response.socketRef = left.prefix(min(wanted, GRPCChannelz.resultsMax)).map(GRPCChannelz.ref)
            response.end = response.socketRef.count == left.count
            call.respond(response)
        }
    }

    private func getSocket(_ call: ServerCall, _ request: UnsafeRawBufferPointer) {
        guard let request: Schema.GetSocketRequest = call.decode(request) else { return }
        let id = request.socketId
        guard let server else { return call.fail(GRPCStatus(.notFound, "there is no socket \(id)")) }
        for (number, address) in server.listenerAddresses.enumerated()
        where id == GRPCChannelz.serverID + 1 + Int64(number) {
            var socket = Schema.Socket()
            socket.ref = GRPCChannelz.socketRef(number, address)
            socket.local = GRPCChannelz.address(address.host, Int32(clamping: address.port))
            return GRPCChannelz.answer(call, socket)
        }
        GRPCChannelz.gather(server, for: call) { call, connections in
            guard let found = connections.first(where: { $0.id == id }) else {
                return call.fail(GRPCStatus(.notFound, "there is no socket \(id)"))
            }
            var socket = Schema.Socket()
            socket.ref = GRPCChannelz.ref(found)
            socket.remote = GRPCChannelz.address(found.peer, -1)
            var data = Schema.SocketData()
            data.streamsStarted = found.streamsBegun
            socket.data = data
            GRPCChannelz.answer(call, socket)
        }
    }

    private static func answer(_ call: ServerCall, _ socket: Schema.Socket) {
        var response = Schema.GetSocketResponse()
        response.socket = socket
        call.respond(response)
    }

    private static func ref(_ connection: ConnectionFacts) -> Schema.SocketRef {
        var ref = Schema.SocketRef()
        ref.socketId = connection.id
        ref.name = "\(connection.peer), \(connection.openStreams) open"
        return ref
    }

    /// nil for what is no numeric address.
    private static func address(_ host: String, _ port: Int32) -> Schema.Address? {
        var bytes = [UInt8](repeating: 0, count: 16)
        var count = 0
        for (family, length) in [(AF_INET, 4), (AF_INET6, 16)] where count == 0 {
            if inet_pton(family, host, &bytes) == 1 { count = length }
        }
        guard count > 0 else { return nil }
        var tcp = Schema.Address.TcpIpAddress()
        tcp.ipAddress = Array(bytes[..<count])
        tcp.port = port
        var address = Schema.Address()
        address.address = .tcpipAddress(tcp)
        return address
    }

    /// Asks every loop for its connections, and hands them over on the call's own, in the order of their ids.
    private static func gather(
        _ server: GRPCServer, for call: ServerCall,
        then use: @escaping @Sendable (ServerCall, [ConnectionFacts]) -> Void
    ) {
        let loop = call.loop
        let waiting = LoopConfined(WaitingCall(call))
        server.connections { connections in
            let sorted = connections.sorted { $0.id < $1.id }
            loop.execute {
                // It may have ended meanwhile.
                if let call = waiting.value.call { use(call, sorted) }
            }
        }
    }

    private final class WaitingCall {
        weak var call: ServerCall?
        init(_ call: ServerCall) { self.call = call }
    }
}

/// What is known of a connection.
struct ConnectionFacts: Sendable {
    let id: Int64
    /// Its numeric address.
    let peer: String
    let streamsBegun: Int64
    let openStreams: Int
}
