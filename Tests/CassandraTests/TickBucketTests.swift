import CQLFrames
import MarketModel
import Simulation
import Testing
import TickStore

@testable import CassandraStore

private let minuteNs: Int64 = 60_000_000_000
private let hourNs = 60 * minuteNs
private let dayNs = 24 * hourNs

/// Times divided into buckets, and buckets named by number.
struct TickBucketTests {
    @Test func `Widths are the divisors of an hour`() {
        #expect(BucketWidth.all.map(\.minutes) == (1...60).filter { 60 % $0 == 0 })
        for minutes in -1...61 {
            #expect((BucketWidth(minutes: minutes) != nil) == (minutes > 0 && minutes <= 60 && 60 % minutes == 0))
        }
    }

    @Test(arguments: BucketWidth.all)
    func `Every minute of a day lies in one bucket, whose number gives its range`(_ width: BucketWidth) {
        for day in [Int64(-1), 0, 19_782] {
            var numbers: Set<Int32> = []
            for minute in 0..<Int64(1440) {
                let startNs = day * dayNs + minute * minuteNs
                let bucket = TickBucket(of: startNs, width: width)
                let begins = minute / Int64(width.minutes) * Int64(width.minutes)
                #expect(TickBucket(of: startNs + minuteNs - 1, width: width) == bucket && bucket.day == day)
                #expect(bucket.startNs == day * dayNs + begins * minuteNs)
                let wanted = width == .hour ? begins / 60 : Int64(width.minutes) * 10_000 + begins
                #expect(Int64(bucket.number) == wanted)
                #expect(TickBucket(day: day, number: wanted) == bucket)
                #expect(TickBucket(tradeDate: CivilTime.date(day: day), number: wanted) == bucket)
                numbers.insert(bucket.number)
            }
            #expect(numbers.count == 1440 / width.minutes)
        }
    }

    @Test func `A number that no bucket has names none`() {
        var known = 0
        for number in Int64(-100)...700_000 {
            guard let bucket = TickBucket(day: 3, number: number) else { continue }
            #expect(Int64(bucket.number) == number)
            known += 1
        }
        #expect(known == BucketWidth.all.reduce(0) { $0 + 1440 / $1.minutes })
        for number in [Int64.min, .max, -1, 24, 50_003, 51_440, 70_000, 600_000, 5 << 32 | 50_000] {
            #expect(TickBucket(day: 0, number: number) == nil, "\(number)")
        }
        #expect(TickBucket(day: .max, number: 1) == nil && TickBucket(day: .min, number: 50_000) == nil)
        #expect(TickBucket(tradeDate: "2024-02-30", number: 1) == nil)
    }

