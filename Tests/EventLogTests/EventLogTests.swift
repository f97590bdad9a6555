import EventLog
import Simulation
import Testing

struct BlockTests {
    @Test func `A built block gives back what went in`() {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 3))
        let a = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        let b = builder.register(BlockBuilder.Key(exchange: "X", symbol: "MSFT", feed: "f"))
        var expected: [(String, UInt64, [UInt8])] = []
        for i in 0..<1000 {
            let payload = [UInt8](repeating: UInt8(i & 0xff), count: i % 37)
            let sequence = UInt64(i % 2 == 0 ? i : i * 100)
            payload.withUnsafeBytes {
                builder.append(key: i % 2 == 0 ? a : b, epoch: 7, sequence: sequence, payload: $0)
            }
            expected.append((i % 2 == 0 ? "AAPL" : "MSFT", sequence, payload))
        }
        let block = builder.build()
        block.stamp(firstOffset: 500, appendTimeNs: 99) { _ in 4 }
        #expect(block.recordCount == 1000 && block.firstOffset == 500 && block.endOffset == 1500)
        for (i, record) in expected.enumerated() {
            #expect(block.symbol(track: block.track(of: i)) == record.0)
            #expect(block.sequence(of: i) == record.1)
            #expect(Array(block.payload(i)) == record.2)
        }
        #expect(block.previousOffset(track: 0) == 4)
        #expect(builder.isEmpty)
    }

    @Test func `A damaged image is refused at every byte and length, and never traps`() throws {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        for i in 0..<5 {
            [UInt8(1), 2, 3].withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: UInt64(i), payload: $0) }
        }
        let block = builder.build()
        block.stamp(firstOffset: 0, appendTimeNs: 1) { _ in Block.noOffset }
        func copy(_ count: Int) -> UnsafeMutableRawBufferPointer {
            let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
            bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: block.image[..<count]))
            return UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
        }
        _ = try Block(owning: copy(block.image.count))
        for count in 0..<block.image.count { #expect(throws: BlockError.self) { try Block(owning: copy(count)) } }
        for position in 0..<block.image.count {
            for bit in 0..<8 {
                let bytes = copy(block.image.count)
                bytes[position] ^= 1 << bit
                #expect(throws: BlockError.self) { try Block(owning: bytes) }
                // Without the checksum the layout is still safe to use.
                let again = copy(block.image.count)
                again[position] ^= 1 << bit
                if let accepted = try? Block(owning: again, checkCRC: false) {
                    for i in 0..<accepted.recordCount {
                        _ = accepted.payload(i).count
                        _ = accepted.symbol(track: accepted.track(of: i))
                    }
                }
            }
        }
    }
}

struct BlockChecksumTests {
    /// Bit by bit, as RFC 3720 defines it.
    private static func crc32c(_ bytes: some Sequence<UInt8>) -> UInt32 {
        var crc: UInt32 = 0xffff_ffff
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
        }
        return ~crc
    }

    @Test func `A block's checksum is CRC-32C at every size`() {
        // RFC 3720, B.4: 32 bytes of zero, of 0xff, and counting up.
        #expect(BlockChecksumTests.crc32c([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
        #expect(BlockChecksumTests.crc32c([UInt8](repeating: 0xff, count: 32)) == 0x62a8_ab43)
        #expect(BlockChecksumTests.crc32c((0..<32).map { UInt8($0) }) == 0x46dd_794e)
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        // Around the lengths at which the fast kernel changes its stride.
        let sizes = Array(0..<64) + [500, 760, 768, 776, 1000, 1536, 4000, 12_200, 12_288, 12_400, 24_576, 60_001]
        for size in sizes {
            let payload = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
            payload.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: 1, payload: $0) }
            let block = builder.build()
            block.stamp(firstOffset: UInt64(size), appendTimeNs: 7) { _ in Block.noOffset }
            let stored = block.image.loadUnaligned(fromByteOffset: Block.Field.crc, as: UInt32.self)
            #expect(UInt32(littleEndian: stored) == BlockChecksumTests.crc32c(block.image[Block.Field.imageLength...]))
        }
    }

    @Test func `Names, epochs and far sequences each come back from their track`() {
        let builder = BlockBuilder(TopicPartition(.booksDeltas, 9))
        let names = [
            ("", "order-1", ""), ("XNAS", "A", "feed-with-a-long-name"), ("X", "ÄÖ", "f"), ("XNAS", "A", "g"),
        ]
        let keys = names.map { builder.register(BlockBuilder.Key(exchange: $0.0, symbol: $0.1, feed: $0.2)) }
        var expected: [(Int, UInt64, UInt64)] = []
        for round in 0..<4 as Range<UInt64> {
            for (number, key) in keys.enumerated() {
                let sequence = round * 70_000 + UInt64(number)
                builder.append(
                    key: key, epoch: round / 2, sequence: sequence,
                    payload: UnsafeRawBufferPointer(start: nil, count: 0))
                expected.append((number, round / 2, sequence))
            }
        }
        let block = builder.build()
        for (index, (number, epoch, sequence)) in expected.enumerated() {
            let track = block.track(of: index)
            #expect(block.exchange(track: track) == names[number].0 && block.symbol(track: track) == names[number].1)
            #expect(block.feed(track: track) == names[number].2)
            #expect(block.epoch(track: track) == epoch && block.sequence(of: index) == sequence)
            #expect(
                block.keyHash(track: track)
                    == RecordKey.hash(exchange: names[number].0.utf8, symbol: names[number].1.utf8))
        }
    }
}

