import BookView
import EventLog
import EventLoop
import MarketModel
import TickCodec

/// The books that clients of one loop look at, kept from `books.deltas`. Books that nobody looks at cost nothing.
///
/// A book that is asked for is begun by walking back from its newest record to its latest snapshot; records that come
/// meanwhile wait. Confined to its loop.
final class BookTape {
    /// Blocks handled before other work of the loop gets a turn.
    private static let blocksPerTurnMax = 256

    private let log: any EventLog
    private let loop: any Loop
    private let interest: TapeInterest
    /// Per partition, the next offset to handle.
    private var next: [UInt64]
    private var loading: [Bool]
    private var books: [LiveBook] = []
    private var byKeyHash: [UInt64: [LiveBook]] = [:]
    private var record = BookRecord()

    /// `interest`: what the loop is woken for, which its tape has.
    init(log: any EventLog, loop: any Loop, interest: TapeInterest = TapeInterest()) {
        self.log = log
        self.loop = loop
        self.interest = interest
        next = (0..<log.partitionCount(.booksDeltas)).map {
            log.endOffset(TopicPartition(.booksDeltas, UInt16($0)), .written)
        }
        loading = next.map { _ in false }
    }

    /// Books that someone looks at.
    var bookCount: Int { books.count }

    /// The book of an instrument as one feed publishes it, shared by all who look at it.
    func attach(_ subscriber: BookSubscriber, _ instrument: Instrument, feed: String) -> LiveBook {
        let found = books.first { $0.instrument == instrument && $0.feed == feed }
        if found == nil { interest.add([instrument.symbol]) }
        if books.isEmpty { skip() }
        let book = found ?? LiveBook(instrument, feed: feed, log: log, loop: loop)
        if found == nil {
            books.append(book)
            byKeyHash[book.keyHash, default: []].append(book)
            book.begin()
        }
        book.subscribers.append(subscriber)
        return book
    }

    func detach(_ subscriber: BookSubscriber, _ book: LiveBook) {
        book.subscribers.removeAll { $0 === subscriber }
        guard book.subscribers.isEmpty else { return }
        books.removeAll { $0 === book }
        interest.remove([book.instrument.symbol])
        byKeyHash[book.keyHash]?.removeAll { $0 === book }
        if byKeyHash[book.keyHash]?.isEmpty == true { byKeyHash[book.keyHash] = nil }
    }

    /// Reads what is new and passes it on. True when there is more for another turn.
    func drain() -> Bool {
        if books.isEmpty {
            skip()
            return false
        }
        var budget = BookTape.blocksPerTurnMax
        for partition in next.indices {
            let place = TopicPartition(.booksDeltas, UInt16(partition))
            while budget > 0, !loading[partition], take(log.read(place, at: next[partition], .written), place) {
                budget -= 1
            }
        }
        for book in books { book.turnEnded() }
        return budget == 0
    }

    private func skip() {
        for partition in next.indices {
            next[partition] = log.endOffset(TopicPartition(.booksDeltas, UInt16(partition)), .written)
        }
    }

    /// False when there is nothing more now.
    private func take(_ result: ReadResult, _ place: TopicPartition) -> Bool {
        let partition = Int(place.partition)
        switch result {
        case .block(let block, let index):
            handle(block, from: index)
            next[partition] = block.endOffset
        case .atEnd: return false
        case .onDisk:
            load(place)
            return false
        // The sequence shows each book that it misses something.
        case .expired(let oldest): next[partition] = oldest
        case .damaged(let after, _): next[partition] = after
        }
        return true
    }

    private func load(_ place: TopicPartition) {
        loading[Int(place.partition)] = true
        let loop = loop
        let box = LoopConfined(self)
        log.load(place, at: next[Int(place.partition)], .written) { result in
            loop.execute { box.value.loaded(place, result) }
        }
    }

    private func loaded(_ place: TopicPartition, _ result: Result<ReadResult, LogError>) {
        loading[Int(place.partition)] = false
        guard case .success(let read) = result, !books.isEmpty, take(read, place) else { return }
        drainRest()
    }

    /// What is left after a bounded step has another turn, after what others have to do.
    private func drainRest() {
        guard drain() else { return }
        let box = LoopConfined(self)
        loop.execute { box.value.drainRest() }
    }

    private func handle(_ block: Block, from first: Int) {
        let bookOfTrack = (0..<block.trackCount).map { track in
            byKeyHash[block.keyHash(track: track)]?.first { $0.matches(block, track) }
        }
        guard bookOfTrack.contains(where: { $0 != nil }) else { return }
        for index in first..<block.recordCount {
            guard let book = bookOfTrack[block.track(of: index)] else { continue }
            // What cannot be read is a gap, which the next record shows.
            guard (try? record.decode(block.payload(index))) != nil else { continue }
            book.receive(record)
        }
    }
}
