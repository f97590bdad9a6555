import BookEngine
import BookView
import EventLog
import MarketModel
import SegmentLog
import SimulatedVenue
import Simulation
import TestSupport
import Testing
import TickCodec

@testable import FeedService

/// The records of `books.deltas` of one log, by instrument, in its order.
struct PublishedBooks {
    private(set) var records: [String: [BookRecord]] = [:]
    private(set) var encoded: [[UInt8]] = []

    init(_ log: SegmentLog) throws {
        var next: UInt64 = 0
        while case .block(let block, let index) = try log.readBlocking(
            TopicPartition(.booksDeltas, 0), at: next, .written)
        {
            for number in index..<block.recordCount {
                let track = block.track(of: number)
                var record = BookRecord()
                try record.decode(block.payload(number))
                #expect(record.head.sequence == block.sequence(of: number))
                #expect(record.head.epoch == block.epoch(track: track))
                records[block.exchange(track: track) + "|" + block.symbol(track: track), default: []].append(record)
                encoded.append(Array(block.payload(number)))
            }
            next = block.endOffset
        }
    }

    /// Sequences are contiguous from 1 in each epoch, epochs ascend, and a book begins with a snapshot.
    func check() {
        for (name, records) in records {
            var last: BookRecord.Head?
            for record in records {
                let head = record.head
                let isNext = head.epoch == last?.epoch && head.sequence == (last?.sequence ?? 0) + 1
                let isFirst = head.epoch > last?.epoch ?? 0 && head.sequence == 1
                if !isNext && !isFirst { Issue.record("\(name): \(head) behind \(String(describing: last))") }
                if isFirst || last?.state == .stale {
                    #expect(head.isSnapshot || head.state == .stale, "\(name): \(head) begins a book")
                }
                last = head
            }
        }
    }
}

/// A recording's books as its messages say them, without the feed.
struct RecordedBooks {
    private let depth: Int
    private var machines: [String: BookMachine] = [:]
    private var replicas: [String: BookReplica] = [:]
    private var taken: [String: Int] = [:]
    private var views: [String: [BookView]] = [:]
    private(set) var compared = 0

    init(depth: Int) { self.depth = depth }

    /// Plays the messages again and holds every record against the book that they make.
    mutating func hold(_ published: PublishedBooks, against path: String) throws {
        var recording = try Recording(path: path)
        while let line = try recording.next() {
            guard case .messages(let messages) = line.content else { continue }
            for message in messages { hold(published, message, line.receivedNs) }
        }
        for (name, records) in published.records {
            #expect(taken[name] == records.count, "\(name): \(taken[name] ?? 0) of \(records.count) records are due")
        }
    }

    private mutating func hold(_ published: PublishedBooks, _ message: VenueMessage, _ receivedNs: Int64) {
        let name = message.exchange + "|" + message.symbol
        var machine = machines.removeValue(forKey: name) ?? BookMachine(VenueRules.of(message.exchange))
        var replica = replicas.removeValue(forKey: name) ?? BookReplica()
        let outcome = machine.receive(message)
        let isBook = message.kind == .snapshot || message.kind == .delta
        let bids = machine.book.bids(depth)
        let asks = machine.book.asks(depth)
        var isDue = false
        if case .violated = outcome { isDue = replica.state != .stale }
        if outcome == .applied, isBook {
            isDue = message.kind == .snapshot || replica.bids(depth) != bids || replica.asks(depth) != asks
        }
        if isDue {
            let index = taken[name, default: 0]
            taken[name] = index + 1
            guard let records = published.records[name], index < records.count else {
                Issue.record("\(name): record \(index + 1) is missing")
                return
            }
            let record = records[index]
            #expect(replica.apply(record) == .applied)
            #expect(record.head.receivedTimeNs == receivedNs && record.head.venueSequence == message.lastSequence)
            #expect(record.head.eventTimeNs == message.eventTimeNs)
            #expect(replica.bids(depth) == bids && replica.asks(depth) == asks, "\(name) \(record.head)")
            look(name, replica)
            compared += 1
        }
        machines[name] = machine
        replicas[name] = replica
    }

