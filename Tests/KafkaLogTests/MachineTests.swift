import EventLog
import Testing

@Suite struct MachineTests {
    @Test func `Ranges that finish in any order are committed as far as they are contiguous`() {
        var finished = FinishedOffsets(from: 10)
        #expect(finished.finish(20..<30) == 10)
        #expect(finished.finish(40..<50) == 10)
        #expect(finished.finish(30..<40) == 10)
        #expect(finished.waitingCount == 1)
        #expect(finished.finish(10..<20) == 50)
        #expect(finished.waitingCount == 0)
        #expect(finished.finish(0..<45) == 50)
    }
}
