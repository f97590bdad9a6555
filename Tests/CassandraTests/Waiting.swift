import EventLoop
import Foundation
import TimeSource

private let clock = EventLoop(name: "until")

/// Waits for a condition without holding a thread, a minute at most; the test's own expectations fail then.
func until(_ condition: () async throws -> Bool) async rethrows {
    for _ in 0..<6000 {
        if try await condition() { return }
        await pause(milliseconds: 10)
    }
}

/// What a client does between tries.
func pause(milliseconds: Int) async {
    await withCheckedContinuation { continuation in
        clock.execute { _ = clock.timer(afterMilliseconds: milliseconds) { continuation.resume() } }
    }
}

/// A clock that stands.
final class FixedTime: TimeSource {
    func wallNs() -> Int64 { 1_700_000_000_000_000_000 }
    func monotonicNs() -> Int64 { 0 }
    func sleep(ns: Int64) {}
}

/// The machine's clocks.
final class SystemClock: TimeSource {
    func wallNs() -> Int64 { Int64(Date().timeIntervalSince1970 * 1e9) }
    func monotonicNs() -> Int64 { Int64(ProcessInfo.processInfo.systemUptime * 1e9) }
    func sleep(ns: Int64) { poll(nil, 0, Int32(clamping: ns / 1_000_000)) }
}
