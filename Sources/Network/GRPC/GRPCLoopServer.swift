import EventLoop
import HTTP2
import Synchronization

/// A server on one loop: what ``GRPCServer`` has on each of its loops, usable alone with any streams of bytes. Confined
/// to its loop.
public final class GRPCLoopServer: HTTP2ConnectionOwner {
    private let context: ServerContext
    private var acceptedCount: Int64 = 0
    private var random: SplitMix64
    private var isDraining = false
    private var isClosed = false

    /// A server that shares nothing with another loop's.
    public convenience init(loop: any Loop, table: GRPCServiceTable, configuration: GRPCServerConfiguration) {
        self.init(
            loop: loop, table: table, configuration: configuration, shared: ServerShared(), seed: configuration.seed)
    }

    init(
        loop: any Loop, table: GRPCServiceTable, configuration: GRPCServerConfiguration, shared: ServerShared,
        seed: UInt64
    ) {
        context = ServerContext(loop: loop, table: table, configuration: configuration, shared: shared)
        random = SplitMix64(seed: seed)
    }

    /// Connections open now.
    public var connectionCount: Int { context.calls.connections.count }

    /// Calls that are not over.
    public var openCallCount: Int { context.tally.openCalls.load(ordering: .relaxed) }

    /// What is known of the connections; their ids begin at `first`.
    func facts(ids first: Int64) -> [ConnectionFacts] {
        context.calls.connections.values.map {
            ConnectionFacts(
                id: first + $0.number, peer: $0.address, streamsBegun: $0.connection.streamsBegun,
                openStreams: $0.connection.openStreams)
        }
    }

    /// Serves a connected stream of bytes, or refuses it where a limit is reached or the server has ended. One that
    /// drains tells its client so, in order: who connected as the server began to stop goes elsewhere, or comes again.
    public func accept(_ stream: any ByteStream) {
        guard !isClosed else { return stream.close() }
        let address = stream.peerAddress
        if let refusal = context.shared.admit(address, context.configuration) { return refuse(stream, refusal) }
        var settings = context.configuration.http2
        settings.ageMilliseconds = jittered(settings.ageMilliseconds)
        let connection = HTTP2Connection(
            transport: stream, isServer: true, settings: settings, owner: self, output: context.output,
            deadlines: context.deadlines)
        connection.peerAddress = address
        acceptedCount += 1
        context.calls.connections[ObjectIdentifier(connection)] = (connection, address, acceptedCount)
        if isDraining { connection.startDraining() }
    }

    /// The client learns why: GOAWAY with a text.
    private func refuse(_ stream: any ByteStream, _ text: String) {
        let connection = HTTP2Connection(
            transport: stream, isServer: true, settings: HTTP2Settings(), owner: self, output: context.output,
            deadlines: context.deadlines)
        connection.goAway(HTTP2ErrorCode.enhanceYourCalm, text)
        connection.close(reason: text)
    }

    /// ± 10 %, so that connections that began together do not end together.
    private func jittered(_ milliseconds: Int) -> Int {
        guard milliseconds >= 10 else { return milliseconds }
        let tenth = milliseconds / 10
        return milliseconds - tenth + Int(random.next() % UInt64(2 * tenth + 1))
    }

    public func makeStream(on connection: HTTP2Connection) -> HTTP2Stream { ServerCall(connection, context) }

    public func closed(_ connection: HTTP2Connection, reason: String) {
        guard let entry = context.calls.connections.removeValue(forKey: ObjectIdentifier(connection)) else { return }
        context.shared.leave(entry.address, connection.peerFault)
    }

    /// Takes no more streams; the open ones go on.
    public func startDraining() {
        isDraining = true
        for entry in context.calls.connections.values { entry.connection.startDraining() }
    }

    /// Ends every connection at once.
    public func closeAll() {
        isClosed = true
        for entry in context.calls.connections.values { entry.connection.close(reason: "the server stopped") }
        context.deadlines.stop()
    }
}
