import GRPC

/// Why a call or a stream of Tapedeck failed.
public struct TapedeckError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Why the server ended a stream, as its trailer says.
    public struct EndReason: RawRepresentable, Hashable, Sendable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        public static let serverStopping = EndReason(rawValue: "SERVER_STOPPING")
        public static let readerTooSlow = EndReason(rawValue: "READER_TOO_SLOW")
        public static let recordsMissing = EndReason(rawValue: "RECORDS_MISSING")
        public static let logFailed = EndReason(rawValue: "LOG_FAILED")
        public static let endedByOperator = EndReason(rawValue: "ENDED_BY_OPERATOR")
        public static let rightsChanged = EndReason(rawValue: "RIGHTS_CHANGED")
        public static let deadlinePassed = EndReason(rawValue: "DEADLINE_PASSED")
        public static let serverOutOfMemory = EndReason(rawValue: "SERVER_OUT_OF_MEMORY")
    }

    public let status: GRPCStatus
    /// nil where the server did not say.
    public let reason: EndReason?
    /// Goes on where a stream ended; nil where there is nothing to go on.
    public let resumeToken: [UInt8]?
    /// Ranges of records that are gone, as `TOPIC/PARTITION FROM-NEXT REASON`.
    public let missing: [String]
    /// The server says when a retry may succeed; nil where it does not.
    public let retryAfterMilliseconds: Int?

    /// `trailers` are those that came with the status.
    public init(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        self.status = status
        reason = trailers.value("tapedeck-end-reason").map(EndReason.init)
        resumeToken = trailers.binary("tapedeck-resume-token-bin")
        missing = trailers.values("tapedeck-missing")
        retryAfterMilliseconds = trailers.value("grpc-retry-pushback-ms").flatMap { Int($0) }.flatMap {
            $0 >= 0 ? $0 : nil
        }
    }

    public var code: GRPCStatus.Code { status.code }

    /// Whether the same request may succeed later. It says nothing about whether this one was carried out: orders are
    /// sent again with the same idempotency key only.
    public var isRetryable: Bool {
        switch code {
        case .unavailable, .aborted, .deadlineExceeded: true
        case .resourceExhausted: retryAfterMilliseconds != nil || reason == .readerTooSlow
        case .dataLoss: resumeToken != nil
        default: false
        }
    }

    public var description: String { reason.map { "\(status) (\($0.rawValue))" } ?? status.description }
}
