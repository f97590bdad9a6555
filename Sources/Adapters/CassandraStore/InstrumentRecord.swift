import CQLFrames
import DayFigures
import EventLog
import MarketModel

/// What is kept of an instrument beside its rows: its newest tick and its day, as of an offset.
struct InstrumentRecord: Sendable {
    /// The feed whose ticks are the last tick and make the day.
    var primaryFeed: [UInt8]
    var place: TopicPartition
    var figures = DayFigures()
    /// The newest tick of the primary feed.
    var update: [UInt8] = []
    /// Through where the figures go.
    var nextOffset: UInt64 = 0

    init(primaryFeed: [UInt8], place: TopicPartition) {
        self.primaryFeed = primaryFeed
        self.place = place
    }

    static let columns = [
        "feed", "topic", "partition", "next_offset", "update_bytes", "day", "newest_epoch", "newest_sequence", "open",
        "last", "previous", "previous_day", "high", "low", "volume", "trade_count",
    ]

    static func select(_ keyspace: String) -> String {
        "SELECT \(columns.joined(separator: ", ")) FROM \(keyspace).latest_ticks WHERE exchange = ? AND symbol = ?"
    }

    static func insert(_ keyspace: String) -> String {
        let marks = (columns + ["", ""]).map { _ in "?" }.joined(separator: ", ")
        return "INSERT INTO \(keyspace).latest_ticks (exchange, symbol, \(columns.joined(separator: ", "))) "
            + "VALUES (\(marks)) USING TIMESTAMP ?"
    }

    /// As the columns have it.
    var values: [CQLValue] {
        func mark(_ mark: DayFigures.Mark?) -> CQLValue {
            guard let mark else { return .null }
            return .tuple([
                .bigint(mark.price), .bigint(mark.place.filingTimeNs), .bigint(Int64(bitPattern: mark.place.epoch)),
                .bigint(Int64(bitPattern: mark.place.sequence)),
            ])
        }
        func number(_ value: Int64?) -> CQLValue { value.map { .bigint($0) } ?? .null }
        return [
            .text(String(decoding: primaryFeed, as: UTF8.self)), .int(Int32(place.topic.number)),
            .int(Int32(place.partition)), .bigint(Int64(bitPattern: nextOffset)), .blob(update), .int(figures.day),
            number(figures.newest.map { Int64(bitPattern: $0.epoch) }),
            number(figures.newest.map { Int64(bitPattern: $0.sequence) }), mark(figures.open), mark(figures.last),
            mark(figures.previous), .int(figures.previousDay), number(figures.high), number(figures.low),
            .bigint(figures.volume), .bigint(Int64(bitPattern: figures.tradeCount)),
        ]
    }

    /// nil where the columns hold no record.
    init?(_ values: [CQLValue]) {
        guard values.count == Self.columns.count, let feed = values[0].string, let topic = values[1].integer,
            let partition = values[2].integer, let next = values[3].integer, case .blob(let update) = values[4],
            let day = values[5].integer, let volume = values[14].integer, let count = values[15].integer,
            let number = UInt16(exactly: topic), let topic = Topic(number: number),
            let partition = UInt16(exactly: partition), let day = Int32(exactly: day)
        else { return nil }
        func mark(_ value: CQLValue) -> DayFigures.Mark? {
            guard case .tuple(let parts) = value, parts.count == 4, let price = parts[0].integer,
                let time = parts[1].integer, let epoch = parts[2].integer, let sequence = parts[3].integer
            else { return nil }
            return DayFigures.Mark(
                place: DayFigures.Place(
                    filingTimeNs: time, epoch: UInt64(bitPattern: epoch), sequence: UInt64(bitPattern: sequence)),
                price: price)
        }
        primaryFeed = Array(feed.utf8)
        place = TopicPartition(topic, partition)
        nextOffset = UInt64(bitPattern: next)
        self.update = update
        figures.day = day
        if let epoch = values[6].integer, let sequence = values[7].integer {
            figures.newest = DayFigures.Identity(
                epoch: UInt64(bitPattern: epoch), sequence: UInt64(bitPattern: sequence))
        }
        figures.open = mark(values[8])
        figures.last = mark(values[9])
        figures.previous = mark(values[10])
        figures.previousDay = values[11].integer.flatMap { Int32(exactly: $0) } ?? 0
        figures.high = values[12].integer
        figures.low = values[13].integer
        figures.volume = volume
        figures.tradeCount = UInt64(bitPattern: count)
    }
}
