import BookEngine
import MarketModel
import Testing

/// The rules by which a book is trusted, as a table: what comes, what each message does, and where the book is then.
struct BookRulesTests {
    // MARK: Messages, in whole prices and sizes

    private static func snapshot(
        _ number: UInt64, bid: Int64 = 100, ask: Int64 = 101, checksum: UInt32? = nil
    ) -> VenueMessage {
        var message = VenueMessage(.snapshot, exchange: "X", symbol: "Y")
        message.firstSequence = number
        message.lastSequence = number
        message.bids = [PriceLevel(price: bid, size: 5)]
        message.asks = [PriceLevel(price: ask, size: 5)]
        message.priceDecimals = 9
        message.sizeDecimals = 8
        message.checksum = checksum
        return message
    }

    private static func delta(
        _ first: UInt64, _ last: UInt64, bid: Int64 = 99, size: Int64 = 1, ask: Int64? = nil, timeNs: Int64? = nil,
        checksum: UInt32? = nil
    ) -> VenueMessage {
        var message = VenueMessage(.delta, exchange: "X", symbol: "Y")
        message.firstSequence = first
        message.lastSequence = last
        message.bids = [PriceLevel(price: bid, size: size)]
        if let ask { message.asks = [PriceLevel(price: ask, size: 1)] }
        message.eventTimeNs = timeNs
        message.checksum = checksum
        return message
    }

    private static func ticker(_ number: UInt64, bid: Int64 = 100, ask: Int64 = 101) -> VenueMessage {
        var message = snapshot(number, bid: bid, ask: ask)
        message.kind = .ticker
        return message
    }

    /// One row: its name, the rules, what comes, the outcomes, and the state at the end.
    struct Row: Sendable, CustomTestStringConvertible {
        let name: String
        let rules: BookRules
        let messages: [VenueMessage]
        let outcomes: [BookOutcome]
        let state: BookMachine.State
        var testDescription: String { name }

        init(
            _ name: String, _ rules: BookRules, _ messages: [VenueMessage], _ outcomes: [BookOutcome],
            _ state: BookMachine.State
        ) {
            self.name = name
            self.rules = rules
            self.messages = messages
            self.outcomes = outcomes
            self.state = state
        }
    }

