import GRPC
import Testing

struct TraceContextTests {
    private static let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    @Test func `The specification's example is read and written`() throws {
        let context = try #require(TraceContext(header: TraceContextTests.good))
        #expect(context.traceID == "4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(context.parentID == 0x00f0_67aa_0ba9_02b7 && context.flags == 1 && context.isSampled)
        #expect(context.header == TraceContextTests.good)
        let child = try #require(context.child(spanID: 0xb7))
        #expect(child.header == "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000b7-01")
        #expect(context.child(spanID: 0) == nil)
    }

    @Test(arguments: [
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes-later", true),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g", false),
        ("0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011", false), ("", false), ("00", false),
    ])
    func `Later versions are read as far as they are known, anything else is no trace`(_ header: String, _ isOne: Bool)
    {
        let context = TraceContext(header: header)
        #expect((context != nil) == isOne)
        if let context { #expect(context.header == TraceContextTests.good) }
    }

    @Test func `Every cut and every changed byte is a trace or none, and never a trap`() {
        let bytes = Array(TraceContextTests.good.utf8)
        for count in 0..<bytes.count {
            #expect(TraceContext(header: String(decoding: bytes[..<count], as: UTF8.self)) == nil)
        }
        for position in bytes.indices {
            for byte in stride(from: UInt8(0), through: 127, by: 1) {
                var changed = bytes
                changed[position] = byte
                guard let context = TraceContext(header: String(decoding: changed, as: UTF8.self)) else { continue }
                #expect(TraceContext(header: context.header)?.traceID == context.traceID)
            }
        }
    }
}
