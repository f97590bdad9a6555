/// How reachable something is (https://github.com/grpc/grpc/blob/master/doc/connectivity-semantics-and-api.md).
enum GRPCConnectivity: Equatable {
    /// Not connected, and nobody has asked for it since.
    case idle
    case connecting
    case ready
    /// The last try failed; the next follows after a wait.
    case transientFailure(GRPCStatus)
}

/// The connection to one address, as a state machine: says when to connect, how long to wait, and what its users are
/// told. Pure; the channel performs the actions.
struct GRPCSubchannel {
    enum Event {
        /// Somebody wants a connection.
        case wanted
        /// A connection of this attempt is there and the server has sent its settings.
        case connected(attempt: Int)
        case failed(attempt: Int, GRPCStatus)
        /// The connection ended, or takes no more calls.
        case lost(attempt: Int)
        /// The wait is over.
        case waited
        /// A healthy connection turned unhealthy or back, by its health check.
        case health(attempt: Int, isServing: Bool)
        case removed
    }

    enum Action: Equatable {
        /// Connect, and give up after the time.
        case connect(attempt: Int, withinMilliseconds: Int)
        case wait(milliseconds: Int)
        /// Tell the balancer.
        case report(GRPCConnectivity)
        /// Let go of what is connecting or connected.
        case close
    }

    /// The least time that an attempt is given.
    static let connectMillisecondsMin = 20_000

    private(set) var state = GRPCConnectivity.idle
    /// Numbers the attempts, so that news of an earlier one is not taken for this one's.
    private(set) var attempt = 0
    private let backoff: GRPCBackoff
    private let checksHealth: Bool
    private var failures = 0
    private var startedAt: UInt64 = 0
    private var waitMilliseconds = 0
    private var isRemoved = false
    /// Connected, whether or not the health check lets it be used.
    private var isConnected = false

    init(backoff: GRPCBackoff, checksHealth: Bool = false) {
        self.backoff = backoff
        self.checksHealth = checksHealth
    }

    /// Takes an event; the time is the loop's.
    mutating func handle(
        _ event: Event, nowMilliseconds now: UInt64, using random: inout some RandomNumberGenerator
    ) -> [Action] {
        guard !isRemoved else { return [] }
        switch event {
        case .wanted: return state == .idle ? connect(now, &random) : []
        case .connected(let number): return connected(number)
        case .failed(let number, let status):
            guard number == attempt, state == .connecting, !isConnected else { return [] }
            return fail(status, now)
        case .lost(let number):
            guard number == attempt, isConnected else { return [] }
            isConnected = false
            return set(.idle)
        case .waited:
            guard case .transientFailure = state, !isConnected else { return [] }
            return set(.idle)
        case .health(let number, let isServing):
            guard number == attempt, isConnected else { return [] }
            return set(isServing ? .ready : .transientFailure(GRPCSubchannel.notServing))
        case .removed:
            isRemoved = true
            return isConnected || state == .connecting ? [.close] : []
        }
    }

    private static let notServing = GRPCStatus(.unavailable, "the server says that it is not serving")

    private mutating func connect(_ now: UInt64, _ random: inout some RandomNumberGenerator) -> [Action] {
        attempt += 1
        startedAt = now
        waitMilliseconds = backoff.milliseconds(afterFailures: failures + 1, using: &random)
        let limit = max(waitMilliseconds, GRPCSubchannel.connectMillisecondsMin)
        return [.connect(attempt: attempt, withinMilliseconds: limit)] + set(.connecting)
    }

    private mutating func connected(_ number: Int) -> [Action] {
        guard number == attempt, state == .connecting, !isConnected else { return [] }
        failures = 0
        isConnected = true
        return checksHealth ? [] : set(.ready)
    }

    /// The wait counts from the attempt's start, so that a slow failure is not waited for twice.
    private mutating func fail(_ status: GRPCStatus, _ now: UInt64) -> [Action] {
        failures += 1
        let elapsed = Int(min(now &- startedAt, UInt64(waitMilliseconds)))
        return [.wait(milliseconds: max(0, waitMilliseconds - elapsed))] + set(.transientFailure(status))
    }

    private mutating func set(_ new: GRPCConnectivity) -> [Action] {
        guard state != new else { return [] }
        state = new
        return [.report(new)]
    }
}
