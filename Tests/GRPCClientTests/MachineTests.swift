import Simulation
import Testing

@testable import GRPC

/// Subchannels, balancers, retries and times as pure machines: no socket, no clock.
struct MachineTests {
    private static let refused = GRPCStatus(.unavailable, "refused")

    // MARK: Backoff

    @Test func `Waits grow by the published factor up to the limit, within the jitter`() {
        var random = SeededRandom(seed: 1)
        var plain = GRPCBackoff()
        plain.jitterPercent = 0
        let waits = (1...14).map { plain.milliseconds(afterFailures: $0, using: &random) }
        #expect(Array(waits.prefix(5)) == [1000, 1600, 2560, 4096, 6553])
        #expect(waits.last == 120_000)
        #expect(plain.milliseconds(afterFailures: 1_000_000_000, using: &random) == 120_000)
        let jittered = (0..<1000).map { _ in GRPCBackoff().milliseconds(afterFailures: 2, using: &random) }
        #expect(jittered.allSatisfy { (1280...1920).contains($0) })
        #expect(Set(jittered).count > 100)
    }

    // MARK: Subchannel

    private struct Driver {
        var machine: GRPCSubchannel
        var random = SeededRandom(seed: 1)
        var now: UInt64 = 0

        init(checksHealth: Bool = false) {
            var backoff = GRPCBackoff()
            backoff.jitterPercent = 0
            machine = GRPCSubchannel(backoff: backoff, checksHealth: checksHealth)
        }

        mutating func handle(_ event: GRPCSubchannel.Event) -> [GRPCSubchannel.Action] {
            machine.handle(event, nowMilliseconds: now, using: &random)
        }
    }

    @Test func `A subchannel connects when wanted and is ready once connected`() {
        var driver = Driver()
        #expect(driver.handle(.wanted) == [.connect(attempt: 1, withinMilliseconds: 20_000), .report(.connecting)])
        #expect(driver.handle(.wanted) == [])
        #expect(driver.handle(.connected(attempt: 1)) == [.report(.ready)])
        #expect(driver.handle(.lost(attempt: 1)) == [.report(.idle)])
        #expect(driver.handle(.lost(attempt: 1)) == [])
    }

