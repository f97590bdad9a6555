import Foundation
import MarketModel
import TestSupport
import Testing

struct TickRowIdentityTests {
    private func identity(
        _ ns: Int64, epoch: UInt64 = 0, sequence: UInt64 = 0, feed: UInt16 = 0
    ) throws -> TickRowIdentity {
        try TickRowIdentity(filingTimeNs: ns, epoch: epoch, sequence: sequence, feedNumber: feed)
    }

    private func bytes(_ identity: TickRowIdentity) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 16) { buffer, count in
            identity.write(to: UnsafeMutableRawBufferPointer(buffer))
            count = 16
        }
    }

    @Test func `Known keys`() throws {
        // 1970-01-01 is 01B21DD213814000 in 100 ns since 1582-10-15 (RFC 4122, appendix B's epoch difference).
        #expect(try identity(0).description == "13814000-1dd2-11b2-8080-808080808080")
        #expect(
            try identity(99, epoch: 0xffff_ffff_ffff_ffff, sequence: 1, feed: 2).description
                == "13814000-1dd2-11b2-bf80-808080818082")
        #expect(
            try identity(100, epoch: 64, sequence: TickRowIdentity.sequenceMax, feed: .max).description
                == "13814001-1dd2-11b2-807f-7f7f7f7f7f7f")
        #expect(try identity(-1).description == "13813fff-1dd2-11b2-8080-808080808080")
        #expect(throws: TickRowIdentityError.sequence(1 << 40)) { try identity(0, sequence: 1 << 40) }
    }

    @Test func `Bytes read back, and what is not a key is refused`() throws {
        var random = SplitMix(seed: 51)
        for _ in 0..<5000 {
            let ns = random.mantissa()
            let key = try identity(
                ns, epoch: random.next(), sequence: random.next() >> 24, feed: UInt16(truncatingIfNeeded: random.next())
            )
            let bytes = bytes(key)
            let again = try bytes.withUnsafeBytes { try TickRowIdentity($0) }
            #expect(again == key && again.description == key.description)
            let down = Int128(ns) - (Int128(ns) % 100 + 100) % 100
            #expect(again.filingTimeNs == Int64(exactly: down))
        }
        let good = bytes(try identity(5))
        for (place, value) in [(6, UInt8(0x41)), (8, 0x00), (8, 0xc0)] {
            var bad = good
            bad[place] = value
            #expect(throws: TickRowIdentityError.notVersion1) { try bad.withUnsafeBytes { try TickRowIdentity($0) } }
        }
        #expect(throws: TickRowIdentityError.length(15)) {
            try good.dropLast().withUnsafeBytes { try TickRowIdentity($0) }
        }
    }

    /// Cassandra: the timestamps, then the low eight bytes one by one, signed.
    private func cassandraOrder(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        func time(_ key: [UInt8]) -> [UInt8] { [key[6] & 0xf, key[7], key[4], key[5]] + key[0..<4] }
        if time(a) != time(b) { return time(a).lexicographicallyPrecedes(time(b)) }
        return a[8...].lazy.map(Int8.init(bitPattern:)).lexicographicallyPrecedes(
            b[8...].lazy.map(Int8.init(bitPattern:)))
    }

    @Test func `Row order is time, epoch bits, sequence, feed: in ours and in Cassandra's comparison`() throws {
        var random = SplitMix(seed: 52)
        typealias Parts = (time: Int64, epoch: UInt64, sequence: UInt64, feed: UInt16)
        let parts: [Parts] = (0..<300).map { _ in
            (
                [0, 100, 1 << 40, -100, .max, .min].randomElement(using: &random)!,
                [0, 1, 31, 32, 63].randomElement(using: &random)!,
                [1, 127, 128, 255, 256, 1 << 32, 1 << 39, (1 << 40) - 1].randomElement(using: &random)!,
                [0, 1, 127, 128, 255, 256, 0x7fff, 0x8000, 0xffff].randomElement(using: &random)!
            )
        }
        let keys = try parts.map { try identity($0.time, epoch: $0.epoch, sequence: $0.sequence, feed: $0.feed) }
        for i in parts.indices {
            for j in parts.indices {
                let (a, b) = (parts[i], parts[j])
                let expected =
                    a.time != b.time
                    ? a.time < b.time : (a.epoch, a.sequence, a.feed) < (b.epoch, b.sequence, b.feed)
                #expect((keys[i] < keys[j]) == expected)
                #expect(cassandraOrder(bytes(keys[i]), bytes(keys[j])) == expected)
            }
        }
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `Python's uuid module takes the same key apart`() throws {
        var random = SplitMix(seed: 53)
        var input = ""
        var expected = ""
        for _ in 0..<1000 {
            let (ns, epoch, sequence) = (random.mantissa(), random.next(), random.next() >> 24)
            let feed = UInt16(truncatingIfNeeded: random.next())
            input += try identity(ns, epoch: epoch, sequence: sequence, feed: feed).description + "\n"
            let time = (Int128(ns) - (Int128(ns) % 100 + 100) % 100) / 100 + 0x01b2_1dd2_1381_4000
            expected += "1 specified in RFC 4122 \(time) \(epoch % 64) \(sequence) \(feed)\n"
        }
        let script = """
            import sys, uuid
            for text in sys.stdin.read().split():
                u = uuid.UUID(text)
                low = bytes(b ^ 0x80 for b in u.bytes[9:])
                sequence, feed = int.from_bytes(low[:5], "big"), int.from_bytes(low[5:], "big")
                print(u.version, u.variant, u.time, u.bytes[8] & 63, sequence, feed)
            """
        let folder = FileManager.default.temporaryDirectory
        let (source, sink) = (
            folder.appendingPathComponent(UUID().uuidString), folder.appendingPathComponent(UUID().uuidString)
        )
        try Data(input.utf8).write(to: source)
        try Data().write(to: sink)
        defer {
            try? FileManager.default.removeItem(at: source)
            try? FileManager.default.removeItem(at: sink)
        }
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.python)
        process.arguments = ["-c", script]
        process.standardInput = try FileHandle(forReadingFrom: source)
        process.standardOutput = try FileHandle(forWritingTo: sink)
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        #expect(String(decoding: try Data(contentsOf: sink), as: UTF8.self) == expected)
    }
}
