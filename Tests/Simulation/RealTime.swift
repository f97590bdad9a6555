import Glibc
import TimeSource

/// The machine's clocks, for tests on real files.
public final class RealTime: TimeSource {
    public init() {}

    public func wallNs() -> Int64 { RealTime.read(CLOCK_REALTIME) }
    public func monotonicNs() -> Int64 { RealTime.read(CLOCK_MONOTONIC) }

    public func sleep(ns: Int64) {
        var wanted = timespec(tv_sec: Int(ns / 1_000_000_000), tv_nsec: Int(ns % 1_000_000_000))
        var left = timespec()
        while nanosleep(&wanted, &left) != 0, errno == EINTR { wanted = left }
    }

    private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
