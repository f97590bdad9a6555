import EventLog
import Foundation
import SegmentLog
import Simulation
import TestSupport
import Testing

struct DamageTests {
    /// A killed or closed log of several segments with one block of each of two instruments per append.
    static func makeLog(_ disk: SimulatedDisk, appends: Int, close: Bool, syncEvery: Int = 3) throws {
        let log = try open(disk)
        for number in 0..<appends {
            try log.append(
                [
                    makeBlock(ticks0, from: UInt64(number * 5), count: 5),
                    makeBlock(TopicPartition(.booksDeltas, 0), symbol: "B", from: UInt64(number * 3), count: 3),
                ], consumed: [])
            if number % syncEvery == 0 { try log.pump() }
        }
        if close { try log.close() } else { disk.crashNow(.kill) }
        disk.restart()
    }

    static func open(_ disk: SimulatedDisk) throws -> SegmentLog {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.segmentBytes = 4 << 10
        configuration.tipBytes = 1 << 10
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        return try SegmentLog(disk: disk, time: VirtualTime(), configuration: configuration)
    }

    /// Reads a place to its end over damage. Every record there must be what was appended at its offset. Returns how
    /// many are lost.
    static func readOver(_ log: SegmentLog, _ place: TopicPartition, symbol: String) throws -> UInt64 {
        var offset: UInt64 = 0
        var lost: UInt64 = 0
        while true {
            switch try log.readBlocking(place, at: offset, .durable) {
            case .block(let block, let index):
                for record in index..<block.recordCount {
                    let text = String(decoding: block.payload(record), as: UTF8.self)
                    guard text == "\(symbol):\(offset)" else { throw Unexpected(what: "\(text) at \(offset)") }
                    offset += 1
                }
            case .atEnd: return lost
            case .damaged(let next, _):
                guard next > offset else { throw Unexpected(what: "damaged from \(offset) to \(next)") }
                lost += next - offset
                offset = next
            case .expired(let oldest): throw Unexpected(what: "expired to \(oldest)")
            case .onDisk: throw Unexpected(what: "onDisk")
            }
        }
    }

    @Test func `The last append cut at any byte is gone as a whole, and everything before is there`() throws {
        let whole = SimulatedDisk(seed: 1)
        try DamageTests.makeLog(whole, appends: 6, close: false)
        let name = "ticks-000000000001.seg"
        let bytes = whole.bytes(of: name)
        let shorter = SimulatedDisk(seed: 1)
        try DamageTests.makeLog(shorter, appends: 5, close: false)
        let appendLength = bytes.count - shorter.bytes(of: name).count
        for length in (bytes.count - appendLength)...bytes.count {
            let disk = SimulatedDisk(seed: 1)
            try DamageTests.makeLog(disk, appends: 6, close: false)
            disk.corrupt(name) { $0.removeLast($0.count - length) }
            let log = try DamageTests.open(disk)
            let appends: UInt64 = length == bytes.count ? 6 : 5
            #expect(log.endOffset(ticks0, .durable) == appends * 5)
            let isWhole = length == bytes.count || length == bytes.count - appendLength
            #expect(log.identity.generation == (isWhole ? 1 : 2) && log.isContinuous == isWhole, "\(length)")
            #expect(try DamageTests.readOver(log, ticks0, symbol: "AAPL") == 0)
            // It goes on after the cut.
            try log.append([makeBlock(ticks0, from: appends * 5, count: 5)], consumed: [])
            try log.close()
            let again = try DamageTests.open(disk)
            // Books were cut too and have not come back, so not every feed may go on with its epoch; ticks may.
            #expect(again.identity.generation == log.identity.generation && again.isContinuous == isWhole)
            let last = again.lastPlace(.ticksRaw, feed: "sim", exchange: "X", symbol: "AAPL")
            #expect(last?.generation == again.identity.generation)
            #expect(try DamageTests.readOver(again, ticks0, symbol: "AAPL") == 0)
            #expect(again.endOffset(ticks0, .durable) == appends * 5 + 5)
        }
    }

