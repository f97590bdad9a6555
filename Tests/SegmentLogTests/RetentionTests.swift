import EventLog
import FileDisk
import Foundation
import SegmentLog
import Simulation
import Testing

struct RetentionTests {
    static let hourNs: Int64 = 3_600_000_000_000
    static let books0 = TopicPartition(.booksDeltas, 0)

    private func open(
        _ disk: SimulatedDisk, _ time: VirtualTime, _ change: (inout SegmentLog.Configuration) -> Void = { _ in }
    ) throws -> SegmentLog {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.segmentBytes = 2 << 10
        configuration.tipBytes = 1
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        change(&configuration)
        return try SegmentLog(disk: disk, time: time, configuration: configuration)
    }

    /// One append an hour: ticks always, books too.
    private func fill(_ log: SegmentLog, _ time: VirtualTime, hours: Range<UInt64>) throws {
        for hour in hours {
            try log.append(
                [
                    makeBlock(ticks0, from: hour, count: 1),
                    makeBlock(RetentionTests.books0, symbol: "B", from: hour, count: 1),
                ],
                consumed: [])
            time.advance(ns: RetentionTests.hourNs)
        }
        try log.pump()
    }

    @Test func `The longest topic's retention keeps the file, older records of other topics answer expired`() throws {
        let disk = SimulatedDisk(seed: 1)
        let time = VirtualTime()
        let log = try open(disk, time)
        try fill(log, time, hours: 0..<240)
        // Ticks 7 days, books 2; a file is expired when all of it is, so up to one file more is there.
        let ticksStart = log.startOffset(ticks0)
        let booksStart = log.startOffset(RetentionTests.books0)
        #expect(ticksStart > 60 && ticksStart <= 240 - 168 + 1, "\(ticksStart)")
        #expect(booksStart > 180 && booksStart <= 240 - 48 + 1, "\(booksStart)")
        guard case .expired(let oldest) = log.read(RetentionTests.books0, at: booksStart - 1, .durable) else {
            throw Unexpected(what: "not expired")
        }
        #expect(oldest == booksStart)
        guard case .expired = try log.readBlocking(ticks0, at: 0, .durable) else {
            throw Unexpected(what: "not expired")
        }
        #expect(try readAll(log, ticks0, from: ticksStart).count == 240 - Int(ticksStart))
        #expect(try readAll(log, RetentionTests.books0, from: booksStart).count == 240 - Int(booksStart))
        // However old, the last place of an instrument is known, also after a start.
        time.advance(ns: 1000 * RetentionTests.hourNs)
        try log.append([makeBlock(RetentionTests.books0, symbol: "B", from: 240, count: 1)], consumed: [])
        try log.append([makeBlock(RetentionTests.books0, symbol: "B", from: 241, count: 20)], consumed: [])
        try log.pump()
        #expect(log.startOffset(ticks0) > 230)
        #expect(log.lastPlace(.ticksRaw, feed: "sim", exchange: "X", symbol: "AAPL")?.offset == 239)
        try log.close()
        let again = try open(disk, time)
        try again.pump()
        #expect(again.startOffset(ticks0) == log.startOffset(ticks0))
        #expect(again.endOffset(ticks0, .durable) == 240)
        #expect(again.lastPlace(.ticksRaw, feed: "sim", exchange: "X", symbol: "AAPL")?.sequence == 239)
    }

    @Test func `The tick stream keeps to its share of the disk, orders are never cut by it`() throws {
        let disk = SimulatedDisk(seed: 1)
        disk.setCapacity(bytes: 200 << 10)
        let time = VirtualTime()
        let log = try open(disk, time) { $0.diskSharePercent = 10 }
        for number in 0..<200 as Range<UInt64> {
            try log.append([makeBlock(ticks0, from: number, count: 1)], consumed: [])
            try log.append([makeBlock(orders0, from: number, count: 1)], consumed: [])
            if number == 20 { log.hold(reader: "writer", ticks0, from: 5) }
            try log.pump()
        }
        let tickBytes = try disk.list("").filter { $0.hasPrefix("ticks") }.reduce(0) { $0 + disk.bytes(of: $1).count }
        #expect(tickBytes <= 22 << 10, "\(tickBytes)")
        #expect(log.startOffset(ticks0) > 20 && log.startOffset(orders0) == 0)
        #expect(try readAll(log, orders0).count == 200)
        // What the writer had not finished and lost all the same, to the record.
        #expect(log.holderLosses == [HolderLoss(reader: "writer", place: ticks0, offsets: 5..<log.startOffset(ticks0))])
        log.hold(reader: "writer", ticks0, from: 200)
        try log.close()
    }

