import TestSupport
import Testing

@testable import CQLFrames

struct FramingTests {
    static let framings: [CQLFraming] = [.frames(.none), .frames(.lz4), .segments(.none), .segments(.lz4)]

    /// Frames of many lengths, some of several segments.
    private func frames(_ random: inout RandomCQL, count: Int) -> [[UInt8]] {
        (0..<count).map { index in
            let buffer = CQLBuffer()
            let length = [0, 1, 500, 600, 40_000, 65_500, 65_540, 100_000, 131_062, 131_063, 300_000][random.below(11)]
            let text =
                random.chance(50)
                ? String(repeating: "a", count: length)
                : String(
                    (0..<length).map { _ in
                        Character(UnicodeScalar(UInt8(97 + random.below(26))))
                    })
            CQLRequest.query(text, CQLParameters()).append(to: buffer, .v5, stream: Int16(index))
            return Array(buffer.bytes)
        }
    }

    @Test(arguments: framings)
    func `Frames come out as they went in, however the bytes are cut`(_ framing: CQLFraming) throws {
        var random = RandomCQL(seed: 21)
        let frames = frames(&random, count: 24)
        let encoder = CQLFrameEncoder(framing)
        for frame in frames {
            frame.withUnsafeBytes { encoder.add($0) }
            if random.chance(30) { encoder.finish() }
        }
        encoder.finish()
        let bytes = Array(encoder.output.bytes)
        for piece in [bytes.count, 100_000, 4096, 7] {
            let decoder = CQLFrameDecoder(framing)
            let found = try decoder.frames(bytes) { left in min(left, piece) }
            #expect(found.count == frames.count)
            for (frame, (header, body)) in zip(frames, found) {
                #expect(Array(frame[9...]) == body && header.stream == Int16(frame[2]) << 8 | Int16(frame[3]))
            }
            #expect(decoder.keptBytes == 0)
        }
    }

    @Test func `Compression is worth it, and left out where it is not`() throws {
        let buffer = CQLBuffer()
        CQLRequest.query(String(repeating: "a", count: 100_000), CQLParameters()).append(to: buffer, .v4, stream: 1)
        for framing in [CQLFraming.frames(.lz4), .segments(.lz4)] {
            let encoder = CQLFrameEncoder(framing)
            encoder.add(buffer.bytes)
            encoder.finish()
            #expect(encoder.output.count < 1000)
        }
        var random = RandomCQL(seed: 22)
        let noise = (0..<2000).map { _ in UInt8(random.below(256)) }
        let frame = [UInt8(4), 0, 0, 1, CQLOpcode.authResponse.rawValue, 0, 0, 7, 0xd0] + noise
        let encoder = CQLFrameEncoder(.frames(.lz4))
        frame.withUnsafeBytes { encoder.add($0) }
        encoder.finish()
        #expect(Array(encoder.output.bytes) == frame, "what does not become shorter goes as it is")
    }

    @Test(arguments: [CQLFraming.segments(.none), .segments(.lz4)])
    func `A segment with any bit turned is refused`(_ framing: CQLFraming) throws {
        let buffer = CQLBuffer()
        CQLRequest.query(String(repeating: "select", count: 20), CQLParameters()).append(to: buffer, .v5, stream: 5)
        let encoder = CQLFrameEncoder(framing)
        encoder.add(buffer.bytes)
        encoder.finish()
        let bytes = Array(encoder.output.bytes)
        for index in bytes.indices {
            for bit in 0..<8 {
                var damaged = bytes
                damaged[index] ^= 1 << UInt8(bit)
                #expect(throws: CQLFormatError.self, "byte \(index), bit \(bit)") {
                    try CQLFrameDecoder(framing).frames(damaged)
                }
            }
        }
    }

    @Test func `Segments that do not make frames are refused`() throws {
        func refused(_ segments: [([UInt8], Bool)], _ why: String) {
            let buffer = CQLBuffer()
            for (payload, isSelfContained) in segments {
                payload.withUnsafeBytes {
                    CQLSegment.append($0, isSelfContained: isSelfContained, .segments(.none), to: buffer)
                }
            }
            #expect(throws: CQLFormatError.self, "\(why)") {
                try CQLFrameDecoder(.segments(.none)).frames(Array(buffer.bytes))
            }
        }
        let options: [UInt8] = [5, 0, 0, 1, 5, 0, 0, 0, 0]
        refused([(Array(options.prefix(8)), true)], "a header that is cut")
        refused([([5, 0, 0, 1, 5, 0, 0, 0, 9], true)], "a body that is cut")
        refused([([5, 0], false)], "a part without a header")
        refused([([5, 0, 0, 1, 5, 0, 0, 0, 9, 1], false), (options, true)], "a whole frame within another")
        refused([([5, 0, 0, 1, 5, 0, 0, 0, 2, 1], false), ([1, 1], false)], "more than the frame")
        refused([([3, 0, 0, 1, 5, 0, 0, 0, 0], true)], "another version")
        refused([([5, 0, 0, 1, 5, 0x7f, 0, 0, 0], true)], "a frame past the limit")
        refused([([5, 0, 0, 1, 8, 0, 0, 0, 0], true)], "a response from a client")
    }

    @Test func `Compressed bytes that claim too much are refused before memory is taken for them`() throws {
        let bomb: [UInt8] = [0x84, 1, 0, 0, 8, 0, 0, 0, 6, 0x0f, 0xff, 0xff, 0xff, 0x10, 0x61]
        #expect(throws: CQLFormatError.self) { try CQLFrameDecoder(.frames(.lz4)).frames(bomb) }
        #expect(throws: CQLFormatError.self, "no compression was agreed") {
            try CQLFrameDecoder(.frames(.none)).frames(bomb)
        }
    }
}
