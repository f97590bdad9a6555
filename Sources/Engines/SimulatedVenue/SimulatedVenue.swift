// A venue that exists only here: trends, bursts, spreads, trades and a book for each of its instruments, from a seed.
// Feeds the feed with the same messages that recordings and live lines are normalized to, so a machine without network
// shows life.

import MarketModel

/// Makes messages as time goes by. Pure: the same seed and the same times give the same messages.
public struct SimulatedVenue: Sendable {
    /// Seed and rate.
    public struct Configuration: Sendable {
        public var seed: UInt64 = 1
        /// Messages per second over all instruments, on average; 1 to 10 million.
        public var messagesPerSecond = 2000

        public init() {}
    }

    private let meanIntervalNs: Int64
    private var instruments: [SimulatedInstrument]
    private var random: SeededRandom
    private var nextNs: Int64
    /// Above 0: that many messages come in quick succession.
    private var burstLeft = 0
    private var snapshotsSent = 0

    /// The first message is due at `startNs` (wall clock, nanoseconds since the epoch).
    public init(_ configuration: Configuration, startNs: Int64) {
        precondition((1...10_000_000).contains(configuration.messagesPerSecond))
        meanIntervalNs = max(1, 1_000_000_000 / Int64(configuration.messagesPerSecond))
        var random = SeededRandom(seed: configuration.seed)
        instruments = SimulatedListing.all.map { SimulatedInstrument($0, &random) }
        self.random = random
        nextNs = startNs
    }

    /// When the next message is due.
    public var dueNs: Int64 { nextNs }

    /// The next message, if it is due by `nowNs`.
    public mutating func next(dueBy nowNs: Int64) -> VenueMessage? {
        guard nextNs <= nowNs else { return nil }
        let timeNs = nextNs
        guard snapshotsSent == instruments.count else {
            defer { snapshotsSent += 1 }
            return instruments[snapshotsSent].snapshot(timeNs)
        }
        nextNs += interval()
        // Squaring the draw makes the first instruments the busy ones.
        let draw = Int(random.below(1 << 16))
        let index = (((draw * draw) >> 16) * instruments.count) >> 16
        return instruments[index].step(timeNs, &random)
    }

    private mutating func interval() -> Int64 {
        if burstLeft > 0 {
            burstLeft -= 1
            return 1 + random.below(max(1, meanIntervalNs / 4))
        }
        if random.below(2000) == 0 { burstLeft = 50 + Int(random.below(400)) }
        return 1 + random.below(2 * meanIntervalNs + meanIntervalNs / 16)
    }
}

/// xoshiro256** by Blackman and Vigna, seeded by SplitMix64.
public struct SeededRandom: Sendable {
    private var a: UInt64
    private var b: UInt64
    private var c: UInt64
    private var d: UInt64

    public init(seed: UInt64) {
        var state = seed
        func split() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
        a = split()
        b = split()
        c = split()
        d = split()
    }

    public mutating func next() -> UInt64 {
        let multiplied = b &* 5
        let result = (multiplied << 7 | multiplied >> 57) &* 9
        let shifted = b << 17
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = d << 45 | d >> 19
        return result
    }

    /// Uniform in 0..<bound; `bound` is above 0.
    public mutating func below(_ bound: Int64) -> Int64 {
        Int64(bitPattern: next().multipliedFullWidth(by: UInt64(bitPattern: bound)).high)
    }
}
