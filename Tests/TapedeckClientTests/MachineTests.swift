import GRPC
import MarketModel
import MarketProto
import Protobuf
import Simulation
import Testing
import TickCodec

@testable import TapedeckClient

/// Encoded updates for tests.
enum Updates {
    static func make(
        _ symbol: String, _ sequence: UInt64, epoch: UInt64 = 1, conflated: ClosedRange<UInt64>? = nil,
        exchange: String = "X", feed: String = "test"
    ) -> [UInt8] {
        let encoder = TickEncoder(exchange: exchange, symbol: symbol, feed: feed)
        var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 1, epoch: epoch, sequence: sequence)
        tick.last = 100_000_000_000
        tick.lastSize = 100_000_000
        var bytes = [UInt8](repeating: 0, count: encoder.lengthMax)
        let count = bytes.withUnsafeMutableBytes { encoder.encode(tick, into: $0) }
        bytes.removeLast(bytes.count - count)
        if let conflated {
            let range = ConflatedRange(
                first: conflated.lowerBound, last: conflated.upperBound, count: UInt64(conflated.count))
            TickCodec.appendConflation(range, to: &bytes)
        }
        return bytes
    }

    static func frames(_ updates: [[UInt8]]) -> [UInt8] {
        updates.flatMap { [0, 0, 0, UInt8($0.count >> 8), UInt8($0.count & 255)] + $0 }
    }
}

/// What the client knows of sequences, and how it goes on after the end of a stream: no network.
struct MachineTests {
    private func check(_ tracker: inout SequenceTracker, _ update: [UInt8]) throws -> SequenceTracker.Verdict {
        try update.withUnsafeBytes { bytes throws in
            let reader = try TickReader(bytes)
            return tracker.check(reader)
        }
    }

    @Test func `Contiguous sequences are new, repeats are old, holes are gaps, per instrument`() throws {
        var tracker = SequenceTracker()
        #expect(try check(&tracker, Updates.make("A", 7)) == .new)
        #expect(try check(&tracker, Updates.make("A", 8)) == .new)
        #expect(try check(&tracker, Updates.make("B", 3)) == .new)
        #expect(try check(&tracker, Updates.make("A", 3, exchange: "Y")) == .new)
        #expect(try check(&tracker, Updates.make("A", 3, feed: "other")) == .new)
        #expect(try check(&tracker, Updates.make("A", 8)) == .old)
        #expect(try check(&tracker, Updates.make("A", 2)) == .old)
        #expect(try check(&tracker, Updates.make("A", 12)) == .gap(9...11))
        #expect(try check(&tracker, Updates.make("A", 10)) == .old)
        #expect(try check(&tracker, Updates.make("A", 13)) == .new)
        #expect(try check(&tracker, Updates.make("B", 4)) == .new)
    }

    @Test func `What a conflated update stands for is not missing`() throws {
        var tracker = SequenceTracker()
        #expect(try check(&tracker, Updates.make("A", 10)) == .new)
        #expect(try check(&tracker, Updates.make("A", 15, conflated: 11...14)) == .new)
        // Begins before what is known, as after a resumption under LATEST.
        #expect(try check(&tracker, Updates.make("A", 20, conflated: 12...19)) == .new)
        #expect(try check(&tracker, Updates.make("A", 30, conflated: 25...29)) == .gap(21...24))
        // A range that makes no sense counts for nothing.
        #expect(try check(&tracker, Updates.make("A", 40, conflated: 50...60)) == .gap(31...39))
        #expect(try check(&tracker, Updates.make("A", UInt64.max)) == .gap(41...(UInt64.max - 1)))
        #expect(try check(&tracker, Updates.make("A", 0)) == .new)
    }

    @Test func `A new epoch begins at one; an earlier one that comes again is old`() throws {
        var tracker = SequenceTracker()
        #expect(try check(&tracker, Updates.make("A", 10, epoch: 5)) == .new)
        #expect(try check(&tracker, Updates.make("A", 1, epoch: 6)) == .new)
        #expect(try check(&tracker, Updates.make("A", 10, epoch: 5)) == .old)
        #expect(try check(&tracker, Updates.make("A", 11, epoch: 5)) == .new)
        #expect(try check(&tracker, Updates.make("A", 4, epoch: 7)) == .gap(1...3))
        #expect(try check(&tracker, Updates.make("A", 9, epoch: 2)) == .new)
    }

    /// As after many restarts of a server within the time between two tokens.
    @Test func `Of many epochs that come again none is new`() throws {
        var tracker = SequenceTracker()
        for again in 1...3 {
            for epoch in 1...UInt64(20 * again) {
                let isKnown = epoch <= 20 * (again - 1)
                for sequence in 1...3 as ClosedRange<UInt64> {
                    let verdict = try check(&tracker, Updates.make("A", sequence, epoch: epoch))
                    #expect(verdict == (isKnown ? .old : .new), "\(epoch) \(sequence)")
                }
            }
        }
        #expect(try check(&tracker, Updates.make("A", 4, epoch: 60)) == .new)
        #expect(try check(&tracker, Updates.make("A", 2, epoch: 61)) == .gap(1...1))
    }

    // MARK: Going on

    private static func error(
        _ code: GRPCStatus.Code, token: [UInt8]? = nil, pushback: Int? = nil
    ) -> TapedeckError {
        var trailers = GRPCMetadata()
        if let token { trailers.add("tapedeck-resume-token-bin", binary: token) }
        if let pushback { trailers.add("grpc-retry-pushback-ms", "\(pushback)") }
        return TapedeckError(GRPCStatus(code), trailers: trailers)
    }

