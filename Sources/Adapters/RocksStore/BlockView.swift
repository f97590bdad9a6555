import EventLog

/// A block of the log as the apply's loops read it: pointers instead of references, valid while the block lives.
struct BlockView {
    let entries: UnsafeRawPointer
    let records: UnsafeRawPointer
    let recordCount: Int
    let recordsLength: Int
    let firstOffset: UInt64
    let appendTimeNs: Int64
    /// Index of the block's first track among the slots of the apply.
    let slotBase: Int

    init(_ block: Block, slotBase: Int) {
        entries = block.image.baseAddress! + Block.headerLength
        records = block.image.baseAddress! + block.recordsPosition
        recordCount = block.recordCount
        recordsLength = block.recordsLength
        firstOffset = block.firstOffset
        appendTimeNs = block.appendTimeNs
        self.slotBase = slotBase
    }

    /// The record's slot, its sequence less the track's base, and where its frame lies. Blocks are checked when they
    /// are made; the record is an index that the caller gave.
    @inline(__always)
    func entry(_ record: Int32) -> (slot: Int, delta: UInt64, start: Int, end: Int) {
        let index = Int(record)
        precondition(index >= 0 && index < recordCount)
        let entry = UInt64(littleEndian: entries.loadUnaligned(fromByteOffset: index &* 8, as: UInt64.self))
        let end =
            index &+ 1 == recordCount
            ? recordsLength
            : Int(UInt32(littleEndian: entries.loadUnaligned(fromByteOffset: index &* 8 &+ 8, as: UInt32.self)))
        return (slotBase &+ Int(entry >> 32 & 0xffff), entry >> 48, Int(entry & 0xffff_ffff), end)
    }
}
