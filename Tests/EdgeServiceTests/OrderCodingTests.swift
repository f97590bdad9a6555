import MarketModel
import MarketProto
import Protobuf
import TestSupport
import Testing

@testable import EdgeService
@testable import SimulatedExecution

/// What SubmitOrders reads and writes without making messages, held against the messages.
struct OrderCodingTests {
    private static let words = [
        "", "AAPL", "BUY", "a name of more than fifteen bytes", "Überschrift 世界", String(repeating: "x", count: 300),
    ]

    private static func word(_ random: inout SeededNumbers) -> String { words[random.below(words.count)] }

    private static func number(_ random: inout SeededNumbers) -> Int64 {
        [0, 1, -1, 1_000_000, .max, .min, Int64(bitPattern: random.next())][random.below(7)]
    }

    private static func request(_ random: inout SeededNumbers) -> Proto.OrderRequest {
        var request = Proto.OrderRequest()
        request.orderId = word(&random)
        request.symbol = word(&random)
        request.side = word(&random)
        request.quantityMicros = number(&random)
        request.limitPriceMicros = number(&random)
        request.orderType = word(&random)
        if random.below(2) == 0 {
            var time = WellKnown.Timestamp()
            time.seconds = number(&random)
            time.nanos = Int32(truncatingIfNeeded: number(&random))
            request.clientTimestamp = time
        }
        request.account = word(&random)
        request.idempotencyKey = word(&random)
        request.exchange = word(&random)
        request.timeInForce = word(&random)
        request.stopPriceMicros = number(&random)
        if random.below(4) == 0 { request.unknownFields.bytes = [0x98, 0x06, 5] }
        return request
    }

    private static func decode(_ bytes: [UInt8]) -> Result<NewOrder, DecodingError> {
        bytes.withUnsafeBytes { bytes in
            do throws(DecodingError) {
                return .success(try NewOrder(decoding: bytes))
            } catch {
                return .failure(error)
            }
        }
    }

    private static func decodeMessage(_ bytes: [UInt8]) -> Result<NewOrder, DecodingError> {
        do throws(DecodingError) {
            return .success(NewOrder(try Proto.OrderRequest(decoding: bytes)))
        } catch {
            return .failure(error)
        }
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func `An order is read as its message is, and bytes that are none are refused for the same reason`(_ seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        var refused = 0
        for _ in 0..<2000 {
            var bytes = OrderCodingTests.request(&random).encodedBytes()
            #expect(OrderCodingTests.decode(bytes) == OrderCodingTests.decodeMessage(bytes))
            for _ in 0..<5 where !bytes.isEmpty {
                bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next())
                if random.below(4) == 0 { bytes.removeLast(random.below(bytes.count)) }
                let read = OrderCodingTests.decode(bytes)
                #expect(read == OrderCodingTests.decodeMessage(bytes), "\(bytes)")
                if case .failure = read { refused += 1 }
            }
        }
        #expect(refused > 500)
    }

    private static func update(_ random: inout SeededNumbers) -> OrderUpdate {
        let isRejected = random.below(3) == 0
        let open: [OrderStatus] = [.new, .partial, .filled, .cancelled]
        let code = OrderReason.allCases[random.below(OrderReason.allCases.count)]
        return OrderUpdate(
            account: word(&random), orderID: word(&random), exchange: word(&random), symbol: word(&random),
            status: isRejected ? .rejected : open[random.below(open.count)], remainingMicros: number(&random),
            code: isRejected || random.below(3) == 0 ? code : nil, reason: word(&random), timeNs: number(&random))
    }

    /// Of results that are all known.
    private static func summary(_ results: [Proto.OrderResult]) -> Proto.OrderBatchSummary {
        var summary = Proto.OrderBatchSummary()
        summary.results = results
        summary.accepted = Int32(results.count { $0.accepted })
        summary.rejected = Int32(results.count) - summary.accepted
        summary.rejectionReasons = results.filter { !$0.accepted }.map { "\($0.rejectionCode): \($0.rejectionReason)" }
        return summary
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func `Results that are encoded as they come are the bytes of the summary`(_ seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        for round in 0..<200 {
            var encoded = OrderResults()
            var results: [Proto.OrderResult?] = []
            var waiting: [Int] = []
            func answer() {
                let update = OrderCodingTests.update(&random)
                encoded.answer(update)
                results[waiting.removeFirst()] = Proto.OrderResult(Proto.OrderStatusUpdate(update))
            }
            for _ in 0..<random.below(round + 1) {
                switch random.below(4) {
                case 0:
                    var order = NewOrder()
                    order.orderID = OrderCodingTests.word(&random)
                    order.quantityMicros = OrderCodingTests.number(&random)
                    let status = Proto.OrderStatusUpdate(
                        rejecting: order, .permissionDenied, OrderCodingTests.word(&random), timeNs: 5)
                    encoded.append(status)
                    results.append(Proto.OrderResult(status))
                case 1 where !waiting.isEmpty: answer()
                default:
                    encoded.reserve()
                    waiting.append(results.count)
                    results.append(nil)
                }
            }
            while !waiting.isEmpty { answer() }
            #expect(encoded.count == results.count)
            #expect(encoded.summary() == OrderCodingTests.summary(results.compactMap { $0 }).encodedBytes())
        }
    }

    @Test func `Results behind an order that is not answered wait for it`() {
        var results = OrderResults()
        results.reserve()
        let late = Proto.OrderStatusUpdate(rejecting: NewOrder(), .invalidMessage, "no OrderRequest", timeNs: 1)
        for _ in 0..<9999 { results.append(late) }
        var random = SeededNumbers(seed: 1)
        results.answer(OrderCodingTests.update(&random))
        let summary = try? Proto.OrderBatchSummary(decoding: results.summary())
        #expect(summary?.results.count == 10_000 && summary?.results.last == Proto.OrderResult(late))
    }
}
