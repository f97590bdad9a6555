/// What a tick reports. Raw values are the wire's (`TickKind`).
public enum TickKind: UInt8, Sendable { case unspecified = 0, quote, trade, correction }

/// Whether the feed vouches for the instrument's book. Raw values are the wire's (`InstrumentState`).
public enum InstrumentState: UInt8, Sendable { case live = 0, stale }

/// Where the filing time comes from. Raw values are the wire's (`EventTimeSource`).
public enum EventTimeSource: UInt8, Sendable { case venue = 0, received, venueOutOfRange }

/// Side of the order that took liquidity. Raw values are the wire's (`Side`).
public enum AggressorSide: UInt8, Sendable { case unspecified = 0, buy, sell }

/// One tick before it is encoded, without its names: prices are mantissas at 1e-9, sizes at 1e-8 (``Scale``).
///
/// Times are nanoseconds since the Unix epoch. An absent price or size is nil, never 0.
public struct Tick: Hashable, Sendable {
    public var kind: TickKind
    public var state: InstrumentState = .live
    public var aggressorSide: AggressorSide = .unspecified
    public var bid: Int64?
    public var ask: Int64?
    public var last: Int64?
    public var bidSize: Int64?
    public var askSize: Int64?
    /// Size of this trade.
    public var lastSize: Int64?
    /// The venue's time; nil where it gives none.
    public var eventTimeNs: Int64?
    public var receivedTimeNs: Int64
    public var publishTimeNs: Int64
    public var epoch: UInt64
    public var sequence: UInt64
    /// The venue's own sequence number; 0 where it has none.
    public var venueSequence: UInt64 = 0
    /// The venue's numeric id of the trade; nil where it has none.
    public var tradeID: UInt64?

    public init(kind: TickKind, receivedTimeNs: Int64, publishTimeNs: Int64, epoch: UInt64, sequence: UInt64) {
        self.kind = kind
        self.receivedTimeNs = receivedTimeNs
        self.publishTimeNs = publishTimeNs
        self.epoch = epoch
        self.sequence = sequence
    }
}

/// The rule that says under which time a tick is filed. A pure function of the record.
public enum FilingTime {
    /// How far the venue's time may be from the receive time, in nanoseconds: 24 hours.
    public static let eventTimeOffsetNsMax: Int64 = 86_400_000_000_000

    /// Nanoseconds since the epoch: the event time, or the receive time where the venue gave none or one that is more
    /// than 24 h off.
    @inlinable
    public static func of(eventTimeNs: Int64?, receivedTimeNs: Int64) -> (ns: Int64, source: EventTimeSource) {
        guard let event = eventTimeNs else { return (receivedTimeNs, .received) }
        let (difference, overflow) = event.subtractingReportingOverflow(receivedTimeNs)
        if overflow || difference > eventTimeOffsetNsMax || difference < -eventTimeOffsetNsMax {
            return (receivedTimeNs, .venueOutOfRange)
        }
        return (event, .venue)
    }
}

/// Power-of-ten scales of integers that stand for decimals.
public enum Scale {
    /// Prices: mantissa * 1e-9.
    public static let price = 9
    /// Quantities: mantissa * 1e-8.
    public static let quantity = 8
}
