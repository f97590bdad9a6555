import EventLoop
import FaultSchedule
import GRPC
import MarketProto
import Protobuf
import Synchronization

/// Faults that an edge makes on purpose, so that users can test their clients (`tapedeck simulate-edge`). From any
/// thread.
public final class EdgeFaults: Sendable {
    /// What each fault does.
    public struct Configuration: Sendable {
        public var schedule: FaultSchedule
        /// How long a stall lasts, in milliseconds.
        public var stallMilliseconds = 2000
        /// Bytes of a message that is too large, about.
        public var oversizeBytes = 17 << 20
        /// Connections that are ended by one storm: the one that it begins on, and those of the next streams.
        public var stormConnections = 3

        public init(schedule: FaultSchedule) { self.schedule = schedule }
    }

    /// A fault that was made.
    public struct Applied: Sendable, Hashable {
        public let scheduled: ScheduledFault
        /// Of the call, as `StreamPrices`.
        public let method: String
        /// The first update of the message, where it has one: `EXCHANGE|SYMBOL` and its sequence.
        public let instrument: String
        public let sequence: UInt64
        /// Updates in the message.
        public let updates: Int

        /// One line of JSON.
        public var json: String {
            var line = String(scheduled.json.dropLast()) + ",\"method\":\"\(method)\""
            if updates > 0 {
                line += ",\"instrument\":\"\(instrument)\",\"sequence\":\(sequence),\"updates\":\(updates)"
            }
            return line + "}"
        }
    }

    let configuration: Configuration
    private let report: @Sendable (Applied) -> Void
    private let streams = Atomic<UInt64>(0)
    private let stormLeft = Atomic<Int>(0)

    /// `report` is called on the loop of the stream, for each fault that is made.
    public init(_ configuration: Configuration, report: @escaping @Sendable (Applied) -> Void) {
        self.configuration = configuration
        self.report = report
    }

    func nextStream() -> UInt64 { streams.add(1, ordering: .relaxed).newValue }

    func beginStorm() { stormLeft.store(configuration.stormConnections - 1, ordering: .relaxed) }

    /// Whether the connection of a stream that begins is ended by a storm.
    func takesStorm() -> Bool {
        var left = stormLeft.load(ordering: .relaxed)
        while left > 0 {
            let (done, now) = stormLeft.compareExchange(expected: left, desired: left - 1, ordering: .relaxed)
            if done { return true }
            left = now
        }
        return false
    }

    func tell(_ fault: Fault, _ stream: UInt64, _ message: UInt64, _ method: String, _ content: FaultyMessage) {
        report(
            Applied(
                scheduled: ScheduledFault(stream: stream, message: message, fault: fault), method: method,
                instrument: content.instrument, sequence: content.sequence, updates: content.updates))
    }
}

/// A message of a stream, as far as faults look at it.
struct FaultyMessage {
    private(set) var instrument = ""
    private(set) var sequence: UInt64 = 0
    private(set) var updates = 0
    /// It carries prices or a book: answers, heartbeats and ends are left as they are.
    private(set) var isMarketData = false
    private let payload: [UInt8]
    private let isSubscribe: Bool

    /// `payload` is a `PriceUpdate`, or of Subscribe a `SubscribeResponse`.
    init(_ payload: [UInt8], isSubscribe: Bool) {
        self.payload = payload
        self.isSubscribe = isSubscribe
        guard isSubscribe else {
            note((try? Proto.PriceUpdate(decoding: payload)).map { [$0] } ?? [])
            isMarketData = true
            return
        }
        guard let response = try? Proto.SubscribeResponse(decoding: payload) else { return }
        note(response.updates)
        isMarketData = !response.updates.isEmpty
        if case .book(let book) = response.event {
            isMarketData = true
            instrument = "\(book.exchange)|\(book.symbol)"
            sequence = book.sequence
            updates = 1
        }
    }

    /// Nothing of a message: of a connection that ends at once.
    init() {
        payload = []
        isSubscribe = false
    }

    private mutating func note(_ list: [Proto.PriceUpdate]) {
        updates = list.count
        guard let first = list.first else { return }
        instrument = "\(first.exchange)|\(first.symbol)"
        sequence = first.sequence
    }

    /// The message with bid above ask; nil where it has not both.
    var crossed: [UInt8]? {
        guard isSubscribe else {
            guard var update = try? Proto.PriceUpdate(decoding: payload), FaultyMessage.cross(&update) else {
                return nil
            }
            return update.encodedBytes()
        }
        guard var response = try? Proto.SubscribeResponse(decoding: payload) else { return nil }
        var isCrossed = false
        for index in response.updates.indices where FaultyMessage.cross(&response.updates[index]) { isCrossed = true }
        if case .book(var book) = response.event, let ask = book.asks.first, !book.bids.isEmpty {
            book.bids[0].priceMicros = ask.priceMicros + 10_000
            response.event = .book(book)
            isCrossed = true
        }
        return isCrossed ? response.encodedBytes() : nil
    }

    /// Swaps bid and ask; false where one is absent.
    static func cross(_ update: inout Proto.PriceUpdate) -> Bool {
        guard let bid = update.bidMicros, let ask = update.askMicros, bid < ask else { return false }
        update.bidMicros = ask
        update.askMicros = bid
        swap(&update.bidNanoRemainder, &update.askNanoRemainder)
        return true
    }

    /// The beginning of a frame of so many bytes, about, that is the message with an unknown field of zeros behind it,
    /// and how many zeros.
    func oversizeStart(_ bytes: Int) -> (start: [UInt8], zeros: Int) {
        let zeros = max(1, bytes)
        // Field 2047, length-delimited.
        var field: [UInt8] = [0xfa, 0x7f]
        var length = UInt64(zeros)
        while length >= 0x80 {
            field.append(UInt8(truncatingIfNeeded: length) | 0x80)
            length >>= 7
        }
        field.append(UInt8(length))
        var start: [UInt8] = [0]
        withUnsafeBytes(of: UInt32(payload.count + field.count + zeros).bigEndian) { start += $0 }
        return (start + payload + field, zeros)
    }
}
