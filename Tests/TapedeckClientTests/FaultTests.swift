import EdgeService
import FaultSchedule
import GRPC
import MarketProto
import Synchronization
import Testing

@testable import TapedeckClient

/// The client against an edge that makes faults.
@Suite(.timeLimit(.minutes(1)))
struct FaultTests {
    /// What the edge says that it did.
    private final class Made: Sendable {
        private let faults = Mutex<[EdgeFaults.Applied]>([])
        func add(_ fault: EdgeFaults.Applied) { faults.withLock { $0.append(fault) } }
        var all: [EdgeFaults.Applied] { faults.withLock { $0 } }
        func count(_ fault: Fault) -> Int { all.count { $0.scheduled.fault == fault } }
    }

    private static func faults(seed: UInt64, _ rates: [Fault: Int], _ made: Made) -> EdgeFaults {
        var all = FaultRates()
        for fault in Fault.allCases { all[fault] = rates[fault] ?? 0 }
        var configuration = EdgeFaults.Configuration(schedule: FaultSchedule(seed: seed, rates: all))
        configuration.stallMilliseconds = 20
        return EdgeFaults(configuration) { made.add($0) }
    }

    /// Sequences delivered and reported as missing: each once, and in order, whatever happens on the way.
    private func expectAccount(_ log: ClientTests.Log.Content, through last: UInt64) {
        var next: UInt64 = 1
        var gaps = log.gaps.map(\.sequences)[...]
        for sequence in log.sequences {
            while let gap = gaps.first, gap.lowerBound == next {
                next = gap.upperBound + 1
                gaps.removeFirst()
            }
            #expect(sequence == next)
            next = sequence + 1
        }
        #expect(next == last + 1 && gaps.isEmpty)
    }

    private func run(
        seed: UInt64, _ rates: [Fault: Int], ticks: Int = 4000
    ) async throws -> (log: ClientTests.Log.Content, made: Made, last: UInt64) {
        let made = Made()
        let world = try EdgeWorld(faults: FaultTests.faults(seed: seed, rates, made))
        defer { world.stop() }
        let client = try ClientTests.client(port: world.port)
        defer { client.close() }
        try world.publish(1)
        let log = ClientTests.Log()
        let task = ClientTests.read(client.prices(["A"], exchange: "X"), into: log)
        await ClientTests.wait { log.now.sequences.count == 1 || !made.all.isEmpty }
        for _ in 0..<(ticks / 100) { try world.publish(100) }
        // The last may be what is left out: more come until one is seen.
        var last = UInt64(ticks + 1)
        while log.now.sequences.last != last, !log.now.isEnded {
            await Task.yield()
            let seen = log.now.sequences.last ?? 0
            if seen + 2 >= last {
                try world.publish(1)
                last += 1
                await ClientTests.wait { (log.now.sequences.last ?? 0) > seen || log.now.isEnded }
            }
        }
        task.cancel()
        await task.value
        return (log.now, made, last)
    }

    @Test func `Messages left out, sent twice and late are found: nothing comes twice, everything missing is named`()
        async throws
    {
        let (log, made, last) = try await run(
            seed: 3, [.drop: 20_000, .duplicate: 20_000, .reorder: 20_000, .crossed: 20_000])
        expectAccount(log, through: last)
        for fault in [Fault.drop, .duplicate, .reorder] { #expect(made.count(fault) > 10, "\(fault)") }
        // What was left out, and what came after the one behind it, is missing; nothing else is.
        let missing = Set(log.gaps.flatMap { Array($0.sequences) })
        let expected = made.all.filter { [.drop, .reorder].contains($0.scheduled.fault) }.map(\.sequence)
        #expect(missing.isSubset(of: Set(expected)))
        #expect(Set(made.all.filter { $0.scheduled.fault == .drop }.map(\.sequence)).isSubset(of: missing))
        #expect(log.interruptions.isEmpty)
    }

    @Test func `Stalls, resets and connections that end are survived, and cost nothing`() async throws {
        let (log, made, last) = try await run(seed: 18, [.stall: 500, .reset: 700, .goAway: 300], ticks: 2000)
        expectAccount(log, through: last)
        #expect(log.gaps.isEmpty)
        #expect(made.count(.reset) > 0 && made.count(.goAway) > 1 && made.count(.stall) > 0)
        #expect(log.interruptions.count >= made.count(.reset))
    }

    @Test func `A message that is too large ends the sequence with RESOURCE_EXHAUSTED`() async throws {
        let (log, made, _) = try await run(seed: 2, [.oversize: 2000])
        #expect(log.isEnded && log.end?.code == .resourceExhausted)
        #expect(made.count(.oversize) == 1)
        #expect(Set(log.sequences).count == log.sequences.count && log.gaps.isEmpty)
    }

    @Test func `The same seed makes the same faults at the same updates`() async throws {
        let rates: [Fault: Int] = [.drop: 20_000, .duplicate: 20_000, .reorder: 20_000]
        let one = try await run(seed: 9, rates, ticks: 2000)
        let other = try await run(seed: 9, rates, ticks: 2000)
        let count = min(one.made.all.count, other.made.all.count)
        #expect(count > 50)
        #expect(one.made.all.prefix(count) == other.made.all.prefix(count))
    }
}
