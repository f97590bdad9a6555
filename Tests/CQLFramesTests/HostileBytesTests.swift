import TestSupport
import Testing

@testable import CQLFrames

/// Frames that were changed: read or refused, and never a trap.
struct HostileBytesTests {
    private func read(_ version: CQLVersion, isResponse: Bool, _ frame: [UInt8]) -> Bool {
        frame.withUnsafeBytes { bytes in
            guard bytes.count >= 9, let header = try? CQLFrameHeader(bytes, lengthMax: 1 << 20) else { return false }
            let body = UnsafeRawBufferPointer(rebasing: bytes[9...])
            guard header.isResponse else { return (try? CQLRequest.read(header, body)) != nil }
            guard let answer = try? CQLAnswer(header, body) else { return false }
            if case .result(.rows(let rows)) = answer.response { _ = try? rows.values() }
            return true
        }
    }

    @Test(arguments: CQLVersion.allCases)
    func `Frames cut anywhere are refused`(_ version: CQLVersion) {
        var random = RandomCQL(seed: 31)
        for round in 0..<400 {
            let buffer = CQLBuffer()
            if round % 2 == 0 {
                random.answer(version).append(to: buffer, version, stream: 0)
            } else {
                random.request(version).append(to: buffer, version, stream: 0)
            }
            let frame = Array(buffer.bytes)
            #expect(read(version, isResponse: round % 2 == 0, frame))
            // The bytes behind an error of an unknown code are nobody's.
            if round % 2 == 0, frame[4] == 0 { continue }
            for end in stride(from: 9, to: frame.count, by: max(1, frame.count / 40)) {
                #expect(!read(version, isResponse: round % 2 == 0, Array(frame[..<end])), "\(frame[4]) cut at \(end)")
            }
        }
    }

    @Test(arguments: CQLVersion.allCases)
    func `Frames with bytes changed never trap`(_ version: CQLVersion) {
        var random = RandomCQL(seed: 32)
        var refused = 0
        for round in 0..<4000 {
            let buffer = CQLBuffer()
            if round % 2 == 0 {
                random.answer(version).append(to: buffer, version, stream: 0)
            } else {
                random.request(version).append(to: buffer, version, stream: 0)
            }
            var frame = Array(buffer.bytes)
            for _ in 0..<(1 + random.below(4)) where frame.count > 9 {
                let place = 9 + random.below(frame.count - 9)
                switch random.below(4) {
                case 0: frame[place] = UInt8(random.below(256))
                case 1: frame[place] = random.pick([0, 0x7f, 0x80, 0xff])
                case 2: frame.remove(at: place)
                default: frame.insert(UInt8(random.below(256)), at: place)
                }
            }
            if !read(version, isResponse: round % 2 == 0, frame) { refused += 1 }
        }
        #expect(refused > 1000, "changed bytes are mostly noticed: \(refused)")
    }

    @Test func `Counts that promise more than there is are refused at once`() {
        func refused(_ body: [UInt8], _ opcode: CQLOpcode = .result) {
            let header = CQLFrameHeader(
                version: .v5, isResponse: true, flags: [], stream: 0, opcode: opcode, length: body.count)
            #expect(throws: CQLFormatError.self) { try body.withUnsafeBytes { try CQLAnswer(header, $0) } }
        }
        // Rows: flags, columns, rows.
        refused([0, 0, 0, 2, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])
        refused([0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 2, 0x7f, 0xff, 0xff, 0xff])
        refused([0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff])
        refused([0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        refused([0, 0, 0, 9])
        refused([0xff, 0xff], .supported)
        refused([0, 0, 0x13, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0], .error)
        let list: [UInt8] = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]
        #expect(throws: CQLFormatError.self) { try list.withUnsafeBytes { try CQLValue($0, as: .list(.int)) } }
        #expect(throws: CQLFormatError.self) { try list.withUnsafeBytes { try CQLValue($0, as: .map(.int, .int)) } }
        let deep = (0..<200).map { UInt8($0 % 2 == 0 ? 0 : 0x20) }
        #expect(throws: CQLFormatError.self) {
            try deep.withUnsafeBytes { bytes in
                var reader = CQLReader(bytes)
                _ = try reader.type()
            }
        }
    }
}
