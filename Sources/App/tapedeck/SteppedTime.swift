import Glibc
import Synchronization
import TimeSource

/// The machine's clocks, with a wall clock that is wrong by as many seconds as a file says, read ten times a second: a
/// clock that somebody sets, for `drill clock`.
final class SteppedTime: TimeSource {
    private static let readIntervalNs: Int64 = 100_000_000

    private let time = SystemTime()
    private let file: String
    private let offsetNs = Atomic<Int64>(0)
    private let readNs = Atomic<Int64>(0)

    init(file: String) { self.file = file }

    func wallNs() -> Int64 {
        let nowNs = time.monotonicNs()
        let lastNs = readNs.load(ordering: .relaxed)
        let isDue = nowNs - lastNs > SteppedTime.readIntervalNs
        if isDue, readNs.compareExchange(expected: lastNs, desired: nowNs, ordering: .relaxed).exchanged { read() }
        return time.wallNs() + offsetNs.load(ordering: .relaxed)
    }

    func monotonicNs() -> Int64 { time.monotonicNs() }
    func sleep(ns: Int64) { time.sleep(ns: ns) }

    /// What is no number of seconds within a thousand years changes nothing.
    private func read() {
        guard let stream = fopen(file, "r") else { return }
        defer { fclose(stream) }
        var text = [CChar](repeating: 0, count: 32)
        guard fgets(&text, Int32(text.count), stream) != nil else { return }
        let digits = text.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }
        guard let seconds = Int64(String(decoding: digits, as: UTF8.self)), abs(seconds) < 31_536_000_000 else {
            return
        }
        offsetNs.store(seconds * 1_000_000_000, ordering: .relaxed)
    }
}
