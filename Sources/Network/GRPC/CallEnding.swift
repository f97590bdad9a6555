import EventLoop
import HTTP2

/// Why a call is ended that neither its client nor its handler ends.
public struct CallEnding: Hashable, Sendable {
    /// What a program reads of it; stable.
    public enum Reason: String, CaseIterable, Sendable {
        /// Of this server; another takes the call.
        case endedByOperator = "ENDED_BY_OPERATOR"
        /// What the caller may do is not what it was when the call began.
        case rightsChanged = "RIGHTS_CHANGED"
        /// The server's own deadline; the client's needs no word.
        case deadlinePassed = "DEADLINE_PASSED"
        /// All calls together hold as many bytes as they may.
        case serverOutOfMemory = "SERVER_OUT_OF_MEMORY"
    }

    /// The trailer that has the reason.
    public static let trailer = "tapedeck-end-reason"

    public let reason: Reason
    public let status: GRPCStatus

    public init(_ reason: Reason, _ status: GRPCStatus) {
        self.reason = reason
        self.status = status
    }

    var trailers: GRPCMetadata {
        var trailers = GRPCMetadata()
        trailers.add(CallEnding.trailer, reason.rawValue)
        return trailers
    }
}

extension ServerCall {
    /// What a stream that is cut off has for its last words: a client that reads nothing hears none.
    private static let lastWordsMilliseconds = 2000

    /// Whether ``cutOff(_:)`` was called: nothing more is taken of the client.
    public var isCutOff: Bool { rare?.isCutOff ?? false }

    /// Ends the call for a reason that is in its trailers. A source that knows more to say (``StreamStatusProvider``)
    /// says it, within 2 s and after what it had ready; any other call fails at once. Once for each call.
    public func cutOff(_ ending: CallEnding) {
        guard end == nil, !isClosed, !isCutOff else { return }
        makeRare().isCutOff = true
        guard let stream = source as? any StreamStatusProvider else {
            return fail(ending.status, trailers: ending.trailers)
        }
        stream.end(ending)
        _ = loop.timer(afterMilliseconds: ServerCall.lastWordsMilliseconds) { [weak self] in
            self?.fail(ending.status, trailers: ending.trailers)
        }
    }
}