    private static func resume(token: [UInt8]? = nil) -> PriceResume {
        var backoff = GRPCBackoff()
        backoff.initialMilliseconds = 100
        backoff.jitterPercent = 0
        return PriceResume(token: token, backoff: backoff)
    }

    private func token(_ decision: PriceResume.Decision) -> [UInt8]? {
        if case .resume(let token, _) = decision { return token }
        return nil
    }

    @Test func `A stream goes on from the token of its end, else from that of its beginning`() {
        var random = SeededRandom(seed: 1)
        var resume = MachineTests.resume()
        resume.began(token: [1])
        #expect(token(resume.ended(MachineTests.error(.unavailable), using: &random)) == [1])
        resume.began(token: [2])
        #expect(token(resume.ended(MachineTests.error(.unavailable, token: [3]), using: &random)) == [3])
        // It did not begin: the token stays.
        #expect(token(resume.ended(MachineTests.error(.unavailable), using: &random)) == [3])
        #expect(token(resume.ended(MachineTests.error(.dataLoss, token: [4]), using: &random)) == [4])
        #expect(token(resume.ended(MachineTests.error(.resourceExhausted, token: [5]), using: &random)) == [5])
    }

    @Test func `What trying again cannot help fails`() {
        var random = SeededRandom(seed: 1)
        let codes: [GRPCStatus.Code] = [
            .dataLoss, .resourceExhausted, .internalError, .unauthenticated, .permissionDenied, .notFound,
            .unimplemented, .unknown, .invalidArgument,
        ]
        for code in codes {
            var resume = MachineTests.resume()
            #expect(resume.ended(MachineTests.error(code), using: &random) == .fail)
        }
        // The caller's own token is refused before anything has begun.
        var own = MachineTests.resume(token: [9])
        #expect(own.ended(MachineTests.error(.invalidArgument), using: &random) == .fail)
        // One of a stream that ran is refused by another server: from the latest values on.
        var other = MachineTests.resume()
        other.began(token: [1])
        guard case .resume(nil, _) = other.ended(MachineTests.error(.invalidArgument), using: &random) else {
            Issue.record("a failover to another log ends the stream")
            return
        }
        #expect(other.ended(MachineTests.error(.invalidArgument), using: &random) == .fail)
        var good = MachineTests.resume()
        #expect(good.ended(TapedeckError(.ok), using: &random) == .finish)
    }

    @Test func `A server that is not there is tried four times; one that was there, for ever, ever slower`() {
        var random = SeededRandom(seed: 1)
        var first = MachineTests.resume()
        let gone = MachineTests.error(.unavailable)
        for _ in 0..<3 { #expect(first.ended(gone, using: &random) != .fail) }
        #expect(first.ended(gone, using: &random) == .fail)
        var known = MachineTests.resume()
        known.began(token: [1])
        var waits: [Int] = []
        for _ in 0..<100 {
            if case .resume(_, let wait) = known.ended(gone, using: &random) { waits.append(wait) }
        }
        #expect(waits.count == 100)
        #expect(waits[0] <= 100)
        #expect(Array(waits[1...4]) == [100, 160, 256, 409])
        #expect(waits[99] == 120_000)
        known.delivered()
        guard case .resume(_, let wait) = known.ended(gone, using: &random) else {
            Issue.record("it gives up")
            return
        }
        #expect(wait <= 100)
        guard case .resume(_, 7000) = known.ended(MachineTests.error(.unavailable, pushback: 7000), using: &random)
        else {
            Issue.record("the server's own wait is not kept")
            return
        }
    }

    @Test func `A batch leaves out what was delivered before`() throws {
        let updates = (1...5).map { Updates.make("A", UInt64($0)) }
        let batch = TickBatch(frames: Updates.frames(updates), repeats: [0, 3], count: 3)
        var sequences: [UInt64] = []
        batch.forEach { sequences.append($0.sequence) }
        #expect(sequences == [2, 3, 5])
        #expect(batch.updates.map(\.sequence) == [2, 3, 5])
        struct Stop: Error {}
        sequences = []
        #expect(throws: Stop.self) {
            try batch.forEach { (reader: TickReader) throws(Stop) in
                sequences.append(reader.sequence)
                if reader.sequence == 3 { throw Stop() }
            }
        }
        #expect(sequences == [2, 3])
    }

    @Test func `Errors say whether the same may succeed later`() {
        #expect(MachineTests.error(.unavailable).isRetryable)
        #expect(MachineTests.error(.deadlineExceeded).isRetryable)
        #expect(!MachineTests.error(.resourceExhausted).isRetryable)
        #expect(MachineTests.error(.resourceExhausted, pushback: 5).isRetryable)
        #expect(!MachineTests.error(.resourceExhausted, pushback: -5).isRetryable)
        #expect(!MachineTests.error(.invalidArgument).isRetryable)
        #expect(!MachineTests.error(.internalError).isRetryable)
        #expect(!MachineTests.error(.dataLoss).isRetryable)
        #expect(MachineTests.error(.dataLoss, token: [1]).isRetryable)
        var trailers = GRPCMetadata()
        trailers.add("tapedeck-end-reason", "READER_TOO_SLOW")
        let slow = TapedeckError(GRPCStatus(.resourceExhausted, "too slow"), trailers: trailers)
        #expect(slow.isRetryable && slow.reason == .readerTooSlow)
        #expect(slow.description == "RESOURCE_EXHAUSTED: too slow (READER_TOO_SLOW)")
    }
}
