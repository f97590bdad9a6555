import GRPC
import MarketProto
import Protobuf
import Synchronization
import TLS
import TapedeckClient
import TickCodec

/// The Swift of docs/CLIENTS.md, which DocumentationTests holds to this file.
enum Examples {
    static func connect() async throws {
        let tapedeck = try TapedeckClient("localhost:50051")
        let quote = try await tapedeck.quote("AAPL", exchange: "SIMX")
        print(quote.latest?.bidMicros ?? 0, quote.latest?.askMicros ?? 0)
        tapedeck.close()
    }

    static func prices(_ tapedeck: TapedeckClient) async throws {
        for try await event in tapedeck.prices(["AAPL", "MSFT"]) {
            switch event {
            case .ticks(let batch):
                batch.forEach { tick in
                    print(tick.sequence, tick.bidMicros ?? 0, tick.askMicros ?? 0)
                }
            case .gap(let gap): print("missing", gap.symbol, gap.sequences)
            case .interrupted(let error): print("interrupted:", error)
            case .resumed: print("goes on")
            }
        }
    }

    static func subscription(_ tapedeck: TapedeckClient) async throws {
        var subscription = Proto.PriceSubscription()
        subscription.symbols = ["AAPL"]
        subscription.policy = .interval
        subscription.throttleMs = 500
        for try await case .ticks(let batch) in tapedeck.prices(subscription) {
            for update in batch.updates { print(update.symbol, update.sequence) }
        }
    }

    static func session(_ tapedeck: TapedeckClient) async throws {
        let session = tapedeck.subscribe()
        let apple = session.add(["AAPL"])
        session.add(["MSFT", "GOOG"], policy: .latest)
        for try await event in session {
            switch event {
            case .ticks(let subscription, let batch, let isSnapshot):
                print(subscription, isSnapshot ? "begins with" : "has", batch.count)
                // What comes faster than is good for this desk.
                if subscription == apple, batch.count > 1000 { session.changePolicy(of: apple, to: .latest) }
            case .gap(_, let gap): session.fill(gap)
            case .filled(_, let batch): batch.forEach { tick in print("late:", tick.sequence) }
            case .fillEnded(_, let end): print("is nowhere:", end.results.flatMap(\.missing))
            case .lost(let subscription, let records): print(subscription, "goes on without", records)
            case .refused(let refusal): print("refused:", refusal.id, refusal.message)
            case .ended(let subscription, let end, let goesOn): print(subscription, end.message, goesOn)
            case .interrupted(let error): print("interrupted:", error)
            case .resumed: print("all subscriptions go on")
            }
        }
    }

    static func orders(_ tapedeck: TapedeckClient) async throws {
        var order = Proto.OrderRequest()
        order.orderId = "order-1"
        order.idempotencyKey = "key-1"
        order.account = "desk"
        order.symbol = "AAPL"
        order.exchange = "SIMX"
        order.side = "BUY"
        order.orderType = "LIMIT"
        order.quantityMicros = 100_000_000
        order.limitPriceMicros = 180_000_000
        do {
            let summary = try await tapedeck.submitOrders([order])
            print(summary.accepted, summary.rejected, summary.results.map(\.rejectionCode))
        } catch {
            print(error.code, error.isRetryable)
        }
        let session = tapedeck.liveTrading()
        try await session.send(order)
        session.finish()
        for try await message in session {
            if case .execution(let report) = message.payload { print(report.fillPriceMicros) }
        }
    }

    static func secure() throws -> TapedeckClient {
        var options = TapedeckOptions()
        var files = TLSClientConfiguration(serverName: "tapedeck.example", authorityFile: "authority.pem")
        files.certificateChainFile = "desk.pem"
        files.privateKeyFile = "desk.key"
        options.tls = try TLSClientContext(files)
        let tapedeck = try TapedeckClient("dns:///tapedeck.example:50051", options: options)
        return tapedeck
    }

    static func token() throws -> TapedeckClient {
        let token = Mutex("alice.first")
        var options = TapedeckOptions()
        let server = TLSClientConfiguration(serverName: "tapedeck.example", authorityFile: "ca.pem")
        options.tls = try TLSClientContext(server)
        options.token = { token.withLock { $0 } }
        let tapedeck = try TapedeckClient("dns:///tapedeck.example:50051", options: options)
        token.withLock { $0 = "alice.second" }
        return tapedeck
    }

    static func settings() throws -> TapedeckClient {
        var options = TapedeckOptions()
        options.channel.balancing = .pickFirst
        options.channel.healthService = "financial.marketdata.v1.MarketDataService"
        options.quoteTimeoutMilliseconds = 1000
        options.quoteHedgeMilliseconds = nil
        options.compression = .gzip
        let tapedeck = try TapedeckClient("dns:///tapedeck.example:50051", options: options)
        return tapedeck
    }

    static func errors(_ tapedeck: TapedeckClient) async {
        do {
            let quote = try await tapedeck.quote("AAPL", exchange: "SIMX")
            print(quote.dayVolume)
        } catch {
            switch error.code {
            case .notFound, .invalidArgument: print("no such instrument, or ambiguous:", error)
            case .unauthenticated, .permissionDenied: print("not allowed:", error)
            case .resourceExhausted: print("too much; again in", error.retryAfterMilliseconds ?? 1000, "ms")
            case .deadlineExceeded: print("no answer in time")
            case .unavailable: print("no server can be reached:", error)
            case .cancelled: print("this task was cancelled, or the client closed")
            default: print("not expected:", error)
            }
        }
    }

    static func ends(_ tapedeck: TapedeckClient) async throws {
        for try await event in tapedeck.prices(["AAPL"]) {
            guard case .interrupted(let error) = event else { continue }
            switch error.reason {
            case .serverStopping?, .endedByOperator?, .deadlinePassed?: print("goes on, perhaps with another server")
            case .rightsChanged?: print("goes on with the token of now, if that is let in")
            case .readerTooSlow?: print("this loop is too slow for the policy ALL")
            case .recordsMissing?: print("gone:", error.missing)
            default: print("the connection was lost:", error)
            }
        }
    }

    static func cancellation(_ tapedeck: TapedeckClient) async throws {
        let reading = Task {
            for try await case .ticks(let batch) in tapedeck.prices(["AAPL"]) { print(batch.count) }
        }
        _ = try await tapedeck.quote("MSFT")
        reading.cancel()
    }
}
