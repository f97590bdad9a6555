import BookEngine
import Glibc
import MarketModel
import VenueFormats

extension FuzzTarget {
    static let binance = venue(
        .binance, .contiguous, "binance/spot_btcusdt_20240808.jsonl.gz", "cryptofeed/BINANCE.ws.1.0.gz",
        [
            #"1723100000000000000 {"lastUpdateId":10,"bids":[["1.5","2"]],"asks":[["1.6","3"]]}"#,
            #"{"e":"depthUpdate","E":1723100000000,"s":"BTCUSDT","U":11,"u":12,"b":[["1.5","0"]],"a":[["1.7","1"]]}"#,
            #"{"stream":"btcusdt@bookTicker","data":{"u":12,"s":"BTCUSDT","b":"1.4","B":"1","a":"1.6","A":"3"}}"#,
            #"{"e":"trade","E":1,"s":"BTCUSDT","t":5,"p":"1.5","q":"1","T":1723100000000,"m":true}"#,
        ])
    static let kraken = venue(
        .kraken, .checksum, "cryptofeed/KRAKEN.ws.50.0.gz", nil,
        [
            #"[1,{"as":[["1.6","3","1534614248.123678"]],"bs":[["1.5","2","1534614248.7"]]},"book-10","XBT/USD"]"#,
            #"[1,{"a":[["1.6","0","1534614335.3"]],"c":"974942666"},"book-10","XBT/USD"]"#,
            #"{"event":"heartbeat"}"#,
        ])
    static let coinbase = venue(
        .coinbase, .unchecked, "cryptofeed/COINBASE.ws.28.0.gz", nil,
        [
            #"{"type":"snapshot","product_id":"BTC-USD","bids":[["1.5","2"]],"asks":[["1.6","3"]]}"#,
            #"{"type":"l2update","product_id":"BTC-USD","time":"2021-03-04T05:06:07.1Z","changes":[["buy","1","0"]]}"#,
        ])

    /// Lines of a recording through the line's reader, the parser, the venue's format and a book under its rules. What
    /// is read holds: prices above 0, sizes not below, the same again; refused is refused whole.
    private static func venue(
        _ format: VenueFormat, _ rules: BookRules, _ recording: String, _ other: String?, _ lines: [String]
    ) -> FuzzTarget {
        FuzzTarget(
            name: format.rawValue, lengthMax: 4096,
            seeds: {
                var seeds = lines.map { Array($0.utf8) } + [Array(lines.joined(separator: "\n").utf8)]
                for file in [recording, other].compactMap({ $0 }) {
                    let real = recordedLines(file).filter { $0.count < 3000 }
                    seeds += stride(from: 0, to: real.count, by: max(1, real.count / 40)).map { real[$0] }
                    seeds += [Array(real.prefix(3).joined(separator: [0x0a]))]
                }
                return seeds
            },
            run: { bytes in
                var machine = BookMachine(rules)
                for line in bytes.split(separator: 0x0a) {
                    read(UnsafeRawBufferPointer(rebasing: line), format, &machine)
                }
            })
    }

    /// Lines of a recording of ../shared, seen from the checkout; none where it is absent.
    private static func recordedLines(_ recording: String) -> [[UInt8]] {
        guard let pipe = popen("gzip -dc '../shared/data/\(recording)' 2>/dev/null", "r") else { return [] }
        defer { pclose(pipe) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&chunk, 1, chunk.count, pipe), count > 0 { bytes += chunk[..<count] }
        return bytes.split(separator: 0x0a).map(Array.init)
    }

    private nonisolated(unsafe) static let parser = JSONParser()

    private static func read(_ line: UnsafeRawBufferPointer, _ format: VenueFormat, _ machine: inout BookMachine) {
        var message = line
        var symbol = "X"
        if case .received(let ns, let text, let named) = try? RecordingLine.split(line) {
            require(ns >= 0, "a receive time of \(ns)")
            message = text
            symbol = named ?? symbol
        }
        guard let value = try? parser.parse(message) else {
            _ = machine.receiveUnreadable()
            return
        }
        _ = VenueFormat.detect(value)
        let before = VenueMessage(.trade, exchange: "before", symbol: "before")
        var messages = [before]
        let isRead = (try? format.read(value, symbol: symbol, into: &messages)) != nil
        if let channel = format.unreadChannel(value) { require(messages.count == 1, "\(channel) is read") }
        require(messages.first == before && (isRead || messages.count == 1), "half a message was kept")
        var again = [before]
        require(((try? format.read(value, symbol: symbol, into: &again)) != nil) == isRead, "read twice, refused once")
        require(again == messages, "read twice, different")
        for message in messages.dropFirst() {
            for level in message.bids + message.asks { require(level.price > 0 && level.size >= 0, "\(level)") }
            if let trade = message.trade { require(trade.price > 0 && trade.size >= 0, "\(trade)") }
            requireOrder(machine.receive(message), machine)
        }
    }

    private static func requireOrder(_ outcome: BookOutcome, _ machine: BookMachine) {
        if case .violated = outcome {
            require(machine.state != .live && machine.book.isEmpty, "a book that broke its rules is used")
        }
        if machine.state == .live { require(!machine.book.isCrossed, "a crossed book is live") }
        for (levels, isBetter) in [(machine.book.bids(50), { $0 > $1 }), (machine.book.asks(50), { $0 < $1 })]
            as [([PriceLevel], (Int64, Int64) -> Bool)]
        {
            for pair in zip(levels, levels.dropFirst()) {
                require(isBetter(pair.0.price, pair.1.price), "levels out of order")
            }
        }
    }
}
