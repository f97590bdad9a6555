import Foundation
import TestSupport
import Testing

@testable import CQLFrames

/// What other drivers' tests hold true (`../shared/data/cql`).
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct VectorTests {
    struct Vectors: Decodable {
        struct Token: Decodable {
            let key_hex: String
            let token: String
        }
        struct Segment: Decodable {
            let kind: String
            let payload_length: Int?
            let uncompressed_length: Int?
            let self_contained: Bool?
            let hex: String?
            let payload_hex: String?
            let crc_le_hex: String?
        }
        struct Marshalled: Decodable {
            let hex: String
            let type: String
            let value_python: String
        }
        let murmur3: [Token]
        let segment_v5: [Segment]
        let marshalling: [Marshalled]
    }

    struct GoVector: Decodable {
        let proto: Int
        let type: String
        let hex: String?
        let go_value: String
        let unmarshal_error: String?
    }

    static func bytes(_ hex: String) -> [UInt8] {
        let digits = Array(hex.utf8).map { UInt8(Character(UnicodeScalar($0)).hexDigitValue ?? 0) }
        return stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }

    private func vectors() throws -> Vectors {
        try JSONDecoder().decode(
            Vectors.self, from: Data(contentsOf: URL(fileURLWithPath: SharedData.path("data/cql/vectors.json"))))
    }

    @Test func `Tokens of 34 keys`() throws {
        let tokens = try vectors().murmur3
        #expect(tokens.count == 34)
        for vector in tokens {
            let key = Self.bytes(vector.key_hex)
            #expect(String(key.withUnsafeBytes { Murmur3.token($0) }) == vector.token, "\(vector.key_hex)")
        }
    }

    @Test func `A key of several columns is their composite`() {
        let composite = Self.bytes("00036162630000013100")
        let token = composite.withUnsafeBytes { Murmur3.token($0) }
        #expect(Murmur3.token(of: [Array("abc".utf8), Array("1".utf8)]) == token)
    }

    @Test func `Headers and checksums of segments`() throws {
        for vector in try vectors().segment_v5 {
            switch vector.kind {
            case "payload_crc32":
                let payload = Self.bytes(vector.payload_hex ?? "")
                let crc = payload.withUnsafeBytes { CQLChecksums.crc32($0) }
                #expect(withUnsafeBytes(of: crc.littleEndian, Array.init) == Self.bytes(vector.crc_le_hex ?? ""))
            default:
                let compression: CQLCompression = vector.kind == "compressed_header" ? .lz4 : .none
                let header = CQLSegment.Header(
                    payloadLength: vector.payload_length ?? 0,
                    uncompressedLength: vector.uncompressed_length ?? 0,
                    isSelfContained: vector.self_contained == true)
                let buffer = CQLBuffer()
                CQLSegment.append(header, compression, to: buffer)
                #expect(Array(buffer.bytes) == Self.bytes(vector.hex ?? ""))
                let read = try CQLSegment.header(buffer.bytes, compression)
                #expect(read == header)
            }
        }
    }

    private static let goTypes: [String: CQLType] = [
        "TypeInt": .int, "TypeTinyInt": .tinyint, "TypeSmallInt": .smallint, "TypeVarchar": .text,
        "TypeBigInt": .bigint,
        "TypeInet": .inet, "TypeTimeUUID": .timeuuid, "TypeBoolean": .boolean, "TypeDecimal": .decimal,
        "TypeTimestamp": .timestamp, "TypeVarint": .varint, "TypeBlob": .blob, "TypeFloat": .float,
        "TypeDouble": .double, "TypeDuration": .duration, "TypeTime": .time,
    ]

    @Test func `Values of the Go driver's tests, read and written again`() throws {
        let vectors = try JSONDecoder().decode(
            [GoVector].self,
            from: Data(contentsOf: URL(fileURLWithPath: SharedData.path("data/cql/gocql_marshal_vectors.json"))))
        #expect(vectors.count == 100)
        for vector in vectors {
            guard let hex = vector.hex else { continue }
            let type = try #require(Self.goTypes[vector.type])
            let bytes = Self.bytes(hex)
            let value = Result { try bytes.withUnsafeBytes { try CQLValue($0, as: type) } }
            if vector.unmarshal_error?.contains("must be exactly 16") == true {
                #expect(throws: CQLFormatError.self) { try value.get() }
                continue
            }
            let buffer = CQLBuffer()
            try buffer.append(content: value.get(), as: type)
            #expect(Array(buffer.bytes) == bytes, "\(vector.type) \(vector.go_value)")
            checkNumber(vector, try value.get())
        }
    }

    /// Where the Go value is a plain number, it is ours.
    private func checkNumber(_ vector: GoVector, _ value: CQLValue) {
        let digits = vector.go_value.split(whereSeparator: { $0 == "(" || $0 == ")" }).last.map(String.init) ?? ""
        guard !vector.go_value.contains("//"), !vector.go_value.contains("uint"), !vector.go_value.contains("Uint"),
            let number = Int64(digits)
        else {
            return
        }
        switch value {
        case .timestamp(let value), .time(let value): #expect(value == number)
        case .varint(let value): #expect(value.int64 == number)
        default: if let integer = value.integer { #expect(integer == number, "\(vector.go_value)") }
        }
    }

    private static let classes: [String: CQLType] = [
        "AsciiType": .ascii, "BooleanType": .boolean, "BytesType": .blob, "CounterColumnType": .counter,
        "DateType": .timestamp, "DecimalType": .decimal, "DoubleType": .double, "FloatType": .float, "Int32Type": .int,
        "IntegerType": .varint, "LongType": .bigint, "InetAddressType": .inet, "UTF8Type": .text, "UUIDType": .uuid,
        "TimeUUIDType": .timeuuid, "SimpleDateType": .date, "TimeType": .time, "ByteType": .tinyint,
        "ShortType": .smallint, "MapType(AsciiType, BooleanType)": .map(.ascii, .boolean),
        "ListType(FloatType)": .list(.float), "SetType(LongType)": .set(.bigint),
        "MapType(DecimalType, BooleanType)": .map(.decimal, .boolean), "SetType(IntegerType)": .set(.varint),
        "ListType(TimeUUIDType)": .list(.timeuuid), "MapType(UTF8Type, Int32Type)": .map(.text, .int),
        "SetType(DoubleType)": .set(.double),
    ]

    /// Collections of protocol 2 have counts and lengths of two bytes; ours have four.
    private func widened(_ bytes: [UInt8], _ type: CQLType) -> [UInt8] {
        let perElement: Int
        switch type {
        case .list, .set: perElement = 1
        case .map: perElement = 2
        default: return bytes
        }
        guard bytes.count >= 2 else { return bytes }
        let count = Int(bytes[0]) << 8 | Int(bytes[1])
        var wide: [UInt8] = [0, 0, bytes[0], bytes[1]]
        var position = 2
        for _ in 0..<(count * perElement) {
            let length = Int(bytes[position]) << 8 | Int(bytes[position + 1])
            wide += [0, 0, bytes[position], bytes[position + 1]] + bytes[(position + 2)..<(position + 2 + length)]
            position += 2 + length
        }
        return wide
    }

    @Test func `Values of the Python driver's tests, read and written again`() throws {
        let vectors = try vectors().marshalling
        #expect(vectors.count == 61)
        for vector in vectors {
            let type = try #require(Self.classes[vector.type], "\(vector.type)")
            let bytes = widened(Self.bytes(vector.hex), type)
            let value: CQLValue = try bytes.withUnsafeBytes { try CQLValue($0, as: type) }
            let buffer = CQLBuffer()
            try buffer.append(content: value, as: type)
            #expect(Array(buffer.bytes) == bytes, "\(vector.type)")
            if vector.value_python == "None" { #expect(value == .empty) }
            switch value {
            case .tinyint, .smallint, .int, .bigint:
                #expect(value.integer.map(String.init) == vector.value_python)
            case .varint(let number): #expect(number.description == vector.value_python)
            case .double(let number): #expect(Double(vector.value_python) == number)
            case .float(let number): #expect(Double(vector.value_python) == Double(number))
            case .boolean(let flag): #expect(vector.value_python == (flag ? "True" : "False"))
            case .uuid(let uuid): #expect(vector.value_python == "UUID('\(uuid)')")
            case .date(let days): #expect(vector.value_python == (days == 1 ? "Date(1)" : "Date('1969-12-31')"))
            default: break
            }
        }
    }

    @Test func `A result that the Go driver's benchmark reads`() throws {
        let body = try SharedData.unpacked("cql/gocql_bench_parse_result.frame.gz")
        let header = CQLFrameHeader(
            version: .v4, isResponse: true, flags: [], stream: 0, opcode: .result, length: body.count)
        let answer = try body.withUnsafeBytes { try CQLAnswer(header, $0) }
        guard case .result(.rows(let rows)) = answer.response else {
            Issue.record("no rows: \(answer.response)")
            return
        }
        #expect(rows.metadata.columns?.map(\.name).prefix(2) == ["columnfamily_name", "column_name"])
        let values = try rows.values()
        #expect(rows.count == 0x58 && values.count == 0x58)
        let buffer = CQLBuffer()
        answer.append(to: buffer, .v4, stream: 0)
        #expect(Array(buffer.bytes[CQLFrameHeader.byteCount...]) == body)
    }
}
