import DayFigures
import EventLog
import MarketModel

/// Keys and values of the meta key space.
enum MetaKey {
    static let format: [UInt8] = Array("!format".utf8)
    static let feedPrefix = UInt8(ascii: "f")
    static let namePrefix = UInt8(ascii: "n")
    static let statePrefix = UInt8(ascii: "s")
    static let offsetPrefix = UInt8(ascii: "o")
    static let agePrefix = UInt8(ascii: "a")
    static let countPrefix = UInt8(ascii: "c")
    static let filedPrefix = UInt8(ascii: "r")
    static let heldPrefix = UInt8(ascii: "h")

    static func feed(_ number: UInt16) -> [UInt8] { key(feedPrefix) { $0.appendBigEndian(number) } }
    static func name(_ instrument: UInt32) -> [UInt8] { key(namePrefix) { $0.appendBigEndian(instrument) } }
    static func state(_ instrument: UInt32) -> [UInt8] { key(statePrefix) { $0.appendBigEndian(instrument) } }
    static func offset(_ place: TopicPartition) -> [UInt8] {
        key(offsetPrefix) {
            $0.appendBigEndian(place.topic.number)
            $0.appendBigEndian(place.partition)
        }
    }
    /// Which records of a place the store holds.
    static func held(_ place: TopicPartition) -> [UInt8] {
        key(heldPrefix) {
            $0.appendBigEndian(place.topic.number)
            $0.appendBigEndian(place.partition)
        }
    }
    /// Where the rows of a run of records are filed, by its first offset.
    static func filed(_ place: TopicPartition, _ first: UInt64) -> [UInt8] {
        key(filedPrefix) {
            $0.appendBigEndian(place.topic.number)
            $0.appendBigEndian(place.partition)
            $0.appendBigEndian(first)
        }
    }

    /// When the newest row of an instrument's hour was appended to the log.
    static func age(_ id: HourID) -> [UInt8] { key(agePrefix, id) }
    /// How many rows of an hour are merged.
    static func count(_ id: HourID) -> [UInt8] { key(countPrefix, id) }

    /// The hour that an age or a count belongs to; nil for another key.
    static func hour(_ key: UnsafeRawBufferPointer) -> HourID? {
        guard key.count == 9, key[0] == agePrefix || key[0] == countPrefix else { return nil }
        let hour = UInt32(bigEndian: key.loadUnaligned(fromByteOffset: 1, as: UInt32.self)) ^ 0x8000_0000
        let instrument = UInt32(bigEndian: key.loadUnaligned(fromByteOffset: 5, as: UInt32.self))
        return HourID(instrument: instrument, hour: Int32(bitPattern: hour))
    }

    private static func key(_ prefix: UInt8, _ id: HourID) -> [UInt8] {
        key(prefix) {
            $0.appendBigEndian(UInt32(bitPattern: id.hour) ^ 0x8000_0000)
            $0.appendBigEndian(id.instrument)
        }
    }

    private static func key(_ prefix: UInt8, _ rest: (inout [UInt8]) -> Void) -> [UInt8] {
        var key = [prefix]
        rest(&key)
        return key
    }
}

/// Reads fixed fields in order; nil past the end. Any bytes may be given.
struct RecordReader {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { position == bytes.count }