    /// Clients' views: now and then held against the book, always followed.
    private mutating func look(_ name: String, _ replica: BookReplica) {
        var views =
            self.views.removeValue(forKey: name) ?? [
                BookView(depth: 10), BookView(depth: 20, grouping: 1_000_000_000),
                BookView(depth: 200, grouping: 70_000_000),
            ]
        for index in views.indices {
            let before = (views[index].bids, views[index].asks)
            let update = views[index].update(from: replica)
            let view = views[index]
            if update == .delta {
                #expect(RecordedBooks.apply(view.changedBids, to: before.0) { $0 > $1 } == view.bids)
                #expect(RecordedBooks.apply(view.changedAsks, to: before.1) { $0 < $1 } == view.asks)
            }
            guard compared % 25 == 0 else { continue }
            let bids = RecordedBooks.group(replica.bids(depth), view.grouping, up: false)
            let asks = RecordedBooks.group(replica.asks(depth), view.grouping, up: true)
            #expect(view.bids == Array(bids.prefix(view.depth)) && view.asks == Array(asks.prefix(view.depth)))
        }
        self.views[name] = views
    }

    private static func apply(
        _ changes: [PriceLevel], to levels: [PriceLevel], _ isBetter: (Int64, Int64) -> Bool
    ) -> [PriceLevel] {
        var sizes = Dictionary(uniqueKeysWithValues: levels.map { ($0.price, $0.size) })
        for level in changes { sizes[level.price] = level.size == 0 ? nil : level.size }
        return sizes.keys.sorted(by: isBetter).map { PriceLevel(price: $0, size: sizes[$0]!) }
    }

    private static func group(_ levels: [PriceLevel], _ grouping: Int64, up: Bool) -> [PriceLevel] {
        guard grouping > 0 else { return levels }
        var groups: [PriceLevel] = []
        for level in levels {
            let price = (level.price + (up ? grouping - 1 : 0)) / grouping * grouping
            if groups.last?.price == price {
                groups[groups.count - 1].size += level.size
            } else {
                groups.append(PriceLevel(price: price, size: level.size))
            }
        }
        return groups
    }
}

