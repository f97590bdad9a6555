import GRPC
import Synchronization

/// Lines about calls, on their way from the loops to whoever writes them: bounded, so that no loop ever waits for a
/// terminal. Safe to use from any thread.
public final class CallLog: Sendable {
    /// Lines that wait at most; those beyond are counted.
    public static let linesMax = 4096
    /// Lines per second and loop about calls that failed by what the client did.
    public static let refusalsPerSecond = 100

    private struct Line {
        let method: String
        let identity: String
        let peer: String
        let status: GRPCStatus
        let ns: UInt64
        let receivedBytes: Int
        let sentBytes: Int
        let trace: String?
    }

    private struct Failure {
        let id: String
        let method: String
        let error: String
        /// What it is, where its text does not say.
        let type: String
    }

    private struct State {
        var lines: [Line] = []
        var errors: [Failure] = []
        var leftOut: UInt64 = 0
    }

    /// Lines per second and loop about calls that went well.
    public let successesPerSecond: Int
    private let state = Mutex(State())

    public init(successesPerSecond: Int) { self.successesPerSecond = successesPerSecond }

    func add(_ call: ServerCall, _ status: GRPCStatus, ns: UInt64) {
        let line = Line(
            method: call.path, identity: call.identity?.name ?? "", peer: call.peerAddress, status: status, ns: ns,
            receivedBytes: call.receivedBytes, sentBytes: call.sentBytes, trace: call.traceContext?.traceID)
        state.withLock { state in
            if state.lines.count < CallLog.linesMax { state.lines.append(line) } else { state.leftOut += 1 }
        }
    }

    /// A handler threw something that is no status: its client was told the id only.
    public func addError(id: String, method: String, error: any Error) {
        let failure = Failure(
            id: id, method: method, error: "\(error)", type: String(describing: Swift.type(of: error)))
        state.withLock { state in
            if state.errors.count < CallLog.linesMax { state.errors.append(failure) } else { state.leftOut += 1 }
        }
    }

    /// A line that was not worth one.
    func leaveOut() { state.withLock { $0.leftOut += 1 } }

    /// Writes what has gathered since the last time, in order. From a thread that may wait; by one at a time.
    public func write(to diagnostics: Diagnostics) {
        let (lines, errors, leftOut) = state.withLock { state in
            defer { state = State() }
            return (state.lines, state.errors, state.leftOut)
        }
        for failure in errors {
            diagnostics.log(
                .error, "call", "internal error: \(failure.error)",
                fields: [
                    (name: "error_id", value: failure.id), ("method", failure.method), ("type", failure.type),
                ])
        }
        for line in lines {
            var fields = [
                (name: "method", value: line.method), ("identity", line.identity), ("peer", line.peer),
                ("code", line.status.code.description), ("ms", CallLog.milliseconds(line.ns)),
                ("received_bytes", "\(line.receivedBytes)"), ("sent_bytes", "\(line.sentBytes)"),
            ]
            if let trace = line.trace { fields.append(("trace", trace)) }
            diagnostics.log(
                CallLog.level(line.status.code), "call", line.status.isOK ? "ended" : "\(line.status)", fields: fields)
        }
        if leftOut > 0 {
            diagnostics.log(.warning, "call", kind: "call.left_out", "\(leftOut) failed calls without a line")
        }
    }

    /// Thousandths below a second, whole ones above.
    private static func milliseconds(_ ns: UInt64) -> String {
        let whole = ns / 1_000_000
        guard whole < 1000 else { return "\(whole)" }
        let thousandths = String(ns / 1000 % 1000)
        return "\(whole)." + String(repeating: "0", count: 3 - thousandths.count) + thousandths
    }

    /// As grpc-ecosystem's middleware has them.
    static func level(_ code: GRPCStatus.Code) -> Diagnostics.Level {
        switch code {
        case .ok, .cancelled, .invalidArgument, .notFound, .alreadyExists, .unauthenticated: .info
        case .deadlineExceeded, .permissionDenied, .resourceExhausted, .failedPrecondition, .aborted, .outOfRange,
            .unavailable:
            .warning
        default: .error
        }
    }
}

/// So many in each second, the first ones. Confined to its owner.
struct CallSampler {
    private let perSecond: Int
    private var secondNs: Int64 = .min
    private var count = 0

    init(perSecond: Int) { self.perSecond = perSecond }

    mutating func admits(_ nowNs: Int64) -> Bool {
        if nowNs < secondNs || nowNs &- secondNs >= 1_000_000_000 || secondNs == .min {
            secondNs = nowNs
            count = 0
        }
        guard count < perSecond else { return false }
        count += 1
        return true
    }
}
