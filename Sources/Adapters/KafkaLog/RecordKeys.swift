import EventLog

/// Keys of the records of some blocks, a track each: `exchange|symbol`, or the key alone on topics that are not keyed
/// by instrument. Made for a call of the client, which copies them.
struct RecordKeys {
    private var bytes: [UInt8] = []
    /// Of each track, block after block.
    private var ranges: [Range<Int>] = []

    mutating func clear() {
        bytes.removeAll(keepingCapacity: true)
        ranges.removeAll(keepingCapacity: true)
    }

    mutating func append(_ block: Block) {
        for track in 0..<block.trackCount {
            let start = bytes.count
            let exchange = block.exchangeBytes(track: track)
            if !exchange.isEmpty {
                bytes.append(contentsOf: exchange)
                bytes.append(UInt8(ascii: "|"))
            }
            bytes.append(contentsOf: block.symbolBytes(track: track))
            ranges.append(start..<bytes.count)
        }
    }

    func withKeys(_ body: (UnsafeMutableRawBufferPointer, UnsafeBufferPointer<Range<Int>>) -> Void) {
        bytes.withUnsafeBytes { bytes in
            // The client's messages point at what they do not change.
            let bytes = UnsafeMutableRawBufferPointer(mutating: bytes)
            ranges.withUnsafeBufferPointer { ranges in body(bytes, ranges) }
        }
    }
}
