import EventLoop

/// What the connections of a loop share: where frames are gathered before they are written, which is empty between
/// turns, and the memory of their sessions.
///
/// Bytes that lie in memory that does not change, such as a block of a log that many streams send, are not copied here:
/// they are lent until they are written.
public final class HTTP2Output {
    /// Lent bytes and pieces that are written at once, at most about.
    private static let lentBytesMax = 256 << 10
    private static let piecesMax = 256
    private static let frameHeaderLength = 9
    /// What costs less to copy than to write as a piece of its own.
    private static let copiedBytesMax = 512

    public let memory = HTTP2Memory()
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 64)
    @exclusivity(unchecked) private var count = 0
    /// What goes before the bytes of `buffer` from `pieceStart` on.
    @exclusivity(unchecked) private var pieces: [UnsafeRawBufferPointer] = []
    @exclusivity(unchecked) private var pieceStart = 0
    @exclusivity(unchecked) private var lenders: [AnyObject] = []
    @exclusivity(unchecked) private var lentBytes = 0
    /// Where the header of a frame of lent bytes will be; nil for one whose bytes are read.
    @exclusivity(unchecked) private var headerPosition: Int?

    public init() {}

    deinit { buffer.deallocate() }

    /// What can be appended.
    var room: Int { buffer.count - count }

    /// There may be no room for one more DATA frame.
    var isFull: Bool {
        room < HTTP2Output.frameHeaderLength + HTTP2Connection.payloadBytesMax || lentBytes >= HTTP2Output.lentBytesMax
            || pieces.count >= HTTP2Output.piecesMax
    }

    func append(_ bytes: UnsafeRawBufferPointer) {
        (buffer.baseAddress! + count).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
        count += bytes.count
    }

    /// Where the payload of a DATA frame is written to, behind room for its header.
    func payloadRoom(_ length: Int) -> UnsafeMutableRawBufferPointer {
        let start = count + HTTP2Output.frameHeaderLength
        return UnsafeMutableRawBufferPointer(rebasing: buffer[start..<(start + length)])
    }

    /// A frame of lent bytes begins, with room for its header.
    func beginLent() {
        headerPosition = count
        count += HTTP2Output.frameHeaderLength
    }

    /// Nothing was lent.
    func cancelLent() {
        headerPosition = nil
        count -= HTTP2Output.frameHeaderLength
    }

    /// Sends bytes as part of the frame in turn, which do not change as long as `lender` lives; it is kept until they
    /// are written.
    public func lend(_ bytes: UnsafeRawBufferPointer, of lender: AnyObject) {
        guard bytes.count > HTTP2Output.copiedBytesMax else { return append(bytes) }
        pieces.append(UnsafeRawBufferPointer(rebasing: buffer[pieceStart..<count]))
        pieceStart = count
        pieces.append(bytes)
        lenders.append(lender)
        lentBytes += bytes.count
    }

    /// The frame in turn is decided: its header goes before the payload.
    func finishFrame(_ header: UnsafePointer<UInt8>, _ length: Int) {
        let position = headerPosition ?? count
        (buffer.baseAddress! + position).copyMemory(from: header, byteCount: HTTP2Output.frameHeaderLength)
        if headerPosition == nil { count += HTTP2Output.frameHeaderLength + length }
        headerPosition = nil
    }

    /// Writes everything.
    func write(to transport: any ByteStream) {
        guard count > 0 else { return }
        let rest = UnsafeRawBufferPointer(rebasing: buffer[pieceStart..<count])
        if pieces.isEmpty {
            transport.write(rest)
        } else {
            if rest.count > 0 { pieces.append(rest) }
            pieces.withUnsafeBufferPointer { transport.write(pieces: $0) }
            pieces.removeAll(keepingCapacity: true)
            lenders.removeAll(keepingCapacity: true)
            lentBytes = 0
            pieceStart = 0
        }
        count = 0
    }
}