    mutating func integer<T: FixedWidthInteger>(_: T.Type = T.self) -> T? {
        let size = MemoryLayout<T>.size
        guard bytes.count - position >= size else { return nil }
        defer { position += size }
        return T(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    mutating func bytes(_ count: Int) -> [UInt8]? {
        guard count >= 0, bytes.count - position >= count else { return nil }
        defer { position += count }
        return Array(bytes[position..<(position + count)])
    }
}

/// What the store keeps of an instrument beside its rows.
struct InstrumentRecord: Hashable {
    /// The feed whose ticks are the last tick and make the day.
    var primaryFeed: UInt16
    var place: TopicPartition
    var figures = DayFigures()
    /// The newest tick of the primary feed.
    var update: [UInt8] = []

    private static let version: UInt8 = 1

    init(primaryFeed: UInt16, place: TopicPartition) {
        self.primaryFeed = primaryFeed
        self.place = place
    }

    var bytes: [UInt8] {
        var out: [UInt8] = []
        out.reserveCapacity(224 + update.count)
        out.append(Self.version)
        out.appendLittleEndian(primaryFeed)
        out.appendLittleEndian(place.topic.number)
        out.appendLittleEndian(place.partition)
        out.appendLittleEndian(figures.day)
        let flags =
            (figures.newest == nil ? 0 : 1) | (figures.open == nil ? 0 : 2) | (figures.previous == nil ? 0 : 4) as UInt8
        out.append(flags)
        if let newest = figures.newest {
            out.appendLittleEndian(newest.epoch)
            out.appendLittleEndian(newest.sequence)
        }
        if let open = figures.open, let last = figures.last, let high = figures.high, let low = figures.low {
            Self.append(open, to: &out)
            Self.append(last, to: &out)
            out.appendLittleEndian(high)
            out.appendLittleEndian(low)
            out.appendLittleEndian(figures.volume)
            out.appendLittleEndian(figures.tradeCount)
        }
        if let previous = figures.previous {
            Self.append(previous, to: &out)
            out.appendLittleEndian(figures.previousDay)
        }
        out.appendLittleEndian(UInt32(update.count))
        out.append(contentsOf: update)
        return out
    }

    /// nil where the bytes are no record.
    init?(_ bytes: UnsafeRawBufferPointer) {
        var reader = RecordReader(bytes)
        guard reader.integer(UInt8.self) == Self.version, let feed: UInt16 = reader.integer(),
            let topic: UInt16 = reader.integer(), let partition: UInt16 = reader.integer(),
            let topic = Topic(number: topic), let day: Int32 = reader.integer(), let flags: UInt8 = reader.integer()
        else { return nil }
        primaryFeed = feed
        place = TopicPartition(topic, partition)
        figures.day = day
        if flags & 1 != 0 {
            guard let epoch: UInt64 = reader.integer(), let sequence: UInt64 = reader.integer() else { return nil }
            figures.newest = DayFigures.Identity(epoch: epoch, sequence: sequence)
        }
        if flags & 2 != 0 {
            guard let open = Self.mark(&reader), let last = Self.mark(&reader), let high: Int64 = reader.integer(),
                let low: Int64 = reader.integer(), let volume: Int64 = reader.integer(),
                let count: UInt64 = reader.integer()
            else { return nil }
            figures.open = open
            figures.last = last
            figures.high = high
            figures.low = low
            figures.volume = volume
            figures.tradeCount = count
        }
        if flags & 4 != 0 {
            guard let previous = Self.mark(&reader), let previousDay: Int32 = reader.integer() else { return nil }
            figures.previous = previous
            figures.previousDay = previousDay
        }
        guard let length: UInt32 = reader.integer(), let update = reader.bytes(Int(length)), reader.isAtEnd else {
            return nil
        }
        self.update = update
    }

    private static func append(_ mark: DayFigures.Mark, to out: inout [UInt8]) {
        out.appendLittleEndian(mark.place.filingTimeNs)
        out.appendLittleEndian(mark.place.epoch)
        out.appendLittleEndian(mark.place.sequence)
        out.appendLittleEndian(mark.price)
    }

    private static func mark(_ reader: inout RecordReader) -> DayFigures.Mark? {
        guard let time: Int64 = reader.integer(), let epoch: UInt64 = reader.integer(),
            let sequence: UInt64 = reader.integer(), let price: Int64 = reader.integer()
        else { return nil }
        return DayFigures.Mark(
            place: DayFigures.Place(filingTimeNs: time, epoch: epoch, sequence: sequence), price: price)
    }
}
