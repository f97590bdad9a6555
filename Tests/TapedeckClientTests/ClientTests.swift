import GRPC
import MarketProto
import Protobuf
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec

@testable import TapedeckClient

/// The client against a server that a test decides about.
@Suite(.timeLimit(.minutes(1)))
struct ClientTests {
    /// Returns once the condition holds, or after twenty seconds: the test then fails by what it finds.
    static func wait(_ condition: () -> Bool) async {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(20)
        while !condition(), clock.now < end { await Task.yield() }
    }

    static func client(
        port: Int, _ change: (inout TapedeckOptions) -> Void = { _ in }
    ) throws -> TapedeckClient {
        var options = TapedeckOptions()
        options.channel.seed = 1
        options.channel.backoff.initialMilliseconds = 10
        options.channel.backoff.maxMilliseconds = 50
        options.resume.initialMilliseconds = 5
        options.resume.maxMilliseconds = 20
        options.retry.backoff.initialMilliseconds = 1
        change(&options)
        return try TapedeckClient("127.0.0.1:\(port)", options: options)
    }

    /// What a subscription brought.
    final class Log: Sendable {
        struct Content: Sendable {
            var sequences: [UInt64] = []
            var gaps: [SequenceGap] = []
            var interruptions: [TapedeckError] = []
            var resumed = 0
            var end: TapedeckError?
            var isEnded = false
        }
        private let content = Mutex(Content())
        var now: Content { content.withLock { $0 } }

        func add(_ event: PriceEvent) {
            content.withLock { content in
                switch event {
                case .ticks(let batch): batch.forEach { content.sequences.append($0.sequence) }
                case .gap(let gap): content.gaps.append(gap)
                case .interrupted(let error): content.interruptions.append(error)
                case .resumed: content.resumed += 1
                }
            }
        }

        func end(_ error: TapedeckError?) {
            content.withLock { content in
                content.end = error
                content.isEnded = true
            }
        }
    }

    static func read(_ events: PriceEvents, into log: Log) -> Task<Void, Never> {
        Task {
            do throws(TapedeckError) {
                for try await event in events { log.add(event) }
                log.end(nil)
            } catch {
                log.end(error)
            }
        }
    }

    private static func ticks(_ sequences: ClosedRange<UInt64>, epoch: UInt64 = 1) -> [[UInt8]] {
        sequences.map { Updates.make("A", $0, epoch: epoch) }
    }

    @Test func `A stream that is cut goes on without gap or repeat, with and without a token at its end`() async throws
    {
        let server = try PriceServer()
        defer { server.stop() }
        let proxy = try CuttingProxy(to: server.port)
        defer { proxy.stop() }
        let client = try ClientTests.client(port: proxy.port)
        defer { client.close() }
        server.publish(ClientTests.ticks(1...100))
        let log = Log()
        let task = ClientTests.read(client.prices(["A"]), into: log)
        await ClientTests.wait { log.now.sequences.count == 100 }
        proxy.cut()
        server.publish(ClientTests.ticks(101...200))
        await ClientTests.wait { log.now.sequences.count == 200 }
        server.endStreams(GRPCStatus(.unavailable, "stopping"), reason: "SERVER_STOPPING", hasToken: true)
        server.publish(ClientTests.ticks(201...300))
        await ClientTests.wait { log.now.sequences.count == 300 }
        server.endStreams(GRPCStatus(.resourceExhausted, "slow"), reason: "READER_TOO_SLOW", hasToken: true)
        server.publish(ClientTests.ticks(301...400))
        await ClientTests.wait { log.now.sequences.count == 400 }
        let got = log.now
        #expect(got.sequences == Array(1...400))
        #expect(got.gaps == [])
        #expect(got.interruptions.count == 3 && got.resumed == 3)
        #expect(got.interruptions.last?.reason == .readerTooSlow)
        task.cancel()
        await task.value
        #expect(log.now.isEnded && log.now.end == nil)
        await ClientTests.wait { server.openStreams == 0 }
        #expect(server.openStreams == 0)
    }

