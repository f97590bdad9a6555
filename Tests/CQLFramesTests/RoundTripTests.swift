import TestSupport
import Testing

@testable import CQLFrames

struct RoundTripTests {
    @Test(arguments: CQLVersion.allCases)
    func `Requests are read as they were written`(_ version: CQLVersion) throws {
        var random = RandomCQL(seed: 1 + UInt64(version.rawValue))
        for _ in 0..<3000 {
            let request = random.request(version)
            let payload = random.payload()
            let buffer = CQLBuffer()
            request.append(to: buffer, version, stream: Int16(random.below(32_768)), payload: payload)
            let header = try CQLFrameHeader(buffer.bytes, lengthMax: 1 << 20)
            let body = UnsafeRawBufferPointer(rebasing: buffer.bytes[CQLFrameHeader.byteCount...])
            #expect(header.length == body.count && header.opcode == request.opcode)
            let read = try CQLRequest.read(header, body)
            #expect(read.request == request && read.payload == payload)
        }
    }

    @Test(arguments: CQLVersion.allCases)
    func `Responses are read as they were written`(_ version: CQLVersion) throws {
        var random = RandomCQL(seed: 11 + UInt64(version.rawValue))
        for _ in 0..<3000 {
            let answer = random.answer(version)
            let buffer = CQLBuffer()
            answer.append(to: buffer, version, stream: -1)
            let header = try CQLFrameHeader(buffer.bytes, lengthMax: 1 << 20)
            let body = UnsafeRawBufferPointer(rebasing: buffer.bytes[CQLFrameHeader.byteCount...])
            let read = try CQLAnswer(header, body)
            #expect(read == answer)
        }
    }

    @Test func `Values of all types are read as they were written`() throws {
        var random = RandomCQL(seed: 3)
        for _ in 0..<5000 {
            let type = random.type()
            let value = random.value(type, nullable: false)
            let buffer = CQLBuffer()
            try buffer.append(content: value, as: type)
            if buffer.count == 0 {
                // Nothing is left of an empty tuple, text or blob but that it is empty.
                continue
            }
            let read = try CQLValue(buffer.bytes, as: type)
            #expect(read == value, "\(type)")
        }
    }

