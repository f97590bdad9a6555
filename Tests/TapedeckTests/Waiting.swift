import EventLoop

private let clock = EventLoop(name: "until")

/// Waits for a condition without holding a thread, a minute at most; the test's own expectations fail then.
func until(_ condition: () async throws -> Bool) async rethrows {
    for _ in 0..<6000 {
        if try await condition() { return }
        await withCheckedContinuation { continuation in
            clock.execute { _ = clock.timer(afterMilliseconds: 10) { continuation.resume() } }
        }
    }
}
