import MarketModel
import MarketProto
import Protobuf
import SimulatedExecution

/// The answer of SubmitOrders as it is made: each order's result is encoded when it is known. Gives the bytes of a
/// `Proto.OrderBatchSummary` of the same results.
struct OrderResults {
    private var results = FieldBytes()
    private var reasons = FieldBytes()
    private var accepted = 0
    /// Results that are in `results`, of the orders before it.
    private var encodedCount = 0
    /// Of orders behind some that are not answered yet, in their order.
    private var early: [(index: Int, result: Proto.OrderResult)] = []
    /// Orders that were given a place.
    private(set) var count = 0

    /// Takes a place for an order that is answered later.
    mutating func reserve() { count += 1 }

    /// An order that is answered at once.
    mutating func append(_ status: Proto.OrderStatusUpdate) {
        let result = Proto.OrderResult(status)
        count += 1
        if encodedCount == count - 1 { encode(result) } else { early.append((count - 1, result)) }
    }

    /// The answer to the first of the reserved orders that has none yet.
    mutating func answer(_ update: OrderUpdate) {
        results.append { $0.orderResult(OrderResults.resultTag, update) }
        if update.status == .rejected {
            let code = update.code?.rawValue ?? ""
            reasons.append { $0.string(OrderResults.reasonTag, "\(code): \(update.reason)") }
        } else {
            accepted += 1
        }
        encodedCount += 1
        var taken = 0
        while taken < early.count, early[taken].index == encodedCount {
            encode(early[taken].result)
            taken += 1
        }
        if taken > 0 { early.removeFirst(taken) }
    }

    private mutating func encode(_ result: Proto.OrderResult) {
        results.append { $0.message(OrderResults.resultTag, result) }
        if result.accepted {
            accepted += 1
        } else {
            reasons.append {
                $0.string(OrderResults.reasonTag, "\(result.rejectionCode): \(result.rejectionReason)")
            }
        }
        encodedCount += 1
    }

    /// The summary of what was answered.
    func summary() -> [UInt8] {
        var counts = Proto.OrderBatchSummary()
        counts.accepted = Int32(clamping: accepted)
        counts.rejected = Int32(clamping: encodedCount) - counts.accepted
        var bytes: [UInt8] = []
        bytes.reserveCapacity(32 + reasons.count + results.count)
        counts.withEncodedBytes { bytes.append(contentsOf: $0) }
        reasons.withBytes { bytes.append(contentsOf: $0) }
        results.withBytes { bytes.append(contentsOf: $0) }
        return bytes
    }

    /// Tags of `Proto.OrderBatchSummary`.
    private static let reasonTag: UInt32 = 26
    private static let resultTag: UInt32 = 82
}

/// Fields one after the other.
private struct FieldBytes {
    private var storage: [UInt8] = []
    private(set) var count = 0

    mutating func append(_ write: (inout ProtoWriter) -> Void) {
        while true {
            let start = count
            let written = storage.withUnsafeMutableBytes {
                ProtoWriter.fields(into: UnsafeMutableRawBufferPointer(rebasing: $0[start...]), write)
            }
            if let written { return count += written }
            storage.append(contentsOf: repeatElement(0, count: max(1024, storage.count)))
        }
    }

    func withBytes(_ body: (UnsafeRawBufferPointer) -> Void) {
        storage.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
}

extension ProtoWriter {
    /// Writes what `Proto.OrderResult(Proto.OrderStatusUpdate(update))` is as a field, without making one.
    mutating func orderResult(_ tag: UInt32, _ update: OrderUpdate) {
        let result = begin(tag)
        text(10, update.orderID)
        if update.status != .rejected {
            bool(16, true)
        } else {
            text(26, update.code?.rawValue ?? "")
            text(34, update.reason)
        }
        let status = begin(42)
        text(10, update.orderID)
        string(18, update.status.rawValue)
        if update.remainingMicros != 0 { int64(24, update.remainingMicros) }
        text(82, update.account)
        text(90, update.symbol)
        text(98, update.exchange)
        if let code = update.code { string(106, code.rawValue) }
        text(114, update.reason)
        message(122, WellKnown.Timestamp(ns: update.timeNs))
        end(status)
        end(result)
    }

    private mutating func text(_ tag: UInt32, _ value: String) { if !value.isEmpty { string(tag, value) } }
}
