import Foundation
import TestSupport
import Testing

@testable import KafkaFrames

/// What sarama's tests hold true (`../shared/data/kafka`), of the messages that are spoken here.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct VectorTests {
    private struct Vectors: Decodable {
        struct Entry: Decodable {
            let file: String
            let name: String
            let hex: String
        }
        let arrays: [Entry]
    }

    private static func bytes(_ hex: String) -> [UInt8] {
        let digits = Array(hex.utf8).map { UInt8(Character(UnicodeScalar($0)).hexDigitValue ?? 0) }
        return stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }

    private let vectors: Vectors

    init() throws {
        vectors = try JSONDecoder().decode(
            Vectors.self,
            from: Data(contentsOf: URL(fileURLWithPath: SharedData.path("data/kafka/sarama_golden_bytes.json"))))
    }

    private func vector(_ name: String) throws -> [UInt8] {
        Self.bytes(try #require(vectors.arrays.first { $0.name == name }?.hex))
    }

    private func read<T>(_ name: String, _ body: (inout KafkaReader) throws -> T) throws -> T {
        try vector(name).withUnsafeBytes { bytes in
            var reader = KafkaReader(bytes)
            defer { #expect(reader.left == 0, "\(name)") }
            return try body(&reader)
        }
    }

    private func written(_ body: (KafkaBuffer) -> Void) -> [UInt8] {
        let buffer = KafkaBuffer()
        body(buffer)
        return [UInt8](buffer.bytes)
    }

    @Test func `Batches of every codec have the record that they were made of`() throws {
        let batches = vectors.arrays.filter { $0.file == "record_test.go" && $0.name == "encoded" }
        #expect(batches.count == 6)
        var codecs: Set<KafkaCodec> = []
        var controls = 0
        for entry in batches {
            try Self.bytes(entry.hex).withUnsafeBytes { bytes in
                var rest = bytes
                let batch = try #require(try RecordBatch.next(of: &rest))
                #expect(rest.isEmpty)
                try batch.check()
                controls += batch.isControl ? 1 : 0
                var count = 0
                try KafkaRecord.read(batch, scratch: KafkaBuffer()) { record in
                    count += 1
                    #expect(record.key.elementsEqual([1, 2, 3, 4]) && record.value.elementsEqual([5, 6, 7]))
                    #expect(record.offset == 0 && record.timestampMs == 1_479_847_795_000 + 5)
                    return true
                }
                #expect(count == batch.recordCount)
                if count > 0 { codecs.insert(batch.codec) }
            }
        }
        #expect(codecs == [.none, .gzip, .snappy, .lz4] && controls == 1)
    }

    @Test func `A record's header is found by its name`() throws {
        let entry = try #require(vectors.arrays.first { $0.name == "oneRecordFetchResponse" })
        let bytes = Self.bytes(entry.hex).suffix(82)
        try Array(bytes).withUnsafeBytes { bytes in
            var rest = bytes
            let batch = try #require(try RecordBatch.next(of: &rest))
            try batch.check()
            try KafkaRecord.read(batch, scratch: KafkaBuffer()) { record in
                let name = String(decoding: [8, 9, 10], as: UTF8.self)
                #expect((try? record.header(name))??.elementsEqual([11, 12]) == true)
                #expect((try? record.header("none") == nil) == true)
                return true
            }
        }
    }

    @Test func `Answers are read as another client reads them`() throws {
        let versions = try read("apiVersionResponseV0") { try KafkaVersions(&$0) }
        #expect(versions.error == .none)
        #expect(!versions.contains(.produce) && !versions.contains(.metadata))
        let id = try read("initProducerIDResponse") { try KafkaProducerID.read(&$0) }
        #expect(id.error == .none && id.id == KafkaProducerID(id: 8000, epoch: 0))
        let refused = try read("initProducerIDRequestError") { try KafkaProducerID.read(&$0) }
        #expect(refused.error.code == 51)
        let mechanisms = try read("saslHandshakeResponse") { try KafkaLoginAnswer.handshake(&$0) }
        #expect(mechanisms.error == .none && mechanisms.mechanisms == ["foo"])
        let login = try read("saslAuthenticateResponseErr") { try KafkaLoginAnswer.authenticate(&$0) }
        #expect(login.error.code == 58 && login.message == "err" && login.bytes == Array("msg".utf8))
    }

    @Test func `Requests are written as another client writes them`() throws {
        #expect(try written { KafkaRequest.saslHandshake($0, mechanism: "foo") } == vector("baseSaslRequest"))
        #expect(
            try written { KafkaRequest.saslAuthenticate($0, Array("foo".utf8)) } == vector("saslAuthenticateRequest"))
        #expect(
            try written { KafkaRequest.initProducerID($0) }.prefix(2) == vector("initProducerIDRequestNull").prefix(2))
    }
}
