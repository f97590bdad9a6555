import Conflation
import MarketModel
import Testing

struct ConflationTests {
    private struct Update { var place, instrument: Int, epoch, sequence: UInt64, trade: ConflationTrade? }

    @Test func `An update alone comes out as it went in`() throws {
        var slots = ConflationSlots<Int, Int>()
        let none = slots.popFirst()
        #expect(slots.isEmpty && none == nil)
        let isAdded = slots.add(instrument: 3, place: 7, origin: 7, epoch: 1, sequence: 5, trade: nil)
        #expect(isAdded)
        let popped = slots.popFirst()
        let item = try #require(popped)
        #expect(item.instrument == 3 && item.place == 7 && item.sequence == 5 && item.replaced == nil)
        #expect(slots.isEmpty)
    }

    @Test func `The latest replaces those before it and says which`() throws {
        var slots = ConflationSlots<Int, Int>()
        let trade = ConflationTrade(price: 10, size: 3)
        for sequence in 1...4 as ClosedRange<UInt64> {
            slots.add(
                instrument: 0, place: Int(sequence), origin: Int(sequence), epoch: 1, sequence: sequence,
                trade: sequence == 2 ? trade : nil)
        }
        let isAgain = slots.add(instrument: 0, place: 9, origin: 9, epoch: 1, sequence: 4, trade: nil)
        #expect(!isAgain)
        let popped = slots.popFirst()
        let item = try #require(popped)
        #expect(item.place == 4 && item.sequence == 4 && item.origin == 1)
        #expect(
            item.replaced
                == ConflatedRange(
                    first: 1, last: 3, count: 3, tradeCount: 1, tradeVolume: 3, tradeHigh: 10, tradeLow: 10))
    }

    @Test(arguments: 0..<50 as Range<UInt64>)
    func `Any order of adds and pops accounts for each update once, like the obvious implementation`(seed: UInt64) {
        var random = SplitMix(seed: seed)
        var slots = ConflationSlots<Int, Int>()
        // Obvious: pending updates in full, in groups that can be joined; a new group when they cannot.
        var groups: [(order: Int, updates: [Update])] = []
        var place = 0
        var order = 0
        var next = [Int: (epoch: UInt64, sequence: UInt64)]()
        for _ in 0..<2000 {
            if random.below(10) < 8 {
                let instrument = Int(random.below(7))
                var (epoch, sequence) = next[instrument] ?? (1, 1)
                if random.below(40) == 0 {
                    epoch += 1
                    sequence = 1
                } else if random.below(40) == 0 {
                    sequence += random.below(5)
                }
                next[instrument] = (epoch, sequence + 1)
                let trade =
                    random.below(2) == 0
                    ? ConflationTrade(price: Int64(random.below(100)), size: Int64(random.below(9))) : nil
                let update = Update(
                    place: place, instrument: instrument, epoch: epoch, sequence: sequence, trade: trade)
                place += 1
                let isAdded = slots.add(
                    instrument: instrument, place: update.place, origin: update.place, epoch: epoch,
                    sequence: sequence, trade: trade)
                #expect(isAdded)
                let known = groups.lastIndex { $0.updates[0].instrument == instrument }
                if let known, let last = groups[known].updates.last, last.epoch == epoch, last.sequence + 1 == sequence
                {
                    groups[known].updates.append(update)
                } else if let known {
                    // The pending group goes ahead of everything joined; the new one takes its turn.
                    var old = groups[known]
                    groups.append((old.order, [update]))
                    old.order = -1_000_000 + order
                    order += 1
                    groups[known] = old
                } else {
                    groups.append((order, [update]))
                    order += 1
                }
            } else {
                let least = groups.indices.min { groups[$0].order < groups[$1].order }
                let item = slots.popFirst()
                #expect((least == nil) == (item == nil))
                guard let least, let item else { continue }
                check(item, groups.remove(at: least).updates)
            }
            #expect(slots.count == groups.count)
            var origins: [Int] = []
            slots.forEachOrigin { origins.append($0) }
            #expect(origins.sorted() == groups.map { $0.updates[0].place }.sorted())
            if random.below(200) == 0 {
                slots.removeAll { $0 % 3 == 0 }
                groups.removeAll { $0.updates[0].instrument % 3 == 0 }
            }
        }
    }

    /// An item stands for a group of updates.
    private func check(_ item: ConflationSlots<Int, Int>.Item, _ group: [Update]) {
        #expect(item.place == group.last!.place && item.instrument == group[0].instrument)
        #expect(item.origin == group[0].place)
        #expect(item.epoch == group[0].epoch && item.sequence == group.last!.sequence)
        let left = group.dropLast()
        let trades = left.compactMap { $0.trade }
        #expect(
            item.replaced
                == (left.isEmpty
                    ? nil
                    : ConflatedRange(
                        first: left.first!.sequence, last: left.last!.sequence, count: UInt64(left.count),
                        tradeCount: UInt64(trades.count), tradeVolume: trades.reduce(0) { $0 + $1.size },
                        tradeHigh: trades.map { $0.price }.max(), tradeLow: trades.map { $0.price }.min())))
    }

    @Test func `A volume past the range of Int64 stays at its end`() {
        var slots = ConflationSlots<Int, Int>()
        for sequence in 1...3 as ClosedRange<UInt64> {
            slots.add(
                instrument: 0, place: 0, origin: 0, epoch: 1, sequence: sequence,
                trade: ConflationTrade(price: 1, size: .max))
        }
        let item = slots.popFirst()
        #expect(item?.replaced?.tradeVolume == .max)
    }
}

/// The same numbers from the same seed everywhere.
struct SplitMix {
    var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func below(_ bound: UInt64) -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return (z ^ (z >> 31)) % bound
    }
}
