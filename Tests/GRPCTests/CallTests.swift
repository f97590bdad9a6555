import EventLoop
import GRPC
import Synchronization
import Testing

struct CallTests {
    @Test func `A unary call gives back its message and its metadata`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let client = TestClient(port: server.port)
        var metadata = GRPCMetadata()
        metadata.add("x-name", "value")
        for size in [0, 1, 5, 16_379, 16_384, 1_000_000] {
            let message = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
            let result = await client.call("Unary", message, metadata: metadata)
            #expect(result.status == .ok)
            #expect(result.messages == [message])
            #expect(result.metadata.value("x-name") == "value")
        }
    }

    @Test func `A status keeps its code, its text and its binary trailers`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let text = "100 % 50€ \t\n😀 end"
        let result = await TestClient(port: server.port).call("Fail", Array(text.utf8))
        #expect(result.status == GRPCStatus(.failedPrecondition, text))
        #expect(result.trailers.binary("x-details-bin") == [0, 1, 254, 255])
    }

    @Test func `Unknown methods and services are unimplemented`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let result = await TestClient(port: server.port).call("NoSuchMethod", [])
        #expect(result.status?.code == .unimplemented)
        #expect(result.status?.message.contains("NoSuchMethod") == true)
    }

    @Test func `A stream brings every message whole and in order, wherever it was cut`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let result = await TestClient(port: server.port).call("Count", Array("20000".utf8))
        #expect(result.status == .ok)
        #expect(result.messages.count == 20_000)
        for (number, message) in result.messages.enumerated() where message != CountingSource.message(number) {
            Issue.record("message \(number) is another")
            return
        }
    }

    @Test func `A deadline ends a call on both sides`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let result = await TestClient(port: server.port).call("Never", [], timeout: 50)
        #expect(result.status?.code == .deadlineExceeded)
        await until { server.ended.count.load(ordering: .relaxed) == 1 }
        #expect(server.ended.count.load(ordering: .relaxed) == 1)
    }

    @Test func `A cancelled stream ends on the server too`() async throws {
        let server = try TestServer()
        defer { server.stop() }
        let result = await TestClient(port: server.port).call("Count", Array("-1".utf8)) { $0.call?.cancel() }
        #expect(result.status?.code == .cancelled)
        await until { server.ended.count.load(ordering: .relaxed) == 1 }
        #expect(server.ended.count.load(ordering: .relaxed) == 1)
    }

    @Test func `A request above the limit is refused, and a server that is gone is unavailable`() async throws {
        let server = try TestServer()
        let client = TestClient(port: server.port)
        let result = await client.call("Unary", [UInt8](repeating: 7, count: (16 << 20) + 1))
        #expect(result.status?.code == .resourceExhausted)
        server.server.shutdown(withinMilliseconds: 2000)
        #expect(await client.call("Unary", []).status?.code == .unavailable)
    }

    @Test func `Shutdown lets a stream that ends in time end, and cuts one that does not`() async throws {
        let server = try TestServer(loops: 1)
        let client = TestClient(port: server.port)
        let started = Atomic<Bool>(false)
        await withTaskGroup(of: GRPCStatus?.self) { group in
            let flag = Flag()
            group.addTask {
                await client.call("Count", Array("-1".utf8)) { _ in flag.value.store(true, ordering: .releasing) }
                    .status
            }
            await until { flag.value.load(ordering: .acquiring) }
            server.server.shutdown(withinMilliseconds: 100)
            let status = await group.next()
            #expect(status??.code == .unavailable)
        }
        _ = started.load(ordering: .relaxed)
        #expect(await client.call("Unary", []).status?.code == .unavailable)
    }

    private final class Flag: Sendable { let value = Atomic<Bool>(false) }

    @Test func `A client that never reads harms nobody else`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let stuck = try RawConnection(port: server.port)
        stuck.send(RawConnection.countForever)
        let result = await TestClient(port: server.port).call("Count", Array("5000".utf8))
        #expect(result.messages.count == 5000)
        stuck.close()
    }
}
