import Foundation
import Testing

@testable import CassandraStore

struct MonitorTests {
    /// Guarded by the monitor.
    private final class Count: @unchecked Sendable {
        var value = 0
        var returned = 0
        var asked = 0
    }

    private func apart(_ body: @escaping @Sendable () -> Bool) async -> Bool {
        await withCheckedContinuation { done in
            Thread.detachNewThread { done.resume(returning: body()) }
        }
    }

    @Test func `Each of those who wait goes on when what it waits for is so, and is asked by who wakes`() async {
        let (monitor, count) = (Monitor(), Count())
        @Sendable func wait(for goal: Int) -> Bool {
            monitor.withLock {
                let isSo = monitor.wait(milliseconds: 60_000) {
                    count.asked += 1
                    return count.value >= goal
                }
                count.returned += 1
                monitor.wake()
                return isSo
            }
        }
        // Each goal wakes one, and the next comes when that one has gone on.
        @Sendable func raise() -> Bool {
            (1...8).allSatisfy { goal in
                monitor.withLock {
                    count.value = goal
                    monitor.wake()
                    return monitor.wait(milliseconds: 60_000) { count.returned >= goal }
                }
            }
        }
        await withTaskGroup(of: Bool.self) { group in
            for goal in 1...8 { group.addTask { await apart { wait(for: goal) } } }
            group.addTask { await apart { raise() } }
            for await isSo in group { #expect(isSo) }
        }
        #expect(count.returned == 8 && count.asked >= 8)
    }

    /// Without it a waiter would still look every 20 ms.
    @Test func `Who wakes asks what the others wait for`() async {
        let (monitor, count) = (Monitor(), Count())
        async let isSo = apart {
            let waiter = pthread_self()
            return monitor.withLock {
                monitor.wait(milliseconds: 30_000) {
                    if pthread_self() != waiter { count.asked += 1 }
                    count.value = 1
                    return count.asked > 0
                }
            }
        }
        async let hasWoken = apart {
            monitor.withLock {
                let waits = monitor.wait(milliseconds: 30_000) { count.value == 1 }
                monitor.wake()
                return waits
            }
        }
        #expect(await isSo)
        #expect(await hasWoken)
        #expect(count.asked == 1)
    }

    @Test func `What does not become so is waited for as long as was said`() {
        let monitor = Monitor()
        #expect(!monitor.withLock { monitor.wait(milliseconds: 30) { false } })
        #expect(!monitor.withLock { monitor.wait(milliseconds: 0) { false } })
        #expect(monitor.withLock { monitor.wait(milliseconds: 0) { true } })
        // Nobody waits any more.
        monitor.withLock { monitor.wake() }
    }
}
