/// How a process ended.
enum ProcessEnd: Hashable {
    case exited(Int32)
    case killed(signal: Int32)
}

/// Whether a platform that ended is started again, and when. Pure: it is told what happened and how long it had lived.
///
/// What exits by itself has said why, and trying again would say the same; what is killed, by a trap or from outside,
/// is started again, later each time. A platform that never lives long is given up: clients that wait in its socket
/// would wait for ever.
struct RestartPolicy {
    enum Decision: Hashable {
        case start(afterMilliseconds: Int)
        case end(status: Int32)
        case giveUp
    }

    static let firstMilliseconds = 100
    static let longestMilliseconds = 10_000
    /// One that has lived so long has not crashed because of what the ones before it crashed of.
    static let healthyMilliseconds = 60_000
    /// Crashes in a row.
    static let crashesMax = 10

    /// Since the start.
    private(set) var crashes = 0
    private(set) var restarts = 0
    private var inRow = 0

    mutating func ended(
        _ end: ProcessEnd, livedMilliseconds: Int, isStopping: Bool, isRestarting: Bool
    ) -> Decision {
        switch end {
        case .exited(0) where isRestarting && !isStopping:
            restarts += 1
            inRow = 0
            return .start(afterMilliseconds: 0)
        case .exited(let status): return .end(status: status)
        case .killed where isStopping: return .end(status: 1)
        case .killed:
            crashes += 1
            inRow = livedMilliseconds >= RestartPolicy.healthyMilliseconds ? 1 : inRow + 1
            guard inRow <= RestartPolicy.crashesMax else { return .giveUp }
            let wait = RestartPolicy.firstMilliseconds << (inRow - 1)
            return .start(afterMilliseconds: min(wait, RestartPolicy.longestMilliseconds))
        }
    }
}