    @Test func `Any time lies in its bucket, and in no other of the width`() throws {
        var random = SeededRandom(seed: 11)
        var times: [Int64] = [.min, .min + 1, .min + hourNs, -1, 0, 1, .max - 1, .max]
        for _ in 0..<20_000 { times.append(Int64.random(in: .min ... .max, using: &random)) }
        for _ in 0..<20_000 { times.append(Int64.random(in: -dayNs...dayNs, using: &random)) }
        for time in times {
            for width in BucketWidth.all {
                let bucket = TickBucket(of: time, width: width)
                #expect(TickBucket(day: bucket.day, number: Int64(bucket.number)) == bucket)
                #expect(bucket.overlaps(time, time) && bucket.overlaps(.min, .max))
                let lengthNs = Int64(width.minutes) * minuteNs
                if let startNs = bucket.startNs {
                    #expect(startNs <= time && time - startNs < lengthNs)
                    if startNs > .min { #expect(!bucket.overlaps(.min, startNs - 1)) }
                    let (end, overflow) = startNs.addingReportingOverflow(lengthNs)
                    if !overflow { #expect(!bucket.overlaps(end, .max) && bucket.overlaps(end - 1, .max)) }
                } else {
                    #expect(time < .min + hourNs)
                }
                // A partition of a batch takes just what lies in the bucket.
                let partition = TickPartition(number: 0, exchange: "X", symbol: "S", bucket: bucket)
                let batch = OpenBatch(partition, bucket, .v5, rows: 1)
                #expect(batch.holds(time) == (bucket.startNs != nil))
            }
        }
    }

    @Test func `Buckets are named by time, and sorted by it`() throws {
        let day = try #require(CivilTime.day(date: "2024-08-08"))
        func bucket(_ number: Int64) throws -> TickBucket { try #require(TickBucket(day: day, number: number)) }
        #expect(try bucket(9).description == "2024-08-08 09")
        #expect(try bucket(50_545).description == "2024-08-08 09:05-09:10")
        #expect(try bucket(301_410).timeOfDay == "23:30-24:00")
        #expect(try bucket(11_439).timeOfDay == "23:59-24:00")
        #expect(
            try [bucket(50_540), bucket(10), bucket(9), bucket(10_541)].sorted().map(\.number) == [
                9, 50_540, 10_541, 10,
            ])
        let partition = try TickPartition(number: 0, exchange: "XNAS", symbol: "AAPL", bucket: bucket(50_545))
        #expect(partition.name == "XNAS AAPL 2024-08-08 09:05-09:10")
    }

    @Test func `A width is in force from its day until the next`() throws {
        var widths = BucketWidths()
        #expect(widths.bucket(of: 5 * minuteNs) == TickBucket(of: 0))
        let (five, one) = (try #require(BucketWidth(minutes: 5)), try #require(BucketWidth(minutes: 1)))
        widths.set(.hour, from: 20)
        widths.set(one, from: 10)
        widths.set(five, from: 10)
        widths.set(one, from: 12)
        #expect(widths.changes.map(\.day) == [10, 12, 20])
        for (day, width) in [(Int64(-4), BucketWidth.hour), (9, .hour), (10, five), (11, five), (12, one), (19, one)] {
            #expect(widths.width(on: day) == width)
            for time in [day * dayNs, day * dayNs + dayNs - 1] {
                #expect(widths.bucket(of: time) == TickBucket(of: time, width: width))
            }
        }
        #expect(widths.width(on: 20) == .hour && widths.bucket(of: .max).width == .hour)
        #expect(widths.bucket(of: .min) == TickBucket(of: .min))
    }
}

/// Writers that read widths now and then, and people who set them.
struct SettledWidthsTests {
    private static let instrument = try! Instrument(exchange: "X", symbol: "S")

    @Test func `What is read on a day settles this day and the next, and nothing is read for them`() throws {
        let nowNs = 100 * dayNs + 9 * hourNs
        var settled = SettledWidths([:], readNs: nowNs)
        let later = nowNs + 2 * minuteNs
        func refuse() throws(StoreError) -> [Instrument: BucketWidths] {
            throw StoreError(.unreachable, "nobody is there", retryable: true)
        }
        #expect(try !settled.settle(102 * dayNs - 1, nowNs: later, refuse))
        #expect(try !settled.settle(.min, nowNs: later, refuse))
        let error = #expect(throws: StoreError.self) { try settled.settle(102 * dayNs, nowNs: later, refuse) }
        #expect(error?.code == .bucketWidthUnknown && error?.retryable == true)
        #expect(
            error?.message == "no row of 1970-04-13T00:00:00Z is written: bucket_widths was read last at "
                + "1970-04-11T09:00:00Z, which settles dates up to 1970-04-12, and cannot be read now: nobody is there")
        // An hour later it is read though it would do; where it cannot be, it does.
        #expect(try !settled.settle(101 * dayNs, nowNs: nowNs + hourNs, refuse))
        var widths = BucketWidths()
        widths.set(try #require(BucketWidth(minutes: 5)), from: 102)
        #expect(try !settled.settle(101 * dayNs, nowNs: nowNs + hourNs + minuteNs) { [Self.instrument: widths] })
        #expect(try settled.settle(101 * dayNs, nowNs: nowNs + hourNs + 10 * minuteNs) { [Self.instrument: widths] })
        #expect(settled.widths == [Self.instrument: widths])
        // A clock that is days ahead holds up nobody who can read.
        #expect(try settled.settle(900 * dayNs, nowNs: nowNs + 2 * hourNs) { [:] })
        #expect(try !settled.settle(901 * dayNs, nowNs: nowNs + 2 * hourNs + 1, refuse))
    }

    /// Tools set widths, writers file ticks up to 24 h ahead, reads fail for days, and clocks differ by up to 30 min.
    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func `No tick is filed by another width than its date has in the end`(_ seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var nowNs = 1000 * dayNs + Int64.random(in: 0..<dayNs, using: &random)
        var table = BucketWidths()
        var canRead = true
        var writers = (0..<3).map { _ in
            (
                settled: SettledWidths([:], readNs: nowNs),
                skewNs: Int64.random(in: -hourNs / 2...hourNs / 2, using: &random)
            )
        }
        for index in writers.indices {
            writers[index].settled = SettledWidths([:], readNs: nowNs + writers[index].skewNs)
        }
        var filed: [(timeNs: Int64, bucket: TickBucket)] = []
        var (refused, changes) = (0, 0)
        for _ in 0..<4000 {
            nowNs += Int64.random(in: 0..<hourNs / 2, using: &random)
            if Int.random(in: 0..<60, using: &random) == 0 { canRead.toggle() }
            if Int.random(in: 0..<40, using: &random) == 0 {
                let first = BucketWidthTable.firstDay(nowNs: nowNs)
                let width = BucketWidth.all.randomElement(using: &random) ?? .hour
                table.set(width, from: first + Int64.random(in: 0...2, using: &random))
                changes += 1
            }
            let index = Int.random(in: 0..<writers.count, using: &random)
            let timeNs = nowNs + Int64.random(in: -2 * dayNs...dayNs, using: &random)
            let read = [Self.instrument: table]
            do {
                _ = try writers[index].settled.settle(timeNs, nowNs: nowNs + writers[index].skewNs) {
                    () throws(StoreError) in
                    guard canRead else { throw StoreError(.unreachable, "away", retryable: true) }
                    return read
                }
            } catch {
                #expect(error.code == .bucketWidthUnknown && !canRead)
                refused += 1
                continue
            }
            filed.append((timeNs, (writers[index].settled.widths[Self.instrument] ?? .init()).bucket(of: timeNs)))
        }
        for (timeNs, bucket) in filed { #expect(bucket == table.bucket(of: timeNs)) }
        #expect(changes > 50 && filed.count > 1000 && refused > 0)
    }
}
