import Protobuf
import TestSupport
import Testing

struct RuntimeTests {
    private struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
    }

    private var sample: TestProto.EveryField {
        var message = TestProto.EveryField()
        message.fDouble = 1.5
        message.fInt32 = -1
        message.fString = "Größe"
        message.fBytes = [0, 255]
        message.fColor = .negative
        message.oInt64 = 0
        message.rInt32 = [1, -2, 300]
        message.uInt32 = [4, 5]
        message.mStringInt32 = ["b": 2, "a": 1]
        var inner = TestProto.EveryField.Inner()
        inner.number = 7
        message.inner = inner
        message.inners = [inner, inner]
        var back = TestProto.EveryField()
        back.fBool = true
        message.self_ = back
        message.choice = .cInner(inner)
        message.timestamp = Timestamp(ns: -1)
        return message
    }

    private func error(_ bytes: [UInt8]) -> DecodingError? {
        do throws(DecodingError) {
            _ = try TestProto.EveryField(decoding: bytes)
            return nil
        } catch {
            return error
        }
    }

    @Test func `Submessages of a field that stands twice merge, and the last scalar counts`() throws {
        var first = TestProto.EveryField.Inner()
        first.number = 1
        first.text = "one"
        var second = TestProto.EveryField.Inner()
        second.number = 2
        var a = TestProto.EveryField()
        a.inner = first
        a.fInt32 = 5
        var b = TestProto.EveryField()
        b.inner = second
        b.fInt32 = 6
        let merged = try TestProto.EveryField(decoding: a.encodedBytes() + b.encodedBytes())
        #expect(merged.inner?.number == 2 && merged.inner?.text == "one" && merged.fInt32 == 6)
    }

    @Test func `Packed and unpacked lists are read alike`() throws {
        let packed: [UInt8] = [0xea, 0x0c, 2, 1, 2]
        let unpacked: [UInt8] = [0xe8, 0x0c, 1, 0xe8, 0x0c, 2]
        #expect(try TestProto.EveryField(decoding: packed).rInt32 == [1, 2])
        #expect(try TestProto.EveryField(decoding: unpacked + packed).rInt32 == [1, 2, 1, 2])
    }

    @Test func `An unknown enum number and unknown fields are kept`() throws {
        let bytes: [UInt8] = [0x60, 99, 0xf8, 0xff, 0xff, 0xff, 0x0f, 5]
        let message = try TestProto.EveryField(decoding: bytes)
        #expect(message.fColor == .unrecognized(99))
        #expect(message.encodedBytes() == bytes)
    }

    @Test func `Truncation at each byte is refused or ends between fields, and never traps`() throws {
        let bytes = sample.encodedBytes()
        for count in 0..<bytes.count {
            if let decoded = try? TestProto.EveryField(decoding: Array(bytes[..<count])) {
                #expect(decoded.encodedBytes().count <= bytes.count)
            }
        }
    }

    @Test func `Hostile bytes are refused with the place`() {
        #expect(error([0x28])?.code == .truncated)
        #expect(error([0x28] + [UInt8](repeating: 0x80, count: 10) + [1])?.code == .overlongVarint)
        #expect(error([0x00, 1]) == DecodingError(.invalidTag, position: 0))
        #expect(error([0x2e])?.code == .invalidTag)
        #expect(error([0x4a, 1, 0xff]) == DecodingError(.invalidUTF8, position: 0))
        #expect(error([0x52, 0xff, 0xff, 0xff, 0xff, 0x0f])?.code == .truncated)
        #expect(error([0x52] + [UInt8](repeating: 0xff, count: 9) + [1])?.code == .truncated)
        #expect(error([0x0c])?.code == .unmatchedGroupEnd)
        // An unknown group, whole and cut.
        #expect(error([0xcb, 0x3e, 0x08, 1, 0xcc, 0x3e]) == nil)
        #expect(error([0xcb, 0x3e, 0x08, 1])?.code == .truncated)
        #expect(error([UInt8](repeating: 0xcb, count: 1) + [0x3e, 0xd4, 0x3e])?.code == .unmatchedGroupEnd)
    }

    @Test func `Messages nested too deeply are refused`() {
        var bytes: [UInt8] = []
        for _ in 0..<200 {
            var outer: [UInt8] = [0x9a, 0x19]
            var count = bytes.count
            while count >= 0x80 {
                outer.append(UInt8(count & 0x7f) | 0x80)
                count >>= 7
            }
            outer.append(UInt8(count))
            bytes = outer + bytes
        }
        #expect(error(bytes)?.code == .tooDeep)
        // Groups nest without lengths.
        let groups = [[UInt8]](repeating: [0xcb, 0x3e], count: 100_000).flatMap { $0 }
        #expect(error(groups)?.code == .tooDeep)
    }

    @Test func `Mutated messages decode or are refused, and what decodes encodes to itself`() throws {
        let bytes = sample.encodedBytes()
        var random = Random(state: 42)
        for _ in 0..<(Checkout.isSoak ? 3_000_000 : 30_000) {
            var mutated = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                mutated[Int.random(in: 0..<mutated.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            guard let decoded = try? TestProto.EveryField(decoding: mutated) else { continue }
            let encoded = decoded.encodedBytes()
            #expect(try TestProto.EveryField(decoding: encoded).encodedBytes() == encoded)
        }
    }

    @Test func `A message above the limit is refused`() {
        #expect(throws: DecodingError.self) {
            try TestProto.EveryField(decoding: [0x28, 1, 0x28, 1], limits: DecodingLimits(bytesMax: 3))
        }
    }
}
