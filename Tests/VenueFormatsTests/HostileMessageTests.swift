import MarketModel
import TestSupport
import Testing
import VenueFormats

/// Real messages, broken: refused with an error or read as nothing, and never as a number that they do not hold.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct HostileMessageTests {
    static let recordings: [(VenueFormat, String)] = [
        (.binance, "binance/spot_btcusdt_20240808.jsonl.gz"), (.binance, "cryptofeed/BINANCE.ws.1.0.gz"),
        (.kraken, "cryptofeed/KRAKEN.ws.50.0.gz"), (.coinbase, "cryptofeed/COINBASE.ws.28.0.gz"),
    ]

    /// Lines of each shape that a recording has: those of the first place and some behind, each not longer than
    /// `lengthMax`, and one longer one.
    private func samples(_ name: String, lengthMax: Int) throws -> [[UInt8]] {
        let lines = try SharedData.lines(name)
        let short = lines.filter { $0.count <= lengthMax }
        let stride = Swift.stride(from: 0, to: short.count, by: max(1, short.count / 24)).map { short[$0] }
        return stride + lines.filter { $0.count > lengthMax }.prefix(1)
    }

    /// A line as a recording's reader takes it.
    private func read(_ line: [UInt8], _ reading: FormatReading) throws(FormatError) -> [VenueMessage] {
        let split: Result<[UInt8]?, FormatError> = line.withUnsafeBytes { bytes in
            do throws(FormatError) {
                guard case .received(_, let message, _) = try RecordingLine.split(bytes) else { return .success(nil) }
                return .success(Array(message))
            } catch {
                return .failure(error)
            }
        }
        guard let message = try split.get() else { return [] }
        return try reading.read(message, symbol: "X")
    }

    @Test(arguments: HostileMessageTests.recordings)
    func `A line cut at any byte is refused, or read as nothing`(_ format: VenueFormat, _ name: String) throws {
        let reading = FormatReading(format: format)
        var cuts = 0
        for line in try samples(name, lengthMax: 3000) {
            _ = try read(line, reading)
            // Of a whole book every cut would be gigabytes: some hundred of them.
            for length in stride(from: 0, to: line.count, by: max(1, line.count / 3000)) {
                let messages = (try? read(Array(line[..<length]), reading)) ?? []
                #expect(messages.isEmpty, "\(length) bytes of \(String(decoding: line.prefix(300), as: UTF8.self))")
                cuts += 1
            }
        }
        #expect(cuts > 4000)
    }

    /// Decimal texts without what does not matter: signs of plus, zeros in front and behind.
    private func plain(_ text: [UInt8]) -> String? {
        var digits = text[...]
        if digits.first == UInt8(ascii: "+") { digits = digits.dropFirst() }
        guard !digits.isEmpty, digits.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }) else {
            return nil
        }
        var (whole, fraction) = (digits, digits[digits.endIndex...])
        if let point = digits.firstIndex(of: UInt8(ascii: ".")) {
            (whole, fraction) = (digits[..<point], digits[(point + 1)...])
        }
        whole = whole.drop { $0 == 0x30 }
        while fraction.last == 0x30 { fraction = fraction.dropLast() }
        let front = whole.isEmpty ? "0" : String(decoding: whole, as: UTF8.self)
        return fraction.isEmpty ? front : front + "." + String(decoding: fraction, as: UTF8.self)
    }

    /// Every price and size of the messages is one of the quoted texts of the line, every sequence one of its numbers.
    private func check(_ messages: [VenueMessage], isIn line: [UInt8], seed: UInt64) {
        let text = String(decoding: line, as: UTF8.self)
        // An escape may spell a digit; the obvious reader does not know it.
        guard !line.contains(UInt8(ascii: "\\")) else { return }
        var texts = Set(line.split(separator: UInt8(ascii: "\"")).compactMap { plain(Array($0)) })
        // A zero below zero is one.
        for part in line.split(separator: UInt8(ascii: "\"")) where part.first == UInt8(ascii: "-") {
            if plain(Array(part.dropFirst())) == "0" { texts.insert("0") }
        }
        for message in messages {
            var levels = message.bids + message.asks
            if let trade = message.trade { levels.append(PriceLevel(price: trade.price, size: trade.size)) }
            for level in levels {
                let isIn =
                    level.price > 0 && level.size >= 0 && texts.contains(DecimalText.string(level.price, scale: 9))
                    && texts.contains(DecimalText.string(level.size, scale: 8))
                if !isIn { Issue.record("seed \(seed): \(level) is not in \(text.prefix(500))") }
            }
            for sequence in [message.firstSequence, message.lastSequence] where sequence != 0 {
                if !text.contains(String(sequence)) { Issue.record("seed \(seed): \(sequence) is not in \(text)") }
            }
        }
    }

    private func mutate(_ line: [UInt8], _ random: inout SeededNumbers) -> [UInt8] {
        var line = line
        for _ in 0...random.below(3) where line.count > 1 {
            let place = random.below(line.count)
            let end = min(line.count, place + 1 + random.below(40))
            switch random.below(8) {
            case 0: line[place] ^= 1 << UInt8(random.below(8))
            case 1:
                let digits = line.indices.filter { (0x30...0x39).contains(line[$0]) }
                if let digit = digits.randomElement(using: &random) { line[digit] = 0x30 + UInt8(random.below(10)) }
            case 2: line.removeSubrange(place..<end)
            case 3: line.insert(contentsOf: line[place..<end], at: end)
            case 4:
                let depth = 1 + random.below(1200)
                line.insert(contentsOf: [UInt8](repeating: UInt8(ascii: "["), count: depth), at: place)
                line.append(contentsOf: [UInt8](repeating: UInt8(ascii: "]"), count: depth))
            case 5:
                let count = 1 + random.below(40)
                line.insert(contentsOf: (0..<count).map { _ in 0x30 + UInt8(random.below(10)) }, at: place)
            case 6: line.insert(UInt8(random.below(256)), at: place)
            default:
                let tokens = ["null", "true", "-1", "1e400", "\"\"", "{}", "[]", ",", ":", "\\u0000", ".", "-"]
                line.insert(contentsOf: Array(tokens.randomElement(using: &random)!.utf8), at: place)
            }
        }
        return line
    }

    @Test(arguments: HostileMessageTests.recordings)
    func `A mutated line never traps, and no number comes out that is not in it`(
        _ format: VenueFormat, _ name: String
    ) throws {
        let lines = try samples(name, lengthMax: 1500).filter { $0.count <= 1500 }
        let readings = VenueFormat.allCases.map { FormatReading(format: $0) }
        let rounds = Checkout.isSoak ? 400_000 : 8000
        var taken = 0
        for seed in 0..<UInt64(rounds) {
            var random = SeededNumbers(seed: seed)
            let line = mutate(lines.randomElement(using: &random)!, &random)
            // Once in a while another venue's format reads it.
            let own = readings.first { $0.format == format }!
            let reading = seed % 8 == 0 ? readings.randomElement(using: &random)! : own
            guard let messages = try? read(line, reading) else { continue }
            taken += messages.isEmpty ? 0 : 1
            check(messages, isIn: line, seed: seed)
        }
        #expect(taken > rounds / 20, "mutations that leave a message are part of the test")
    }
}
