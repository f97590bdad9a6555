// What a slow subscriber is given instead of every update: per instrument the latest, with an exact account of what it
// stands for. EdgeService feeds one set of slots per subscriber; what it pops goes out with a conflated range.

import MarketModel

/// The trade that an update reports: price at 1e-9, size at 1e-8.
@frozen
public struct ConflationTrade: Sendable, Hashable {
    public let price: Int64
    public let size: Int64

    @inlinable
    public init(price: Int64, size: Int64) {
        self.price = price
        self.size = size
    }
}

/// Pending updates of one subscriber, at most one per instrument and epoch, in the order in which they first became
/// pending.
///
/// Every update added comes out exactly once: by itself, or within the range of the one that replaced it. A range is an
/// unbroken run of sequences of one epoch, and the update that carries it is the next of them. An update that cannot be
/// joined (a new epoch, a hole in the sequence) leaves the pending one as an item of its own, which comes out before
/// it.
///
/// An update costs O(1), and no allocation once the arrays have grown. `Place` is whatever the caller needs to find the
/// update's bytes; `Origin` is what it wants to know of the earliest update that an item stands for, as since when it
/// waits. A value used by one thread.
public struct ConflationSlots<Place, Origin> {
    /// An update to deliver, and what it stands for.
    public struct Item {
        public let instrument: Int
        public let place: Place
        /// Of the earliest update that this one stands for; its own where it replaced none.
        public let origin: Origin
        public let epoch: UInt64
        public let sequence: UInt64
        /// The updates that this one replaced; nil where it stands for itself alone.
        public let replaced: ConflatedRange?

        @inlinable
        init(instrument: Int, slot: Slot) {
            self.instrument = instrument
            place = slot.place
            origin = slot.origin
            epoch = slot.epoch
            sequence = slot.sequence
            replaced = slot.replaced
        }
    }

    @usableFromInline struct Slot {
        @usableFromInline var place: Place
        @usableFromInline let origin: Origin
        @usableFromInline var epoch: UInt64
        @usableFromInline var sequence: UInt64
        @usableFromInline var trade: ConflationTrade?
        @usableFromInline var replaced: ConflatedRange?
        /// Which instrument became pending after this one; -1 for the newest.
        @usableFromInline var next: Int32 = -1

        @inlinable
        init(place: Place, origin: Origin, epoch: UInt64, sequence: UInt64, trade: ConflationTrade?) {
            self.place = place
            self.origin = origin
            self.epoch = epoch
            self.sequence = sequence
            self.trade = trade
        }
    }

    @usableFromInline var slots: [Slot?] = []
    @usableFromInline var oldest: Int32 = -1
    @usableFromInline var newest: Int32 = -1
    /// Items that could not be joined, from `displacedStart` on.
    @usableFromInline var displaced: [Item] = []
    @usableFromInline var displacedStart = 0
    @usableFromInline var pendingCount = 0

    public init() {}

    /// Items that would be popped now.
    @inlinable public var count: Int { pendingCount + displaced.count - displacedStart }
    @inlinable public var isEmpty: Bool { count == 0 }
    /// Of ``count``, those that could not be joined: what a caller bounds, for nothing else grows past one per
    /// instrument.
    @inlinable public var displacedCount: Int { displaced.count - displacedStart }

    /// Whether an update of the instrument waits.
    @inlinable
    public func isPending(_ instrument: Int) -> Bool { instrument < slots.count && slots[instrument] != nil }

