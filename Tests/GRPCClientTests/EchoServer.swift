import EventLoop
import GRPC
import HTTP2
import Synchronization

/// A server with the methods that the tests need. Counts the calls that reach it.
final class EchoServer: Sendable {
    static let service = "/tapedeck.test.Client/"

    final class Counters: Sendable {
        let calls = Atomic<Int>(0)
        let ended = Atomic<Int>(0)
        let flakyCalls = Atomic<Int>(0)
    }

    let counters: Counters
    let server: GRPCServer
    let port: Int

    /// `flaky`: what the first calls of Flaky fail with, the others are echoed.
    init(
        _ configuration: GRPCServerConfiguration = GRPCServerConfiguration(), host: String = "127.0.0.1",
        port: Int = 0, flaky: [GRPCStatus] = [],
        pushback: String? = nil, serving: [Bool]? = nil, health: GRPCHealth? = nil
    ) throws {
        let counters = Counters()
        self.counters = counters
        server = GRPCServer(group: EventLoopGroup(count: 1), configuration: configuration) { loop in
            var table = GRPCServiceTable()
            EchoServer.registerUnary(&table, counters, flaky, pushback)
            EchoServer.registerStreams(&table, counters, loop)
            health?.register(on: &table)
            if let serving { EchoServer.registerHealth(&table, serving, loop) }
            return table
        }
        self.port = try server.listen(host: host, port: port).port
    }

    private static func registerUnary(
        _ table: inout GRPCServiceTable, _ counters: Counters, _ flaky: [GRPCStatus], _ pushback: String?
    ) {
        table.register(
            path: service + "Echo",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                counters.calls.add(1, ordering: .relaxed)
                for entry in call.metadata.entries where entry.name.hasPrefix("x-") {
                    call.responseMetadata.add(entry.name, entry.value)
                }
                call.respond(Array(request))
            })
        // What a load program calls; its answer may be empty.
        table.register(
            path: "/financial.marketdata.v1.MarketDataService/GetQuote",
            unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                counters.calls.add(1, ordering: .relaxed)
                call.respond([UInt8]())
            })
        // As many zeros as the request's text says.
        table.register(
            path: service + "Zeros",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                let count = Int(String(decoding: request, as: UTF8.self)) ?? 0
                call.compressResponses(.gzip)
                call.respond([UInt8](repeating: 0, count: count))
            })
        table.register(
            path: service + "Never",
            unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                counters.calls.add(1, ordering: .relaxed)
                call.onEnd = { counters.ended.add(1, ordering: .relaxed) }
            })
        table.register(
            path: service + "Flaky",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                counters.calls.add(1, ordering: .relaxed)
                let number = counters.flakyCalls.add(1, ordering: .relaxed).oldValue
                guard number < flaky.count else { return call.respond(Array(request)) }
                var trailers = GRPCMetadata()
                if let pushback { trailers.add("grpc-retry-pushback-ms", pushback) }
                call.fail(flaky[number], trailers: trailers)
            })
    }

    private static func registerStreams(_ table: inout GRPCServiceTable, _ counters: Counters, _ loop: EventLoop) {
        // As many numbered messages as the request's text says, of 1000 bytes each; -1 for ever.
        table.register(
            path: service + "Count",
            serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                counters.calls.add(1, ordering: .relaxed)
                call.onEnd = { counters.ended.add(1, ordering: .relaxed) }
                call.responseMetadata.add("x-stream", "count")
                call.source = NumberSource(limit: Int(String(decoding: request, as: UTF8.self)) ?? 0)
            })
        // Answers with its number after as many milliseconds as the request's text says.
        table.register(
            path: service + "Slow",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                let number = counters.calls.add(1, ordering: .relaxed).newValue
                call.onEnd = { counters.ended.add(1, ordering: .relaxed) }
                let texts = String(decoding: request, as: UTF8.self).split(separator: " ").map { Int($0) ?? 0 }
                let timer = loop.timer(afterMilliseconds: texts[min(number, texts.count) - 1]) {
                    call.respond(Array("\(number)".utf8))
                }
                _ = timer
            })
    }

    /// Watch answers with each state in turn, a second later each time; without any, never.
    private static func registerHealth(_ table: inout GRPCServiceTable, _ serving: [Bool], _ loop: EventLoop) {
        table.register(
            path: "/grpc.health.v1.Health/Watch",
            serverStreaming: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                call.source = HealthSource(serving, call, loop)
            })
    }

    func stop() { server.shutdown(withinMilliseconds: 0) }
}

/// States of a server's health, one every 300 ms.
private final class HealthSource: FrameSource {
    private var states: [Bool]
    private var isDue = true
    private weak var call: ServerCall?
    private let loop: EventLoop

    init(_ states: [Bool], _ call: ServerCall, _ loop: EventLoop) {
        self.states = states
        self.call = call
        self.loop = loop
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        guard isDue, !states.isEmpty else { return .wait }
        isDue = false
        let frame: [UInt8] = [0, 0, 0, 0, 2, 8, states.removeFirst() ? 1 : 2]
        buffer.copyBytes(from: frame)
        _ = loop.timer(afterMilliseconds: 300) { [weak self] in
            self?.isDue = true
            self?.call?.resume()
        }
        return .bytes(frame.count)
    }
}

/// Messages of 1000 bytes that begin with their number, cut wherever the buffer ends.
final class NumberSource: FrameSource {
    static let length = 1000
    private let limit: Int
    private var next = 0
    private var rest: ArraySlice<UInt8> = []

    init(limit: Int) { self.limit = limit }

    static func message(_ number: Int) -> [UInt8] {
        let digits = Array("\(number)".utf8)
        return digits + [UInt8](repeating: UInt8(ascii: " "), count: length - digits.count)
    }

    static func number(_ message: some Sequence<UInt8>) -> Int {
        message.prefix { $0 != UInt8(ascii: " ") }.reduce(0) { $0 * 10 + Int($1) - 0x30 }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        var filled = 0
        while filled < buffer.count {
            if rest.isEmpty {
                guard limit < 0 || next < limit else { break }
                let message = NumberSource.message(next)
                rest = [0, 0, 0, UInt8(message.count >> 8), UInt8(message.count & 255)] + message
                next += 1
            }
            let part = rest.prefix(buffer.count - filled)
            UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]).copyBytes(from: part)
            filled += part.count
            rest = rest.dropFirst(part.count)
        }
        return filled > 0 ? .bytes(filled) : .end(.ok, trailers: GRPCMetadata())
    }
}
