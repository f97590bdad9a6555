import GRPC
import Glibc
import MarketModel
import MarketProto
import Protobuf
import Synchronization
import TapedeckClient
import TickCodec

/// Draws what `tapedeck watch` receives: a table refreshed in place on a terminal, else a line per update.
public final class WatchView: Sendable {
    private let isTerminal: Bool
    private let isJSON: Bool
    private let table = Mutex(WatchTable())
    private let pending = Mutex<[UInt8]>([])
    private let broken = Atomic<Bool>(false)
    private let live = Atomic<Bool>(false)
    private let interruption = Mutex("")

    public init(isTerminal: Bool, isJSON: Bool) {
        self.isTerminal = isTerminal
        self.isJSON = isJSON
        if isTerminal { write("\u{1b}[?25l\u{1b}[2J") }
    }

    /// Whoever read the output is gone.
    public var isBroken: Bool { broken.load(ordering: .relaxed) }

    /// Updates have come, and since they last stopped coming.
    public var isLive: Bool { live.load(ordering: .relaxed) }

    /// Updates stopped coming, or still do not come. A terminal shows why until they come again, else a line on stderr
    /// does, once for each reason.
    public func interrupted(_ why: String) {
        let wasLive = live.exchange(false, ordering: .relaxed)
        let isNew = interruption.withLock { told in
            defer { told = why }
            return told != why
        }
        if !isTerminal, wasLive || isNew { write("tapedeck watch: \(why)\n", to: 2) }
    }

    /// From any thread.
    public func add(_ batch: PriceBatch) {
        let frames = Array(batch.frames)
        live.store(true, ordering: .relaxed)
        pending.withLock { pending in
            // A terminal that stands still may not grow the memory: the oldest unread updates go.
            if pending.count > WatchView.pendingBytesMax { pending.removeAll() }
            pending += frames
        }
    }

    private static let pendingBytesMax = 64 << 20

    private func takePending() -> [UInt8] {
        pending.withLock { pending in
            defer { pending = [] }
            return pending
        }
    }

    private func line(_ update: UnsafeRawBufferPointer) -> String {
        if isJSON { return ((try? Proto.PriceUpdate(decoding: update))?.json() ?? "{}") + "\n" }
        guard let reader = try? TickReader(update) else { return "" }
        let name =
            String(decoding: reader.exchange, as: UTF8.self) + " " + String(decoding: reader.symbol, as: UTF8.self)
        let what = reader.kind == .trade ? "trade" : reader.state == .stale ? "stale" : "quote"
        return "\(name) \(what) last \(WatchTable.price(reader.last)) bid \(WatchTable.price(reader.bid)) "
            + "ask \(WatchTable.price(reader.ask)) sequence \(reader.sequence)\n"
    }

    /// Writes what is new.
    public func refresh() {
        let frames = takePending()
        guard isTerminal else {
            return write(
                frames.withUnsafeBytes { frames in MessageSequence(frames: frames).reduce("") { $0 + line($1) } })
        }
        var size = winsize()
        _ = ioctl(1, UInt(TIOCGWINSZ), &size)
        let width = size.ws_col > 0 ? Int(size.ws_col) : 120
        let height = size.ws_row > 0 ? Int(size.ws_row) : 40
        let nowNs = WatchView.wallNs()
        let why = isLive ? "" : interruption.withLock { $0 }
        var lines = table.withLock { table in
            table.add(frames: frames, nowNs: nowNs)
            table.refresh(nowNs: nowNs)
            return table.lines(width: width, height: why.isEmpty ? height : height - 1)
        }
        if !why.isEmpty { lines.append(String(why.prefix(width))) }
        write("\u{1b}[H" + lines.map { $0 + "\u{1b}[K\r\n" }.joined() + "\u{1b}[J")
    }

    /// Puts the terminal back.
    public func finish() {
        refresh()
        if isTerminal { write("\u{1b}[?25h\n") }
    }

    private func write(_ text: String, to file: Int32 = 1) {
        guard !text.isEmpty, !isBroken else { return }
        let bytes = Array(text.utf8)
        var position = 0
        while position < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(file, $0.baseAddress! + position, bytes.count - position) }
            guard count > 0 else {
                if file == 1 { broken.store(true, ordering: .relaxed) }
                return
            }
            position += count
        }
    }

    private static func wallNs() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