struct KeyTableTests {
    private func key(_ number: Int) -> (exchange: String, symbol: String, feed: String) {
        // Names that run into each other: only their lengths tell them apart.
        switch number % 4 {
        case 0: ("X", "AB\(number / 4)", "feed")
        case 1: ("XA", "B\(number / 4)", "feed")
        case 2: ("X", "AB\(number / 4)f", "eed")
        default: ("", "XAB\(number / 4)", "feed")
        }
    }

    private func bytes(_ key: (exchange: String, symbol: String, feed: String)) -> ([UInt8], [UInt8], [UInt8]) {
        (Array(key.exchange.utf8), Array(key.symbol.utf8), Array(key.feed.utf8))
    }

    @Test func `Keys are found by a block's track and by names, and no others`() {
        var table = KeyTable()
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        for number in 0..<2000 {
            let names = key(number)
            let (exchange, symbol, feed) = bytes(names)
            #expect(table.find(exchange: exchange, symbol: symbol, feed: feed) == nil)
            #expect(table.add(exchange: exchange, symbol: symbol, feed: feed) == number)
            let registered = builder.register(
                BlockBuilder.Key(exchange: names.exchange, symbol: names.symbol, feed: names.feed))
            [UInt8(1)].withUnsafeBytes { builder.append(key: registered, epoch: 1, sequence: 1, payload: $0) }
        }
        let block = builder.build()
        for track in 0..<block.trackCount {
            #expect(table.find(block, track: track) == track)
            #expect(table.find(block, track: track, tag: 1) == nil)
            let (exchange, symbol, feed) = bytes(key(track))
            #expect(table.find(exchange: exchange, symbol: symbol, feed: feed) == track)
            #expect(Array(block.names(track: track).bytes) == exchange + symbol + feed)
            #expect(block.exchange(track: track) == key(track).exchange && block.feed(track: track) == key(track).feed)
        }
        #expect(table.count == 2000)
    }

    @Test func `A tag tells the same names apart, and names may be empty or too long`() {
        var table = KeyTable()
        #expect(table.add(exchange: [], symbol: [], feed: []) == 0)
        #expect(table.add(exchange: [], symbol: [], feed: [], tag: 7) == 1)
        #expect(table.find(exchange: [], symbol: [], feed: []) == 0)
        #expect(table.find(exchange: [], symbol: [], feed: [], tag: 7) == 1)
        #expect(table.find(exchange: [], symbol: [UInt8](repeating: 65, count: 65_536), feed: []) == nil)
    }
}