    /// Adds an update. `instrument` is a dense index from 0; `trade` is the trade the update reports, if any.
    ///
    /// Returns false, and changes nothing, for one that is not above the pending one of its epoch.
    @inlinable
    @discardableResult
    public mutating func add(
        instrument: Int, place: Place, origin: Origin, epoch: UInt64, sequence: UInt64, trade: ConflationTrade?
    ) -> Bool {
        if instrument >= slots.count {
            precondition(instrument >= 0 && instrument < Int(Int32.max))
            slots.append(contentsOf: repeatElement(nil, count: instrument + 1 - slots.count))
        }
        guard let pending = slots[instrument] else {
            slots[instrument] = Slot(place: place, origin: origin, epoch: epoch, sequence: sequence, trade: trade)
            enqueue(Int32(instrument))
            return true
        }
        if pending.epoch == epoch {
            if sequence <= pending.sequence { return false }
            if sequence == pending.sequence + 1 {
                slots[instrument]!.replaced = Self.range(adding: pending)
                slots[instrument]!.place = place
                slots[instrument]!.sequence = sequence
                slots[instrument]!.trade = trade
                return true
            }
        }
        displaced.append(Item(instrument: instrument, slot: pending))
        var slot = Slot(place: place, origin: origin, epoch: epoch, sequence: sequence, trade: trade)
        slot.next = pending.next
        slots[instrument] = slot
        return true
    }

    /// Takes the item that has been pending longest; nil when there is none.
    @inlinable
    public mutating func popFirst() -> Item? {
        if displacedStart < displaced.count {
            let item = displaced[displacedStart]
            displacedStart += 1
            if displacedStart == displaced.count {
                displaced.removeAll(keepingCapacity: true)
                displacedStart = 0
            }
            return item
        }
        guard oldest >= 0 else { return nil }
        let instrument = Int(oldest)
        guard let slot = slots[instrument] else { preconditionFailure("a pending instrument has no slot") }
        slots[instrument] = nil
        oldest = slot.next
        if oldest < 0 { newest = -1 }
        pendingCount -= 1
        return Item(instrument: instrument, slot: slot)
    }

    /// Forgets everything pending.
    public mutating func removeAll() {
        while popFirst() != nil {}
    }

    /// Forgets what is pending of the instruments that `condition` names; the others keep their order. Costs as much as
    /// there is pending.
    public mutating func removeAll(where condition: (_ instrument: Int) -> Bool) {
        var kept: [Item] = []
        for item in displaced[displacedStart...] where !condition(item.instrument) { kept.append(item) }
        displaced = kept
        displacedStart = 0
        var instrument = oldest
        oldest = -1
        newest = -1
        pendingCount = 0
        while instrument >= 0 {
            let next = slots[Int(instrument)]!.next
            slots[Int(instrument)]!.next = -1
            if condition(Int(instrument)) { slots[Int(instrument)] = nil } else { enqueue(instrument) }
            instrument = next
        }
    }

    /// Calls `body` with the origin of each item that would be popped now.
    public func forEachOrigin(_ body: (Origin) -> Void) {
        for item in displaced[displacedStart...] { body(item.origin) }
        var instrument = oldest
        while instrument >= 0 {
            body(slots[Int(instrument)]!.origin)
            instrument = slots[Int(instrument)]!.next
        }
    }

    @inlinable
    mutating func enqueue(_ instrument: Int32) {
        if newest >= 0 { slots[Int(newest)]!.next = instrument } else { oldest = instrument }
        newest = instrument
        pendingCount += 1
    }

    /// What `pending` stands for together with itself.
    @inlinable
    static func range(adding pending: Slot) -> ConflatedRange {
        var range =
            pending.replaced ?? ConflatedRange(first: pending.sequence, last: pending.sequence, count: 0)
        range.last = pending.sequence
        range.count += 1
        if let trade = pending.trade {
            range.tradeCount += 1
            let (volume, overflow) = range.tradeVolume.addingReportingOverflow(trade.size)
            range.tradeVolume = overflow ? .max : volume
            range.tradeHigh = max(range.tradeHigh ?? trade.price, trade.price)
            range.tradeLow = min(range.tradeLow ?? trade.price, trade.price)
        }
        return range
    }
}

extension ConflationSlots: Sendable where Place: Sendable, Origin: Sendable {}
extension ConflationSlots.Item: Sendable where Place: Sendable, Origin: Sendable {}
extension ConflationSlots.Slot: Sendable where Place: Sendable, Origin: Sendable {}