    @Test func `Failures wait longer each time, counted from the attempt's start, and a success starts over`() {
        var driver = Driver()
        _ = driver.handle(.wanted)
        driver.now = 300
        let failed = GRPCConnectivity.transientFailure(MachineTests.refused)
        #expect(
            driver.handle(.failed(attempt: 1, MachineTests.refused)) == [.wait(milliseconds: 700), .report(failed)])
        #expect(driver.handle(.wanted) == [])
        driver.now = 1000
        #expect(driver.handle(.waited) == [.report(.idle)])
        _ = driver.handle(.wanted)
        #expect(driver.handle(.failed(attempt: 2, MachineTests.refused)).first == .wait(milliseconds: 1600))
        _ = driver.handle(.waited)
        _ = driver.handle(.wanted)
        #expect(driver.handle(.connected(attempt: 3)) == [.report(.ready)])
        _ = driver.handle(.lost(attempt: 3))
        _ = driver.handle(.wanted)
        #expect(driver.handle(.failed(attempt: 4, MachineTests.refused)).first == .wait(milliseconds: 1000))
    }

    @Test func `News of an earlier attempt changes nothing`() {
        var driver = Driver()
        _ = driver.handle(.wanted)
        _ = driver.handle(.failed(attempt: 1, MachineTests.refused))
        _ = driver.handle(.waited)
        _ = driver.handle(.wanted)
        #expect(driver.handle(.failed(attempt: 1, MachineTests.refused)) == [])
        #expect(driver.handle(.connected(attempt: 1)) == [])
        #expect(driver.handle(.lost(attempt: 1)) == [])
        #expect(driver.machine.state == .connecting)
        #expect(driver.handle(.removed) == [.close])
        #expect(driver.handle(.connected(attempt: 2)) == [])
    }

    @Test func `With a health check a connection is ready when the server says so`() {
        var driver = Driver(checksHealth: true)
        _ = driver.handle(.wanted)
        #expect(driver.handle(.connected(attempt: 1)) == [])
        #expect(driver.handle(.health(attempt: 1, isServing: true)) == [.report(.ready)])
        guard case .report(.transientFailure(let status))? = driver.handle(.health(attempt: 1, isServing: false)).first
        else {
            Issue.record("an unhealthy server stays in use")
            return
        }
        #expect(status.code == .unavailable)
        #expect(driver.handle(.waited) == [])
        #expect(driver.handle(.health(attempt: 1, isServing: true)) == [.report(.ready)])
    }

    // MARK: Balancers

    private static let addresses = (1...3).map { GRPCAddress(host: "10.0.0.\($0)", port: 1) }

    @Test func `pick_first tries the addresses in turn and stays with the first that answers`() {
        var balancer = GRPCPickFirst()
        #expect(balancer.update(MachineTests.addresses).count == 3)
        var (pick, actions) = balancer.pick()
        #expect(pick == .wait && actions == [.connect(0)])
        #expect(balancer.subchannel(0, became: .connecting) == [])
        #expect(balancer.subchannel(0, became: .transientFailure(MachineTests.refused)) == [.connect(1)])
        (pick, actions) = balancer.pick()
        #expect(pick == .wait && actions == [])
        #expect(balancer.subchannel(1, became: .ready) == [.remove(0), .remove(2)])
        #expect(balancer.pick().0 == .subchannel(1))
        #expect(balancer.update(Array(MachineTests.addresses.reversed())) == [])
        // Its server is gone from the name: everything begins again.
        let others = [GRPCAddress(host: "10.0.0.9", port: 1)]
        #expect(balancer.update(others) == [.remove(1), .create(3, others[0]), .connect(3)])
        #expect(balancer.pick().0 == .wait)
    }

    @Test func `pick_first fails calls once all addresses failed, and recovers by itself`() {
        var balancer = GRPCPickFirst()
        _ = balancer.update(Array(MachineTests.addresses.prefix(2)))
        _ = balancer.pick()
        let failed = GRPCConnectivity.transientFailure(MachineTests.refused)
        #expect(balancer.subchannel(0, became: failed) == [.connect(1)])
        #expect(balancer.subchannel(1, became: failed) == [.resolve])
        #expect(balancer.pick().0 == .fail(MachineTests.refused))
        #expect(balancer.subchannel(0, became: .idle) == [.connect(0)])
        #expect(balancer.pick().0 == .fail(MachineTests.refused))
        #expect(balancer.subchannel(0, became: .ready) == [.remove(1)])
        #expect(balancer.pick().0 == .subchannel(0))
        // A lost connection is made again by the next call, and the name is asked for.
        #expect(balancer.subchannel(0, became: .idle).contains(.resolve))
        let (pick, actions) = balancer.pick()
        #expect(pick == .wait && actions.count == 1)
    }

    @Test func `round_robin gives calls to all that are ready, in turn`() {
        var balancer = GRPCRoundRobin(start: 5)
        let actions = balancer.update(MachineTests.addresses)
        #expect(actions.contains(.connect(0)) && actions.contains(.connect(1)) && actions.contains(.connect(2)))
        #expect(balancer.pick().0 == .wait)
        for id in 0..<3 { _ = balancer.subchannel(id, became: .ready) }
        var counts: [GRPCPick: Int] = [:]
        for _ in 0..<300 { counts[balancer.pick().0, default: 0] += 1 }
        #expect(counts == [.subchannel(0): 100, .subchannel(1): 100, .subchannel(2): 100])
        // One goes: it is connected again at once, and the others share the calls.
        #expect(balancer.subchannel(1, became: .idle) == [.resolve, .connect(1)])
        #expect(balancer.subchannel(1, became: .transientFailure(MachineTests.refused)) == [.resolve])
        for _ in 0..<100 { #expect(balancer.pick().0 != .subchannel(1)) }
    }

    @Test func `round_robin follows the name, and fails calls only when all have failed`() {
        var balancer = GRPCRoundRobin(start: 0)
        _ = balancer.update(Array(MachineTests.addresses.prefix(2)))
        let failed = GRPCConnectivity.transientFailure(MachineTests.refused)
        _ = balancer.subchannel(0, became: failed)
        #expect(balancer.pick().0 == .wait)
        _ = balancer.subchannel(1, became: failed)
        #expect(balancer.pick().0 == .fail(MachineTests.refused))
        // Trying again does not make calls wait.
        #expect(balancer.subchannel(0, became: .idle) == [.connect(0)])
        #expect(balancer.pick().0 == .fail(MachineTests.refused))
        let new = [MachineTests.addresses[1], MachineTests.addresses[2], MachineTests.addresses[2]]
        #expect(balancer.update(new) == [.remove(0), .create(2, MachineTests.addresses[2]), .connect(2)])
        #expect(balancer.subchannel(0, became: .ready) == [])
        #expect(balancer.pick().0 == .wait)
    }

    // MARK: Retries

    @Test func `Only statuses of the policy are tried again, so often, and pushback decides when`() {
        var random = SeededRandom(seed: 3)
        var throttle = GRPCRetryThrottle(tokensMax: 1000)
        func decide(
            _ code: GRPCStatus.Code, attempts: Int = 1, _ pushback: GRPCPushback = .absent
        ) -> GRPCRetryDecision {
            var machine = GRPCRetryMachine(GRPCRetryPolicy())
            for _ in 0..<attempts { machine.attemptBegan() }
            return machine.ended(GRPCStatus(code), pushback: pushback, throttle: &throttle, using: &random)
        }
        func wait(_ decision: GRPCRetryDecision) -> Int? {
            if case .retry(let milliseconds) = decision { return milliseconds }
            return nil
        }
        #expect((80...120).contains(wait(decide(.unavailable)) ?? 0))
        #expect((160...240).contains(wait(decide(.unavailable, attempts: 2)) ?? 0))
        #expect((320...480).contains(wait(decide(.unavailable, attempts: 3)) ?? 0))
        #expect(decide(.unavailable, attempts: 4) == .finish)
        #expect(decide(.internalError) == .finish)
        #expect(decide(.deadlineExceeded) == .finish)
        #expect(decide(.resourceExhausted) == .finish)
        #expect(decide(.resourceExhausted, .after(milliseconds: 7)) == .retry(afterMilliseconds: 7))
        #expect(decide(.unavailable, .never) == .finish)
        #expect(decide(.unavailable, .after(milliseconds: 0)) == .retry(afterMilliseconds: 0))
        #expect(decide(.internalError, .after(milliseconds: 0)) == .finish)
    }

    @Test func `Pushback that is no number, or below zero, forbids the retry`() {
        for (text, expected) in [
            ("5", GRPCPushback.after(milliseconds: 5)), ("0", .after(milliseconds: 0)), ("-1", .never), ("x", .never),
            ("", .never), ("99999999999999999999", .never),
        ] {
            var trailers = GRPCMetadata()
            trailers.add("grpc-retry-pushback-ms", text)
            #expect(GRPCPushback(trailers) == expected)
        }
        #expect(GRPCPushback(GRPCMetadata()) == .absent)
    }

    @Test func `A channel whose calls mostly fail retries no more until enough have succeeded`() {
        var random = SeededRandom(seed: 4)
        var throttle = GRPCRetryThrottle(tokensMax: 10, ratioThousandths: 100)
        var machine = GRPCRetryMachine(GRPCRetryPolicy())
        machine.attemptBegan()
        var retried = 0
        for _ in 0..<20 {
            let decision = machine.ended(
                GRPCStatus(.unavailable), pushback: .absent, throttle: &throttle, using: &random)
            if decision != .finish { retried += 1 }
        }
        #expect(retried == 4)
        for _ in 0..<50 { throttle.succeeded() }
        #expect(!throttle.allowsRetry)
        throttle.succeeded()
        #expect(throttle.allowsRetry)
    }

    @Test func `Hedging begins attempts one after the other, and ends with the first answer or the last failure`() {
        var throttle = GRPCRetryThrottle()
        var policy = GRPCHedgingPolicy(delayMilliseconds: 30)
        policy.attemptsMax = 3
        var machine = GRPCHedgingMachine(policy)
        #expect(machine.attemptBegan() == 30)
        #expect(machine.mayBegin(throttle))
        #expect(machine.attemptBegan() == 30)
        let lost = GRPCStatus(.unavailable)
        #expect(machine.ended(lost, pushback: .absent, throttle: &throttle) == .retry(afterMilliseconds: 0))
        #expect(machine.attemptBegan() == nil)
        #expect(machine.ended(lost, pushback: .absent, throttle: &throttle) == .waitForOthers)
        #expect(machine.ended(lost, pushback: .absent, throttle: &throttle) == .finish)
        var other = GRPCHedgingMachine(policy)
        _ = other.attemptBegan()
        #expect(other.ended(GRPCStatus(.notFound), pushback: .absent, throttle: &throttle) == .finish)
    }
}
