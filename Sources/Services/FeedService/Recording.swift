import CZlib
import Glibc
import MarketModel
import VenueFormats

/// A recording file, plain or gzip, read line by line. Used by one thread.
struct Recording {
    struct Line {
        enum Content {
            case messages([VenueMessage])
            case bad(FormatError)
            /// A message of a channel that is not read, as `kraken ticker`.
            case unread(String)
            /// Nothing to read: what the client sent.
            case other
        }
        let number: Int
        let receivedNs: Int64
        let content: Content
    }

    /// The name of its feed, made of its content.
    let feed: String
    /// Hash of its content, never 0.
    let epoch: UInt64
    private let path: String
    private let lines: LineReader
    private let parser = JSONParser()
    private var format: VenueFormat?
    private var lineNumber = 0
    private var lastNs: Int64 = 0
    /// The symbol of the streams: a snapshot by request does not name its own. Empty before the first, and where there
    /// are several: whose book it is would be a guess.
    private var streamSymbol = ""
    private var hasSeveralSymbols = false
    /// Lines without a known message so far, while the format is not known.
    private var unknownLines = 0
    /// Channels that are not read, of which there were lines while the format is not known.
    private var unread: Set<String> = []

    init(path: String) throws(FeedError) {
        self.path = path
        let hash = try ContentHash.of(path)
        epoch = hash == 0 ? 1 : hash
        let hex = String(epoch, radix: 16)
        feed = "rec-" + String(repeating: "0", count: 16 - hex.count) + hex
        try LineReader.check(path)
        lines = try LineReader(path: path)
    }

    /// The next line; nil at the end.
    mutating func next() throws(FeedError) -> Line? {
        guard let bytes = try lines.next() else {
            guard format == nil else { return nil }
            guard unread.isEmpty else {
                let read = VenueFormat.allCases.map { "\($0.rawValue) \($0.channels)" }.joined(separator: "; ")
                throw FeedError(
                    "\(path) has no message to take: it has \(unread.sorted().joined(separator: ", ")), which is not "
                        + "read. What is read: \(read)")
            }
            throw FeedError("\(path) is no recording: no line of it is a message of \(Recording.formats)")
        }
        lineNumber += 1
        let content: Line.Content
        do {
            content = try read(bytes)
        } catch {
            content = .bad(error)
            if format == nil {
                unknownLines += 1
                guard unknownLines < 100 else {
                    throw FeedError("\(path) is no recording of \(Recording.formats): line \(lineNumber): \(error)")
                }
            }
        }
        return Line(number: lineNumber, receivedNs: lastNs, content: content)
    }

    private static let formats = VenueFormat.allCases.map(\.rawValue).joined(separator: ", ")

    private mutating func read(_ bytes: UnsafeRawBufferPointer) throws(FormatError) -> Line.Content {
        guard case .received(let ns, let message, let symbol) = try RecordingLine.split(bytes) else { return .other }
        lastNs = ns
        let value = try parser.parse(message)
        guard let guess = format ?? VenueFormat.detect(value) else { throw .unknownMessage("no venue's") }
        var messages: [VenueMessage] = []
        try guess.read(value, symbol: symbol ?? streamSymbol, into: &messages)
        // Settled by the first message that says something: the first line may be anybody's.
        if let named = messages.last {
            format = guess
            learn(named)
        }
        if messages.isEmpty, let channel = guess.unreadChannel(value) {
            let name = "\(guess.rawValue) \(channel)"
            if format == nil { unread.insert(name) }
            return .unread(name)
        }
        return .messages(messages)
    }

    private mutating func learn(_ message: VenueMessage) {
        let symbol = message.symbol
        // A wrong byte is no second instrument.
        guard (try? Instrument(exchange: message.exchange, symbol: symbol)) != nil else { return }
        if streamSymbol.isEmpty, !hasSeveralSymbols { streamSymbol = symbol }
        guard symbol != streamSymbol else { return }
        hasSeveralSymbols = true
        streamSymbol = ""
    }
}

/// Identifies a file by its bytes.
enum ContentHash {
    /// FNV-1a over the file as it lies on disk, 64 bits.
    static func of(_ path: String) throws(FeedError) -> UInt64 {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FeedError("cannot open \(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { throw FeedError("cannot read \(path): \(String(cString: strerror(errno)))") }
            if count == 0 { return hash }
            for byte in buffer[..<count] { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        }
    }
}

/// Lines of a plain or gzip file, in bounded memory.
final class LineReader {
    /// The longest line accepted: a book of 5,000 levels a side is a tenth of it.
    static let lineBytesMax = 16 << 20

    private let path: String
    private let file: gzFile
    private var buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
    private var start = 0
    private var end = 0
    private var isAtEnd = false

    init(path: String) throws(FeedError) {
        self.path = path
        guard let file = gzopen(path, "rb") else {
            throw FeedError("cannot open \(path): \(String(cString: strerror(errno)))")
        }
        self.file = file
    }

    deinit {
        gzclose(file)
        buffer.deallocate()
    }

    /// Reads a gzip file through once, so that one that is damaged or ends in the middle is refused before anything of
    /// it is taken: its checksum stands at its end.
    static func check(_ path: String) throws(FeedError) {
        let reader = try LineReader(path: path)
        // Of a plain file there is nothing to check.
        while gzdirect(reader.file) == 0, !reader.isAtEnd {
            reader.end = 0
            try reader.fill()
        }
    }

    /// The next line without its end, valid until the next call; nil at the end of the file.
    func next() throws(FeedError) -> UnsafeRawBufferPointer? {
        var searched = start
        while true {
            if searched < end,
                let newline = memchr(buffer.baseAddress! + searched, Int32(UInt8(ascii: "\n")), end - searched)
            {
                let position = UnsafeRawPointer(newline) - UnsafeRawPointer(buffer.baseAddress!)
                defer { start = position + 1 }
                return UnsafeRawBufferPointer(rebasing: buffer[start..<position])
            }
            searched = end
            if isAtEnd {
                guard end > start else { return nil }
                defer { start = end }
                return UnsafeRawBufferPointer(rebasing: buffer[start..<end])
            }
            searched -= start
            try fill()
            searched += start
        }
    }

    private func fill() throws(FeedError) {
        if start > 0 {
            memmove(buffer.baseAddress!, buffer.baseAddress! + start, end - start)
            end -= start
            start = 0
        }
        if end == buffer.count {
            guard buffer.count < LineReader.lineBytesMax else {
                throw FeedError(
                    "\(path) has a line of more than \(LineReader.lineBytesMax >> 20) MiB; it is no recording")
            }
            let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: buffer.count * 2, alignment: 16)
            larger.copyMemory(from: UnsafeRawBufferPointer(buffer))
            buffer.deallocate()
            buffer = larger
        }
        let count = gzread(file, buffer.baseAddress! + end, UInt32(buffer.count - end))
        var code: Int32 = 0
        let text = gzerror(file, &code)
        guard count >= 0, code == Z_OK || code == Z_STREAM_END else {
            let what =
                code == Z_BUF_ERROR
                ? "it ends in the middle" : text.map { String(cString: $0) } ?? "damaged"
            throw FeedError(
                "cannot read \(path): \(what). Copy it again, or unpack what is left with gzip -dc and play that")
        }
        if count == 0 { isAtEnd = true }
        end += Int(count)
    }
}