struct KeyNumbersTests {
    @Test func `Numbers that are remembered are those that the table has`() {
        var table = KeyTable()
        var numbers = KeyNumbers()
        var random = SeededRandom(seed: 11)
        let symbols = (0..<40).map { "S\($0)" }
        // More builders than are remembered, a few of them again and again, each with its own order of keys.
        func make() -> (builder: BlockBuilder, keys: [Int], symbols: [String]) {
            let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
            let own = symbols.shuffled(using: &random)
            let keys = own.map { builder.register(BlockBuilder.Key(exchange: "X", symbol: $0, feed: "f")) }
            return (builder, keys, own)
        }
        let kept = (0..<3).map { _ in make() }
        var found: [Int] = []
        for round in 0..<1000 {
            let (builder, keys, own) = Int.random(in: 0..<3, using: &random) > 0 ? kept[round % 3] : make()
            let chosen = (0..<Int.random(in: 1...30, using: &random)).map { _ in keys.randomElement(using: &random)! }
            for key in chosen {
                [UInt8(1)].withUnsafeBytes {
                    builder.append(key: key, epoch: UInt64.random(in: 1...2, using: &random), sequence: 1, payload: $0)
                }
            }
            let block = builder.build()
            numbers.find(block, in: table, into: &found)
            #expect(found == (0..<block.trackCount).map { table.find(block, track: $0) ?? -1 })
            for track in 0..<block.trackCount where table.find(block, track: track) == nil {
                let symbol = Array(block.symbolBytes(track: track))
                #expect(own.contains(String(decoding: symbol, as: UTF8.self)))
                _ = table.add(exchange: Array("X".utf8), symbol: symbol, feed: Array("f".utf8))
            }
        }
        #expect(table.count == symbols.count)
    }

    @Test func `A block that was read says nothing of a builder, and its keys are found by their names`() throws {
        var table = KeyTable()
        var numbers = KeyNumbers()
        #expect(table.add(exchange: Array("X".utf8), symbol: Array("AAPL".utf8), feed: Array("f".utf8)) == 0)
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        [UInt8(1)].withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: 1, payload: $0) }
        let block = builder.build()
        block.stamp(firstOffset: 0, appendTimeNs: 1) { _ in Block.noOffset }
        let image = UnsafeMutableRawBufferPointer.allocate(byteCount: block.image.count, alignment: 8)
        image.copyMemory(from: block.image)
        let read = try Block(owning: image)
        #expect(read.origin == nil && read.figures == nil && block.origin?.keys == [0])
        var found: [Int] = []
        numbers.find(read, in: table, into: &found)
        #expect(found == [0])
    }
}

struct RecordFiguresTests {
    @Test func `A block has figures where each of its records came with some`() {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        func append(_ figures: RecordFigures?) {
            [UInt8(1)].withUnsafeBytes {
                builder.append(key: key, epoch: 1, sequence: 1, payload: $0, figures: figures)
            }
        }
        let some = [
            RecordFigures(filingTimeNs: 5, tradePrice: 7, tradeSize: 3),
            RecordFigures(filingTimeNs: 6, tradePrice: nil, tradeSize: 9),
        ]
        for figures in some { append(figures) }
        let whole = builder.build()
        #expect(whole.figures == some && whole.figures?.map(\.tradePrice) == [7, nil] && some[1].tradeSize == 0)
        append(some[0])
        append(nil)
        #expect(builder.build().figures == nil)
        append(some[1])
        #expect(builder.build().figures == [some[1]])
    }

    @Test func `A block is checked where each of its records was`() {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        func isChecked(_ records: Bool...) -> Bool {
            for record in records {
                [UInt8(1)].withUnsafeBytes {
                    builder.append(key: key, epoch: 1, sequence: 1, payload: $0, isChecked: record)
                }
            }
            return builder.build().isChecked
        }
        #expect(isChecked(true, true))
        #expect(!isChecked(true, false, true))
        #expect(!isChecked(false))
        #expect(isChecked(true))
    }
}

struct RecordsEndedTests {
    @Test func `Records that end in a piece of a block are counted wherever it is cut`() {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        for (sequence, length) in [0, 3, 0, 0, 7, 1, 0].enumerated() {
            [UInt8](repeating: 9, count: length).withUnsafeBytes {
                builder.append(key: key, epoch: 1, sequence: UInt64(sequence), payload: $0)
            }
        }
        let block = builder.build()
        for position in 0...block.recordsLength {
            let expected = (0..<block.recordCount).count { block.frameRange($0).upperBound <= position }
            #expect(block.recordsEnded(by: position) == expected)
        }
    }
}
