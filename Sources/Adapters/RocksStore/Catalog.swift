import EventLog
import MarketModel
import TickStore

/// Instruments and feeds by number, as the meta key space holds them, with what an apply has changed and not yet
/// written.
///
/// Owned by whoever applies.
struct Catalog {
    struct Entry {
        let instrument: Instrument
        let exchange: [UInt8]
        let symbol: [UInt8]
        /// nil before the first tick.
        var record: InstrumentRecord?
    }

    private(set) var entries: [Entry] = []
    private(set) var feeds: [[UInt8]] = [Array("direct".utf8)]
    private var numbersByHash: [UInt64: [UInt32]] = [:]
    private var entriesWritten = 0
    private var feedsWritten = 1

    /// The number of the feed `direct`, whose ticks are written past the log.
    static let directFeed: UInt16 = 1
    static let feedsMax = Int(UInt16.max)

    /// Reads what a store holds.
    init(_ database: RocksDatabase) throws(StoreError) {
        let iterator = database.iterator(.meta, nil)
        func damaged(_ what: String) -> StoreError { StoreFailure.damaged(database.directory, what) }
        iterator.seek([MetaKey.feedPrefix])
        while try iterator.isValid(), iterator.key[0] == MetaKey.feedPrefix, iterator.key.count == 3 {
            guard iterator.key.elementsEqual(MetaKey.feed(UInt16(feeds.count + 1))), feeds.count < Self.feedsMax else {
                throw damaged("the table of feeds has a hole")
            }
            feeds.append(Array(iterator.value))
            iterator.next()
        }
        feedsWritten = feeds.count
        iterator.seek([MetaKey.namePrefix])
        while try iterator.isValid(), iterator.key[0] == MetaKey.namePrefix {
            guard iterator.key.elementsEqual(MetaKey.name(UInt32(entries.count))) else {
                throw damaged("the table of instruments has a hole")
            }
            var reader = RecordReader(iterator.value)
            guard let lengths: UInt16 = reader.integer(), let exchange = reader.bytes(Int(lengths & 0xff)),
                let symbol = reader.bytes(Int(lengths >> 8)), reader.isAtEnd, let number = add(exchange, symbol)
            else { throw damaged("the name of instrument \(entries.count) is damaged") }
            if let bytes = try database.get(.meta, MetaKey.state(number)) {
                guard let record = bytes.withUnsafeBytes({ InstrumentRecord($0) }) else {
                    throw damaged("the last tick of \(entries[Int(number)].instrument) is damaged")
                }
                entries[Int(number)].record = record
            }
            iterator.next()
        }
        entriesWritten = entries.count
    }

    private mutating func add(_ exchange: [UInt8], _ symbol: [UInt8]) -> UInt32? {
        guard
            let instrument = try? Instrument(
                exchange: String(decoding: exchange, as: UTF8.self), symbol: String(decoding: symbol, as: UTF8.self)),
            instrument.exchange.utf8.elementsEqual(exchange), instrument.symbol.utf8.elementsEqual(symbol)
        else { return nil }
        let number = UInt32(entries.count)
        entries.append(Entry(instrument: instrument, exchange: exchange, symbol: symbol, record: nil))
        numbersByHash[RecordKey.hash(exchange: exchange, symbol: symbol), default: []].append(number)
        return number
    }

    /// The number of a track's instrument, a new one where it has none; nil where the names are not an instrument's.
    mutating func instrument(_ block: Block, track: Int) -> UInt32? {
        let exchange = block.exchangeBytes(track: track)
        let symbol = block.symbolBytes(track: track)
        // The stored hash is the log's word; the names decide.
        for number in numbersByHash[RecordKey.hash(exchange: exchange, symbol: symbol)] ?? [] {
            let entry = entries[Int(number)]
            if entry.exchange.elementsEqual(exchange), entry.symbol.elementsEqual(symbol) { return number }
        }
        return add(Array(exchange), Array(symbol))
    }

    /// The number of a feed, from 1; nil where there are too many.
    mutating func feed(_ name: UnsafeRawBufferPointer) -> UInt16? {
        for index in feeds.indices where feeds[index].elementsEqual(name) { return UInt16(index + 1) }
        guard feeds.count < Self.feedsMax else { return nil }
        feeds.append(Array(name))
        return UInt16(feeds.count)
    }

    mutating func set(_ record: InstrumentRecord, of number: UInt32) { entries[Int(number)].record = record }

    /// Puts the names that are not in the database yet.
    func putNames(_ batch: WriteBatch) {
        for number in feedsWritten..<feeds.count { batch.put(.meta, MetaKey.feed(UInt16(number + 1)), feeds[number]) }
        for number in entriesWritten..<entries.count {
            let entry = entries[number]
            var value: [UInt8] = [UInt8(entry.exchange.count), UInt8(entry.symbol.count)]
            value += entry.exchange
            value += entry.symbol
            batch.put(.meta, MetaKey.name(UInt32(number)), value)
        }
    }

    /// What ``putNames(_:)`` put is in the database.
    mutating func didWrite() {
        entriesWritten = entries.count
        feedsWritten = feeds.count
    }

    /// The write failed: numbers that no one has seen go back.
    mutating func rollBack() {
        while entries.count > entriesWritten {
            let entry = entries.removeLast()
            numbersByHash[RecordKey.hash(exchange: entry.exchange, symbol: entry.symbol)]?.removeAll {
                $0 == UInt32(entries.count)
            }
        }
        feeds.removeSubrange(feedsWritten...)
    }
}
