import Synchronization
import Testing

@testable import Observability

/// A clock that is set, and lines that are kept.
private final class Recorder: Sendable {
    let now = Mutex<Int64>(1_723_109_400_123_456_789)
    let lines = Mutex<[String]>([])

    func diagnostics(level: Diagnostics.Level = .info, format: Diagnostics.Format = .text) -> Diagnostics {
        Diagnostics(
            level: level, format: format, periodNs: 1000, wallNs: { self.now.withLock { $0 } },
            write: { line in self.lines.withLock { $0.append(line) } })
    }

    func advance(_ ns: Int64) { now.withLock { $0 += ns } }
    var written: [String] { lines.withLock { $0 } }
}

struct DiagnosticsTests {
    @Test func `A line has time, level, component and message`() {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics()
        diagnostics.log(.warning, "feed", "book crossed")
        diagnostics.log(.debug, "feed", "not worth a line")
        #expect(recorder.written == ["2024-08-08T09:30:00.123Z warning feed: book crossed\n"])
    }

    @Test func `A kind is written once per period, and the next line says how many were not`() throws {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics()
        for i in 0..<100 { diagnostics.log(.warning, "feed", kind: "bad_line", "line \(i)") }
        diagnostics.log(.warning, "feed", kind: "crossed", "other kinds are not held back")
        recorder.advance(999)
        diagnostics.log(.warning, "feed", kind: "bad_line", "still the same period")
        recorder.advance(1)
        diagnostics.log(.warning, "feed", kind: "bad_line", "line 101")
        try #require(recorder.written.count == 3)
        #expect(recorder.written[0].hasSuffix("feed: line 0\n"))
        #expect(recorder.written[2].hasSuffix("feed: line 101 (and 100 more like it)\n"))
        #expect(diagnostics.count(kind: "bad_line") == 102)
    }

    @Test func `What is held back is told at the end, once, in order of name`() {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics(format: .json)
        let prefix = #"{"time":"2024-08-08T09:30:00.123Z","level":"error","component":"x","#
        for kind in ["b", "a", "b", "a", "b", "c"] { diagnostics.log(.error, "x", kind: kind, "m") }
        diagnostics.flush()
        diagnostics.flush()
        let a = prefix + #""kind":"a","message":"a","suppressed":1}"# + "\n"
        let b = prefix + #""kind":"b","message":"b","suppressed":2}"# + "\n"
        #expect(recorder.written.dropFirst(3) == [a, b])
    }

    @Test func `A clock that steps back does not silence a kind`() {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics()
        diagnostics.log(.info, "x", kind: "k", "one")
        recorder.advance(-5_000_000)
        diagnostics.log(.info, "x", kind: "k", "two")
        #expect(recorder.written.count == 2)
    }

    @Test func `Input cannot leave its line`() {
        let recorder = Recorder()
        recorder.diagnostics().log(.info, "x", "a\nb\u{1b}[2J\u{9b}\u{2028}é")
        recorder.diagnostics(format: .json).log(.info, "x", "a\"\\\n\u{1}")
        #expect(recorder.written[0].hasSuffix("x: a\\nb\\u001b[2J\\u009b\\u2028é\n"))
        #expect(recorder.written[1].hasSuffix(#""message":"a\"\\\n\u0001"}"# + "\n"))
        recorder.diagnostics().log(.info, "x", String(repeating: "y", count: 100_000))
        #expect(recorder.written[2].utf8.count < 2100)
    }

    @Test func `The number of kinds is bounded`() {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics()
        for i in 0..<(Diagnostics.kindCountMax + 100) { diagnostics.log(.info, "x", kind: "k\(i)", "m") }
        #expect(recorder.written.count == Diagnostics.kindCountMax + 1)
        #expect(diagnostics.count(kind: "other") == 100)
    }

    @Test func `Many threads lose no count`() async {
        let recorder = Recorder()
        let diagnostics = recorder.diagnostics()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask { for _ in 0..<1000 { diagnostics.log(.info, "x", kind: "k", "m") } }
            }
        }
        #expect(diagnostics.count(kind: "k") == 8000)
        #expect(recorder.written.count == 1)
    }

    @Test func `Times are UTC, before and after the epoch`() {
        #expect(UTCText.milliseconds(0) == "1970-01-01T00:00:00.000Z")
        #expect(UTCText.milliseconds(-1) == "1969-12-31T23:59:59.999Z")
        #expect(UTCText.milliseconds(951_782_400_000_000_000) == "2000-02-29T00:00:00.000Z")
        #expect(UTCText.milliseconds(.max) == "2262-04-11T23:47:16.854Z")
        #expect(UTCText.milliseconds(.min) == "1677-09-21T00:12:43.145Z")
    }
}