@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct BookFeedTests {
    private func play(_ path: String, _ log: SegmentLog, _ world: FeedWorld, _ books: BookPublishing) throws -> UInt64 {
        let feed = FeedService(
            log: log, time: world.time, source: .recording(path: path, speed: .maximum), books: books
        ) { _, _ in }
        try feed.run()
        return feed.counters.bookRecords
    }

    @Test(arguments: [
        ("binance/spot_btcusdt_20240808.jsonl.gz", 3450), ("cryptofeed/KRAKEN.ws.50.0.gz", 4279),
        ("cryptofeed/COINBASE.ws.28.0.gz", 9000),
    ])
    func `Records make the books of the recordings, message by message`(_ name: String, _ least: Int) throws {
        let path = SharedData.path("data/" + name)
        let world = FeedWorld()
        let log = try world.open()
        var publishing = BookPublishing()
        publishing.deltasPerSnapshotMax = 100
        let count = try play(path, log, world, publishing)
        let published = try PublishedBooks(log)
        published.check()
        #expect(count == published.encoded.count)
        var truth = RecordedBooks(depth: publishing.depth)
        try truth.hold(published, against: path)
        #expect(truth.compared >= least * 9 / 10 && truth.compared <= least * 11 / 10, "\(truth.compared)")
        // From any record on, a snapshot is near.
        for records in published.records.values {
            var deltas = 0
            for record in records {
                deltas = record.head.isSnapshot ? 0 : deltas + 1
                #expect(deltas <= publishing.deltasPerSnapshotMax)
            }
        }
        // Played again nothing is published again; in another log the same bytes are.
        #expect(try play(path, log, world, publishing) == 0)
        let other = FeedWorld()
        let otherLog = try other.open()
        _ = try play(path, otherLog, other, publishing)
        #expect(try PublishedBooks(otherLog).encoded == published.encoded)
    }

    @Test func `A book deeper than what is published is published to its depth`() throws {
        let path = SharedData.path("data/cryptofeed/KRAKEN.ws.50.0.gz")
        let world = FeedWorld()
        let log = try world.open()
        var publishing = BookPublishing()
        publishing.depth = 7
        _ = try play(path, log, world, publishing)
        let published = try PublishedBooks(log)
        published.check()
        var truth = RecordedBooks(depth: 7)
        try truth.hold(published, against: path)
        #expect(truth.compared > 500)
    }

    @Test func `A lost diff makes a stale record, and the next snapshot begins the book anew`() throws {
        let lines = try SharedData.lines("binance/spot_btcusdt_20240808.jsonl.gz").prefix(8000)
        let whole = try RecordingFaults.withSnapshots(Array(lines), every: 150)
        var random = SeededNumbers(seed: 3)
        let faulty = RecordingFaults.put([.lost, .swapped, .duplicate], count: 30, from: 20, into: whole, &random)
        let folder = try TemporaryFolder()
        let path = try folder.write("tape.jsonl", Array(faulty.lines.joined(separator: [UInt8(ascii: "\n")])))
        let world = FeedWorld()
        let log = try world.open()
        _ = try play(path, log, world, BookPublishing())
        let published = try PublishedBooks(log)
        published.check()
        #expect(published.records.values.contains { $0.contains { $0.head.state == .stale } })
        var truth = RecordedBooks(depth: BookPublishing().depth)
        try truth.hold(published, against: path)
    }

    @Test func `A feed that is killed and started again ends with the same books`() throws {
        let path = SharedData.path("data/cryptofeed/KRAKEN.ws.50.0.gz")
        let whole = FeedWorld()
        let log = try whole.open()
        _ = try play(path, log, whole, BookPublishing())
        let expected = try PublishedBooks(log).encoded
        let world = FeedWorld()
        for operation in [3, 5] {
            let log = try world.open()
            world.disk.crash(.kill, atOperation: operation)
            #expect(throws: FeedError.self) { try play(path, log, world, BookPublishing()) }
            world.disk.restart()
        }
        let last = try world.open()
        _ = try play(path, last, world, BookPublishing())
        #expect(try PublishedBooks(last).encoded == expected)
    }
}

struct SimulatedBookTests {
    @Test func `The simulated venue's books are in the log, each start in a new epoch`() throws {
        let world = FeedWorld()
        let log = try world.open()
        for _ in 0..<2 {
            var configuration = SimulatedVenue.Configuration()
            configuration.messagesPerSecond = 2000
            let stopTime = StoppingTime(world.time, afterNs: 2_000_000_000)
            var publishing = BookPublishing()
            publishing.snapshotIntervalNs = 500_000_000
            let feed = FeedService(log: log, time: stopTime, source: .simulated(configuration), books: publishing) {
                _, _ in
            }
            stopTime.onEnd = { feed.stop() }
            try feed.run()
        }
        let published = try PublishedBooks(log)
        published.check()
        #expect(published.records.count == 40)
        for (name, records) in published.records {
            #expect(Set(records.map(\.head.epoch)).count == 2, "\(name)")
            var replica = BookReplica()
            for record in records {
                #expect(replica.apply(record) == .applied)
                #expect(replica.bidCount == 10 && replica.askCount == 10)
            }
            let places = [Topic.ticksRaw, .booksDeltas].compactMap { topic in
                let parts = name.split(separator: "|").map(String.init)
                return log.lastPlace(topic, feed: "sim", exchange: parts[0], symbol: parts[1])
            }
            #expect(places.map(\.epoch) == [places[0].epoch, places[0].epoch], "\(name)")
        }
        // Of the busiest a snapshot came now and then.
        let busiest = try #require(published.records["SIMY|BTCUSDT"])
        #expect(busiest.count { $0.head.isSnapshot } >= 8)
    }
}
