import DayFigures
import Testing

struct DayFiguresTests {
    static let day: Int64 = 86_400_000_000_000

    struct Tick {
        var time: Int64
        var epoch: UInt64
        var sequence: UInt64
        var trade: DayTrade?
    }

    /// Figures as the definition says them: over the whole set at once.
    static func obvious(_ ticks: [Tick], _ calendar: SessionCalendar) -> DayFigures {
        var figures = DayFigures()
        var accepted: [Tick] = []
        for tick in ticks {
            let identity = DayFigures.Identity(epoch: tick.epoch, sequence: tick.sequence)
            if let newest = figures.newest, identity <= newest { continue }
            figures.newest = identity
            accepted.append(tick)
        }
        guard !accepted.isEmpty else { return figures }
        figures.day = accepted.map { calendar.day(of: $0.time) }.max()!
        func mark(_ tick: Tick) -> DayFigures.Mark {
            DayFigures.Mark(
                place: .init(filingTimeNs: tick.time, epoch: tick.epoch, sequence: tick.sequence),
                price: tick.trade!.price)
        }
        let trades = accepted.filter { $0.trade != nil }.sorted { mark($0).place < mark($1).place }
        let today = trades.filter { calendar.day(of: $0.time) == figures.day }
        figures.open = today.first.map(mark)
        figures.last = today.last.map(mark)
        figures.high = today.map { $0.trade!.price }.max()
        figures.low = today.map { $0.trade!.price }.min()
        figures.volume = today.reduce(0) { $0 + $1.trade!.size }
        figures.tradeCount = UInt64(today.count)
        if let previous = trades.last(where: { calendar.day(of: $0.time) < figures.day }) {
            figures.previous = mark(previous)
            figures.previousDay = calendar.day(of: previous.time)
        }
        return figures
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func `Figures are those of the definition, with late ticks, repeats and turns of the day`(seed: UInt64) {
        var random = SplitMix(seed: seed)
        let calendar = seed % 3 == 0 ? SessionCalendar(dayStartNs: Int64(random.below(80_000)) * 1_000_000_000) : .utc
        var ticks: [Tick] = []
        var time: Int64 = seed % 5 == 0 ? -3 * Self.day : 19_000 * Self.day
        var epoch: UInt64 = 1
        var sequence: UInt64 = 0
        for _ in 0..<300 {
            time += Int64(random.below(40)) * 100_000_000_000
            if random.below(50) == 0 { time += 3 * Self.day }
            sequence += 1
            if random.below(60) == 0 {
                epoch += 1
                sequence = 1
            }
            let late = random.below(8) == 0 ? Int64(random.below(3 * UInt64(Self.day))) : 0
            let trade =
                random.below(3) > 0
                ? DayTrade(price: Int64(random.below(1000)) - 100, size: Int64(random.below(50))) : nil
            ticks.append(Tick(time: time - late, epoch: epoch, sequence: sequence, trade: trade))
            if random.below(10) == 0 { ticks.append(ticks[Int(random.below(UInt64(ticks.count)))]) }
        }
        var figures = DayFigures()
        for (index, tick) in ticks.enumerated() {
            let expectedRepeat =
                figures.newest.map { DayFigures.Identity(epoch: tick.epoch, sequence: tick.sequence) <= $0 } ?? false
            let before = figures
            let isNew = figures.apply(
                filingTimeNs: tick.time, epoch: tick.epoch, sequence: tick.sequence, trade: tick.trade,
                calendar: calendar)
            #expect(isNew == !expectedRepeat)
            if !isNew { #expect(figures == before) }
            if index % 37 == 0 { #expect(figures == Self.obvious(Array(ticks[...index]), calendar), "seed \(seed)") }
        }
        #expect(figures == Self.obvious(ticks, calendar), "seed \(seed)")
    }

    @Test func `A day without trades has none of the figures but the previous close`() {
        var figures = DayFigures()
        _ = figures.apply(filingTimeNs: 5, epoch: 1, sequence: 1, trade: DayTrade(price: 7, size: 2))
        _ = figures.apply(filingTimeNs: Self.day + 5, epoch: 1, sequence: 2, trade: nil)
        #expect(figures.day == 1 && figures.open == nil && figures.high == nil && figures.low == nil)
        #expect(figures.last == nil && figures.volume == 0 && figures.tradeCount == 0 && figures.previousClose == 7)
    }

    @Test func `The ends of time and size do not trap`() {
        for calendar in [
            SessionCalendar.utc, SessionCalendar(dayStartNs: 3_600_000_000_000),
            SessionCalendar(dayStartNs: -3_600_000_000_000),
        ] {
            var figures = DayFigures()
            for (index, time) in [Int64.min, -1, 0, 1, Int64.max].enumerated() {
                for trade in [DayTrade(price: .min, size: .max), DayTrade(price: .max, size: .max)] {
                    _ = figures.apply(
                        filingTimeNs: time, epoch: .max, sequence: UInt64(index * 2) + (trade.price > 0 ? 1 : 0),
                        trade: trade, calendar: calendar)
                }
            }
            #expect(figures.high == .max && figures.low == .min && figures.volume == .max)
        }
        #expect(SessionCalendar.utc.day(of: -1) == -1 && SessionCalendar.utc.day(of: 0) == 0)
    }
}
