import MarketProto
import Protobuf
import VenueFormats

/// The generated types beside JSON, for a tick and an order: what it costs to write and read one, and its size.
///
/// Part of the codec bench; the rows are those of the table that teams choose protobuf by.
struct MessageBench {
    private static let passCount = 200

    let runs: Int
    /// A prefix of its figures: `order_`, or empty for the tick.
    let prefix: String

    /// Figures for `messages`, each some passes in a row.
    func figures<Message: ProtoMessage>(_ messages: [Message]) -> [Figure] {
        let encoded = messages.map { $0.encodedBytes() }
        let texts = messages.map { $0.json() }
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: encoded.reduce(64) { max($0, $1.count + 64) }, alignment: 16)
        defer { buffer.deallocate() }
        let parser = JSONParser()
        var sink = 0
        var figures: [Figure] = []
        measure("message_encode", messages.count, &figures) { index, passes in
            let message = messages[index]
            for _ in 0..<passes { sink &+= message.encode(into: buffer) ?? 0 }
        }
        measure("decode", messages.count, &figures) { index, passes in
            encoded[index].withUnsafeBytes { bytes in
                for _ in 0..<passes {
                    if let message = try? Message(decoding: bytes) { sink &+= message.unknownFields.count }
                }
            }
        }
        measure("json_encode", messages.count, &figures) { index, passes in
            let message = messages[index]
            for _ in 0..<passes { sink &+= message.json().utf8.count }
        }
        measure("json_parse", messages.count, &figures) { index, passes in
            var text = texts[index]
            text.withUTF8 { bytes in
                for _ in 0..<passes where (try? parser.parse(UnsafeRawBufferPointer(bytes))) != nil { sink &+= 1 }
            }
        }
        add("message_bytes", "bytes", [Double(encoded.reduce(0) { $0 + $1.count }) / Double(messages.count)], &figures)
        add("json_bytes", "bytes", [Double(texts.reduce(0) { $0 + $1.utf8.count }) / Double(messages.count)], &figures)
        precondition(sink > 0)
        return figures
    }

    private func measure(
        _ figure: String, _ count: Int, _ figures: inout [Figure], _ body: (_ index: Int, _ passes: Int) -> Void
    ) {
        for index in 0..<count { body(index, 1) }
        let samples = (0..<runs).map { _ in
            let start = CodecBench.cpuNs()
            for index in 0..<count { body(index, Self.passCount) }
            return Double(CodecBench.cpuNs() - start) / Double(Self.passCount * count)
        }
        add(figure, "ns", samples, &figures)
    }

    private func add(_ figure: String, _ unit: String, _ samples: [Double], _ figures: inout [Figure]) {
        figures.append(Figure(bench: "codec", figure: prefix + figure, unit: unit, samples: samples))
    }
}
