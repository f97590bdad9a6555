import EventLoop
import HTTP2
import Simulation
import Testing

/// A connection that takes no new streams names the last one that it took: of those behind it nothing may be done,
/// since their client asks another server.
struct LastStreamTests {
    private final class Server: HTTP2ConnectionOwner {
        private final class Request: HTTP2Stream {
            weak var server: Server?

            override func received(fields: HTTP2FieldBlock, endsStream: Bool) { server?.taken.append(id) }
            override func connectionIsEnding() { server?.told.append(id) }
        }

        var taken: [Int32] = []
        /// That the connection is about to end.
        var told: [Int32] = []

        func makeStream(on connection: HTTP2Connection) -> HTTP2Stream {
            let request = Request(connection)
            request.server = self
            return request
        }

        func closed(_ connection: HTTP2Connection, reason: String) {}
    }

    private final class Client: ByteStreamOwner {
        private var bytes: [UInt8] = []
        /// Type, stream and payload.
        private(set) var frames: [(type: UInt8, stream: UInt32, payload: [UInt8])] = []

        func received(_ new: UnsafeRawBufferPointer) {
            bytes += Array(new)
            while bytes.count >= 9 {
                let length = Int(bytes[0]) << 16 | Int(bytes[1]) << 8 | Int(bytes[2])
                guard bytes.count >= 9 + length else { return }
                frames.append((bytes[3], Client.number(bytes[5..<9]), Array(bytes[9..<(9 + length)])))
                bytes.removeFirst(9 + length)
            }
        }

        func drained() {}
        func closed(_ error: StreamError?) {}

        static func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
            bytes.reduce(0) { $0 << 8 | UInt32($1) } & 0x7fff_ffff
        }

        /// The last streams that were named.
        var lastStreams: [UInt32] { frames.filter { $0.type == 7 }.map { Client.number($0.payload.prefix(4)) } }
    }

    @Test func `Requests right behind the answer to the end of a connection are not begun`() throws {
        let loop = SimulatedLoop()
        var link = SimulatedLink()
        link.delayMillisecondsMax = 0
        let ends = SimulatedStream.pair(loop, link, SimulatedStream.SharedRandom(seed: 1))
        let (server, client) = (Server(), Client())
        let connection = HTTP2Connection(
            transport: ends.server, isServer: true, settings: HTTP2Settings(), owner: server)
        ends.client.owner = client
        ends.client.startReading()
        func send(_ bytes: [UInt8]) { bytes.withUnsafeBytes { ends.client.write($0) } }
        func request(_ stream: UInt32, body: Int = 0) -> [UInt8] {
            let fields = RawConnection.headers(RawConnection.fields("Echo"))
            let head = RawConnection.frame(1, flags: body > 0 ? 4 : 5, stream: stream, fields)
            guard body > 0 else { return head }
            return head + RawConnection.frame(0, flags: 1, stream: stream, [UInt8](repeating: 0, count: body))
        }
        send(RawConnection.preface + RawConnection.frame(4, flags: 0, stream: 0, []) + request(1))
        #expect(loop.run { server.taken == [1] })
        connection.startDraining()
        #expect(loop.run { client.frames.contains { $0.type == 6 } })
        let ping = try #require(client.frames.first { $0.type == 6 })
        #expect(client.lastStreams == [0x7fff_ffff])
        #expect(server.told == [1])
        // Still taken: the client did not know when it sent it.
        send(
            request(3) + RawConnection.frame(6, flags: 1, stream: 0, ping.payload) + request(5, body: 100) + request(7))
        #expect(loop.run { client.lastStreams.count == 2 })
        #expect(client.lastStreams.last == 3)
        send(request(9, body: 10))
        _ = loop.run(until: { false }, turnsMax: 100)
        #expect(server.taken == [1, 3])
        #expect(server.told == [1])
        connection.close(reason: "the test is over")
    }
}
