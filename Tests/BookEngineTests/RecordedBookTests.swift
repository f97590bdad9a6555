import BookEngine
import MarketModel
import TestSupport
import Testing
import VenueFormats

/// What ../shared/data/README.md says is true of the recordings.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct RecordedBookTests {
    struct BinanceRun {
        var kinds: [VenueMessage.Kind: Int] = [:]
        var applied = 0
        var compared = 0
        var agreeing = 0
        var tradeGaps = 0
        var joined: ClosedRange<UInt64>?
        var violations: [BookViolation] = []

        init(_ messages: [(ns: Int64, message: VenueMessage)]) {
            var machines: [String: BookMachine] = [:]
            var tickers: [String: [VenueMessage]] = [:]
            var lastTrade: UInt64?
            for (_, message) in messages {
                kinds[message.kind, default: 0] += 1
                var machine = machines[message.symbol] ?? BookMachine(.contiguous)
                let before = machine.deltasApplied
                if case .violated(let violation) = machine.receive(message) { violations.append(violation) }
                machines[message.symbol] = machine
                switch message.kind {
                case .trade:
                    if let last = lastTrade, let id = message.trade?.id, id != last + 1 { tradeGaps += 1 }
                    lastTrade = message.trade?.id
                case .ticker: tickers[message.symbol, default: []].append(message)
                case .snapshot, .delta:
                    guard machine.deltasApplied > before else { break }
                    applied += machine.deltasApplied - before
                    joined = machine.joined
                    guard let ticker = tickers[message.symbol]?.last(where: { $0.lastSequence <= machine.sequence })
                    else {
                        break
                    }
                    compared += 1
                    let book = machine.book
                    if book.bestBid == ticker.bids[0], book.bestAsk == ticker.asks[0] { agreeing += 1 }
                }
            }
        }
    }

    @Test func `Binance: every applied diff leaves the book that the ticker says`() throws {
        let run = BinanceRun(try RecordingFile("binance/spot_btcusdt_20240808.jsonl.gz").messages(.binance))
        #expect(run.kinds[.snapshot] == 1)
        #expect(run.kinds[.delta] == 3451)
        #expect(run.kinds[.ticker] == 28_040)
        #expect(run.kinds[.trade] == 9757)
        #expect(run.joined == 50_093_239_208...50_093_239_224)
        #expect(run.applied == 3449)
        #expect(run.agreeing == 3449)
        #expect(run.tradeGaps == 0)
        #expect(run.violations.isEmpty)
    }

    @Test func `Binance: a lost diff is a gap`() throws {
        var messages = try RecordingFile("binance/spot_btcusdt_20240808.jsonl.gz").messages(.binance)
        let deltas = messages.indices.filter { messages[$0].message.kind == .delta }
        messages.remove(at: deltas[1000])
        #expect(BinanceRun(messages).violations.first == .gap)
    }

    @Test func `Binance: two diffs in the wrong order are a gap`() throws {
        var messages = try RecordingFile("binance/spot_btcusdt_20240808.jsonl.gz").messages(.binance)
        let deltas = messages.indices.filter { messages[$0].message.kind == .delta }
        messages.swapAt(deltas[500], deltas[501])
        #expect(BinanceRun(messages).violations.first == .gap)
    }

    @Test func `Binance: a wrong size at the best price is seen`() throws {
        var messages = try RecordingFile("binance/spot_btcusdt_20240808.jsonl.gz").messages(.binance)
        let index = try #require(
            messages.indices.first { index in
                let message = messages[index].message
                return index > 10_000 && message.kind == .delta && !message.bids.isEmpty
            })
        messages[index].message.bids.append(PriceLevel(price: 61_999_000_000_000, size: 1))
        let violation = try #require(BinanceRun(messages).violations.first)
        #expect(violation == .crossed || violation == .tickerMismatch)
    }

    /// Checks that messages say a checksum and the book has it; violations.
    private func krakenRun(_ messages: [(ns: Int64, message: VenueMessage)]) -> (
        checked: Int, violations: [BookViolation]
    ) {
        var machines: [String: BookMachine] = [:]
        var checked = 0
        var violations: [BookViolation] = []
        for (_, message) in messages {
            var machine = machines[message.symbol] ?? BookMachine(.checksum)
            switch machine.receive(message) {
            case .applied: checked += message.checksum == nil ? 0 : 1
            case .violated(let violation): violations.append(violation)
            case .ignored, .outdated: break
            }
            machines[message.symbol] = machine
        }
        return (checked, violations)
    }

    @Test func `Kraken: every checksum is the book's`() throws {
        let run = krakenRun(try RecordingFile("cryptofeed/KRAKEN.ws.50.0.gz").messages(.kraken))
        #expect(run.checked == 4269)
        #expect(run.violations.isEmpty)
    }

    @Test func `Kraken: one wrong digit breaks a checksum`() throws {
        var messages = try RecordingFile("cryptofeed/KRAKEN.ws.50.0.gz").messages(.kraken)
        let index = try #require(
            messages.indices.last { messages[$0].message.kind == .delta && messages[$0].message.checksum != nil })
        var message = messages[index].message
        if message.bids.isEmpty { message.asks[0].size += 1 } else { message.bids[0].size += 1 }
        messages[index].message = message
        // The last deltas may be deep in the book; a wrong size there is not covered by the checksum, so mend the first
        // too.
        let first = try #require(
            messages.indices.first { messages[$0].message.kind == .snapshot })
        messages[first].message.asks[0].size += 1
        #expect(krakenRun(messages).violations.contains(.checksumMismatch))
    }

    @Test func `Binance by cryptofeed: book states equal the tickers`() throws {
        let snapshots = try RecordingFile("cryptofeed/BINANCE.http.0.0.gz").messages(.binance)
        let stream = try RecordingFile("cryptofeed/BINANCE.ws.1.0.gz").messages(.binance)
        let all = (snapshots + stream).sorted { $0.ns < $1.ns }
        let run = BinanceRun(all)
        #expect(run.violations.isEmpty)
        #expect(run.compared == 159)
        #expect(run.agreeing == 159)
    }

    @Test func `Coinbase: snapshots and updates are read, and no book crosses`() throws {
        let messages = try RecordingFile("cryptofeed/COINBASE.ws.28.0.gz").messages(.coinbase)
        #expect(messages.count { $0.message.kind == .snapshot } == 10)
        #expect(messages.count { $0.message.kind == .delta } == 9719)
        var machines: [String: BookMachine] = [:]
        for (_, message) in messages {
            var machine = machines[message.symbol] ?? BookMachine(.unchecked)
            #expect(machine.receive(message) == .applied)
            machines[message.symbol] = machine
        }
    }
}
