import EventLoop

/// How two peers of a simulated network are connected.
public struct SimulatedLink {
    /// Longest time that bytes take, in milliseconds.
    public var delayMillisecondsMax = 20
    /// Most bytes that arrive at once, at least 1: with 1, every byte comes alone.
    public var pieceBytesMax = 16 << 10
    /// Bytes that are taken before a writer has to wait.
    public var bufferBytes = 64 << 10

    public init() {}
}

/// How a simulated connection breaks. Places are bytes of one way; nil: never.
public struct SimulatedBreaks {
    /// Cut when the client, or the server, has sent so many.
    public var cutAfter: Int?
    public var cutAfterReplies: Int?
    /// When the client has sent so many, nothing arrives any more, either way, and nobody is told.
    public var silentAfter: Int?

    public init() {}
}

/// One end of a connection in a simulated network: bytes arrive late and in pieces, writes are taken in part, and the
/// connection can be cut at any byte. All by the random numbers it is given. Confined to its loop.
public final class SimulatedStream: ByteStream {
    private let simulated: SimulatedLoop
    public var loop: any Loop { simulated }
    public weak var owner: (any ByteStreamOwner)?
    public private(set) var isClosed = false
    public var waitingBytes: Int { waiting.count }
    public let peerAddress: String
    public var gathersPieces: Bool { true }
    private weak var peer: SimulatedStream?
    private let link: SimulatedLink
    private let random: SharedRandom
    /// On their way, and not taken yet.
    private var flying: [UInt8] = []
    private var waiting: [UInt8] = []
    private var isPumping = false
    /// Arrived while the owner did not read.
    private var inbox: [UInt8] = []
    private var isReading = false
    private var neededBytes = 1
    private var isEnding = false
    /// Bytes that may still leave before the connection is cut, or silent; nil: never.
    private var cutAfter: Int?
    private var silentAfter: Int?
    private let wire: Wire

    /// What both ends are on.
    private final class Wire {
        var isSilent = false
    }

    /// Random numbers that both ends draw from, in the order of what happens.
    public final class SharedRandom {
        public var numbers: SeededRandom
        public init(seed: UInt64) { numbers = SeededRandom(seed: seed) }
        func upTo(_ limit: Int) -> Int { Int.random(in: 0...max(0, limit), using: &numbers) }
    }

    private init(
        _ loop: SimulatedLoop, _ link: SimulatedLink, _ random: SharedRandom, _ wire: Wire, peerAddress: String
    ) {
        simulated = loop
        self.wire = wire
        self.link = link
        self.random = random
        self.peerAddress = peerAddress
    }

    /// Two connected ends. `cutAfter` breaks the connection when the first end has sent so many bytes.
    public static func pair(
        _ loop: SimulatedLoop, _ link: SimulatedLink, _ random: SharedRandom, cutAfter: Int? = nil
    ) -> (client: SimulatedStream, server: SimulatedStream) {
        var breaks = SimulatedBreaks()
        breaks.cutAfter = cutAfter
        return pair(loop, link, random, breaks: breaks)
    }

    /// Two connected ends whose connection breaks so.
    public static func pair(
        _ loop: SimulatedLoop, _ link: SimulatedLink, _ random: SharedRandom, breaks: SimulatedBreaks
    ) -> (client: SimulatedStream, server: SimulatedStream) {
        let wire = Wire()
        let client = SimulatedStream(loop, link, random, wire, peerAddress: "192.0.2.1")
        let server = SimulatedStream(loop, link, random, wire, peerAddress: "192.0.2.2")
        client.peer = server
        server.peer = client
        client.cutAfter = breaks.cutAfter
        server.cutAfter = breaks.cutAfterReplies
        client.silentAfter = breaks.silentAfter
        return (client, server)
    }

    public func startReading() {
        isReading = true
        guard !inbox.isEmpty else { return }
        simulated.afterTurn { [weak self] in self?.deliver() }
    }

    public func stopReading() { isReading = false }

    /// To the byte, so that an owner who waits for more than will come is found out.
    public func needs(bytes: Int) { neededBytes = max(bytes, 1) }

    public func write(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed else { return }
        waiting += bytes
        // Some is taken at once, as a socket does.
        take()
        pump()
    }

    /// Moves what the buffer has room for.
    private func take() {
        let count = min(waiting.count, max(0, link.bufferBytes - flying.count))
        flying += waiting[..<count]
        waiting.removeFirst(count)
    }

    private func pump() {
        guard !isPumping, !flying.isEmpty || isEnding else { return }
        isPumping = true
        _ = simulated.timer(afterMilliseconds: random.upTo(link.delayMillisecondsMax)) { [self] in
            isPumping = false
            arrive()
        }
    }

    private func arrive() {
        guard let peer else { return }
        var count = min(flying.count, 1 + random.upTo(link.pieceBytesMax - 1))
        if let left = cutAfter {
            count = min(count, left)
            cutAfter = left - count
        }
        if let left = silentAfter {
            silentAfter = max(0, left - count)
            if left <= count { wire.isSilent = true }
        }
        let piece = wire.isSilent ? [] : Array(flying[..<count])
        flying.removeFirst(count)
        if !piece.isEmpty { peer.arrived(piece) }
        if cutAfter == 0 {
            peer.close(StreamError("cut"))
            return close(StreamError("cut"))
        }
        if flying.isEmpty, isEnding, !wire.isSilent {
            peer.neededBytes = 1
            peer.deliver()
            peer.close()
        }
        if flying.isEmpty, isEnding { return }
        let hadWaiting = !waiting.isEmpty
        take()
        if hadWaiting, waiting.isEmpty, !isClosed { owner?.drained() }
        pump()
    }

    private func arrived(_ bytes: [UInt8]) {
        guard !isClosed else { return }
        inbox += bytes
        if isReading { deliver() }
    }

    private func deliver() {
        guard isReading, inbox.count >= neededBytes, !isClosed else { return }
        let bytes = inbox
        inbox = []
        bytes.withUnsafeBytes { owner?.received($0) }
    }

    public func close(_ error: StreamError?) {
        guard !isClosed else { return }
        isClosed = true
        waiting = []
        isEnding = true
        // What is on its way still arrives, unless the connection broke.
        if error != nil { flying = [] }
        pump()
        let box = LoopConfined(self)
        simulated.execute { box.value.owner?.closed(error) }
    }
}
