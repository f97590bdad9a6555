import EdgeService
import EventLog
import EventLoop
import FileDisk
import Foundation
import MarketModel
import SegmentLog
import Simulation
import TestSupport
import Testing
import TickCodec

/// An edge that takes orders against quotes that a test publishes, and Python's grpcio as its client.
final class OrderWorld {
    private let directory = NSTemporaryDirectory() + "tapedeck-orders-" + UUID().uuidString
    private let log: SegmentLog
    private let edge: EdgeService
    private let port: Int
    private let encoder = TickEncoder(exchange: "SIMX", symbol: "AAPL", feed: "sim")
    private let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
    private let key: Int
    private var sequence: UInt64 = 0

    init(loops: Int = 2, takesOrders: Bool = true, _ change: (inout OrderLimits) -> Void = { _ in }) throws {
        var limits = OrderLimits()
        change(&limits)
        log = try SegmentLog(disk: try FileDisk(directory: directory), time: RealTime())
        edge = try EdgeService(
            log: log, store: SimulatedStore(), time: RealTime(), loops: EventLoopGroup(count: loops),
            orders: takesOrders ? OrderVenue(feed: "sim", time: RealTime(), limits: limits) : nil)
        port = try edge.listen(host: "127.0.0.1", port: 0).port
        key = builder.register(BlockBuilder.Key(exchange: "SIMX", symbol: "AAPL", feed: "sim"))
    }

    deinit {
        edge.stop(withinMilliseconds: 1000)
        try? log.close()
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Prices and sizes in whole units.
    private func publish(_ bid: Int64, _ bidSize: Int64, _ ask: Int64, _ askSize: Int64) throws {
        sequence += 1
        let nowNs = 1_700_000_000_000_000_000 + Int64(sequence)
        var tick = Tick(kind: .quote, receivedTimeNs: nowNs, publishTimeNs: nowNs, epoch: 1, sequence: sequence)
        (tick.bid, tick.bidSize) = (bid * 1_000_000_000, bidSize * 100_000_000)
        (tick.ask, tick.askSize) = (ask * 1_000_000_000, askSize * 100_000_000)
        builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
            encoder.encode(tick, into: $0)
        }
        try log.append([builder.build()], consumed: [])
    }

    /// Runs a scenario of Fixtures/orders.py to its end, publishing the quotes that it asks for.
    func run(_ scenario: String) throws {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.python)
        process.arguments = [
            Checkout.path + "/Tests/EdgeServiceTests/Fixtures/orders.py", Checkout.path + "/proto",
            "127.0.0.1:\(port)", scenario,
        ]
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        var text = ""
        var last = ""
        while case let bytes = output.fileHandleForReading.availableData, !bytes.isEmpty {
            text += String(decoding: bytes, as: UTF8.self)
            while let end = text.firstIndex(of: "\n") {
                last = String(text[..<end])
                text = String(text[text.index(after: end)...])
                let values = last.split(separator: " ").compactMap { Int64($0) }
                guard values.count == 4 else { continue }
                try publish(values[0], values[1], values[2], values[3])
                try input.fileHandleForWriting.write(contentsOf: Data("ok\n".utf8))
            }
        }
        process.waitUntilExit()
        #expect(process.terminationStatus == 0 && last == "done", "\(scenario): \(last)")
    }
}

@Suite(.enabled(if: Checkout.hasPython, "no .venv"), .timeLimit(.minutes(2)))
struct OrderTests {
    @Test func `SubmitOrder answers each order by name, and a repeated key with the original answer`() throws {
        try OrderWorld(loops: 1).run("unary")
    }

    @Test func `SubmitOrders answers a batch with the outcome of each order, in the order received`() throws {
        try OrderWorld(loops: 1) { $0.inFlightMax = 64 }.run("batch")
    }

    @Test func `LiveTrading brings executions and statuses of its accounts, in order`() throws {
        try OrderWorld(loops: 1).run("live")
    }

    @Test func `A LiveTrading stream that is not read ends with its reason, its orders stand`() throws {
        try OrderWorld { $0.queueBytesMax = 50 }.run("slow")
    }

    @Test func `Streams of all loops trade beside each other, and nothing is lost`() throws {
        try OrderWorld { $0.inFlightMax = 32 }.run("many")
    }

    @Test func `Without the simulated venue orders are refused with the reason`() throws {
        try OrderWorld(takesOrders: false).run("refused")
    }
}
