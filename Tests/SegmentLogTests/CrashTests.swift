import EventLog
import SegmentLog
import Simulation
import TestSupport
import Testing

struct CrashTests {
    /// Power losses and kills at random writes and syncs, starts that lose power themselves, clean stops between.
    static func live(seed: UInt64) throws -> CrashWorld {
        let world = CrashWorld(seed: seed)
        try world.start(after: nil)
        for _ in 0..<6 {
            var crash: SimulatedDisk.Crash? = world.random.once(in: 3) ? .kill : .powerLoss
            if world.random.once(in: 5) {
                try world.run(steps: 30)
                do { try world.log?.close() } catch { throw CrashWorld.Violation(description: "close: \(error)") }
                crash = nil
            } else {
                world.disk.crash(crash!, atOperation: Int.random(in: 1...60, using: &world.random))
                try world.run(steps: 400)
                if !world.disk.isDown { world.disk.crashNow(crash!) }
                world.crashCount += 1
                world.disk.restart()
            }
            // The start itself may lose power, again and again.
            while world.random.once(in: 3) {
                let kind: SimulatedDisk.Crash = world.random.once(in: 3) ? .kill : .powerLoss
                world.disk.crash(kind, atOperation: Int.random(in: 1...8, using: &world.random))
                let started = try? SegmentLog(disk: world.disk, time: world.time, configuration: world.configuration())
                if !world.disk.isDown { world.disk.crashNow(kind) }
                _ = started
                world.disk.restart()
                crash = crash == .powerLoss ? .powerLoss : kind
            }
            world.log = nil
            try world.start(after: crash)
        }
        return world
    }

    @Test
    func `Whatever a crash at any write or sync leaves, nothing acknowledged is missing and nothing is there twice`() {
        let count: UInt64 = Checkout.isSoak ? 10_000 : 200
        var crashes = 0
        var losses = 0
        for seed in 1...count {
            do {
                let world = try CrashTests.live(seed: seed)
                crashes += world.crashCount
                losses += world.lossCount
            } catch {
                Issue.record("seed \(seed): \(error)")
                return
            }
        }
        // The runs must be hard enough to mean something.
        #expect(losses * 20 > crashes, "\(losses) losses in \(crashes) crashes")
    }
}
