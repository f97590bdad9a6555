import EventLog
import Simulation
import Synchronization
import Testing

@testable import EdgeService

/// What loops are woken for.
struct InterestTests {
    /// Loops of which each counts how often it was woken.
    private final class Loops {
        let interests: [TapeInterest]
        let waking: TapeWaking
        private let counts: [Count]

        init(_ count: Int) {
            interests = (0..<count).map { _ in TapeInterest() }
            let counts = (0..<count).map { _ in Count() }
            for (interest, count) in zip(interests, counts) {
                interest.wake = { count.value.add(1, ordering: .relaxed) }
            }
            waking = TapeWaking(interests)
            self.counts = counts
        }

        /// Wakes since this was asked last.
        func takeWakes() -> [Int] { counts.map { $0.value.exchange(0, ordering: .relaxed) } }
    }

    private final class Count: Sendable {
        let value = Atomic<Int>(0)
    }

    private static func block(_ symbols: [String], topic: Topic = .ticksRaw, recordBytes: Int = 80) -> Block {
        let builder = BlockBuilder(TopicPartition(topic, 0))
        let payload = [UInt8](repeating: 1, count: recordBytes)
        for symbol in symbols {
            let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "test"))
            payload.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: 1, payload: $0) }
        }
        return builder.build()
    }

    @Test func `Only loops with a stream of a symbol are woken for it, until it is gone`() {
        let loops = Loops(3)
        loops.interests[0].add(["AAPL"])
        loops.interests[1].add(["MSFT", "AAPL"])
        #expect(loops.takeWakes() == [1, 1, 0])
        loops.waking.appended([Self.block(["BTC"]), Self.block(["ETH"])])
        #expect(loops.takeWakes() == [0, 0, 0])
        loops.waking.appended([Self.block(["BTC", "MSFT"])])
        #expect(loops.takeWakes() == [0, 1, 0])
        loops.waking.appended([Self.block(["BTC"]), Self.block(["ETH", "AAPL"], topic: .booksDeltas)])
        #expect(loops.takeWakes() == [1, 1, 0])
        loops.interests[1].add(["AAPL"])
        loops.interests[1].remove(["MSFT", "AAPL"])
        #expect(loops.takeWakes() == [0, 1, 0])
        loops.waking.appended([Self.block(["AAPL"])])
        loops.waking.appended([Self.block(["MSFT"])])
        #expect(loops.takeWakes() == [1, 1, 0])
        loops.interests[1].remove(["AAPL"])
        loops.waking.appended([Self.block(["AAPL"])])
        #expect(loops.takeWakes() == [1, 0, 0])
    }

    @Test func `Who wants everything is woken for everything, and all are where the log does not say what it was`() {
        let loops = Loops(2)
        loops.interests[0].add([])
        loops.interests[0].add(["AAPL"])
        _ = loops.takeWakes()
        loops.waking.appended([Self.block(["BTC"])])
        #expect(loops.takeWakes() == [1, 0])
        loops.waking.appended(nil)
        #expect(loops.takeWakes() == [1, 1])
        loops.interests[0].remove([])
        loops.waking.appended([Self.block(["BTC"])])
        #expect(loops.takeWakes() == [0, 0])
    }

    @Test
    func `Symbols that are not ASCII are wanted by all, as wanted or as published: the same text has several forms`() {
        let loops = Loops(2)
        loops.interests[0].add(["K"])
        _ = loops.takeWakes()
        // The Kelvin sign is the same text as a K.
        loops.waking.appended([Self.block(["\u{212a}"])])
        #expect(loops.takeWakes() == [1, 0])
        loops.interests[1].add(["e\u{301}"])
        _ = loops.takeWakes()
        loops.waking.appended([Self.block(["\u{e9}"])])
        #expect(loops.takeWakes() == [1, 1])
        loops.waking.appended([Self.block(["BTC"])])
        #expect(loops.takeWakes() == [0, 1])
        loops.interests[1].remove(["e\u{301}"])
        loops.waking.appended([Self.block(["\u{e9}"])])
        #expect(loops.takeWakes() == [1, 0])
    }

    @Test func `What nobody wants is put off to a bound in bytes, and again once it was read`() {
        let loops = Loops(2)
        loops.interests[1].add(["AAPL"])
        _ = loops.takeWakes()
        let block = Self.block(["BTC"], recordBytes: 475)
        let each = block.recordsLength + TapeInterest.blockBytes
        let count = TapeInterest.putOffBytesMax / each
        for _ in 0..<3 {
            #expect(!loops.interests[0].hasPutOff)
            for _ in 0..<count { loops.waking.appended([block]) }
            #expect(loops.takeWakes() == [0, 0])
            loops.waking.appended([block])
            #expect(loops.takeWakes() == [1, 1])
            #expect(loops.interests[0].hasPutOff)
            for interest in loops.interests { interest.willRead() }
        }
    }

    @Test func `Any symbol is found by its bytes, and hashes of many lie apart`() {
        var bits: Set<Int> = []
        for number in 0..<4096 {
            let symbol = "S" + String(repeating: "X", count: number % 20) + String(number)
            let interest = Loops(1)
            interest.interests[0].add([symbol])
            _ = interest.takeWakes()
            interest.waking.appended([Self.block([symbol])])
            #expect(interest.takeWakes() == [1], "\(symbol)")
            let bit = Array(symbol.utf8).withUnsafeBytes { TapeInterest.bit($0) }
            if let bit { bits.insert(bit) }
        }
        // Of 4,096 in 32,768 places 3,850 are taken where they fall at random.
        #expect(bits.count > 3700)
    }

    @Test func `More loops than have a bit are woken for everything`() {
        let loops = Loops(66)
        loops.waking.appended([Self.block(["BTC"])])
        #expect(loops.takeWakes() == Array(repeating: 0, count: 64) + [1, 1])
    }
}
