import DayFigures
import EventLog
import EventLoop
import MarketModel
import TickCodec
import TickStore
import TimeSource

/// The tape as one loop sees it: follows `ticks.raw` at the written point, keeps the last value of every line, and
/// hands each record to the subscribers that its index names. Confined to its loop.
///
/// Subscribers of everything are not in the index: they are cursors into the same blocks, and only need to hear that
/// there is more.
///
/// Of what no subscriber wants, the tape may be a little behind the log (``TapeInterest``): who asks it for a last
/// value, or begins something at its place, has it catch up first.
final class Tape {
    /// Blocks handled before other work of the loop gets a turn.
    private static let blocksPerTurnMax = 256
    /// As often as so many blocks with repeats were added, those that retention took are forgotten.
    private static let repeatsCheckedEvery = 1024

    let log: any EventLog
    let loop: any Loop
    /// Has what is gone from the log; nil where nothing is asked for it.
    let store: StoreReader?
    /// What its loop is woken for.
    let interest = TapeInterest()
    /// What its readers were not given.
    let tally = EdgeTally()
    // A tape belongs to its loop, and what it calls changes none of this: checks of every access cost more than they
    // could find.
    @exclusivity(unchecked) private(set) var lines = LineTable()
    /// Per partition, the next offset to handle.
    private(set) var next: [UInt64]
    /// Bytes of records handled since the start.
    private(set) var bytesHandled: UInt64 = 0
    /// Records that were no news: a sequence not above the last, or an older epoch.
    private(set) var repeatCount: UInt64 = 0

    /// Those of each block, by partition and first offset: cursors skip them. Empty unless something publishes twice.
    private var repeatsInBlock: [TopicPartition: [UInt64: [Int]]] = [:]

    private var followers: [ObjectIdentifier: any TapeFollower] = [:]
    @exclusivity(unchecked) private var index: [[PriceSubscriber]] = []
    private var subscribers: [ObjectIdentifier: PriceSubscriber] = [:]
    /// Those that were pushed to in this turn.
    @exclusivity(unchecked) private var touched: [PriceSubscriber] = []
    @exclusivity(unchecked) private var lineOfTrack: [Int] = []
    @exclusivity(unchecked) private var reader = TickReader()
    private var loading: [Bool]

    init(log: any EventLog, loop: any Loop, start: TapeStart, store: StoreReader? = nil) {
        self.log = log
        self.loop = loop
        self.store = store
        next = start.offsets
        loading = start.offsets.map { _ in false }
        for known in start.lines { install(known) }
    }

    /// Indices of the records in a block that are no news, ascending; nil where all are.
    func repeats(in block: Block) -> [Int]? {
        repeatsInBlock.isEmpty ? nil : repeatsInBlock[block.topicPartition]?[block.firstOffset]
    }

    func token(_ offsets: [UInt64]) -> ResumeToken {
        ResumeToken(
            logID: log.identity.id, generation: log.identity.generation,
            offsets: offsets.enumerated().map { (partition: UInt16($0.offset), offset: $0.element) })
    }

    /// Drains when it is woken, and the books with it. The loop keeps the waker, and with it the tape.
    func makeWaker(on loop: EventLoop, _ books: BookTape, _ time: any TimeSource) -> Waker {
        let waker = loop.makeWaker { [self] in drainAll(on: loop, books, time) }
        interest.wake = { [weak waker] in waker?.wake() }
        return waker
    }

    /// Reads what the loop was not woken for, so that what is asked of the tape is as new as the log. Not from within a
    /// turn of the tape.
    func catchUp() {
        guard interest.hasPutOff else { return }
        if drain() { interest.wake() }
    }

    /// What is left after a bounded step has another turn, after what others have to do.
    private func drainAll(on loop: EventLoop, _ books: BookTape, _ time: any TimeSource) {
        let (startedNs, before) = (time.monotonicNs(), bytesHandled)
        let hasTicks = drain()
        // Streams write at the end of the turn, before this is called.
        if bytesHandled > before { loop.afterTurn { [tally] in tally.turned(time.monotonicNs() - startedNs) } }
        let hasBooks = books.drain()
        guard hasTicks || hasBooks else { return }
        let box = LoopConfined((self, books))
        loop.execute { [unowned loop] in box.value.0.drainAll(on: loop, box.value.1, time) }
    }

