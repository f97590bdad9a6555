import EventLog
import MarketModel

/// Stands for a store where there is none: an edge with it knows what the log has since it began, and nothing older.
public final class NoStore: TickStore {
    private let start: @Sendable (TopicPartition) -> UInt64?

    /// `start` says where a reader of the log begins; nil for the oldest record.
    public init(startingAt start: @escaping @Sendable (TopicPartition) -> UInt64?) { self.start = start }

    public func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        throw StoreError(.readOnly, "there is no store here to put \(rows.rows.count) rows into")
    }

    public func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? { start(place) }
    public func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 { start(place) ?? 0 }
    public func instruments() throws(StoreError) -> [Instrument] { [] }
    public func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick? { nil }

    public func scan(
        _ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool
    ) throws(StoreError) {}

    public func statistics() throws(StoreError) -> StoreStatistics {
        StoreStatistics(instrumentCount: 0, rowCount: 0, diskBytes: 0)
    }

    public func close() throws(StoreError) {}
}