    static let contiguous: [Row] = [
        Row(
            "updates in order", .contiguous, [snapshot(10), delta(11, 12), delta(13, 13)],
            [.applied, .applied, .applied], .live),
        Row("an update before any snapshot waits", .contiguous, [delta(11, 12)], [.ignored], .waiting),
        Row(
            "waiting updates join the snapshot", .contiguous, [delta(9, 10), delta(11, 12), snapshot(10)],
            [.ignored, .ignored, .applied], .live),
        Row(
            "the first update overlaps the snapshot", .contiguous, [snapshot(10), delta(8, 12), delta(13, 14)],
            [.applied, .applied, .applied], .live),
        Row(
            "the first update begins behind the snapshot", .contiguous, [snapshot(10), delta(12, 13)],
            [.applied, .violated(.gap)], .stale),
        Row(
            "old updates before the join are expected", .contiguous,
            [snapshot(10), delta(5, 9), delta(10, 10), delta(11, 11)],
            [.applied, .ignored, .ignored, .applied], .live),
        Row(
            "a lost update", .contiguous, [snapshot(10), delta(11, 12), delta(14, 15)],
            [.applied, .applied, .violated(.gap)], .stale),
        Row(
            "a duplicate update", .contiguous, [snapshot(10), delta(11, 12), delta(11, 12), delta(13, 13)],
            [.applied, .applied, .outdated, .applied], .live),
        Row(
            "an old update behind the join", .contiguous, [snapshot(10), delta(11, 20), delta(12, 14)],
            [.applied, .applied, .outdated], .live),
        Row(
            "an update that overlaps the one before", .contiguous, [snapshot(10), delta(11, 12), delta(12, 14)],
            [.applied, .applied, .violated(.gap)], .stale),
        Row(
            "two updates swapped", .contiguous, [snapshot(10), delta(11, 11), delta(13, 13), delta(12, 12)],
            [.applied, .applied, .violated(.gap), .ignored], .stale),
        Row(
            "an update that ends before it begins", .contiguous, [snapshot(10), delta(11, 11), delta(20, 12)],
            [.applied, .applied, .violated(.gap)], .stale),
        Row(
            "numbers at the end of their range", .contiguous,
            [snapshot(.max - 1), delta(.max, .max), delta(0, 0), delta(0, .max)],
            [.applied, .applied, .outdated, .outdated], .live),
        Row("a snapshot of crossed prices", .contiguous, [snapshot(10, bid: 101)], [.violated(.crossed)], .stale),
        Row(
            "a snapshot of locked prices", .contiguous, [snapshot(10, bid: 102, ask: 102)], [.violated(.crossed)],
            .stale),
        Row(
            "an update that crosses", .contiguous, [snapshot(10), delta(11, 11, bid: 101)],
            [.applied, .violated(.crossed)], .stale),
        Row(
            "a price of 0", .contiguous, [snapshot(10), delta(11, 11, bid: 0)], [.applied, .violated(.badLevel)], .stale
        ),
        Row(
            "a size below 0", .contiguous, [snapshot(10), delta(11, 11, size: -1)], [.applied, .violated(.badLevel)],
            .stale),
        Row("a snapshot with a price below 0", .contiguous, [snapshot(10, bid: -1)], [.violated(.badLevel)], .stale),
        Row(
            "an older snapshot changes nothing", .contiguous,
            [snapshot(10), delta(11, 20), snapshot(15), delta(21, 21)],
            [.applied, .applied, .outdated, .applied], .live),
        Row(
            "a newer snapshot replaces the book", .contiguous,
            [snapshot(10), delta(11, 12), snapshot(30), delta(29, 31)],
            [.applied, .applied, .applied, .applied], .live),
        Row(
            "the ticker agrees", .contiguous, [snapshot(10), ticker(11), delta(11, 11)],
            [.applied, .applied, .applied], .live),
        Row(
            "the ticker has another price", .contiguous, [snapshot(10), ticker(11, bid: 98), delta(11, 11)],
            [.applied, .applied, .violated(.tickerMismatch)], .stale),
        Row(
            "a ticker ahead is not compared yet", .contiguous, [snapshot(10), ticker(12, bid: 98), delta(11, 11)],
            [.applied, .applied, .applied], .live),
        Row(
            "a duplicate and a reversed ticker", .contiguous,
            [snapshot(10), ticker(12), ticker(12), ticker(11, bid: 98), delta(11, 12)],
            [.applied, .applied, .outdated, .outdated, .applied], .live),
        Row(
            "a gap, then updates and a snapshot that joins them", .contiguous,
            [snapshot(10), delta(12, 12), delta(13, 14), snapshot(12), delta(15, 15)],
            [.applied, .violated(.gap), .ignored, .applied, .applied], .live),
        Row(
            "a snapshot too old for what waits; the next one joins", .contiguous,
            [delta(20, 21), snapshot(10), delta(22, 22), snapshot(20), delta(23, 23)],
            [.ignored, .violated(.gap), .ignored, .applied, .applied], .live),
        Row(
            "one wrong number among those that wait does not spoil the snapshot", .contiguous,
            [delta(11, 11), delta(9_000, 9_001), delta(12, 12), delta(13, 13), snapshot(12), delta(14, 14)],
            [.ignored, .ignored, .ignored, .ignored, .applied, .applied], .live),
        Row(
            "nor does one that ends before it begins", .contiguous,
            [snapshot(10), delta(90, 60), snapshot(40), delta(41, 41)],
            [.applied, .violated(.gap), .applied, .applied], .live),
        Row(
            "a duplicate among those that wait", .contiguous,
            [delta(11, 11), delta(12, 13), delta(11, 11), snapshot(10)],
            [.ignored, .ignored, .outdated, .applied], .live),
    ]

    // CRC-32 over "101" "5" "100" "5", by zlib.
    private static let crc: UInt32 = 3_351_790_242

