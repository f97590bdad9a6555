import CQLFrames
import EventLog
import MarketModel
import TickCodec
import TickStore

/// Instruments and feeds by number, for this process.
struct Catalog {
    struct Entry {
        let instrument: Instrument
        let exchange: [UInt8]
        let symbol: [UInt8]
        /// nil before its first tick.
        var record: InstrumentRecord?
        /// Whether the record, or that there is none, was asked of Cassandra.
        var isLoaded = false
        /// Whether the record changed since it was written.
        var isDirty = false
        var widths = BucketWidths()
        /// The bucket that was written last, and its partition.
        var bucket: TickBucket?
        var partition: TickPartition?
    }

    struct Feed {
        let name: [UInt8]
        let number: UInt16
    }

    /// A feed's ticks of an instrument, and how their bytes are made again.
    struct Source {
        let instrument: Int
        let feed: Int
        let encoder: TickEncoder
    }

    var entries: [Entry] = []
    private(set) var feeds: [Feed] = []
    private(set) var sources: [Source] = []
    private var sourceTable = KeyTable()
    private var numbers: [Instrument: Int] = [:]
    private var feedNumbers: [[UInt8]: Int] = [:]
    private var widths: [Instrument: BucketWidths] = [:]

    /// The source of a block's track; nil where it is new.
    func source(_ block: Block, track: Int) -> Int? { sourceTable.find(block, track: track) }

    func number(of instrument: Instrument) -> Int? { numbers[instrument] }

    func feed(_ name: [UInt8]) -> Int? { feedNumbers[name] }

    mutating func addFeed(_ name: [UInt8], number: UInt16) {
        guard feedNumbers[name] == nil else { return }
        feedNumbers[name] = feeds.count
        feeds.append(Feed(name: name, number: number))
    }

    /// nil where the names are not an instrument's.
    mutating func addSource(_ block: Block, track: Int, feed: Int) -> Int? {
        let (exchange, symbol) = (block.exchange(track: track), block.symbol(track: track))
        let bytes = (Array(block.exchangeBytes(track: track)), Array(block.symbolBytes(track: track)))
        guard let instrument = try? Instrument(exchange: exchange, symbol: symbol),
            exchange.utf8.elementsEqual(bytes.0), symbol.utf8.elementsEqual(bytes.1)
        else { return nil }
        let number: Int
        if let known = numbers[instrument] {
            number = known
        } else {
            number = entries.count
            numbers[instrument] = number
            var entry = Entry(instrument: instrument, exchange: bytes.0, symbol: bytes.1)
            entry.widths = widths[instrument] ?? BucketWidths()
            entries.append(entry)
        }
        let name = Array(block.feedBytes(track: track))
        let index = sourceTable.add(exchange: bytes.0, symbol: bytes.1, feed: name)
        sources.append(
            Source(
                instrument: number, feed: feed,
                encoder: TickEncoder(exchange: exchange, symbol: symbol, feed: String(decoding: name, as: UTF8.self))))
        precondition(index == sources.count - 1)
        return index
    }

    /// Takes the widths of all instruments, as they are now.
    mutating func set(_ widths: [Instrument: BucketWidths]) {
        self.widths = widths
        for index in entries.indices { entries[index].widths = widths[entries[index].instrument] ?? BucketWidths() }
    }

    /// What another process may have changed is asked for again.
    mutating func forget(_ place: TopicPartition) {
        for index in entries.indices where entries[index].record?.place == place || entries[index].record == nil {
            entries[index].record = nil
            entries[index].isLoaded = false
            entries[index].isDirty = false
        }
    }
}