    @Test func `A topic's size is bounded, and a reader that holds records keeps them`() throws {
        let disk = SimulatedDisk(seed: 1)
        let time = VirtualTime()
        let log = try open(disk, time) { $0.retentions[.ticksRaw] = .init(timeNs: nil, bytes: 6 << 10) }
        log.hold(reader: "writer", ticks0, from: 0)
        for number in 0..<100 as Range<UInt64> {
            try log.append([makeBlock(ticks0, from: number, count: 1)], consumed: [])
        }
        try log.pump()
        #expect(log.startOffset(ticks0) == 0)
        log.hold(reader: "writer", ticks0, from: 90)
        try log.pump()
        let kept = try log.describeSegments().flatMap(\.places).reduce(0) { $0 + $1.byteCount }
        #expect(log.startOffset(ticks0) > 0 && kept <= 8 << 10, "\(kept)")
        #expect(log.holderLosses.isEmpty)
        // A copy that was read before it expired is still a block.
        let start = log.startOffset(ticks0)
        #expect(try readAll(log, ticks0, from: start).count == 100 - Int(start))
    }

    @Test func `A time finds the first record appended at or after it, in every file`() throws {
        let disk = SimulatedDisk(seed: 1)
        let time = VirtualTime()
        let startNs = time.wallNs()
        var log = try open(disk, time)
        for hour in 0..<100 as Range<UInt64> {
            if hour % 3 != 1 {
                try log.append([makeBlock(ticks0, from: hour, count: 2)], consumed: [])
            } else {
                try log.append([makeBlock(RetentionTests.books0, symbol: "B", from: hour, count: 2)], consumed: [])
            }
            time.advance(ns: RetentionTests.hourNs)
        }
        for _ in 0..<2 {
            var expected: UInt64 = 0
            for hour in 0..<100 as Range<Int64> {
                let at = startNs + hour * RetentionTests.hourNs
                #expect(try log.offset(of: .time(at), in: ticks0) == expected, "hour \(hour)")
                if hour % 3 != 1 { expected += 2 }
                #expect(try log.offset(of: .time(at + 1), in: ticks0) == expected, "after hour \(hour)")
            }
            #expect(try log.offset(of: .time(Int64.max), in: ticks0) == expected)
            #expect(try log.offset(of: .time(0), in: TopicPartition(.ticksRaw, 5)) == 0)
            try log.close()
            log = try open(disk, time)
        }
        // A clock that steps back does not make append times go back.
        time.step(wallNs: startNs)
        let receipt = try log.append([makeBlock(ticks0, from: 1000, count: 1)], consumed: [])
        #expect(receipt.appendTimeNs == startNs + 99 * RetentionTests.hourNs)
    }

    @Test func `A backup taken while the log runs opens as a log, with all that was durable`() throws {
        let disk = SimulatedDisk(seed: 1)
        let time = VirtualTime()
        let log = try open(disk, time)
        try fill(log, time, hours: 0..<50)
        try log.append(
            [makeBlock(orders0, from: 0, count: 3)], consumed: [GroupOffset(group: "g", place: ticks0, offset: 40)])
        let target = SimulatedDisk(seed: 2)
        try log.backup(to: target)
        try fill(log, time, hours: 50..<60)
        target.crashNow(.powerLoss)
        target.restart()
        let copy = try open(target, time)
        #expect(copy.identity.id == log.identity.id && copy.identity.generation == 2 && !copy.isContinuous)
        #expect(copy.identity.cuts.last?.ends[ticks0] == 50)
        #expect(try readAll(copy, ticks0) == (0..<50).map { "AAPL:\($0)" })
        #expect(try readAll(copy, orders0).count == 3)
        #expect(copy.committedOffset(group: "g", ticks0) == 40)
        let error = #expect(throws: LogError.self) { try log.backup(to: target) }
        #expect(error?.code == .invalid)
    }

    @Test func `A running log can be looked at from another process`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) { $0.segmentBytes = 4 << 10 }
        for number in 0..<40 as Range<UInt64> {
            try log.append([makeBlock(ticks0, from: number * 3, count: 3)], consumed: [])
        }
        let look = try SegmentLog(
            reading: try FileDisk(directory: directory.path, access: .readOnly), time: RealTime(),
            configuration: log.configuration)
        #expect(try readAll(look, ticks0).count == 120)
        let described = try look.describeSegments(verifying: true)
        #expect(described.count > 2 && described.allSatisfy { $0.damage.isEmpty && $0.appendTimesNs != nil })
        #expect(described.first?.places.first?.offsets.lowerBound == 0)
        #expect(described.last?.places.last?.offsets.upperBound == 120)
        for (before, after) in zip(described, described.dropFirst()) {
            #expect(before.places[0].offsets.upperBound == after.places[0].offsets.lowerBound)
        }
        let error = #expect(throws: LogError.self) {
            try look.append([makeBlock(ticks0, from: 0, count: 1)], consumed: [])
        }
        #expect(error?.code == .readOnly)
        try look.close()
        try log.append([makeBlock(ticks0, from: 120, count: 1)], consumed: [])
        try log.close()
        let empty = TemporaryDirectory()
        #expect(throws: LogError.self) {
            try SegmentLog(reading: try FileDisk(directory: empty.path, access: .readOnly), time: RealTime())
        }
    }
}
