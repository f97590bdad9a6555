import Foundation

/// A TCP connection that sends what a test wants, well-formed or not.
final class RawConnection {
    private let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw POSIXError(.ECONNREFUSED) }
    }

    /// What the system takes at once.
    func send(_ bytes: [UInt8]) { _ = Foundation.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }

    /// Sends as much as the peer takes; less than nothing when it is gone.
    func sendSome(_ bytes: [UInt8]) -> Int {
        Foundation.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// Everything until the peer closes; nil where it does not within five seconds of silence.
    func receiveAll() -> [UInt8]? {
        var timeout = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count < 0, errno == EAGAIN { return nil }
            guard count > 0 else { return all }
            all += buffer[..<count]
        }
    }

    func close() { Foundation.close(descriptor) }

    static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    static func frame(_ type: UInt8, flags: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
        let length = UInt32(payload.count)
        var bytes = [UInt8(length >> 16 & 255), UInt8(length >> 8 & 255), UInt8(length & 255), type, flags]
        withUnsafeBytes(of: stream.bigEndian) { bytes += $0 }
        return bytes + payload
    }

    /// Literal header fields without indexing and Huffman coding (RFC 7541, 6.2.2).
    static func headers(_ fields: [(String, String)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, value) in fields {
            bytes += [0, UInt8(name.utf8.count)]
            bytes += Array(name.utf8)
            bytes.append(UInt8(value.utf8.count))
            bytes += Array(value.utf8)
        }
        return bytes
    }

    static func fields(_ method: String) -> [(String, String)] {
        [
            (":method", "POST"), (":scheme", "http"), (":path", TestServer.service + method), (":authority", "x"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]
    }

    static func call(_ method: String, _ message: [UInt8]) -> [UInt8] {
        let fields = fields(method)
        var bytes = preface
        bytes += frame(4, flags: 0, stream: 0, [])
        bytes += frame(1, flags: 4, stream: 1, headers(fields))
        bytes += frame(0, flags: 1, stream: 1, [0, 0, 0, 0, UInt8(message.count)] + message)
        return bytes
    }

    static let countForever = call("Count", Array("-1".utf8))
}
