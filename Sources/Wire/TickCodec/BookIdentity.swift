/// Whose an encoded `BookDelta` is, read without its levels. The bytes are borrowed.
public struct BookIdentity {
    private let base: UnsafeRawPointer
    private var exchangeRange = 0..<0
    private var symbolRange = 0..<0
    private var feedRange = 0..<0
    public private(set) var epoch: UInt64 = 0
    public private(set) var sequence: UInt64 = 0

    /// Any bytes may be given. Throws with the place where they are no such message.
    public init(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        guard let start = bytes.baseAddress else { throw TickCodecError(.missing, field: 4, offset: -1) }
        base = start
        var input = Input(base: start, end: bytes.count)
        while input.place < input.end {
            input.fieldStart = input.place
            input.field = 0
            let tag = try input.tag()
            input.field = Int(tag >> 3)
            switch tag {
            case 1 << 3 | 2: exchangeRange = try input.bytes()
            case 2 << 3 | 2: symbolRange = try input.bytes()
            case 3 << 3 | 2: feedRange = try input.bytes()
            case 4 << 3: epoch = try input.varint()
            case 5 << 3: sequence = try input.varint()
            default: try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
            }
        }
    }

    /// UTF-8, not validated; empty where absent.
    public var exchange: UnsafeRawBufferPointer { slice(exchangeRange) }
    /// As ``exchange``.
    public var symbol: UnsafeRawBufferPointer { slice(symbolRange) }
    /// As ``exchange``.
    public var feed: UnsafeRawBufferPointer { slice(feedRange) }

    private func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count)
    }
}
