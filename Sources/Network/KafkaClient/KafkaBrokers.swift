import EventLoop
import KafkaFrames

/// Where a broker is reached.
public struct KafkaAddress: Hashable, Sendable, CustomStringConvertible {
    public let host: String
    public let port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Of `HOST:PORT`, several separated by commas; `[::1]:9092` for numbers with colons. Without a port it is 9092.
    public static func list(_ text: String) -> [KafkaAddress] {
        text.split(separator: ",").compactMap { part in
            // librdkafka takes a protocol before it.
            var rest = part[...]
            while rest.first == " " { rest.removeFirst() }
            while rest.last == " " { rest.removeLast() }
            if let mark = rest.firstRange(of: "://") { rest = rest[mark.upperBound...] }
            let isBracketed = rest.first == "["
            let end = isBracketed ? rest.firstIndex(of: "]") : rest.lastIndex(of: ":")
            let host = isBracketed ? rest.dropFirst().prefix { $0 != "]" } : rest[..<(end ?? rest.endIndex)]
            let tail = end.map { rest[$0...].drop { $0 == "]" || $0 == ":" } } ?? ""
            guard !host.isEmpty, let port = tail.isEmpty ? 9092 : Int(tail) else { return nil }
            return KafkaAddress(host: String(host), port: port)
        }
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// How connections get their bytes to a broker and back.
public protocol KafkaTransport: Sendable {
    /// Connects; `done` is called once on the loop, never inside the call.
    func connect(
        _ address: KafkaAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void)
}

/// The brokers of a cluster as one client sees them: who leads which partition, and a connection to each that is
/// needed. Confined to its loop; ``tick()`` is called now and then.
public final class KafkaBrokers {
    private static let refreshMilliseconds: UInt64 = 60_000
    private static let retryMilliseconds: UInt64 = 100
    private static let answerMilliseconds = 10_000

    /// A broker that is or was connected to.
    private final class Link {
        let address: KafkaAddress
        var connection: KafkaConnection?
        var isConnecting = false
        /// The broker left, or is elsewhere.
        var isGone = false
        var failures = 0
        var notBefore: UInt64 = 0

        init(_ address: KafkaAddress) { self.address = address }
    }

    private struct LinkKey: Hashable, Comparable {
        let node: Int32
        let number: Int

        static func < (left: LinkKey, right: LinkKey) -> Bool {
            (left.node, left.number) < (right.node, right.number)
        }
    }

    public let loop: any Loop
    /// Called when something may go on: a connection is there, or gone, or other leaders are known.
    public var changed: () -> Void = {}
    /// The latest thing that went wrong; nil once brokers answer again.
    public private(set) var problem: KafkaFailure?
    private let options: KafkaClientOptions
    private let transport: any KafkaTransport
    private let seeds: [Link]
    private var seed = 0
    private var links: [LinkKey: Link] = [:]
    private var topics: Set<String> = []
    private var leaders: [String: [Int32: Int32]] = [:]
    private var isStale = true
    private var isAsking = false
    private var askedAt: UInt64 = 0
    private var isClosed = false

    public init(
        _ addresses: [KafkaAddress], options: KafkaClientOptions, transport: any KafkaTransport, loop: any Loop
    ) {
        seeds = addresses.map { Link($0) }
        self.options = options
        self.transport = transport
        self.loop = loop
    }

    /// Has the leaders of a topic be known from now on.
    public func want(_ topic: String) {
        guard topics.insert(topic).inserted else { return }
        isStale = true
    }

    /// Somebody answered that it leads no more, or did not answer: leaders are asked for again.
    public func distrust() { isStale = true }

    /// The broker that leads a partition; nil where none is known.
    public func leader(_ topic: String, _ partition: Int32) -> Int32? { leaders[topic]?[partition] }

    /// A connection that takes requests; where there is none, one is begun. `number`: which one, since a broker answers
    /// what comes over one connection in turn, and a request that waits for records keeps those behind it.
    public func connection(to node: Int32, number: Int = 0) -> KafkaConnection? {
        guard let first = links[LinkKey(node: node, number: 0)] else {
            isStale = true
            return nil
        }
        let key = LinkKey(node: node, number: number)
        let link = links[key] ?? Link(first.address)
        links[key] = link
        return connection(of: link)
    }

    /// A connection to any broker.
    public func anyConnection() -> KafkaConnection? {
        let known = links.sorted { $0.key < $1.key }.map(\.value)
        for link in known {
            if let connection = link.connection, connection.isReady { return connection }
        }
        // A broker that is known and not reached may be away: the seeds are tried as well.
        for link in known { if let connection = connection(of: link) { return connection } }
        guard !seeds.isEmpty else { return nil }
        let link = seeds[seed % seeds.count]
        if let connection = connection(of: link) { return connection }
        if !link.isConnecting, link.connection == nil { seed += 1 }
        return nil
    }

    /// Asks for leaders where it is time, and ends what is past its time.
    public func tick() {
        guard !isClosed else { return }
        for link in allLinks { link.connection?.expire() }
        let now = loop.nowMilliseconds
        guard !topics.isEmpty, !isAsking else { return }
        let isDue = now &- askedAt >= (isStale ? KafkaBrokers.retryMilliseconds : KafkaBrokers.refreshMilliseconds)
        if isDue || askedAt == 0 { ask() }
    }

    /// Ends all connections; their requests are told. Nothing is connected to any more.
    public func close() {
        isClosed = true
        changed = {}
        for link in allLinks { link.connection?.close("the client is closed") }
    }

    private var allLinks: [Link] { seeds + links.sorted { $0.key < $1.key }.map(\.value) }

    // MARK: Connections

    private func connection(of link: Link) -> KafkaConnection? {
        if let connection = link.connection { return connection.isReady ? connection : nil }
        guard !link.isConnecting, !isClosed, loop.nowMilliseconds >= link.notBefore else { return nil }
        link.isConnecting = true
        transport.connect(link.address, loop: loop) { [weak self] result in
            guard let self else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            self.connected(link, result)
        }
        return nil
    }

    private func connected(_ link: Link, _ result: Result<any ByteStream, StreamError>) {
        link.isConnecting = false
        switch result {
        case .failure(let error): failed(link, KafkaFailure(.lost, "\(link.address): \(error)"))
        case .success(let stream):
            guard !isClosed, !link.isGone else { return stream.close() }
            link.connection = KafkaConnection(over: stream, options: options) { [weak self] _, event in
                self?.happened(link, event)
            }
        }
    }

    private func happened(_ link: Link, _ event: KafkaConnection.Event) {
        switch event {
        case .ready:
            link.failures = 0
            problem = nil
            tick()
            changed()
        case .ended(let failure):
            link.connection = nil
            failed(link, KafkaFailure(failure.kind, "\(link.address): \(failure)"))
        }
    }

    private func failed(_ link: Link, _ failure: KafkaFailure) {
        guard !isClosed else { return }
        if failure.kind != .closed { problem = failure }
        let range = options.reconnectMilliseconds
        let pause = min(range.lowerBound << min(link.failures, 10), range.upperBound)
        link.failures += 1
        link.notBefore = loop.nowMilliseconds + UInt64(pause)
        isStale = true
        changed()
    }

    private func leave(_ link: Link, _ reason: String) {
        link.isGone = true
        link.connection?.close(reason)
    }

    // MARK: Leaders

    private func ask() {
        guard let connection = anyConnection() else { return }
        isAsking = true
        askedAt = loop.nowMilliseconds
        isStale = false
        let topics = topics.sorted()
        connection.send(
            .metadata, milliseconds: KafkaBrokers.answerMilliseconds, { KafkaRequest.metadata($0, topics: topics) }
        ) { [weak self] result in
            guard let self else { return }
            self.isAsking = false
            guard case .success(let bytes) = result else { return self.isStale = true }
            var reader = KafkaReader(bytes)
            do throws(KafkaFormatError) {
                self.learn(try KafkaMetadata(&reader))
            } catch {
                self.isStale = true
                connection.refuse(.metadata, error)
            }
        }
    }

    private func learn(_ metadata: KafkaMetadata) {
        for broker in metadata.brokers {
            let address = KafkaAddress(host: broker.host, port: Int(broker.port))
            let first = LinkKey(node: broker.node, number: 0)
            guard links[first]?.address != address else { continue }
            for key in links.keys.filter({ $0.node == broker.node }).sorted() {
                if let link = links.removeValue(forKey: key) { leave(link, "the broker is elsewhere now") }
            }
            links[first] = Link(address)
        }
        let nodes = Set(metadata.brokers.map(\.node))
        for (key, link) in links.sorted(by: { $0.key < $1.key }) where !nodes.contains(key.node) {
            leave(link, "the broker has left the cluster")
            links[key] = nil
        }
        for topic in metadata.topics {
            if topic.error != .none {
                isStale = true
                // A topic that was just made has no leaders for a moment.
                if !topic.error.isElecting {
                    problem = KafkaFailure(.lost, "topic \(topic.name): error \(topic.error.code) of the brokers")
                }
            }
            var known: [Int32: Int32] = [:]
            for partition in topic.partitions {
                if partition.leader >= 0 { known[partition.index] = partition.leader } else { isStale = true }
            }
            leaders[topic.name] = known
        }
        // A way in that is not needed any more: the brokers themselves are known.
        if !links.isEmpty { for link in seeds where link.connection?.openCount == 0 { link.connection?.close("done") } }
        changed()
    }
}