    @Test func `A file cut anywhere in its header is an unfinished one, or told to be lost`() throws {
        let name = "ticks-000000000001.seg"
        for isClosed in [false, true] {
            let whole = SimulatedDisk(seed: 1)
            try DamageTests.makeLog(whole, appends: 3, close: isClosed)
            let header = Int(whole.bytes(of: name)[16]) + Int(whole.bytes(of: name)[17]) << 8
            for length in 0...header {
                let disk = SimulatedDisk(seed: 1)
                try DamageTests.makeLog(disk, appends: 3, close: isClosed)
                disk.corrupt(name) { $0.removeLast($0.count - length) }
                let log = try DamageTests.open(disk)
                #expect(log.endOffset(ticks0, .durable) == 0)
                if isClosed { #expect(!log.isContinuous && log.identity.generation == 2, "\(length)") }
                try log.append([makeBlock(ticks0, from: 0, count: 5)], consumed: [])
                try log.close()
                #expect(try DamageTests.readOver(DamageTests.open(disk), ticks0, symbol: "AAPL") == 0)
            }
        }
    }

    @Test func `A damaged byte costs at most its append, is told, and is never read as something else`() throws {
        var reported = 0
        for seed in 1...UInt64(Checkout.isSoak ? 5000 : 150) {
            var random = SeededRandom(seed: seed)
            let disk = SimulatedDisk(seed: seed)
            let isClosed = Bool.random(using: &random)
            try DamageTests.makeLog(disk, appends: 30, close: isClosed)
            let files = try disk.list("").filter { $0.hasPrefix("ticks") || random.once(in: 4) }
            let file = files.randomElement(using: &random)!
            let count = Int.random(in: 1...4, using: &random)
            disk.corrupt(file) { bytes in
                if bytes.isEmpty { return }
                let at = Int.random(in: 0..<bytes.count, using: &random)
                for position in at..<min(at + count, bytes.count) {
                    bytes[position] = UInt8.random(in: 0...255, using: &random)
                }
            }
            do {
                let log = try DamageTests.open(disk)
                let lost = try DamageTests.readOver(log, ticks0, symbol: "AAPL")
                _ = try DamageTests.readOver(log, TopicPartition(.booksDeltas, 0), symbol: "B")
                #expect(lost <= 40, "seed \(seed): \(lost) of 150 records lost to \(file)")
                if isClosed { #expect(log.endOffset(ticks0, .durable) == 150, "seed \(seed) \(file)") }
                if lost > 0 {
                    reported += 1
                    #expect(!log.damage.isEmpty, "seed \(seed)")
                    let described = try log.describeSegments(verifying: true)
                    #expect(described.contains { !$0.damage.isEmpty }, "seed \(seed)")
                }
                try log.close()
            } catch let error as LogError {
                // Metadata, or the only header there was.
                #expect(error.code == .damaged || error.code == .unknownFormat, "seed \(seed) \(file): \(error)")
                #expect(file == "log.meta" || file.hasSuffix("1.seg"), "seed \(seed) \(file): \(error)")
            }
        }
        #expect(reported > 10)
    }

    @Test func `Damage in the middle is not taken for a torn tail when what follows proves that it was durable`() throws
    {
        let name = "orders-000000000001.seg"
        for isHeader in [false, true] {
            let disk = SimulatedDisk(seed: 9)
            var ends: [Int] = []
            let log = try DamageTests.open(disk)
            for number in 0..<6 as Range<UInt64> {
                try log.append([makeBlock(orders0, from: number * 2, count: 2)], consumed: [])
                ends.append(disk.bytes(of: name).count)
            }
            disk.crashNow(.powerLoss)
            disk.restart()
            disk.corrupt(name) { $0[isHeader ? ends[2] + 20 : ends[3] - 9] ^= 0x10 }
            let again = try DamageTests.open(disk)
            #expect(again.endOffset(orders0, .durable) == 12 && again.damage.count == 1)
            #expect(try DamageTests.readOver(again, orders0, symbol: "AAPL") == 2)
            guard case .damaged(let next, let reason) = try again.readBlocking(orders0, at: 6, .durable) else {
                throw Unexpected(what: "not told")
            }
            #expect(next == 8 && reason.contains(name))
            // The chain of the instrument goes on over it.
            try again.append([makeBlock(orders0, from: 12, count: 1)], consumed: [])
            #expect(again.endOffset(orders0, .durable) == 13)
        }
    }

    @Test(arguments: [0, UInt64.max, UInt64.max - 1])
    func `A segment that begins at a number no log reaches is damage, its checksum right or not`(_ number: UInt64)
        throws
    {
        let disk = SimulatedDisk(seed: 1)
        try DamageTests.makeLog(disk, appends: 12, close: false)
        for file in try disk.list("") where file.hasSuffix(".seg") {
            disk.corrupt(file) { bytes in
                let headLength = bytes[12..<16].reversed().reduce(0) { $0 << 8 | Int($1) }
                withUnsafeBytes(of: number.littleEndian) { bytes.replaceSubrange(48..<56, with: $0) }
                let checksum = bytes.withUnsafeBytes {
                    Checksum.crc32c(UnsafeRawBufferPointer(rebasing: $0[8..<headLength]))
                }
                withUnsafeBytes(of: checksum.littleEndian) { bytes.replaceSubrange(4..<8, with: $0) }
            }
        }
        guard let log = try? DamageTests.open(disk) else { return }
        _ = try? DamageTests.readOver(log, ticks0, symbol: "AAPL")
        _ = try? log.describeSegments(verifying: true)
        try? log.close()
    }

    @Test func `Garbage in any file never traps`() throws {
        let count: UInt64 = Checkout.isSoak ? 20_000 : 150
        for seed in 1...count {
            var random = SeededRandom(seed: seed &* 77)
            let disk = SimulatedDisk(seed: seed)
            try DamageTests.makeLog(disk, appends: 12, close: Bool.random(using: &random))
            for file in try disk.list("") where random.once(in: 2) {
                disk.corrupt(file) { bytes in
                    switch Int.random(in: 0..<4, using: &random) {
                    case 0: bytes.removeLast(Int.random(in: 0...bytes.count, using: &random))
                    case 1:
                        bytes += (0..<Int.random(in: 0..<200, using: &random)).map { _ in
                            UInt8.random(in: 0...255, using: &random)
                        }
                    case 2:
                        for _ in 0..<20 where !bytes.isEmpty {
                            bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(
                                in: 0...255, using: &random)
                        }
                    default:
                        let part = bytes.prefix(Int.random(in: 0...bytes.count, using: &random))
                        bytes = Array(part) + bytes
                    }
                }
            }
            guard let log = try? DamageTests.open(disk) else { continue }
            _ = try? DamageTests.readOver(log, ticks0, symbol: "AAPL")
            _ = try? log.describeSegments(verifying: true)
            _ = try? log.offset(of: .time(0), in: ticks0)
            _ = try? log.append([makeBlock(ticks0, from: 0, count: 1)], consumed: [])
            try? log.close()
        }
    }

    @Test func `A failed sync stops the log, and what a restart shows after it survives a power loss`() throws {
        for seed in 1...40 as ClosedRange<UInt64> {
            let disk = SimulatedDisk(seed: seed)
            let log = try DamageTests.open(disk)
            try log.append([makeBlock(ticks0, from: 0, count: 5)], consumed: [])
            try log.pump()
            try log.append([makeBlock(ticks0, from: 5, count: 5)], consumed: [])
            disk.failSync(atOperation: 1)
            #expect(throws: LogError.self) { try log.pump() }
            #expect(log.failure?.code == .stopped)
            #expect(log.endOffset(ticks0, .durable) == 5 && log.endOffset(ticks0, .written) == 10)
            let refusal = #expect(throws: LogError.self) {
                try log.append([makeBlock(ticks0, from: 10, count: 5)], consumed: [])
            }
            #expect(refusal?.code == .stopped)
            #expect(throws: LogError.self) { try log.append([makeBlock(orders0, from: 0, count: 1)], consumed: []) }
            #expect(throws: LogError.self) { try log.close() }
            disk.crashNow(.kill)
            disk.restart()
            let second = try DamageTests.open(disk)
            #expect(second.endOffset(ticks0, .durable) == 10)
            disk.crashNow(.powerLoss)
            disk.restart()
            let third = try DamageTests.open(disk)
            #expect(third.endOffset(ticks0, .durable) == 10, "seed \(seed)")
            #expect(try DamageTests.readOver(third, ticks0, symbol: "AAPL") == 0)
        }
    }

    @Test func `On a full disk nothing of the append is there, and later ones work`() throws {
        for room in stride(from: 0, to: 600, by: 7) {
            let disk = SimulatedDisk(seed: UInt64(room))
            let log = try DamageTests.open(disk)
            try log.append([makeBlock(ticks0, from: 0, count: 5)], consumed: [])
            try log.append([makeBlock(orders0, from: 0, count: 5)], consumed: [])
            let used = try disk.list("").reduce(0) { $0 + disk.bytes(of: $1).count }
            disk.setCapacity(bytes: used + room)
            for place in [ticks0, orders0] {
                let block = makeBlock(place, from: 5, count: 20)
                let error = #expect(throws: LogError.self) { try log.append([block], consumed: []) }
                #expect(error?.code == .diskFull && error?.retryable == true)
                #expect(log.endOffset(place, .written) == 5)
                #expect(log.lastPlace(place.topic, feed: "sim", exchange: "X", symbol: "AAPL")?.offset == 4)
            }
            disk.setCapacity(bytes: 1 << 20)
            for place in [ticks0, orders0] {
                try log.append([makeBlock(place, from: 5, count: 20)], consumed: [])
                #expect(log.endOffset(place, .written) == 25)
                #expect(try DamageTests.readOver(log, orders0, symbol: "AAPL") == 0)
            }
            disk.crashNow(.kill)
            disk.restart()
            let again = try DamageTests.open(disk)
            #expect(again.isContinuous && again.endOffset(ticks0, .durable) == 25)
            guard case .block(let block, _) = try again.readBlocking(ticks0, at: 5, .durable) else {
                throw Unexpected(what: "no block")
            }
            #expect(block.previousOffset(track: 0) == 4)
        }
    }

    @Test func `A start after a full disk finds no torn tail`() throws {
        let disk = SimulatedDisk(seed: 5)
        let log = try DamageTests.open(disk)
        try log.append([makeBlock(ticks0, from: 0, count: 5)], consumed: [])
        disk.setCapacity(bytes: try disk.list("").reduce(0) { $0 + disk.bytes(of: $1).count } + 200)
        #expect(throws: LogError.self) { try log.append([makeBlock(ticks0, from: 5, count: 20)], consumed: []) }
        disk.crashNow(.kill)
        disk.restart()
        disk.setCapacity(bytes: 1 << 20)
        let again = try DamageTests.open(disk)
        #expect(again.isContinuous && again.endOffset(ticks0, .durable) == 5)
    }

    @Test func `A log of a newer format is refused by name`() throws {
        for file in ["log.meta", "ticks-000000000001.seg"] {
            let disk = SimulatedDisk(seed: 3)
            try DamageTests.makeLog(disk, appends: 3, close: true)
            disk.corrupt(file) { bytes in
                bytes[8] = 9
                let end = file == "log.meta" ? bytes.count : Int(bytes[12]) + Int(bytes[13]) << 8
                let crc = DamageTests.crc32c(bytes[8..<end])
                for index in 0..<4 { bytes[4 + index] = UInt8(truncatingIfNeeded: crc >> (8 * UInt32(index))) }
            }
            let error = #expect(throws: LogError.self) { try DamageTests.open(disk) }
            #expect(error?.code == .unknownFormat && error?.message.contains(file) == true)
        }
    }

    /// Bit by bit, as the standard writes it.
    static func crc32c(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        var crc: UInt32 = 0xffff_ffff
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
        }
        return ~crc
    }
}
