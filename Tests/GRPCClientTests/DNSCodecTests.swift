import DNSCodec
import Simulation
import Testing

/// Messages of the DNS. Expected bytes are written out by RFC 1035.
struct DNSCodecTests {
    private static let question = DNSQuestion(DNSName("f.isi.arpa")!, .ipv4)
    /// F.ISI.ARPA as RFC 1035, 4.1.4 has it, from byte 12 on.
    private static let name: [UInt8] = [1, 0x46, 3, 0x49, 0x53, 0x49, 4, 0x41, 0x52, 0x50, 0x41, 0]

    private static func reply(
        flags: [UInt8] = [0x81, 0x80], counts: [UInt8] = [0, 1, 0, 1, 0, 0, 0, 0], asked: [UInt8] = name,
        type: [UInt8] = [0, 1, 0, 1], _ records: [UInt8], id: UInt16 = 0x1234
    ) throws(DNSMalformed) -> DNSReply {
        let bytes = [0x12, 0x34] + flags + counts + asked + type + records
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(DNSMalformed) in try question.reply(bytes, id: id) }
        }
        return try result.get()
    }

    private static func address(_ owner: [UInt8] = [0xc0, 12], _ last: UInt8 = 1) -> [UInt8] {
        owner + [0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, last]
    }

    @Test func `A question is the bytes of the standard`() {
        let expected: [UInt8] =
            [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + [1, 0x66, 3, 0x69, 0x73, 0x69, 4, 0x61, 0x72, 0x70, 0x61, 0]
            + [0, 28, 0, 1]
        #expect(DNSQuestion(DNSName("F.isi.ARPA.")!, .ipv6).message(id: 0xabcd) == expected)
    }

    @Test func `Names are refused that no server can know`() {
        let long = String(repeating: "a", count: 63)
        for text in ["a", "a.b", "a-1._tcp.b.", [long, long, long, String(long.dropLast(2))].joined(separator: ".")] {
            #expect(DNSName(text) != nil, "\(text)")
        }
        for text in ["", ".", "a..b", ".a", "a b", "ü", long + "a", [long, long, long, long].joined(separator: ".")] {
            #expect(DNSName(text) == nil, "\(text)")
        }
        #expect(DNSName("A.b.") == DNSName("a.B"))
        #expect(DNSName("A.b.")?.description == "a.b")
    }

    @Test func `An answer is read whatever else it has, and names continue earlier`() throws {
        #expect(try Self.reply(Self.address()) == .addresses([[10, 0, 0, 1]]))
        #expect(try Self.reply(Self.address(Self.name)) == .addresses([[10, 0, 0, 1]]))
        // FOO behind a pointer to the whole of F.ISI.ARPA is another name.
        #expect(try Self.reply(Self.address([3, 0x46, 0x4f, 0x4f, 0xc0, 12])) == .addresses([]))
        let text: [UInt8] = [0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 1, 0, 2, 1, 0x61]
        let chaos: [UInt8] = [0xc0, 12, 0, 1, 0, 3, 0, 0, 0, 1, 0, 4, 9, 9, 9, 9]
        let counts: [UInt8] = [0, 1, 0, 4, 0, 0, 0, 0]
        let all = text + Self.address() + chaos + Self.address([0xc0, 12], 2) + [0xff, 0xff]
        #expect(try Self.reply(counts: counts, all) == .addresses([[10, 0, 0, 1], [10, 0, 0, 2]]))
        #expect(try Self.reply(flags: [0x81, 0x83], []) == .noSuchName)
        #expect(try Self.reply(flags: [0x81, 0x85], []) == .refused(code: 5))
        #expect(try Self.reply(flags: [0x83, 0x80], []) == .truncated)
    }

    @Test func `What is no answer to the question is passed over`() throws {
        #expect(try Self.reply(Self.address(), id: 0x1235) == .notOurs)
        #expect(try Self.reply(flags: [0x01, 0x80], Self.address()) == .notOurs)
        #expect(try Self.reply(flags: [0x91, 0x80], Self.address()) == .notOurs)
        #expect(try Self.reply(counts: [0, 2, 0, 1, 0, 0, 0, 0], Self.address()) == .notOurs)
        #expect(try Self.reply(asked: [1, 0x47] + Self.name[2...], Self.address()) == .notOurs)
        #expect(try Self.reply(type: [0, 28, 0, 1], Self.address()) == .notOurs)
        #expect(try Self.reply(type: [0, 1, 0, 3], Self.address()) == .notOurs)
        #expect(try Self.reply(asked: [0xc0, 12], Self.address()) == .notOurs)
    }

    @Test(
        arguments: [
            // An address of five bytes, and one that ends too early.
            [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 5, 10, 0, 0, 1, 1],
            [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0],
            // Pointers to themselves, forward, and to what leads back to them.
            [0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1],
            [0xc0, 40, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1],
            [1, 0x61, 0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1],
            // A label of a kind that does not exist.
            [0x40, 0x61, 0, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1],
            // An alias that ends before its data, or behind it, or stands for itself.
            [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 3, 0xc0, 12, 0],
            [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 1, 0xc0, 12],
            [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12], [],
        ] as [[UInt8]])
    func `A broken answer is refused`(_ records: [UInt8]) {
        #expect(throws: DNSMalformed.self) { try Self.reply(records) }
    }

    @Test func `No bytes make it trap, and what it takes has the right lengths`() {
        var random = SeededRandom(seed: 1)
        let alias: [UInt8] = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, 0x62, 0xc0, 14]
        let whole =
            [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0] + Self.name + [0, 1, 0, 1] + Self.address() + alias
            + Self.address([0xc0, 12], 2)
        var answers = 0
        for _ in 0..<100_000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 0...4, using: &random) {
                bytes[Int.random(in: 2..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            bytes.removeLast(Int.random(in: 0...3, using: &random) == 0 ? Int.random(in: 0...50, using: &random) : 0)
            let reply = bytes.withUnsafeBytes { try? Self.question.reply($0, id: 0x1234) }
            guard case .addresses(let addresses)? = reply else { continue }
            answers += 1
            if addresses.contains(where: { $0.count != 4 }) { Issue.record("\(addresses)") }
        }
        #expect(answers > 1000)
    }
}
