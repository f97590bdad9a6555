import MarketModel

/// What the simulated venues list.
struct SimulatedListing: Sendable {
    let exchange: String
    let symbol: String
    /// Where the price begins, in cents.
    let cents: Int64
    /// The tick, in 1e-9.
    let tick: Int64
    /// A usual size at a level, in 1e-8.
    let size: Int64

    private static let cent: Int64 = 10_000_000
    private static let unit: Int64 = 100_000_000

    static let all: [SimulatedListing] = crypto + equities

    private static let crypto: [SimulatedListing] = ["SIMY", "SIMZ"].flatMap { exchange in
        [
            ("BTCUSDT", 6_183_000), ("ETHUSDT", 268_000), ("SOLUSDT", 15_800), ("BNBUSDT", 51_500), ("XRPUSDT", 61),
            ("DOGEUSDT", 11),
        ].map { symbol, cents in
            SimulatedListing(
                exchange: exchange, symbol: symbol, cents: Int64(cents), tick: cents < 1000 ? 100_000 : cent,
                size: cents > 100_000 ? unit / 4 : 200 * unit)
        }
    }

    private static let equities: [SimulatedListing] = [
        ("AAPL", 22_500), ("MSFT", 41_500), ("NVDA", 11_800), ("AMZN", 17_600), ("GOOG", 16_500), ("META", 51_800),
        ("TSLA", 21_400), ("JPM", 20_800), ("V", 26_600), ("UNH", 58_300), ("XOM", 11_700), ("MA", 46_200),
        ("PG", 16_900), ("JNJ", 15_900), ("HD", 36_000), ("COST", 87_000), ("ABBV", 19_500), ("KO", 6_900),
        ("PEP", 17_400), ("BAC", 3_900), ("NFLX", 66_500), ("AMD", 14_900), ("INTC", 2_100), ("CSCO", 4_900),
        ("ORCL", 13_700), ("CRM", 26_400), ("DIS", 8_900), ("NKE", 8_100),
    ].map { symbol, cents in
        SimulatedListing(exchange: "SIMX", symbol: symbol, cents: Int64(cents), tick: cent, size: 300 * unit)
    }
}

/// One instrument of the simulated venue and its book: `depth` levels a side, one tick apart.
struct SimulatedInstrument: Sendable {
    private static let depth = 10

    private let listing: SimulatedListing
    /// The best bid, in ticks; the best ask is `spread` above.
    private var bid: Int64
    private var spread: Int64 = 1
    /// Steps up minus steps down that the trend prefers, of 16.
    private var drift: Int64 = 0
    private var bidSizes: [Int64] = []
    private var askSizes: [Int64] = []
    private var sequence: UInt64 = 0
    private var tradeID: UInt64 = 0

    init(_ listing: SimulatedListing, _ random: inout SeededRandom) {
        self.listing = listing
        bid = max(100, listing.cents * 10_000_000 / listing.tick)
        for _ in 0..<SimulatedInstrument.depth {
            bidSizes.append(size(&random))
            askSizes.append(size(&random))
        }
    }

    private func size(_ random: inout SeededRandom) -> Int64 {
        let lot = listing.size / 100
        return lot * (1 + random.below(200))
    }

    private func message(_ kind: VenueMessage.Kind, _ timeNs: Int64) -> VenueMessage {
        var message = VenueMessage(kind, exchange: listing.exchange, symbol: listing.symbol)
        message.eventTimeNs = timeNs
        return message
    }

    private func bidLevel(_ index: Int, _ size: Int64) -> PriceLevel {
        PriceLevel(price: (bid - Int64(index)) * listing.tick, size: size)
    }

    private func askLevel(_ index: Int, _ size: Int64) -> PriceLevel {
        PriceLevel(price: (bid + spread + Int64(index)) * listing.tick, size: size)
    }

    /// The whole book.
    mutating func snapshot(_ timeNs: Int64) -> VenueMessage {
        sequence += 1
        var snapshot = message(.snapshot, timeNs)
        snapshot.firstSequence = sequence
        snapshot.lastSequence = sequence
        snapshot.bids = bidSizes.enumerated().map { bidLevel($0.offset, $0.element) }
        snapshot.asks = askSizes.enumerated().map { askLevel($0.offset, $0.element) }
        return snapshot
    }