    @Test func `Types are read as they were written, by number and by class`() throws {
        var random = RandomCQL(seed: 4)
        for _ in 0..<2000 {
            let type = random.type()
            let buffer = CQLBuffer()
            buffer.append(type: type)
            var reader = CQLReader(buffer.bytes)
            let read = try reader.type()
            #expect(read == type && reader.remaining == 0)
        }
        let nested = CQLType.vector(.list(.map(.text, .tuple([.int, .vector(.float, dimension: 2)]))), dimension: 7)
        #expect(CQLType(className: nested.className) == nested)
        let package = "org.apache.cassandra.db.marshal."
        #expect(
            CQLType(className: "\(package)FrozenType(\(package)ListType(\(package)ReversedType(\(package)Int32Type)))")
                == .list(.int))
        for bad in [
            "", "Int32Type", "\(package)VectorType(\(package)FloatType , 0)", "\(package)ListType(\(package)Int32Type",
            "\(package)ListType", "\(package)Int32Type)", "\(package)VectorType(\(package)FloatType)",
        ] {
            #expect(CQLType(className: bad) == nil, "\(bad)")
        }
        #expect(CQLType(className: String(repeating: package + "ListType(", count: 10_000)) == nil)
    }

    @Test func `Variable integers of every length`() throws {
        var values: [UInt64] = [0, 1, 127, 128, .max, .max >> 1]
        for bits in 0..<64 { values += [1 << UInt64(bits), 1 << UInt64(bits) - 1, 1 << UInt64(bits) + 1] }
        for value in values {
            let buffer = CQLBuffer()
            buffer.append(unsignedVint: value)
            let length = buffer.count
            buffer.append(vint: Int64(bitPattern: value))
            var reader = CQLReader(buffer.bytes)
            let read = try reader.unsignedVint()
            #expect(read == value)
            #expect(reader.position == length && length == min(9, max(1, (70 - value.leadingZeroBitCount) / 7)))
            let signed = try reader.vint()
            #expect(signed == Int64(bitPattern: value))
        }
        // The specification's own example.
        let buffer = CQLBuffer()
        buffer.append(unsignedVint: 256_000)
        #expect(Array(buffer.bytes) == [0b1100_0011, 0b1110_1000, 0])
    }

    @Test func `Integers take each other's place where they fit`() throws {
        let buffer = CQLBuffer()
        try buffer.append(5, as: .tinyint)
        #expect(Array(buffer.bytes) == [0, 0, 0, 1, 5])
        #expect(throws: CQLValueError.self) { try buffer.append(300, as: .tinyint) }
        #expect(throws: CQLValueError.self) { try buffer.append("5", as: .int) }
        #expect(throws: CQLValueError.self) { try buffer.append(.vector([1]), as: .vector(.int, dimension: 2)) }
        #expect(buffer.count == 5, "what failed leaves nothing behind")
    }

    @Test func `Numbers of any size are written in decimal`() {
        #expect(CQLVarint(bytes: []).description == "0")
        #expect(CQLVarint(Int64.min).description == "-9223372036854775808")
        #expect(
            CQLVarint(Int64.max).int64 == .max && CQLVarint(-1).bytes == [0xff] && CQLVarint(128).bytes == [0, 128])
        let least = CQLVarint(bytes: [0x80] + [UInt8](repeating: 0, count: 15))
        #expect(least.description == "\(Int128.min)")
        #expect(CQLVarint(bytes: [UInt8](repeating: 1, count: 9)).int64 == nil)
    }

    @Test func `A request that flags names of no values is the one without values`() throws {
        // Id [1], consistency ONE, flags values and names, no values.
        let body: [UInt8] = [0, 1, 1, 0, 1, 0x41, 0, 0]
        let header = CQLFrameHeader(
            version: .v4, isResponse: false, flags: [], stream: 0, opcode: .execute, length: body.count)
        let read = try body.withUnsafeBytes { try CQLRequest.read(header, $0).request }
        #expect(read == .execute(CQLPreparedID(id: [1]), CQLParameters(consistency: .one)))
    }

    @Test func `A batch written straight into a frame is the batch`() throws {
        for version in CQLVersion.allCases {
            let buffer = CQLBuffer()
            buffer.append([1, 2, 3])
            var writer = CQLBatchWriter(.unlogged, version, into: buffer)
            for row in 0..<3 {
                writer.statement([9, 9], values: 3)
                buffer.append(value: Int64(row))
                buffer.appendNull()
                [UInt8]("abc".utf8).withUnsafeBytes { buffer.append(value: $0) }
            }
            writer.finish(.localOne, timestampMicroseconds: 77)
            let frame = UnsafeRawBufferPointer(rebasing: buffer.bytes[3...])
            let header = try CQLFrameHeader(frame, lengthMax: 1 << 20)
            let read = try CQLRequest.read(header, UnsafeRawBufferPointer(rebasing: frame[9...])).request
            var expected = CQLBatch(
                .unlogged,
                try (0..<3).map { row in
                    CQLBatch.Entry(
                        .prepared([9, 9]),
                        try CQLBoundValues([(.bigint(row), .bigint), (.null, .int), (.text("abc"), .text)]))
                })
            expected.timestampMicroseconds = 77
            #expect(read == .batch(expected))
        }
    }

    @Test func `Batches that are put together are one of all their statements`() throws {
        for version in CQLVersion.allCases {
            let joined = CQLBuffer()
            var writer = CQLBatchWriter(.unlogged, version, into: joined)
            for first in [0, 2, 3] {
                let buffer = CQLBuffer()
                var part = CQLBatchWriter(.unlogged, version, into: buffer)
                for row in first..<(first == 0 ? 2 : first + 1) {
                    part.statement([9, 9], values: 1)
                    buffer.append(value: Int64(row))
                }
                let statements = part.statements
                part.finish(.quorum)
                writer.append(
                    statements: UnsafeRawBufferPointer(rebasing: buffer.bytes[statements]), count: part.count)
            }
            writer.finish(.localOne)
            let header = try CQLFrameHeader(joined.bytes, lengthMax: 1 << 20)
            let read = try CQLRequest.read(header, UnsafeRawBufferPointer(rebasing: joined.bytes[9...])).request
            let expected = CQLBatch(
                .unlogged,
                try (0..<4).map { row in
                    CQLBatch.Entry(.prepared([9, 9]), try CQLBoundValues([(.bigint(row), .bigint)]))
                })
            #expect(read == .batch(expected))
        }
    }
}
