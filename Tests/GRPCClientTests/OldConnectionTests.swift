import EventLoop
import Foundation
import HTTP2
import Simulation
import Synchronization
import TestSupport
import Testing

@testable import GRPC

/// What went over a connection, seen from between: which streams were begun, which the server ended, and what it said
/// of the connection's end. Confined to the proxy's loop.
private struct FrameWatch {
    /// Streams that the client began, in order.
    var begun: [UInt32] = []
    /// Those that were ended, by either side.
    var ended: Set<UInt32> = []
    /// What GOAWAYs of the server said was the last stream, in order.
    var lastStreams: [UInt32] = []
    private var fromClient: [UInt8] = []
    private var fromServer: [UInt8] = []
    private var isPrefaceOver = false

    mutating func saw(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        if isFromServer {
            fromServer += bytes
            while let frame = FrameWatch.take(&fromServer) { serverSent(frame) }
        } else {
            fromClient += bytes
            if !isPrefaceOver, fromClient.count >= 24 {
                fromClient.removeFirst(24)
                isPrefaceOver = true
            }
            guard isPrefaceOver else { return }
            while let frame = FrameWatch.take(&fromClient) { clientSent(frame) }
        }
    }

    private struct Frame {
        let type: UInt8
        let flags: UInt8
        let stream: UInt32
        let payload: ArraySlice<UInt8>
    }

    private static func take(_ bytes: inout [UInt8]) -> Frame? {
        guard bytes.count >= 9 else { return nil }
        let length = Int(bytes[0]) << 16 | Int(bytes[1]) << 8 | Int(bytes[2])
        guard bytes.count >= 9 + length else { return nil }
        let frame = Frame(
            type: bytes[3], flags: bytes[4], stream: number(bytes[5..<9]), payload: bytes[9..<(9 + length)])
        bytes.removeFirst(9 + length)
        return frame
    }

    private static func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.reduce(0) { $0 << 8 | UInt32($1) } & 0x7fff_ffff
    }

    private mutating func clientSent(_ frame: Frame) {
        if frame.type == 1 { begun.append(frame.stream) }
        if frame.type == 3 { ended.insert(frame.stream) }
    }

    private mutating func serverSent(_ frame: Frame) {
        if frame.type <= 1, frame.flags & 1 != 0 { ended.insert(frame.stream) }
        if frame.type == 3 { ended.insert(frame.stream) }
        if frame.type == 7 { lastStreams.append(FrameWatch.number(frame.payload.prefix(4))) }
    }
}

/// Connections that end of their age under calls of grpc-go's client, which does not repeat them.
@Suite(.serialized, .timeLimit(.minutes(Checkout.isSoak ? 4 : 1)))
struct OldConnectionTests {
    private final class Watches: Sendable {
        let all = Mutex<[Int: FrameWatch]>([:])
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `Every stream up to the last one named of an old connection is answered, and no call fails`()
        async throws
    {
        var configuration = GRPCServerConfiguration()
        configuration.http2.ageMilliseconds = 40
        let server = try EchoServer(configuration, host: "127.0.0.1")
        defer { server.stop() }
        let watches = Watches()
        let proxy = try CuttingProxy(to: server.port) { connection, isFromServer, bytes in
            watches.all.withLock { $0[connection, default: FrameWatch()].saw(bytes, isFromServer: isFromServer) }
        }
        defer { proxy.stop() }
        // A client of grpc-go that counts how its calls ended, not its attempts.
        let ended = try await Tools.run(
            program: SharedData.path("peers/market-stack"),
            [
                "load", "unary", "--addr", "127.0.0.1:\(proxy.port)", "--conns", "20", "--inflight", "60", "--warmup",
                "0s",
                "--duration", Checkout.isSoak ? "60s" : "3s",
            ])
        let seen = watches.all.withLock { $0 }
        var old = 0
        var late = 0
        for (number, watch) in seen {
            // First that the end comes, then, after the client has answered, which stream was the last.
            let last = watch.lastStreams.count == 2 ? watch.lastStreams[1] : .max
            let unanswered = watch.begun.filter { !watch.ended.contains($0) && $0 <= last }
            #expect(unanswered == [], "connection \(number): \(watch.lastStreams)")
            late += watch.begun.count { $0 > last }
            guard watch.lastStreams.count == 2 else { continue }
            old += 1
            #expect(watch.lastStreams[0] == 0x7fff_ffff, "connection \(number)")
        }
        let begun = seen.values.reduce(0) { $0 + $1.begun.count }
        #expect(old > 50 && begun > 1000, "\(old) old connections, \(begun) streams")
        // A stream that grpc-go had in hand when the news came may leave it behind its answer: it is past the last one
        // named, so grpc-go knows that nobody took it.
        #expect(late <= old / 20, "\(late) streams came behind the answer")
        // What nobody took, or never left it, grpc-go sends again by another connection, so no call fails.
        let report = try #require(Report(ended.output), "\(ended.output)")
        #expect(report.errors.isEmpty, "\(ended.output)")
        #expect(report.calls == begun - late && server.counters.calls.load(ordering: .relaxed) == begun - late)
    }

    private struct Report: Decodable {
        let calls: Int
        let errors: [String: Int]

        init?(_ output: String) {
            struct Line: Decodable { let report: Report }
            guard let line = try? JSONDecoder().decode(Line.self, from: Data(output.utf8)) else { return nil }
            self = line.report
        }
    }
}