    @Test func `What is gone is reported by sequence, and the stream goes on`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        server.publish(ClientTests.ticks(1...10))
        let log = Log()
        let task = ClientTests.read(client.prices(["A"]), into: log)
        await ClientTests.wait { log.now.sequences.count == 10 }
        server.forget()
        server.publish(ClientTests.ticks(15...20))
        await ClientTests.wait { log.now.sequences.count == 16 }
        #expect(log.now.gaps.map(\.sequences) == [11...14])
        #expect(log.now.gaps.first?.symbol == "A" && log.now.gaps.first?.exchange == "X")
        // The token of the end lies before what is kept: the server says what is gone and where to go on.
        server.endStreams(GRPCStatus(.unavailable, "stopping"), reason: "SERVER_STOPPING", hasToken: false)
        server.publish(ClientTests.ticks(21...30))
        server.forget()
        server.publish(ClientTests.ticks(31...32))
        await ClientTests.wait { log.now.sequences.last == 32 }
        let got = log.now
        #expect(got.sequences == Array(1...10) + Array(15...20) + (got.gaps.count == 2 ? [31, 32] : Array(21...32)))
        task.cancel()
        await task.value
    }

    @Test func `A failover to another log goes on from its latest values`() async throws {
        let first = try PriceServer(port: ToolServer.freePort())
        let client = try ClientTests.client(port: first.port)
        defer { client.close() }
        first.publish(ClientTests.ticks(1...5))
        let log = Log()
        var subscription = Proto.PriceSubscription()
        subscription.resumeToken = Array("place 0".utf8)
        let task = ClientTests.read(client.prices(subscription), into: log)
        await ClientTests.wait { log.now.sequences.count == 5 }
        first.stop()
        await ClientTests.wait { !log.now.interruptions.isEmpty }
        let second = try PriceServer(port: first.port)
        defer { second.stop() }
        second.publish(ClientTests.ticks(4...9))
        await ClientTests.wait { log.now.sequences.count == 9 }
        #expect(log.now.sequences == Array(1...9))
        task.cancel()
        await task.value
    }

    @Test func `A reader that stands still holds the server, not memory; it loses nothing`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        let count: UInt64 = 60_000
        server.publish(ClientTests.ticks(1...count))
        var iterator = client.prices(["A"]).makeAsyncIterator()
        var sequences: [UInt64] = []
        var largest = 0
        while sequences.count < Int(count), let event = try await iterator.next() {
            guard case .ticks(let batch) = event else { continue }
            largest = max(largest, batch.count)
            batch.forEach { sequences.append($0.sequence) }
            // A quote between: the connection is not held by the stream.
            if sequences.count < 2000 { _ = try await client.quote("A") }
        }
        #expect(sequences == Array(1...count))
        // About 60 bytes each: the buffer's bound and one window at most.
        #expect(largest < 40_000)
    }

    @Test func `Errors that trying again cannot help are thrown, typed`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        var subscription = Proto.PriceSubscription()
        subscription.resumeToken = [1, 2, 3]
        let log = Log()
        await ClientTests.read(client.prices(subscription), into: log).value
        #expect(log.now.end?.code == .invalidArgument)
        #expect(server.calls["StreamPrices"] == 1)
        _ = try await client.quote("A")
        let missing = await #expect(throws: TapedeckError.self) { try await client.quote("NONE") }
        #expect(missing?.code == .notFound && missing?.isRetryable == false)
        let nowhere = try ClientTests.client(port: 1) { $0.quoteTimeoutMilliseconds = 50 }
        defer { nowhere.close() }
        let late = await #expect(throws: TapedeckError.self) { try await nowhere.quote("A") }
        #expect(late?.code == .deadlineExceeded)
        let gone = Log()
        await ClientTests.read(nowhere.prices(), into: gone).value
        #expect(gone.now.end?.code == .unavailable)
        #expect(throws: TapedeckError.self) { try TapedeckClient("nonsense") }
    }

    @Test func `Every status of a server comes as a typed error of its code`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        _ = try await client.quote("A")
        for number in 1...16 {
            let error = await #expect(throws: TapedeckError.self) { try await client.quote("FAIL \(number)") }
            #expect(error?.code == GRPCStatus.Code(rawValue: number) && error?.status.message == "as asked")
            let isRetryable = [GRPCStatus.Code.unavailable, .aborted, .deadlineExceeded].contains(error?.code)
            #expect(error?.isRetryable == isRetryable)
        }
    }

    @Test(arguments: [
        (TapedeckError.EndReason.serverStopping, GRPCStatus.Code.unavailable, true),
        (.endedByOperator, .unavailable, true), (.readerTooSlow, .resourceExhausted, true),
        (.rightsChanged, .unauthenticated, true), (.deadlinePassed, .deadlineExceeded, true),
        (.serverOutOfMemory, .resourceExhausted, true), (.logFailed, .internalError, false),
    ])
    func `Why a server ended a stream is typed, and decides whether it goes on`(
        _ reason: TapedeckError.EndReason, _ code: GRPCStatus.Code, _ goesOn: Bool
    ) async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        server.publish(ClientTests.ticks(1...3))
        let log = Log()
        let task = ClientTests.read(client.prices(["A"]), into: log)
        await ClientTests.wait { log.now.sequences.count == 3 }
        server.endStreams(GRPCStatus(code, "because"), reason: reason.rawValue, hasToken: true)
        server.publish(ClientTests.ticks(4...5))
        await ClientTests.wait { log.now.sequences.count == 5 || log.now.isEnded }
        let error = goesOn ? log.now.interruptions.first : log.now.end
        #expect(error?.reason == reason && error?.code == code && error?.resumeToken != nil)
        #expect(log.now.sequences == (goesOn ? Array(1...5) : Array(1...3)))
        task.cancel()
        await task.value
    }

    @Test func `Calls have a deadline by default; streams of prices and sessions have none`() throws {
        let client = try ClientTests.client(port: 1)
        defer { client.close() }
        func timeout(_ path: String) -> Int? { client.channel.options.call(path).timeoutMilliseconds }
        let market = Proto.MarketDataService.self
        #expect(timeout(market.getQuote.path) == 5000)
        #expect(timeout(market.submitOrders.path) == 10_000)
        #expect(timeout(Proto.OrderService.submitOrder.path) == 10_000)
        #expect(timeout("/any.other.Service/Method") == 10_000)
        #expect(timeout(market.streamPrices.path) == nil && timeout(market.liveTrading.path) == nil)
        let compressed = try ClientTests.client(port: 1) { $0.compression = .gzip }
        defer { compressed.close() }
        for path in [market.getQuote.path, market.submitOrders.path, "/any.other.Service/Method"] {
            #expect(compressed.channel.options.call(path).compression == .gzip)
        }
    }

    @Test func `A quote that hangs is asked for again, and the loser is cancelled`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port) {
            $0.quoteHedgeMilliseconds = 20
            $0.quoteTimeoutMilliseconds = 20_000
        }
        defer { client.close() }
        #expect(try await client.quote("A").dayVolume == 2)
        await ClientTests.wait { server.calls["GetQuote ended"] == 2 }
        #expect(server.calls["GetQuote ended"] == 2)
    }

    @Test func `Orders are tried again with a key, and never without`() async throws {
        for key in ["", "k1"] {
            let server = try PriceServer()
            defer { server.stop() }
            let client = try ClientTests.client(port: server.port)
            defer { client.close() }
            var order = Proto.OrderRequest()
            order.orderId = "1"
            order.idempotencyKey = key
            if key.isEmpty {
                let error = await #expect(throws: TapedeckError.self) { try await client.submitOrders([order]) }
                #expect(error?.code == .unavailable)
                #expect(server.calls["SubmitOrders"] == 1)
            } else {
                #expect(try await client.submitOrders([order]).accepted == 1)
                #expect(server.calls["SubmitOrders"] == 2)
            }
        }
    }

    @Test func `A trading session sends, receives and ends`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        defer { client.close() }
        let session = client.liveTrading()
        var order = Proto.OrderRequest()
        order.orderId = "7"
        try await session.send(order)
        session.finish()
        var answers: [Proto.TradingMessage] = []
        for try await message in session { answers.append(message) }
        #expect(answers.map(\.payload) == [.newOrder(order)])
        await #expect(throws: TapedeckError.self) { try await session.send(order) }
    }

    @Test func `Many tasks use one client at once, and close ends them all`() async throws {
        let server = try PriceServer()
        defer { server.stop() }
        let client = try ClientTests.client(port: server.port)
        server.publish(ClientTests.ticks(1...1000))
        let logs = (0..<16).map { _ in Log() }
        let tasks = logs.map { ClientTests.read(client.prices(), into: $0) }
        _ = try await client.quote("A")
        await withTaskGroup(of: Int.self) { group in
            for _ in 0..<16 {
                group.addTask {
                    var good = 0
                    for _ in 0..<50 where (try? await client.quote("A")) != nil { good += 1 }
                    return good
                }
            }
            for await good in group { #expect(good == 50) }
        }
        await ClientTests.wait { logs.allSatisfy { $0.now.sequences.count == 1000 } }
        client.close()
        for task in tasks { await task.value }
        #expect(logs.allSatisfy { $0.now.sequences == Array(1...1000) && $0.now.end?.code == .cancelled })
        let late = await #expect(throws: TapedeckError.self) { try await client.quote("A") }
        #expect(late?.code == .cancelled)
    }
}