    /// What happens next: a trade, a move of the price, or a size that changes.
    mutating func step(_ timeNs: Int64, _ random: inout SeededRandom) -> VenueMessage {
        switch random.below(16) {
        case 0..<3: return trade(timeNs, &random)
        case 3..<6: return move(timeNs, &random)
        default: return resize(timeNs, &random)
        }
    }

    private mutating func trade(_ timeNs: Int64, _ random: inout SeededRandom) -> VenueMessage {
        tradeID += 1
        let buys = random.below(2) == 0
        let available = buys ? askSizes[0] : bidSizes[0]
        let lot = listing.size / 100
        let size = max(lot, min(available, lot * (1 + random.below(50))))
        var trade = message(.trade, timeNs)
        trade.trade = VenueMessage.Trade(
            price: buys ? askLevel(0, 0).price : bidLevel(0, 0).price, size: size, id: tradeID,
            aggressorSide: buys ? .buy : .sell)
        return trade
    }

    private mutating func delta(_ timeNs: Int64) -> VenueMessage {
        sequence += 1
        var delta = message(.delta, timeNs)
        delta.firstSequence = sequence
        delta.lastSequence = sequence
        return delta
    }

    private mutating func resize(_ timeNs: Int64, _ random: inout SeededRandom) -> VenueMessage {
        var delta = delta(timeNs)
        // Most changes are near the best price.
        let draw = random.below(100)
        let index = Int(draw * draw / 1000) % SimulatedInstrument.depth
        let size = size(&random)
        if random.below(2) == 0 {
            bidSizes[index] = size
            delta.bids = [bidLevel(index, size)]
        } else {
            askSizes[index] = size
            delta.asks = [askLevel(index, size)]
        }
        return delta
    }

    /// The price steps up or down by one tick, or the spread opens or closes.
    private mutating func move(_ timeNs: Int64, _ random: inout SeededRandom) -> VenueMessage {
        if random.below(500) == 0 { drift = random.below(7) - 3 }
        if random.below(6) == 0 { return changeSpread(timeNs, &random) }
        var delta = delta(timeNs)
        let goesUp = random.below(16) < 8 + drift
        if goesUp || bid < 50 {
            delta.asks = [PriceLevel(price: askLevel(0, 0).price, size: 0)]
            delta.bids = [PriceLevel(price: bidLevel(SimulatedInstrument.depth - 1, 0).price, size: 0)]
            bid += 1
            askSizes.removeFirst()
            askSizes.append(size(&random))
            bidSizes.removeLast()
            bidSizes.insert(size(&random), at: 0)
            delta.bids.append(bidLevel(0, bidSizes[0]))
            delta.asks.append(askLevel(SimulatedInstrument.depth - 1, askSizes[SimulatedInstrument.depth - 1]))
        } else {
            delta.bids = [PriceLevel(price: bidLevel(0, 0).price, size: 0)]
            delta.asks = [PriceLevel(price: askLevel(SimulatedInstrument.depth - 1, 0).price, size: 0)]
            bid -= 1
            bidSizes.removeFirst()
            bidSizes.append(size(&random))
            askSizes.removeLast()
            askSizes.insert(size(&random), at: 0)
            delta.asks.append(askLevel(0, askSizes[0]))
            delta.bids.append(bidLevel(SimulatedInstrument.depth - 1, bidSizes[SimulatedInstrument.depth - 1]))
        }
        return delta
    }

    private mutating func changeSpread(_ timeNs: Int64, _ random: inout SeededRandom) -> VenueMessage {
        var delta = delta(timeNs)
        let last = SimulatedInstrument.depth - 1
        if spread == 1 {
            // The best ask goes; one more appears behind.
            delta.asks = [PriceLevel(price: askLevel(0, 0).price, size: 0)]
            askSizes.removeFirst()
            askSizes.append(size(&random))
            spread += 1
            delta.asks.append(askLevel(last, askSizes[last]))
        } else {
            delta.asks = [PriceLevel(price: askLevel(last, 0).price, size: 0)]
            askSizes.removeLast()
            askSizes.insert(size(&random), at: 0)
            spread -= 1
            delta.asks.append(askLevel(0, askSizes[0]))
        }
        return delta
    }
}