    static let others: [Row] = [
        Row("the checksum is the book's", .checksum, [snapshot(0, checksum: crc)], [.applied], .live),
        Row(
            "the checksum is another", .checksum, [snapshot(0), delta(0, 0, checksum: 7)],
            [.applied, .violated(.checksumMismatch)], .stale),
        Row(
            "a checksum of the snapshot is another", .checksum, [snapshot(0, checksum: crc + 1)],
            [.violated(.checksumMismatch)], .stale),
        Row(
            "a size that differs by one", .checksum, [snapshot(0), delta(0, 0, bid: 100, size: 6, checksum: crc)],
            [.applied, .violated(.checksumMismatch)], .stale),
        Row(
            "a crossed book", .checksum, [snapshot(0), delta(0, 0, bid: 101)],
            [.applied, .violated(.crossed)], .stale),
        Row(
            "an update before any snapshot is lost", .checksum, [delta(0, 0), snapshot(0)],
            [.ignored, .applied], .live),
        Row(
            "updates after a violation wait for a snapshot", .checksum,
            [snapshot(0), delta(0, 0, checksum: 7), delta(0, 0), snapshot(0)],
            [.applied, .violated(.checksumMismatch), .ignored, .applied], .live),
        Row(
            "times in order", .unchecked,
            [snapshot(0), delta(0, 0, timeNs: 5), delta(0, 0, timeNs: 5), delta(0, 0), delta(0, 0, timeNs: 6)],
            [.applied, .applied, .applied, .applied, .applied], .live),
        Row(
            "times reversed", .unchecked, [snapshot(0), delta(0, 0, timeNs: 5), delta(0, 0, timeNs: 4)],
            [.applied, .applied, .violated(.reversed)], .stale),
        Row(
            "a new snapshot begins new times", .unchecked,
            [snapshot(0), delta(0, 0, timeNs: 5), snapshot(0), delta(0, 0, timeNs: 4)],
            [.applied, .applied, .applied, .applied], .live),
        Row(
            "an unchecked book that crosses", .unchecked, [snapshot(0), delta(0, 0, ask: 100)],
            [.applied, .violated(.crossed)], .stale),
        Row("an update before any snapshot", .unchecked, [delta(0, 0)], [.ignored], .waiting),
    ]

    @Test(arguments: contiguous + others)
    func `Each rule`(_ row: Row) {
        var machine = BookMachine(row.rules)
        let outcomes = row.messages.map { machine.receive($0) }
        #expect(outcomes == row.outcomes)
        #expect(machine.state == row.state)
        #expect(machine.book.isEmpty == (row.state != .live))
    }

    @Test(arguments: BookRules.allForTest)
    func `After any violation the book is empty and stale until the next snapshot, whatever comes`(_ rules: BookRules) {
        var machine = BookMachine(rules)
        #expect(machine.receive(BookRulesTests.snapshot(10)) == .applied)
        #expect(machine.receive(BookRulesTests.delta(11, 11, bid: 200)) == .violated(.crossed))
        for number in 12..<40 as Range<UInt64> {
            for message in [BookRulesTests.delta(number, number), BookRulesTests.ticker(number)] {
                if case .violated(let violation) = machine.receive(message) { Issue.record("\(violation)") }
                #expect(machine.state == .stale && machine.book.isEmpty)
            }
        }
        #expect(machine.receive(BookRulesTests.snapshot(39)) == .applied)
        #expect(machine.state == .live && machine.book.bestBid?.price == 100)
    }

    @Test func `A lost message drops a book that nothing else would check, and no other`() {
        for rules in BookRules.allForTest {
            var machine = BookMachine(rules)
            #expect(machine.receiveUnreadable() == .ignored, "before the snapshot there is nothing to drop")
            _ = machine.receive(BookRulesTests.snapshot(10))
            let outcome = machine.receiveUnreadable()
            #expect(outcome == (rules == .unchecked ? .violated(.unreadable) : .ignored))
            #expect((machine.state == .stale) == (rules == .unchecked))
            #expect(machine.receiveUnreadable() == .ignored, "once")
        }
    }

    @Test func `What waits for a snapshot is bounded`() {
        var machine = BookMachine(.contiguous)
        for number in 1...UInt64(BookMachine.bufferedMax) {
            #expect(machine.receive(BookRulesTests.delta(number, number)) == .ignored)
        }
        let next = UInt64(BookMachine.bufferedMax) + 1
        #expect(machine.receive(BookRulesTests.delta(next, next)) == .violated(.tooManyBuffered))
        #expect(machine.receive(BookRulesTests.snapshot(next)) == .applied)
        #expect(machine.receive(BookRulesTests.delta(next + 1, next + 1)) == .applied)
    }

    @Test func `A ticker with a wrong high number silences the next nine, not all`() {
        var machine = BookMachine(.contiguous)
        _ = machine.receive(BookRulesTests.snapshot(10))
        #expect(machine.receive(BookRulesTests.ticker(9_000_000)) == .applied)
        for number in 11..<20 as Range<UInt64> {
            #expect(machine.receive(BookRulesTests.ticker(number)) == .outdated)
        }
        #expect(machine.receive(BookRulesTests.ticker(20)) == .applied)
        #expect(machine.receive(BookRulesTests.ticker(21, bid: 98)) == .applied)
        #expect(machine.receive(BookRulesTests.delta(11, 21)) == .violated(.tickerMismatch))
    }
}

extension BookRules {
    static let allForTest: [BookRules] = [.contiguous, .checksum, .unchecked]
}
