import BookEngine
import MarketModel
import VenueFormats

/// What a feed could not use, by kind. The order is that in which kinds are shown.
public enum BadInput: String, Sendable, Hashable, CaseIterable {
    /// A line that begins with no receive time.
    case line
    /// No JSON.
    case json
    /// A field that is missing or of another type.
    case field
    /// A number that is none, is not positive where it must be, or is finer than the instrument's scale.
    case number
    /// A number that the instrument's scale cannot hold.
    case outOfRange
    /// A message of no kind that the venue's format knows.
    case unknownMessage
    /// An exchange or symbol that no instrument may have.
    case instrument
    /// An instrument beyond ``FeedService/instrumentsMax``.
    case instrumentLimit
    /// A trade without size.
    case trade
    /// A ticker whose prices cross, or that has no size.
    case ticker
    /// A level that the scale cannot hold, left out of its book.
    case level
    /// Duplicates, and messages older than what was taken already.
    case outdatedUpdate, outdatedSnapshot, outdatedTicker, outdatedTrade

    init(_ error: FormatError) {
        switch error.kind {
        case .line: self = .line
        case .json: self = .json
        case .field: self = .field
        case .number: self = .number
        case .outOfRange: self = .outOfRange
        case .unknownMessage: self = .unknownMessage
        }
    }

    init(outdated kind: VenueMessage.Kind) {
        switch kind {
        case .snapshot: self = .outdatedSnapshot
        case .delta: self = .outdatedUpdate
        case .ticker: self = .outdatedTicker
        case .trade: self = .outdatedTrade
        }
    }
}

/// What a feed did since it started.
public struct FeedCounters: Sendable, Hashable {
    public var messages: UInt64 = 0
    public var ticks: UInt64 = 0
    /// Ticks that the log had already: of a recording played before.
    public var ticksKnown: UInt64 = 0
    /// Records of books that went into the log.
    public var bookRecords: UInt64 = 0
    public var bad: [BadInput: UInt64] = [:]
    public var violations: [BookViolation: UInt64] = [:]
    /// Lines of channels that are not read, as `kraken ticker`.
    public var unread: [String: UInt64] = [:]
    public var staleInstruments = 0
    public var lastPublishNs: Int64 = 0
    /// Why it cannot go on now; nil while it works.
    public var failure: String?
    public var isDone = false

    public init() {}

    /// Lines that could not be read.
    public var badLines: UInt64 { sum([.line, .json, .field, .number, .outOfRange, .unknownMessage]) }
    /// Messages that were read and refused.
    public var badMessages: UInt64 { sum([.instrument, .instrumentLimit, .trade, .ticker]) }
    /// Duplicates, and messages older than what was taken already.
    public var outdated: UInt64 { sum([.outdatedUpdate, .outdatedSnapshot, .outdatedTicker, .outdatedTrade]) }
    /// Levels left out of their books.
    public var levelsRefused: UInt64 { bad[.level] ?? 0 }

    private func sum(_ kinds: [BadInput]) -> UInt64 { kinds.reduce(0) { $0 + (bad[$1] ?? 0) } }

    /// Each kind of bad input and violation that there was, by name, in a fixed order.
    public var kinds: [(name: String, count: UInt64)] {
        BadInput.allCases.compactMap { kind in bad[kind].map { (kind.rawValue, $0) } }
            + BookViolation.allCases.compactMap { kind in violations[kind].map { (kind.rawValue, $0) } }
    }

    /// Adds what another feed did; times and failures stay.
    public mutating func add(_ other: FeedCounters) {
        messages += other.messages
        ticks += other.ticks
        ticksKnown += other.ticksKnown
        bookRecords += other.bookRecords
        staleInstruments += other.staleInstruments
        bad.merge(other.bad, uniquingKeysWith: +)
        violations.merge(other.violations, uniquingKeysWith: +)
        unread.merge(other.unread, uniquingKeysWith: +)
    }
}
