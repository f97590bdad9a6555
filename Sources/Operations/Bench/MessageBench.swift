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

    /// What is measured of one message, `passes` times over.
    private typealias Body = (_ index: Int, _ passes: Int) -> Void

    /// What it takes to write and read `messages`, in nanoseconds and bytes; each figure some passes in a row.
    func figures<Message: ProtoMessage>(_ messages: [Message]) -> [Figure] {
        var figures: [Figure] = []
        each(of: messages) { figure, body in
            for index in messages.indices { body(index, 1) }
            let samples = (0..<runs).map { _ in
                let start = CodecBench.cpuNs()
                for index in messages.indices { body(index, Self.passCount) }
                return Double(CodecBench.cpuNs() - start) / Double(Self.passCount * messages.count)
            }
            add(figure, "ns", samples, &figures)
        }
        let count = Double(messages.count)
        add("message_bytes", "bytes", [Double(messages.reduce(0) { $0 + $1.encodedBytes().count }) / count], &figures)
        add("json_bytes", "bytes", [Double(messages.reduce(0) { $0 + $1.json().utf8.count }) / count], &figures)
        return figures
    }

    /// What it allocates; to be asked after all that is timed (see `Allocations`).
    func allocations<Message: ProtoMessage>(_ messages: [Message]) -> [Figure] {
        var figures: [Figure] = []
        each(of: messages) { figure, body in
            for index in messages.indices { body(index, 1) }
            guard let count = Allocations.count({ for index in messages.indices { body(index, 1) } }) else { return }
            add(figure + "_allocations", "allocations", [Double(count) / Double(messages.count)], &figures)
        }
        return figures
    }

    private func each<Message: ProtoMessage>(of messages: [Message], _ measure: (String, Body) -> Void) {
        let encoded = messages.map { $0.encodedBytes() }
        let texts = messages.map { $0.json() }
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: encoded.reduce(64) { max($0, $1.count + 64) }, alignment: 16)
        defer { buffer.deallocate() }
        let parser = JSONParser()
        var sink = 0
        measure("message_encode") { index, passes in
            let message = messages[index]
            for _ in 0..<passes { sink &+= message.encode(into: buffer) ?? 0 }
        }
        measure("decode") { index, passes in
            encoded[index].withUnsafeBytes { bytes in
                for _ in 0..<passes {
                    if let message = try? Message(decoding: bytes) { sink &+= message.unknownFields.count }
                }
            }
        }
        measure("json_encode") { index, passes in
            let message = messages[index]
            for _ in 0..<passes { sink &+= message.json().utf8.count }
        }
        measure("json_parse") { index, passes in
            var text = texts[index]
            text.withUTF8 { bytes in
                for _ in 0..<passes where (try? parser.parse(UnsafeRawBufferPointer(bytes))) != nil { sink &+= 1 }
            }
        }
        precondition(sink > 0)
    }

    private func add(_ figure: String, _ unit: String, _ samples: [Double], _ figures: inout [Figure]) {
        figures.append(Figure(bench: "codec", figure: prefix + figure, unit: unit, samples: samples))
    }
}
