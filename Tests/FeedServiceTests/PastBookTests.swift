import Admin
import BookView
import EventLog
import FeedService
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import TestSupport
import Testing
import TickCodec
import TickStore

@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct PastBookTests {
    private static let instrument = try! Instrument(exchange: "BINANCE", symbol: "BTCUSDT")

    private static func time(_ record: BookRecord) -> Int64 {
        FilingTime.of(eventTimeNs: record.head.eventTimeNs, receivedTimeNs: record.head.receivedTimeNs).ns
    }

    /// A real recording's books, few changes between whole ones.
    private static func recorded(_ world: FeedWorld) throws -> (log: SegmentLog, books: PublishedBooks) {
        let log = try world.open()
        var publishing = BookPublishing()
        publishing.deltasPerSnapshotMax = 200
        let feed = FeedService(
            log: log, time: world.time,
            source: .recording(
                path: SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz"), speed: .maximum),
            books: publishing
        ) { _, _ in }
        try feed.run()
        try log.sync()
        return (log, try PublishedBooks(log))
    }

    /// The book behind the last record before the first one past a time.
    private static func live(_ records: [BookRecord], at timeNs: Int64) -> BookReplica {
        var book = BookReplica()
        for record in records {
            if time(record) > timeNs { break }
            _ = book.apply(record)
        }
        return book
    }

    private static func expect(_ found: PastBook.Found, _ wanted: BookReplica) {
        #expect(found.sequence == wanted.sequence && found.epoch == wanted.epoch && found.isComplete)
        #expect(found.bids == wanted.bids(10_000) && found.asks == wanted.asks(10_000))
    }

    @Test func `At any time of a recording the book is the live one`() throws {
        let (log, books) = try Self.recorded(FeedWorld())
        let records = try #require(books.records["BINANCE|BTCUSDT"])
        let past = PastBook(log)
        for index in stride(from: 0, to: records.count, by: records.count / 25) {
            let timeNs = Self.time(records[index])
            let found = try past.find("BTCUSDT", exchange: index % 2 == 0 ? "BINANCE" : nil, at: timeNs)
            #expect(found.instrument == Self.instrument && found.changedNs <= timeNs && !found.bids.isEmpty)
            Self.expect(found, Self.live(records, at: timeNs))
            // Between two changes too.
            Self.expect(
                try past.find("BTCUSDT", exchange: "BINANCE", at: timeNs + 1), Self.live(records, at: timeNs + 1))
        }
        let last = try past.find("BTCUSDT", exchange: nil, at: .max)
        Self.expect(last, Self.live(records, at: .max))
        let before = Self.time(records[0]) - 1
        let none = #expect(throws: PastBook.Failure.self) {
            try past.find("BTCUSDT", exchange: "BINANCE", at: before)
        }
        #expect(none?.description.contains("no book of BINANCE|BTCUSDT at 2024-08-08T") == true)
        #expect(throws: PastBook.Failure.self) { try past.find("NONE", exchange: nil, at: .max) }
    }

    /// Records of a book from one on, in a log of their own.
    private static func append(
        _ log: SegmentLog, _ payloads: some Sequence<[UInt8]>, _ records: some Sequence<BookRecord>,
        exchange: String = "BINANCE"
    ) throws {
        let builder = BlockBuilder(TopicPartition(.booksDeltas, 0))
        let key = builder.register(BlockBuilder.Key(exchange: exchange, symbol: "BTCUSDT", feed: "rec"))
        for (payload, record) in zip(payloads, records) {
            payload.withUnsafeBytes {
                builder.append(key: key, epoch: record.head.epoch, sequence: record.head.sequence, payload: $0)
            }
        }
        try log.append([builder.build()], consumed: [])
        try log.sync()
    }

    private static func stored(_ book: BookReplica, _ timeNs: Int64) -> StoredBook {
        var stored = StoredBook()
        stored.exchange = "BINANCE"
        stored.symbol = "BTCUSDT"
        stored.feed = "rec"
        stored.timeNs = timeNs
        stored.epoch = book.epoch
        stored.sequence = book.sequence
        stored.bids = book.bids(10_000)
        stored.asks = book.asks(10_000)
        return stored
    }

    @Test func `What the log has no more is a stored book, which says that it is not all, or the two make one`() throws
    {
        let books = try Self.recorded(FeedWorld()).books
        let records = try #require(books.records["BINANCE|BTCUSDT"])
        // Where nothing but changes follow for a while.
        let whole = try #require(records.indices.dropFirst(1000).first { records[$0].head.isSnapshot })
        let to = try #require(records.indices.dropFirst(whole + 1).first { records[$0].head.isSnapshot })
        let from = whole + 5
        try #require(to - from > 30)
        let log = try FeedWorld().open()
        try Self.append(log, books.encoded[from..<to], records[from..<to])
        func stored(_ index: Int) -> StoredBook {
            let timeNs = Self.time(records[index])
            var book = BookReplica()
            for record in records[...index] { _ = book.apply(record) }
            return Self.stored(book, timeNs)
        }
        let timeNs = Self.time(records[to - 10])
        let alone = #expect(throws: PastBook.Failure.self) {
            try PastBook(log).find("BTCUSDT", exchange: "BINANCE", at: timeNs)
        }
        #expect(alone?.description.contains("books.deltas, whose oldest record was appended at") == true)
        // One at which the log's first change goes on.
        let joined = stored(from - 1)
        Self.expect(
            try PastBook(log) { _, _ in joined }.find("BTCUSDT", exchange: "BINANCE", at: timeNs),
            Self.live(records, at: timeNs))
        // One that a change is missing behind.
        let early = stored(from - 2)
        let found = try PastBook(log) { _, _ in early }.find("BTCUSDT", exchange: "BINANCE", at: timeNs)
        #expect(!found.isComplete && found.sequence == early.sequence && found.bids == early.bids)
        #expect(found.changedNs == early.timeNs)
        // Of a time before the log's first record nothing says whether anything is missing, but the next sequence.
        let firstNs = Self.time(records[from])
        for (book, isComplete) in [(joined, true), (early, false)] where book.timeNs < firstNs {
            let found = try PastBook(log) { _, _ in book }.find("BTCUSDT", exchange: "BINANCE", at: firstNs - 1)
            #expect(found.isComplete == isComplete && found.sequence == book.sequence)
        }
        let text = BookText.lines(found, at: timeNs, depth: 2)
        #expect(text.count == 6 && text[1].contains("not all of it"), "\(text)")
    }

    @Test func `Of two exchanges one has to be chosen, and a book that its feed took back is none`() throws {
        let books = try Self.recorded(FeedWorld()).books
        let records = try #require(books.records["BINANCE|BTCUSDT"])
        let log = try FeedWorld().open()
        for exchange in ["BINANCE", "SIMX"] {
            try Self.append(log, books.encoded[..<50], records[..<50], exchange: exchange)
        }
        let timeNs = Self.time(records[49])
        let both = #expect(throws: PastBook.Failure.self) {
            try PastBook(log).find("BTCUSDT", exchange: nil, at: timeNs)
        }
        #expect(both?.description == "BINANCE, SIMX have books of BTCUSDT; choose one with --exchange")
        let found = try PastBook(log).find("BTCUSDT", exchange: "SIMX", at: timeNs)
        Self.expect(found, Self.live(Array(records[..<50]), at: timeNs))
        var stale = Proto.BookDelta()
        stale.epoch = records[49].head.epoch
        stale.sequence = records[49].head.sequence + 1
        stale.receivedTime = Timestamp(ns: timeNs + 5)
        stale.state = .stale
        var record = BookRecord()
        let bytes = stale.encodedBytes()
        try bytes.withUnsafeBytes { try record.decode($0) }
        try Self.append(log, [bytes], [record], exchange: "SIMX")
        Self.expect(
            try PastBook(log).find("BTCUSDT", exchange: "SIMX", at: timeNs + 4),
            Self.live(Array(records[..<50]), at: timeNs))
        let none = #expect(throws: PastBook.Failure.self) {
            try PastBook(log).find("BTCUSDT", exchange: "SIMX", at: timeNs + 5)
        }
        #expect(none?.description.contains("its feed did not vouch for it since 2024-08-08T") == true)
        #expect(
            BookText.json(found, at: 7, depth: 1).hasPrefix(
                "{\"exchange\":\"SIMX\",\"symbol\":\"BTCUSDT\",\"at_ns\":7,"))
    }
}
