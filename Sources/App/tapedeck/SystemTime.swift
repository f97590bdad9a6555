import Glibc
import TimeSource

/// The machine's clocks.
final class SystemTime: TimeSource {
    func wallNs() -> Int64 { SystemTime.read(CLOCK_REALTIME) }
    func monotonicNs() -> Int64 { SystemTime.read(CLOCK_MONOTONIC) }

    func sleep(ns: Int64) {
        guard ns > 0 else { return }
        var left = timespec(tv_sec: Int(ns / 1_000_000_000), tv_nsec: Int(ns % 1_000_000_000))
        var rest = timespec()
        while clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &rest) == EINTR { left = rest }
    }

    private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
