import EventLoop
import GRPC

/// Servers and the ways to them, in virtual time and by seed: connections that are refused, never made, slow, cut at
/// any byte or silent from one on, and servers that crash, drain and come back. Confined to the loop.
public final class SimulatedNetwork: GRPCTransport, GRPCResolver, @unchecked Sendable {
    /// What ways may do.
    public struct Weather {
        /// In percent of the connections.
        public var cut = 25
        public var silent = 5
        public var lost = 2
        /// In percent of the questions for names.
        public var failedNames = 20
        public var delayMillisecondsMax = 30
        /// Small enough to deliver every byte alone.
        public var isTiny = false

        public init() {}
    }

    private let loop: SimulatedLoop
    private let random: SimulatedStream.SharedRandom
    private let makeServer: () -> GRPCLoopServer
    /// Every server there was.
    public private(set) var servers: [GRPCLoopServer] = []
    private var serving: [String: GRPCLoopServer] = [:]
    public let hosts: [String]
    private let weather: Weather
    /// Where the next connections are cut, in bytes of one way; before the weather decides.
    public var cuts: [(fromClient: Int?, fromServer: Int?)] = []
    /// Connections made so far.
    public private(set) var connections = 0

    /// A server of `makeServer` at each of so many hosts.
    public init(
        _ loop: SimulatedLoop, _ random: SimulatedStream.SharedRandom, hosts: Int, weather: Weather,
        makeServer: @escaping () -> GRPCLoopServer
    ) {
        self.loop = loop
        self.random = random
        self.weather = weather
        self.makeServer = makeServer
        self.hosts = (1...hosts).map { "10.0.0.\($0)" }
        for host in self.hosts { start(host) }
    }

    /// A number in the range, by the seed.
    public func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random.numbers) }

    private func happens(_ percent: Int) -> Bool { int(0...99) < percent }

    /// A new server at the host.
    public func start(_ host: String) {
        let server = makeServer()
        servers.append(server)
        serving[host] = server
    }

    /// Ends its connections; nobody listens there any more.
    public func crash(_ host: String) {
        serving[host]?.closeAll()
        serving[host] = nil
    }

    /// Takes no more calls; another takes its place at once.
    public func replace(_ host: String) {
        serving[host]?.startDraining()
        start(host)
    }

    // MARK: The client's side

    public func connect(
        _ address: GRPCAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        if cuts.isEmpty, happens(weather.lost) { return }
        _ = self.loop.timer(afterMilliseconds: int(0...weather.delayMillisecondsMax)) { [self] in
            guard let server = serving[address.host] else { return done(.failure(StreamError("refused"))) }
            connections += 1
            let ends = makeStream()
            server.accept(ends.server)
            done(.success(ends.client))
        }
    }

    private func makeStream() -> (client: SimulatedStream, server: SimulatedStream) {
        var link = SimulatedLink()
        link.delayMillisecondsMax = int(0...weather.delayMillisecondsMax)
        link.pieceBytesMax = weather.isTiny ? [1, 3, 100][int(0...2)] : [100, 5000, 20_000][int(0...2)]
        link.bufferBytes = weather.isTiny ? [1, 50, 5000][int(0...2)] : [100, 5000, 100_000][int(0...2)]
        var breaks = SimulatedBreaks()
        if !cuts.isEmpty {
            let cut = cuts.removeFirst()
            breaks.cutAfter = cut.fromClient
            breaks.cutAfterReplies = cut.fromServer
            return SimulatedStream.pair(loop, link, random, breaks: breaks)
        }
        let place = int(0...1) == 0 ? int(1...600) : int(1...40_000)
        if happens(weather.cut) {
            if int(0...1) == 0 { breaks.cutAfter = place } else { breaks.cutAfterReplies = place }
        } else if happens(weather.silent) {
            breaks.silentAfter = place
        }
        return SimulatedStream.pair(loop, link, random, breaks: breaks)
    }

    public func resolve(
        _ name: GRPCAddress, server: GRPCAddress?, loop: any Loop,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void
    ) {
        let isFailed = happens(weather.failedNames)
        let count = int(1...hosts.count)
        let found = hosts.shuffled(using: &random.numbers).prefix(count).map { GRPCAddress(host: $0, port: name.port) }
        _ = self.loop.timer(afterMilliseconds: int(0...weather.delayMillisecondsMax)) {
            done(isFailed ? .failure(GRPCStatus(.unavailable, "no such name")) : .success(found))
        }
    }
}
