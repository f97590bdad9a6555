import EventLog
import Foundation
import KafkaClient
import KafkaTestSupport
import MarketModel
import TestSupport
import Testing
import TickCodec

@testable import KafkaLog

@Suite struct MachineTests {
    @Test func `Ranges that finish in any order are committed as far as they are contiguous`() {
        var finished = FinishedOffsets(from: 10)
        #expect(finished.finish(20..<30) == 10)
        #expect(finished.finish(40..<50) == 10)
        #expect(finished.finish(30..<40) == 10)
        #expect(finished.waitingCount == 1)
        #expect(finished.finish(10..<20) == 50)
        #expect(finished.waitingCount == 0)
        #expect(finished.finish(0..<45) == 50)
    }

    @Test func `However ranges are cut and shuffled, what is finished is what a set of offsets says`() {
        var random = SeededNumbers(seed: 7)
        for _ in 0..<200 {
            var finished = FinishedOffsets(from: 0)
            var done: Set<UInt64> = []
            for _ in 0..<60 {
                let from = UInt64(random.below(100))
                let range = from..<(from + UInt64(random.below(12)))
                done.formUnion(range)
                var expected: UInt64 = 0
                while done.contains(expected) { expected += 1 }
                #expect(finished.finish(range) == expected)
            }
        }
    }

    @Test func `Defaults are the published values, or those that the deviations name`() {
        let configuration = KafkaConfiguration(brokers: "b:9092")
        #expect(configuration.producer.lingerNsMax == 2_000_000)
        #expect(configuration.producer.batchRecordsMax == 500)
        #expect(configuration.producer.ticksQueuedMax == 65_536 && configuration.producer.othersQueuedMax == 4096)
        #expect(configuration.queuedMax(.ticksRaw) == 65_536 && configuration.queuedMax(.booksDeltas) == 4096)
        #expect(configuration.group.commitIntervalNs == 1_000_000_000)
        #expect(configuration.group.heldReportNs == 5_000_000_000)
        let limits = configuration.fetchLimits
        #expect(limits.partitionBytesMax == 1_048_576 && limits.bytesMax == 10_485_760)
        let settings = Dictionary(ConsumerSettings.common) { $1 }
        #expect(settings["auto.offset.reset"] == "error" && settings["enable.auto.commit"] == "false")
    }