    /// Reads what is new and passes it on. True when there is more for another turn.
    func drain() -> Bool {
        interest.willRead()
        var budget = Tape.blocksPerTurnMax
        var moved = false
        for partition in next.indices {
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            reading: while budget > 0 {
                switch log.read(place, at: next[partition], .written) {
                case .block(let block, let index):
                    handle(block, from: index, place)
                    next[partition] = block.endOffset
                    budget -= 1
                    moved = true
                case .atEnd: break reading
                case .onDisk:
                    load(place)
                    break reading
                case .expired(let oldest): next[partition] = oldest
                case .damaged(let after, _): next[partition] = after
                }
            }
        }
        if moved {
            for follower in followers.values { follower.tapeMoved() }
            endTurn()
        }
        return budget == 0
    }

    private func endTurn() {
        for subscriber in touched { subscriber.turnEnded() }
        touched.removeAll(keepingCapacity: true)
    }

    /// Only a start with a long way behind the log's memory gets here.
    private func load(_ place: TopicPartition) {
        let partition = Int(place.partition)
        guard !loading[partition] else { return }
        loading[partition] = true
        let loop = loop
        let box = LoopConfined(self)
        log.load(place, at: next[partition], .written) { result in
            loop.execute { box.value.loaded(place, result) }
        }
    }

    private func loaded(_ place: TopicPartition, _ result: Result<ReadResult, LogError>) {
        let partition = Int(place.partition)
        loading[partition] = false
        switch result {
        // Past what was asked for where the log has nothing between; before it when something came in meanwhile.
        case .success(.block(let block, let index)) where block.firstOffset + UInt64(index) >= next[partition]:
            handle(block, from: index, place)
            next[partition] = block.endOffset
            endTurn()
        case .success(.expired(let oldest)): next[partition] = oldest
        case .success(.damaged(let after, _)): next[partition] = after
        // The tape went on meanwhile, as retention took what was asked for.
        case .success(.block): break
        case .success, .failure: return
        }
        drainRest()
    }

    /// What is left after a bounded step has another turn, after what others have to do.
    private func drainRest() {
        guard drain() else { return }
        let box = LoopConfined(self)
        loop.execute { box.value.drainRest() }
    }

    // MARK: Subscribers

    func follow(_ follower: any TapeFollower) {
        guard followers.updateValue(follower, forKey: ObjectIdentifier(follower)) == nil else { return }
        interest.add([])
    }

    func unfollow(_ follower: any TapeFollower) {
        guard followers.removeValue(forKey: ObjectIdentifier(follower)) != nil else { return }
        interest.remove([])
    }

    /// Adds a subscriber to the index of every line its filter matches, now and when new ones appear.
    func subscribe(_ subscriber: PriceSubscriber) {
        subscribers[ObjectIdentifier(subscriber)] = subscriber
        for line in lines.candidates(subscriber.filter.symbols)
        where subscriber.filter.matches(lines[line].instrument) {
            index[line].append(subscriber)
            lines[line].isWanted = true
        }
        interest.add(subscriber.filter.symbols)
    }

    func unsubscribe(_ subscriber: PriceSubscriber) {
        guard subscribers.removeValue(forKey: ObjectIdentifier(subscriber)) != nil else { return }
        interest.remove(subscriber.filter.symbols)
        for line in lines.candidates(subscriber.filter.symbols)
        where subscriber.filter.matches(lines[line].instrument) {
            index[line].removeAll { $0 === subscriber }
            lines[line].isWanted = !index[line].isEmpty
        }
    }

    /// The line of a track, made when it is new; nil for names that are no instrument (then the record is the writer's
    /// to dead-letter, and no subscriber's).
    func line(_ block: Block, _ track: Int) -> Int? {
        if let known = lines.find(block, track) { return known }
        guard
            let instrument = try? Instrument(exchange: block.exchange(track: track), symbol: block.symbol(track: track))
        else { return nil }
        return add(instrument, feed: block.feed(track: track))
    }

