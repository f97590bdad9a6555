import EventLog
import TickStore

/// A track of a block that names no instrument. Its records are among the block's, for whoever puts them aside, and not
/// among a writer's rows.
enum UnnamedTrack {
    /// In place of a source's number.
    static let source = -1

    /// A row that is one of them all the same.
    static func refusal(_ block: Block, _ record: Int) -> StoreError {
        let track = block.track(of: record)
        return StoreError(
            .io,
            "\(block.topicPartition) at offset \(block.firstOffset &+ UInt64(record)): "
                + "'\(block.exchange(track: track))' and '\(block.symbol(track: track))' do not name an instrument; "
                + "the writer must refuse such records")
    }
}
