import CQLFrames
import EventLoop

@testable import CassandraCQL

/// Sends a session's sockets to a proxy, whatever address the cluster gives.
struct ProxyTransport: CQLTransport {
    let port: Int

    func connect(
        _ address: CQLAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        CQLSockets().connect(CQLAddress(host: "127.0.0.1", port: port), loop: loop, done)
    }
}

/// Whole frames of protocol v4 out of what comes from one side of a proxy.
final class ProxiedFrames {
    private let decoder = CQLFrameDecoder(.frames(.none))

    /// Each with its header in front, in order.
    func read(_ bytes: UnsafeRawBufferPointer, _ body: (_ opcode: CQLOpcode, _ frame: [UInt8]) -> Void) {
        decoder.feed(bytes)
        defer { decoder.endFeed() }
        while let frame = try? decoder.next() {
            let buffer = CQLBuffer()
            let start = frame.header.begin(buffer)
            buffer.append(frame.body)
            CQLFrameHeader.end(buffer, start)
            body(frame.header.opcode, Array(buffer.bytes))
        }
    }

    /// An error without fields of its own, to a request or in place of an answer.
    static func error(_ code: Int32, _ message: String, to frame: [UInt8]) -> [UInt8] {
        let text = Array(message.utf8)
        return [0x84, 0, frame[2], frame[3], CQLOpcode.error.rawValue, 0, 0, 0, UInt8(6 + text.count)]
            + withUnsafeBytes(of: code.bigEndian, Array.init) + [0, UInt8(text.count)] + text
    }
}

extension Socket {
    func write(_ bytes: [UInt8]) { bytes.withUnsafeBytes { write($0) } }
}
