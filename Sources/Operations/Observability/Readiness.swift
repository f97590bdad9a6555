import Synchronization

/// Whether the process can serve: named checks, each of which says why not. Safe to use from any thread.
public final class Readiness: Sendable {
    private struct Check {
        let name: String
        let objection: @Sendable () -> String?
    }

    private let checks = Mutex<[Check]>([])

    public init() {}

    /// `objection` is asked at each probe, on the prober's thread: nil while all is well. It must not wait.
    public func add(_ name: String, _ objection: @escaping @Sendable () -> String?) {
        checks.withLock { $0.append(Check(name: name, objection: objection)) }
    }

    /// Each check with its objection, in the order added.
    public func state() -> [(name: String, objection: String?)] {
        checks.withLock { $0 }.map { ($0.name, $0.objection()) }
    }

    /// No check objects.
    public var isReady: Bool { state().allSatisfy { $0.objection == nil } }
}
