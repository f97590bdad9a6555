import EventLog
import EventLoop
import GRPC
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import Testing
import TickCodec
import WriterService

@testable import EdgeService

/// A log on a simulated disk, a tape on a loop that is driven by hand, and streams on it: everything happens in the
/// test's thread, but for what is asked of the store.
final class SubscribeWorld {
    let disk: SimulatedDisk
    let time = VirtualTime()
    let store = SimulatedStore()
    let log: SegmentLog
    let loop = ManualLoop()
    let tape: Tape
    let books: BookTape
    let reader: StoreReader
    let limits: EdgeLimits
    private let partitions: Int
    private var sequences: [String: UInt64] = [:]
    /// Everything published of each instrument, by epoch, from sequence 1 on.
    private(set) var published: [String: [UInt64: [[UInt8]]]] = [:]
    private var epochs: [String: UInt64] = [:]

    init(
        partitions: Int = 2, limits: EdgeLimits = EdgeLimits(),
        _ change: (inout SegmentLog.Configuration) -> Void = { _ in }
    ) throws {
        self.limits = limits
        self.partitions = partitions
        disk = SimulatedDisk(seed: 1)
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        configuration.partitionCounts[.ticksRaw] = partitions
        change(&configuration)
        log = try SegmentLog(disk: disk, time: time, configuration: configuration)
        reader = StoreReader(store: store)
        tape = Tape(log: log, loop: loop, start: try TapeStart(log: log, store: store), store: reader)
        books = BookTape(log: log, loop: loop)
    }

    deinit { reader.stop() }

    /// A stream with a client that reads only when told.
    func open(_ permissions: (any CallerPermissions)? = nil) -> SubscribeClient {
        let surroundings = SubscribeStream.Surroundings(
            tape: tape, books: books, store: reader, time: time, limits: limits)
        let client = SubscribeClient(loop)
        client.stream = SubscribeStream(surroundings, permissions: permissions) { [weak client] in
            client?.isWoken = true
        }
        client.stream.start()
        return client
    }

    private func place(_ symbol: String) -> TopicPartition {
        TopicPartition(.ticksRaw, UInt16(Int(symbol.utf8.last ?? 0) % partitions))
    }

    /// One append of trades of the named symbols on exchange X, in turn; the tape has them when it returns.
    func publish(_ symbols: [String]) throws {
        try append(symbols)
        follow()
    }

    func follow() {
        while tape.drain() {}
        while books.drain() {}
        loop.run()
    }

    /// Appends records of a book of an instrument on exchange X, and has the edge see them.
    func publish(_ symbol: String, _ records: [BookRecord]) throws {
        let encoder = BookEncoder(exchange: "X", symbol: symbol, feed: "test")
        let builder = BlockBuilder(TopicPartition(.booksDeltas, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "test"))
        for record in records {
            let lengthMax = encoder.lengthMax(levels: record.bids.count + record.asks.count)
            builder.append(
                key: key, epoch: record.head.epoch, sequence: record.head.sequence, lengthMax: lengthMax
            ) { encoder.encode(record.head, bids: record.bids, asks: record.asks, into: $0) }
        }
        try log.append([builder.build()], consumed: [])
        follow()
    }

    /// What comes next of the symbol belongs to another epoch.
    func beginEpoch(_ symbol: String) {
        epochs[symbol, default: 1] += 1
        sequences[symbol] = 0
    }

    func append(_ symbols: [String]) throws {
        var builders: [TopicPartition: BlockBuilder] = [:]
        for symbol in symbols {
            let place = place(symbol)
            let builder = builders[place] ?? BlockBuilder(place)
            builders[place] = builder
            let epoch = epochs[symbol] ?? 1
            let sequence = (sequences[symbol] ?? 0) + 1
            sequences[symbol] = sequence
            time.advance(ns: 1_000_000)
            var tick = Tick(
                kind: .trade, receivedTimeNs: time.wallNs(), publishTimeNs: time.wallNs(), epoch: epoch,
                sequence: sequence)
            tick.last = Int64(sequence % 97 + 1) * 1_000_000_000
            tick.lastSize = 100_000_000
            let encoder = TickEncoder(exchange: "X", symbol: symbol, feed: "test")
            let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "test"))
            builder.append(key: key, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax) { buffer in
                let count = encoder.encode(tick, into: buffer)
                published[symbol, default: [:]][epoch, default: []].append(Array(buffer[..<count]))
                return count
            }
        }
        try log.append(builders.values.map { $0.build() }, consumed: [])
    }

    /// Lets the writer store everything.
    func write() throws {
        try log.sync()
        let writer = WriterService(log: log, store: store, time: time) { _ in }
        writer.stop()
        try writer.run()
    }

    /// Does what there is to do, the store's thread included, and has the client read, until a condition holds or ten
    /// seconds are over: the test then fails by what it finds.
    func run(_ client: SubscribeClient, until condition: () -> Bool) async {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(10)
        while !condition(), clock.now < end {
            loop.run()
            client.readAll()
            await Task.yield()
        }
    }
}

