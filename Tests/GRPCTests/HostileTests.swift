import GRPC
import TestSupport
import Testing

struct HostileTests {
    /// xorshift64: the same bytes for a seed.
    private struct Random: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
    }

    @Test func `Mutated and cut requests never stop the server from serving others`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let valid = RawConnection.call("Unary", Array("hello".utf8))
        let rounds = Checkout.isSoak ? 20_000 : 400
        for seed in 1...UInt64(rounds) {
            var random = Random(state: seed &* 0x9e37_79b9_7f4a_7c15)
            var bytes = valid
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                switch Int.random(in: 0..<3, using: &random) {
                case 0:
                    bytes[Int.random(in: 24..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.removeLast(Int.random(in: 0...min(8, bytes.count - 30), using: &random))
                default: bytes += (0..<9).map { _ in UInt8.random(in: 0...255, using: &random) }
                }
            }
            let connection = try RawConnection(port: server.port)
            connection.send(bytes)
            connection.close()
            if seed % 50 == 0 {
                let result = await TestClient(port: server.port).call("Unary", [1, 2, 3])
                #expect(result.messages == [[1, 2, 3]], "seed \(seed)")
            }
        }
    }

    @Test(arguments: [
        ("GET", "application/grpc", "trailers"), ("POST", "application/json", "trailers"),
        ("POST", "application/grpc", ""),
    ])
    func `Requests that are no gRPC are answered, and the server serves on`(_ fields: (String, String, String))
        async throws
    {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let connection = try RawConnection(port: server.port)
        connection.send(
            RawConnection.preface + RawConnection.frame(4, flags: 0, stream: 0, [])
                + RawConnection.frame(
                    1, flags: 5, stream: 1,
                    RawConnection.headers([
                        (":method", fields.0), (":scheme", "http"), (":path", TestServer.service + "Unary"),
                        (":authority", "x"), ("content-type", fields.1), ("te", fields.2),
                    ])))
        let result = await TestClient(port: server.port).call("Unary", [9])
        #expect(result.messages == [[9]])
        connection.close()
    }
}
