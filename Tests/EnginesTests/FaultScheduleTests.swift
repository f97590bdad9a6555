import FaultSchedule
import Testing

struct FaultScheduleTests {
    private static let all: FaultRates = {
        var rates = FaultRates()
        for (place, fault) in Fault.allCases.enumerated() { rates[fault] = 1000 * (place + 1) }
        return rates
    }()

    @Test func `The same seed makes the same faults, another seed others`() {
        let first = FaultSchedule(seed: 7, rates: FaultScheduleTests.all).faults(stream: 3, messages: 20_000)
        #expect(first == FaultSchedule(seed: 7, rates: FaultScheduleTests.all).faults(stream: 3, messages: 20_000))
        #expect(first != FaultSchedule(seed: 8, rates: FaultScheduleTests.all).faults(stream: 3, messages: 20_000))
        #expect(first != FaultSchedule(seed: 7, rates: FaultScheduleTests.all).faults(stream: 4, messages: 20_000))
        // A place of the schedule that may not move: users keep seeds.
        #expect(first.first?.json == "{\"stream\":3,\"message\":5,\"fault\":\"crossed\"}")
    }

    @Test func `What is asked of a message does not depend on what was asked before`() {
        let schedule = FaultSchedule(seed: 1, rates: FaultScheduleTests.all)
        let listed = schedule.faults(stream: 1, messages: 5000)
        for fault in listed.reversed() {
            #expect(schedule.fault(stream: fault.stream, message: fault.message) == fault.fault)
        }
    }

    @Test func `Every kind appears, as often as asked for`() {
        let messages: UInt64 = 1_000_000
        var counts: [Fault: Int] = [:]
        for fault in FaultSchedule(seed: 11, rates: FaultScheduleTests.all).faults(stream: 1, messages: messages) {
            counts[fault.fault, default: 0] += 1
        }
        for fault in Fault.allCases {
            // Binomial: five standard deviations, and what rarer faults hide.
            let expected = Double(FaultScheduleTests.all[fault])
            let slack = 5 * expected.squareRoot() + expected * 0.05
            #expect(
                abs(Double(counts[fault] ?? 0) - expected) < slack, "\(fault): \(counts[fault] ?? 0) of \(expected)")
        }
    }

    @Test func `A rate of none is none, and one of all is all`() {
        #expect(FaultSchedule(seed: 1, rates: FaultRates()).faults(stream: 1, messages: 100_000).isEmpty)
        var rates = FaultRates()
        rates[.stall] = 2_000_000
        #expect(rates[.stall] == 1_000_000)
        let faults = FaultSchedule(seed: 1, rates: rates).faults(stream: 9, messages: 1000)
        #expect(faults.map(\.message) == Array(1...1000) && faults.allSatisfy { $0.fault == .stall })
    }
}
