import EventLog
import Testing

@testable import tapedeck

/// What `tapedeck lag` makes of two looks at a group.
struct GroupLagTests {
    private static let places = (0..<3).map { TopicPartition(.ticksRaw, $0) }

    /// Committed, start and end of each partition, at so many seconds.
    private static func look(_ seconds: Double, _ partitions: [(UInt64?, UInt64, UInt64)]) -> GroupLag.Look {
        let known = zip(places, partitions).map { place, now in
            (place, GroupLag.Look.Partition(committed: now.0, start: now.1, end: now.2))
        }
        return GroupLag.Look(
            state: "Stable", members: 2, partitions: Dictionary(uniqueKeysWithValues: known),
            atNs: Int64(seconds * 1e9))
    }

    @Test func `Records, trend and time to catch up are of the two looks`() {
        let lag = GroupLag(
            "g", Self.look(10, [(100, 0, 400), (50, 0, 50)]), Self.look(12, [(300, 0, 500), (60, 0, 100)]))
        #expect(lag.records == 240 && lag.members == 2 && lag.state == "Stable")
        #expect(lag.next == [Self.places[0]: 300, Self.places[1]: 60])
        // 300 before and 240 now, in two seconds in which 210 were handled.
        #expect(lag.recordsPerSecond == -30 && lag.handledPerSecond == 105 && lag.catchUpSeconds == 8)
        let falling = GroupLag("g", Self.look(0, [(0, 0, 10)]), Self.look(0.5, [(5, 0, 25)]))
        #expect(falling.records == 20 && falling.recordsPerSecond == 20 && falling.handledPerSecond == 10)
        #expect(falling.catchUpSeconds == nil)
        let done = GroupLag("g", Self.look(0, [(0, 0, 10)]), Self.look(1, [(10, 0, 10)]))
        #expect(done.records == 0 && done.catchUpSeconds == 0 && done.next.isEmpty && done.handledPerSecond == 10)
    }

    @Test func `A partition of which nothing is committed is behind by all that it has`() {
        let lag = GroupLag(
            "g", Self.look(0, [(10, 0, 10), (nil, 70, 100)]), Self.look(1, [(10, 0, 10), (nil, 70, 110)]))
        #expect(lag.records == 40 && lag.next == [Self.places[1]: 70])
        #expect(lag.recordsPerSecond == 10 && lag.handledPerSecond == 0)
        // Its first commit is no leap from nothing.
        let first = GroupLag("g", Self.look(0, [(nil, 70, 100)]), Self.look(1, [(90, 70, 100)]))
        #expect(first.handledPerSecond == 20 && first.recordsPerSecond == -20)
    }

    @Test func `What retention took is not waited for, and a group that was set back handled nothing`() {
        let taken = GroupLag("g", Self.look(0, [(10, 0, 100)]), Self.look(1, [(10, 60, 100)]))
        #expect(taken.records == 40 && taken.next == [Self.places[0]: 60] && taken.handledPerSecond == 0)
        let back = GroupLag("g", Self.look(0, [(90, 0, 100)]), Self.look(1, [(20, 0, 100)]))
        #expect(back.records == 80 && back.handledPerSecond == 0 && back.catchUpSeconds == nil)
        // A partition that was not there before, and one that is gone.
        let more = GroupLag("g", Self.look(0, []), Self.look(1, [(5, 0, 8)]))
        #expect(more.records == 3 && more.handledPerSecond == 0)
        #expect(GroupLag("g", Self.look(0, [(5, 0, 8)]), Self.look(1, [])).records == 0)
    }

    @Test func `Groups are known by what they committed and by their names`() {
        #expect(GroupLag.topics(of: "cassandra-writer", committed: []) == [.ticksRaw])
        #expect(GroupLag.topics(of: "cassandra-writer.trades.executed", committed: []) == [.tradesExecuted])
        #expect(GroupLag.topics(of: "mine", committed: Self.places) == [.ticksRaw])
        #expect(GroupLag.topics(of: "cassandra-writer.none", committed: []).isEmpty)
        #expect(GroupLag.isOfDeadLetters("writer.dlq") && GroupLag.isOfDeadLetters("writer.dlq.books.deltas"))
        #expect(!GroupLag.isOfDeadLetters("cassandra-writer") && !GroupLag.isOfDeadLetters("writer.dlqs"))
    }

    @Test func `It is printed with the numbers of tools and with words for people`() {
        var lag = GroupLag("g", Self.look(0, [(0, 0, 12)]), Self.look(1, [(8, 0, 10)]))
        lag.seconds = 1.26
        #expect(
            lag.json
                == "{\"group\":\"g\",\"state\":\"Stable\",\"members\":2,\"records\":2,\"seconds\":1.3,"
                + "\"trend_records_per_second\":-10,\"handled_per_second\":8,\"catch_up_seconds\":0.2}")
        let stuck = GroupLag("stuck", Self.look(0, [(0, 0, 3)]), Self.look(1, [(0, 0, 4)]))
        #expect(stuck.json.hasSuffix("\"catch_up_seconds\":null}"))
        let table = GroupLag.table([lag, stuck])
        #expect(table[1].hasSuffix("0.2 s") && table[2].hasSuffix("+1          0  never, at this pace"), "\(table)")
        #expect(Set(table.map(\.count)).count == 1 && GroupLag.table([]).isEmpty)
    }
}