/// The client's side of a stream.
final class SubscribeClient {
    var stream: SubscribeStream!
    var isWoken = false
    private(set) var responses: [Proto.SubscribeResponse] = []
    /// How the call ended.
    private(set) var end: (status: GRPCStatus, trailers: GRPCMetadata)?
    private let loop: ManualLoop
    private var bytes: [UInt8] = []
    private var requestID: UInt64 = 0
    private var seen = 0

    init(_ loop: ManualLoop) { self.loop = loop }

    deinit { stream.stop() }

    @discardableResult
    func send(_ request: Proto.SubscribeRequest.OneOf_Request) -> UInt64 {
        requestID += 1
        var message = Proto.SubscribeRequest()
        message.requestId = requestID
        message.request = request
        send(bytes: message.encodedBytes())
        return requestID
    }

    func send(bytes: [UInt8]) {
        bytes.withUnsafeBytes { stream.received($0) }
        loop.run()
    }

    /// Sends, reads everything and gives the answer.
    func ask(_ request: Proto.SubscribeRequest.OneOf_Request) -> Proto.RequestResult? {
        let id = send(request)
        readAll()
        return responses.compactMap { response -> Proto.RequestResult? in
            if case .result(let result) = response.event, result.requestId == id { return result }
            return nil
        }.first
    }

    func add(_ id: UInt64, _ change: (inout Proto.PriceSubscription) -> Void = { _ in }) -> Proto.RequestResult? {
        ask(SubscribeClient.adding(id, change))
    }

    static func adding(
        _ id: UInt64, _ change: (inout Proto.PriceSubscription) -> Void
    ) -> Proto.SubscribeRequest.OneOf_Request {
        var add = Proto.AddSubscription()
        add.subscriptionId = id
        var subscription = Proto.PriceSubscription()
        change(&subscription)
        add.subscription = subscription
        return .add(add)
    }

    /// Reads at most so many bytes; returns how many there were.
    @discardableResult
    func read(_ count: Int) -> Int {
        guard end == nil else { return 0 }
        var buffer = [UInt8](repeating: 0, count: count)
        let result = buffer.withUnsafeMutableBytes { stream.read(into: $0) }
        switch result {
        case .bytes(let count), .frames(let count, _):
            bytes += buffer[..<count]
            decode()
            return count
        case .wait: return 0
        case .end(let status, let trailers):
            end = (status, trailers)
            return 0
        }
    }

    func readAll() {
        repeat {
            loop.run()
        } while read(100_000) > 0
    }

    private func decode() {
        var position = 0
        while bytes.count - position >= 5 {
            let length = bytes[(position + 1)..<(position + 5)].reduce(0) { $0 << 8 | Int($1) }
            guard bytes.count - position - 5 >= length else { break }
            let message = Array(bytes[(position + 5)..<(position + 5 + length)])
            do {
                responses.append(try Proto.SubscribeResponse(decoding: message))
            } catch {
                Issue.record("the message is no SubscribeResponse: \(error)")
            }
            position += 5 + length
        }
        bytes.removeFirst(position)
    }

    // MARK: What came

    func updates(_ subscription: UInt64, snapshot: Bool = false) -> [Proto.PriceUpdate] {
        responses.filter { $0.subscriptionId == subscription && $0.snapshot == snapshot }.flatMap(\.updates)
    }

    func filled(_ request: UInt64) -> [Proto.PriceUpdate] {
        responses.filter { $0.fillRequestId == request }.flatMap(\.updates)
    }

    func fillEnd(_ request: UInt64) -> Proto.FillEnd? {
        responses.compactMap { response -> Proto.FillEnd? in
            if case .fillEnd(let end) = response.event, end.fillRequestId == request { return end }
            return nil
        }.first
    }

    func subscriptionEnd(_ id: UInt64) -> Proto.SubscriptionEnd? {
        responses.compactMap { response -> Proto.SubscriptionEnd? in
            if case .subscriptionEnd(let end) = response.event, response.subscriptionId == id { return end }
            return nil
        }.first
    }

    var streamEnd: Proto.StreamEnd? {
        responses.compactMap { response -> Proto.StreamEnd? in
            if case .streamEnd(let end) = response.event { return end }
            return nil
        }.first
    }

    var heartbeats: [Proto.Heartbeat] {
        responses.compactMap { response -> Proto.Heartbeat? in
            if case .heartbeat(let heartbeat) = response.event { return heartbeat }
            return nil
        }
    }
}
