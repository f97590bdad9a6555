// Who may call, and how much: proves callers (bearer tokens, client certificates), gives their permissions to the call,
// and keeps each within its rates. Stands in the server's row of interceptors; the access file is read by the App.

import EventLoop
import GRPC
import Synchronization

/// Which callers need no proof.
public enum AnonymousAccess: String, Sendable, CaseIterable {
    /// Those that connect from this machine.
    case loopback
    case everyone
    case nobody
}

/// How often a call was refused, by reason.
public struct AccessCounters: Sendable, Hashable {
    /// No proof, or a wrong one.
    public var unauthenticated: UInt64 = 0
    /// The caller may not call the method.
    public var denied: UInt64 = 0
    /// More calls than its rate.
    public var rateLimited: UInt64 = 0
    /// More streams at once than it may have.
    public var streamLimited: UInt64 = 0
    /// Streams of requests that were held back for a while.
    public var delayed: UInt64 = 0
}

/// The rules of one server, shared by its loops. Safe to use from any thread.
public final class AccessPolicy: Sendable {
    /// Identities from certificates without a line of their own that are kept; a new one then takes the place of all
    /// that have no stream.
    private static let certificatesMax = 10_000

    enum Refusal: Int, CaseIterable {
        case unauthenticated, denied, rate, streams, delayed
    }

    private struct State {
        var callers: Callers
        var unlisted: [String: Caller] = [:]
        var interceptors: [(loop: any Loop, interceptor: LoopConfined<AccessInterceptor>)] = []
    }

    let anonymous: AnonymousAccess
    private let state: Mutex<State>
    private let unauthenticated = Atomic<UInt64>(0)
    private let denied = Atomic<UInt64>(0)
    private let rateLimited = Atomic<UInt64>(0)
    private let streamLimited = Atomic<UInt64>(0)
    private let delayed = Atomic<UInt64>(0)

    /// Without a file, callers that `anonymous` names and those with a certificate that the connection verified may do
    /// everything. `limits` are those of callers whom no line of a file names.
    public init(anonymous: AnonymousAccess, limits: CallerLimits = CallerLimits()) {
        self.anonymous = anonymous
        state = Mutex(State(callers: Callers(limits: limits)))
    }

    /// The file's lines take effect: at once for new calls; streams of callers whose line is gone or has changed end.
    /// From now on nobody without a line may call.
    public func use(_ file: AccessFile) {
        let interceptors = state.withLock { state in
            state.callers = Callers(file, before: state.callers)
            state.unlisted = [:]
            return state.interceptors
        }
        for (loop, interceptor) in interceptors {
            loop.execute { interceptor.value.callersChanged() }
        }
    }

    /// Its interceptor on a loop: called there, once. Behind those that only watch, so that they see what is refused.
    public func makeInterceptor(loop: any Loop) -> any ServerInterceptor {
        let made = state.withLock { state -> LoopConfined<AccessInterceptor> in
            let interceptor = LoopConfined(AccessInterceptor(self, loop, state.callers))
            state.interceptors.append((loop, interceptor))
            return interceptor
        }
        return made.value
    }

    public var counters: AccessCounters {
        AccessCounters(
            unauthenticated: unauthenticated.load(ordering: .relaxed), denied: denied.load(ordering: .relaxed),
            rateLimited: rateLimited.load(ordering: .relaxed), streamLimited: streamLimited.load(ordering: .relaxed),
            delayed: delayed.load(ordering: .relaxed))
    }

    func count(_ refusal: Refusal) {
        switch refusal {
        case .unauthenticated: unauthenticated.add(1, ordering: .relaxed)
        case .denied: denied.add(1, ordering: .relaxed)
        case .rate: rateLimited.add(1, ordering: .relaxed)
        case .streams: streamLimited.add(1, ordering: .relaxed)
        case .delayed: delayed.add(1, ordering: .relaxed)
        }
    }

    var callers: Callers { state.withLock { $0.callers } }

    /// The caller behind a certificate that has no line of its own; nil where such may do nothing.
    func unlisted(_ name: String) -> Caller? {
        state.withLock { state in
            guard let entry = state.callers.anyCertificate else { return nil }
            if let caller = state.unlisted[name] { return caller }
            if state.unlisted.count >= AccessPolicy.certificatesMax {
                state.unlisted = state.unlisted.filter { $0.value.openStreams.load(ordering: .relaxed) > 0 }
            }
            let caller = Caller(
                CallerIdentity(name: name, source: .certificate), .certificate, entry.permissions, entry.limits)
            state.unlisted[name] = caller
            return caller
        }
    }
}