    func add(_ instrument: Instrument, feed: String) -> Int {
        let line = lines.add(instrument, feed: feed)
        index.append([])
        for subscriber in subscribers.values where subscriber.filter.matches(instrument) {
            index[line].append(subscriber)
            lines[line].isWanted = true
        }
        return line
    }

    private func install(_ known: TapeStart.KnownLine) {
        let latest = known.latest
        latest.update.withUnsafeBytes { update in
            guard let reader = try? TickReader(update) else { return }
            let line = add(known.instrument, feed: String(decoding: reader.feed, as: UTF8.self))
            lines[line].epoch = reader.epoch
            lines[line].sequence = reader.sequence
            lines[line].day = DayFigures(latest.day)
            lines[line].knownThrough = latest.nextOffset
            lines[line].frame.set(payload: update)
        }
    }

    // MARK: Records

    private func handle(_ block: Block, from first: Int, _ place: TopicPartition) {
        lines.find(block, into: &lineOfTrack)
        for track in 0..<block.trackCount where lineOfTrack[track] < 0 {
            lineOfTrack[track] = line(block, track) ?? -1
        }
        var record = first
        while true {
            record = lines.apply(block, from: record, lineOfTrack: lineOfTrack, &reader)
            guard record < block.recordCount else { break }
            handle(record, of: block, place)
            record += 1
        }
        bytesHandled += UInt64(block.recordsLength)
    }

    /// One record of a line that subscribers want, or one that is no news.
    private func handle(_ record: Int, of block: Block, _ place: TopicPartition) {
        let track = block.track(of: record)
        let line = lineOfTrack[track]
        let epoch = block.epoch(track: track)
        let sequence = block.sequence(of: record)
        let offset = block.firstOffset + UInt64(record)
        guard lines[line].isNews(epoch, sequence) else {
            // What the store had when the tape started is known, but it is no repeat.
            if offset >= lines[line].knownThrough {
                noteRepeat(record, in: block, place)
                for subscriber in index[line] { subscriber.repeatDropped() }
            }
            return
        }
        let frame = UnsafeRawBufferPointer(rebasing: block.records[block.frameRange(record)])
        deliver(line, epoch, sequence, frame, place, offset)
    }

    private func noteRepeat(_ record: Int, in block: Block, _ place: TopicPartition) {
        repeatCount += 1
        var blocks = repeatsInBlock.removeValue(forKey: place) ?? [:]
        if blocks[block.firstOffset] == nil, blocks.count % Tape.repeatsCheckedEvery == Tape.repeatsCheckedEvery - 1 {
            let oldest = log.startOffset(place)
            blocks = blocks.filter { $0.key >= oldest }
        }
        blocks[block.firstOffset, default: []].append(record)
        repeatsInBlock[place] = blocks
    }

    private func deliver(
        _ line: Int, _ epoch: UInt64, _ sequence: UInt64, _ frame: UnsafeRawBufferPointer, _ place: TopicPartition,
        _ offset: UInt64
    ) {
        // What cannot be read is the writer's to dead-letter.
        guard reader.readsFrame(frame) else { return }
        let record = TapeRecord(
            line: line, epoch: epoch, sequence: sequence, frame: frame, trade: reader.dayTrade, place: place,
            offset: offset)
        for subscriber in index[line] {
            subscriber.push(record)
            guard !subscriber.isTouched else { continue }
            subscriber.isTouched = true
            touched.append(subscriber)
        }
        // Only now: until here subscribers find what the record replaces.
        lines.apply(line, frame, reader, epoch, sequence)
    }
}

/// One record as it is handed to subscribers; the frame is valid during the call.
struct TapeRecord {
    let line: Int
    let epoch: UInt64
    let sequence: UInt64
    let frame: UnsafeRawBufferPointer
    let trade: DayTrade?
    let place: TopicPartition
    let offset: UInt64
}

/// Hears that the tape has moved.
protocol TapeFollower: AnyObject {
    func tapeMoved()
}
