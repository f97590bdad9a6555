import MarketModel
import MarketProto
import Protobuf
import TickCodec
import TickStore

/// An update that a caller writes past the log: what it becomes as a row, or why it cannot be one.
///
/// The row's identity is a pure function of the update, so that the same call makes the same row however often it
/// comes: the feed is `direct`, the sequence the caller's or a hash of the update, and times that are absent follow
/// from those that are there.
struct DirectTick {
    /// The feed of all of them.
    static let feed = "direct"

    /// Why an update cannot be a row.
    struct Refusal: Error { let reason: String }

    let exchange: String
    let symbol: String
    let epoch: UInt64
    let sequence: UInt64
    let filingTimeNs: Int64
    let tradePrice: Int64?
    let tradeSize: Int64
    /// As it is stored.
    let bytes: [UInt8]

    init(_ given: Proto.PriceUpdate) throws(Refusal) {
        var update = given
        guard update.feedHandlerId.isEmpty || update.feedHandlerId == DirectTick.feed else {
            throw Refusal(
                reason: "feed_handler_id is \"\(update.feedHandlerId)\": what is written here is of the feed "
                    + "`\(DirectTick.feed)`; leave it empty")
        }
        do {
            _ = try Instrument(exchange: update.exchange, symbol: update.symbol)
        } catch {
            throw Refusal(reason: error.description)
        }
        guard update.sequence <= TickRowIdentity.sequenceMax else {
            throw Refusal(reason: "sequence \(update.sequence) is past \(TickRowIdentity.sequenceMax)")
        }
        guard update.conflated == nil, update.resumeToken.isEmpty, update.stalenessViolationMs == 0 else {
            throw Refusal(reason: "conflated, staleness_violation_ms and resume_token belong to streams")
        }
        update.feedHandlerId = DirectTick.feed
        try DirectTick.complete(&update)
        if update.sequence == 0 { update.sequence = DirectTick.sequence(of: update.encodedBytes()) }
        let bytes = update.encodedBytes()
        let found: Found
        do {
            found = try bytes.withUnsafeBytes { try Found($0) }
        } catch {
            throw Refusal(reason: "\(error)")
        }
        exchange = update.exchange
        symbol = update.symbol
        epoch = update.epoch
        sequence = update.sequence
        filingTimeNs = found.filingTimeNs
        tradePrice = found.tradePrice
        tradeSize = found.tradeSize
        self.bytes = bytes
    }

    /// What the stored bytes say.
    private struct Found {
        let filingTimeNs: Int64
        let tradePrice: Int64?
        let tradeSize: Int64

        init(_ bytes: UnsafeRawBufferPointer) throws {
            let reader = try TickReader(bytes)
            try reader.check()
            filingTimeNs = reader.filingTimeNs
            let isTrade = reader.kind == .trade
            tradePrice = isTrade ? reader.last : nil
            tradeSize = isTrade ? reader.lastSize ?? 0 : 0
        }
    }

    /// Times that are absent, from those that are there: never from a clock, or a repeated call would be another row.
    private static func complete(_ update: inout Proto.PriceUpdate) throws(Refusal) {
        guard let received = update.receivedTime ?? update.eventTime else {
            throw Refusal(reason: "neither event_time nor received_time is set: nothing says where the row belongs")
        }
        update.receivedTime = received
        update.publishTime = update.publishTime ?? received
        guard let receivedNs = received.ns else { throw Refusal(reason: "received_time is out of range") }
        var eventNs: Int64?
        if let event = update.eventTime {
            guard let ns = event.ns else { throw Refusal(reason: "event_time is out of range") }
            eventNs = ns
        }
        switch FilingTime.of(eventTimeNs: eventNs, receivedTimeNs: receivedNs).source {
        case .venue: update.eventTimeSource = .venue
        case .received: update.eventTimeSource = .received
        case .venueOutOfRange: update.eventTimeSource = .venueOutOfRange
        }
    }

    /// 39 bits of the update's FNV-1a hash below a set bit: apart from what callers count from 1.
    private static func sequence(of bytes: [UInt8]) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return hash >> 25 | 1 << 39
    }
}