    @Test func `A token says whose it is and when it ends; one that does not is believed for five minutes`() throws {
        // {"sub":"app","exp":1700000000}
        let web = KafkaToken(token: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhcHAiLCJleHAiOjE3MDAwMDAwMDB9.x", nowMs: 5)
        #expect(web.principal == "app" && web.expiryMs == 1_700_000_000_000)
        for text in ["opaque", "a.b.c", "..", "a.!!!.c", "a.eyJleHAiOiJ4In0.c"] {
            let token = KafkaToken(token: text, nowMs: 5)
            #expect(token.value == text && token.principal.isEmpty && token.expiryMs == 300_005, "\(text)")
        }
        let file = NSTemporaryDirectory() + "tapedeck-token-" + UUID().uuidString
        defer { try? FileManager.default.removeItem(atPath: file) }
        #expect(throws: KafkaTokenError.self) { try KafkaToken(file: file, nowMs: 0) }
        for bad in ["", " \n", "two words"] {
            try bad.write(toFile: file, atomically: true, encoding: .utf8)
            #expect(throws: KafkaTokenError.self) { try KafkaToken(file: file, nowMs: 0) }
        }
        try " abc\n".write(toFile: file, atomically: true, encoding: .utf8)
        #expect(try KafkaToken(file: file, nowMs: 0).value == "abc")
    }

    @Test func `A tick after a pause goes at once, a busy feed lingers, and what fills a batch does not`() {
        var linger = Linger(2_000_000, recordsMax: 500)
        func wait(_ nowNs: Int64, pending: Int, partitions: Int = 64) -> Int64 {
            linger.waitNs(nowNs: nowNs, pending: pending, partitions: partitions)
        }
        #expect(wait(0, pending: 1) <= 0)
        linger.sent(nowNs: 1_000_000_000)
        #expect(wait(1_000_000_000, pending: 1) == 1_000_000)
        #expect(wait(1_000_000_000, pending: 1, partitions: 640) == 2_000_000)
        #expect(wait(1_000_000_000, pending: 1, partitions: 8) == 1_000_000)
        #expect(wait(1_000_000_000, pending: 1, partitions: 96) == 1_500_000)
        #expect(wait(1_001_000_000, pending: 1) == 0)
        #expect(wait(1_000_000_000, pending: 499) == 1_000_000)
        #expect(wait(1_000_000_000, pending: 500) == 0)
        #expect(wait(2_000_000_000, pending: 1) <= 0)
        #expect(Linger(0, recordsMax: 500).waitNs(nowNs: 0, pending: 1, partitions: 64) <= 0)
    }

    private static let place = TopicPartition(.ticksRaw, 3)

    private func add(_ assembler: BlockAssembler, _ bytes: [UInt8], offset: UInt64) -> Block? {
        bytes.withUnsafeBytes {
            assembler.add($0, key: UnsafeRawBufferPointer(start: nil, count: 0), offset: offset, timestampNs: 5)
        }
    }

    @Test func `A gap ends a block, and the next one links back over it`() throws {
        let assembler = BlockAssembler(MachineTests.place)
        #expect(add(assembler, encodedTick(sequence: 1), offset: 10) == nil)
        #expect(add(assembler, encodedTick(sequence: 2), offset: 11) == nil)
        let first = try #require(add(assembler, encodedTick(sequence: 3), offset: 14))
        #expect(first.firstOffset == 10 && first.endOffset == 12)
        #expect(first.previousOffset(track: 0) == Block.noOffset)
        let second = try #require(assembler.end())
        #expect(second.firstOffset == 14 && second.endOffset == 15)
        #expect(second.previousOffset(track: 0) == 11)
        #expect(second.appendTimeNs == 5)
        #expect(assembler.end() == nil)
        // What it makes is a block like any other.
        let image = UnsafeMutableRawBufferPointer.allocate(byteCount: second.image.count, alignment: 8)
        image.copyMemory(from: second.image)
        #expect(try Block(owning: image).readRecords(from: 0).map(\.sequence) == [3])
    }

    @Test func `Any bytes are taken, and stand in their block as they came`() throws {
        var random = SeededNumbers(seed: 11)
        for topic in [Topic.ticksRaw, .booksDeltas, .ordersCommands] {
            let assembler = BlockAssembler(TopicPartition(topic, 0))
            var expected: [[UInt8]] = []
            var found: [[UInt8]] = []
            for offset in 0..<3000 {
                var bytes = encodedTick(symbol: "S\(random.below(5))", sequence: UInt64(random.below(1 << 20)))
                switch random.below(4) {
                case 0: bytes = (0..<random.below(60)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                case 1: bytes = Array(bytes.prefix(random.below(bytes.count)))
                case 2: bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next())
                default: break
                }
                expected.append(bytes)
                let block = bytes.withUnsafeBytes { bytes in
                    assembler.add(bytes, key: bytes, offset: UInt64(offset), timestampNs: 1)
                }
                if let block { found += block.readRecords(from: 0).map(\.bytes) }
            }
            if let block = assembler.end() { found += block.readRecords(from: 0).map(\.bytes) }
            #expect(found == expected)
            #expect(topic == .ordersCommands || assembler.malformed > 0)
        }
    }

    @Test func `Names that end alike, are long or come seldom are told from each other`() throws {
        var random = SeededNumbers(seed: 12)
        let symbols =
            (0..<600).map { "S\($0)" } + (0..<40).map { String(repeating: "L", count: 50) + "\($0)" }
            + ["A", "AB", "ABC", "ABCD", "ABCDEFGH", "XABCDEFGH", "YABCDEFGH"]
        let assembler = BlockAssembler(MachineTests.place)
        var expected: [String] = []
        var found: [String] = []
        func take(_ block: Block?) {
            for index in 0..<(block?.recordCount ?? 0) {
                guard let block else { return }
                let track = block.track(of: index)
                found.append(
                    "\(block.exchange(track: track)) \(block.symbol(track: track)) \(block.feed(track: track))")
            }
        }
        for offset in 0..<20_000 {
            // One after the other, and the same again.
            let symbol = symbols[random.below(4) == 0 ? 3 : random.below(symbols.count)]
            let exchange = ["X", "SIMX"][random.below(2)]
            let feed = ["f", "a feed"][random.below(2)]
            let bytes = encodedTick(exchange: exchange, symbol: symbol, feed: feed, sequence: UInt64(offset + 1))
            expected.append("\(exchange) \(symbol) \(feed)")
            take(add(assembler, bytes, offset: UInt64(offset)))
        }
        take(assembler.end())
        #expect(found == expected)
        #expect(assembler.names.count == Set(expected).count)
    }

    @Test func `Recent keys forget what they are told to, and know nothing that they were not told`() {
        let keys = RecentKeys()
        func find(_ names: [String]) -> Int? {
            let bytes = names.map { Array($0.utf8) }
            return bytes[0].withUnsafeBytes { a in
                bytes[1].withUnsafeBytes { b in bytes[2].withUnsafeBytes { keys.find(a, b, $0) } }
            }
        }
        func note(_ number: Int, _ names: [String]) {
            let bytes = names.map { Array($0.utf8) }
            bytes[0].withUnsafeBytes { a in
                bytes[1].withUnsafeBytes { b in bytes[2].withUnsafeBytes { keys.note(number, a, b, $0) } }
            }
        }
        #expect(find(["X", "AAPL", "f"]) == nil)
        note(7, ["X", "AAPL", "f"])
        note(8, ["", "", ""])
        note(9, ["X", String(repeating: "a", count: 47), "f"])
        #expect(find(["X", "AAPL", "f"]) == 7 && find(["", "", ""]) == 8)
        // The same bytes, cut elsewhere; and what was too long to be kept.
        #expect(find(["XA", "APL", "f"]) == nil)
        #expect(find(["X", String(repeating: "a", count: 47), "f"]) == nil)
        note(10, ["X", "AAPL", "f"])
        #expect(find(["X", "AAPL", "f"]) == 10)
        keys.forget()
        #expect(find(["X", "AAPL", "f"]) == nil)
    }

    @Test func `Blocks of valid ticks are checked, and one bad value makes a block that is not`() throws {
        let assembler = BlockAssembler(MachineTests.place)
        for sequence in 1...5 { _ = add(assembler, encodedTick(sequence: UInt64(sequence)), offset: UInt64(sequence)) }
        #expect(try #require(assembler.end()).isChecked)
        _ = add(assembler, encodedTick(sequence: 6), offset: 6)
        // Field 22, a source of event times that there is none of.
        _ = add(assembler, encodedTick(sequence: 7) + [0xb0, 0x01, 0x63], offset: 7)
        #expect(try !#require(assembler.end()).isChecked)
        _ = add(assembler, [1, 2, 3], offset: 8)
        #expect(try !#require(assembler.end()).isChecked)
    }

    @Test func `The identity of a book's record is what its decoder says, for any bytes`() throws {
        let encoder = BookEncoder(exchange: "SIMX", symbol: "AAPL", feed: "sim")
        var head = BookRecord.Head(epoch: 77, sequence: 12)
        head.receivedTimeNs = 1
        let bids = [PriceLevel(price: 100, size: 5)]
        let good = [UInt8](unsafeUninitializedCapacity: encoder.lengthMax(levels: 1)) { buffer, count in
            count = encoder.encode(head, bids: bids, asks: [], into: UnsafeMutableRawBufferPointer(buffer))
        }
        try good.withUnsafeBytes { bytes in
            let identity = try BookIdentity(bytes)
            #expect(identity.exchange.elementsEqual("SIMX".utf8) && identity.symbol.elementsEqual("AAPL".utf8))
            #expect(identity.feed.elementsEqual("sim".utf8) && identity.epoch == 77 && identity.sequence == 12)
        }
        var random = SeededNumbers(seed: 3)
        var record = BookRecord()
        for _ in 0..<20_000 {
            var bytes = good
            for _ in 0...random.below(3) { bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next()) }
            bytes = Array(bytes.prefix(random.below(bytes.count + 1)))
            bytes.withUnsafeBytes { raw in
                guard (try? record.decode(raw)) != nil else {
                    _ = try? BookIdentity(raw)
                    return
                }
                let identity = try? BookIdentity(raw)
                // The decoder does not look at names, so that it takes a field of a wrong type there.
                guard let identity else { return }
                #expect(identity.epoch == record.head.epoch && identity.sequence == record.head.sequence)
            }
        }
    }

    @Test func `What was fetched once is found by what was asked for, gaps and all, up to a number of bytes`() throws {
        let cache = BlockCache(byteCountMax: 4000)
        func block(_ offsets: Range<UInt64>) throws -> Block {
            let assembler = BlockAssembler(MachineTests.place)
            for offset in offsets { _ = add(assembler, encodedTick(sequence: offset), offset: offset) }
            return try #require(assembler.end())
        }
        func found(_ offset: UInt64) -> String {
            guard case .block(let block, let index)? = cache.find(MachineTests.place, offset) else { return "-" }
            return "\(block.firstOffset)+\(index)"
        }
        cache.add(try block(10..<15), from: 7)
        cache.add(try block(15..<20), from: 15)
        // Cut elsewhere, as another reader's fetch would: what is there counts.
        cache.add(try block(12..<17), from: 12)
        #expect(
            [6, 7, 9, 10, 14, 15, 19, 20].map(found) == ["-", "10+0", "10+0", "10+0", "10+4", "15+0", "15+4", "-"])
        for start in stride(from: UInt64(100), to: 200, by: 10) {
            cache.add(try block(start..<(start + 10)), from: start)
        }
        #expect(found(10) == "-")
        #expect(found(199) == "190+9")
    }

    @Test func `A spilled block's rest is the same records`() throws {
        let assembler = BlockAssembler(MachineTests.place)
        for sequence in 1...10 {
            let bytes = encodedTick(symbol: sequence % 2 == 0 ? "AAPL" : "MSFT", sequence: UInt64(sequence))
            _ = add(assembler, bytes, offset: UInt64(sequence))
        }
        let block = try #require(assembler.end())
        let rest = block.suffix(from: 4)
        #expect(rest.readRecords(from: 0).map(\.sequence) == Array(5...10))
        #expect(rest.readRecords(from: 0).map(\.bytes) == block.readRecords(from: 4).map(\.bytes))
        #expect(rest.readRecords(from: 0).map(\.symbol) == block.readRecords(from: 4).map(\.symbol))
    }
}
