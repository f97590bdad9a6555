import EventLog
import GRPC

/// Why the server ends a stream of prices. Every end carries the reason and a resume token in its trailers.
enum StreamEnd {
    /// The server stops; another one, or this one later, goes on from the token.
    case shutdown
    case tooSlow(String)
    /// Records between the reader and the tape are gone.
    case missing([MissingRange])
    case logFailed(String)

    /// Trailer names, all ASCII but the token.
    static let reasonTrailer = "tapedeck-end-reason"
    static let tokenTrailer = "tapedeck-resume-token-bin"
    static let missingTrailer = "tapedeck-missing"
    /// Records of a sequence that had been sent already; absent when 0.
    static let repeatsTrailer = "tapedeck-repeats-dropped"

    var status: GRPCStatus {
        switch self {
        case .shutdown: GRPCStatus(.unavailable, "the server is stopping; resume with the token in the trailers")
        case .tooSlow(let what):
            GRPCStatus(.resourceExhausted, "\(what); resume with the token in the trailers, or use policy LATEST")
        case .missing(let ranges):
            GRPCStatus(
                .dataLoss,
                "records are gone: \(ranges.map(\.description).joined(separator: ", ")); "
                    + "the token in the trailers goes on after them")
        case .logFailed(let what): GRPCStatus(.internalError, what)
        }
    }

    /// Machine-readable, stable.
    var reason: String {
        switch self {
        case .shutdown: "SERVER_STOPPING"
        case .tooSlow: "READER_TOO_SLOW"
        case .missing: "RECORDS_MISSING"
        case .logFailed: "LOG_FAILED"
        }
    }

    func read(token: ResumeToken, repeats: UInt64) -> FrameRead {
        .end(status, trailers: trailers(token: token, repeats: repeats))
    }

    func trailers(token: ResumeToken, repeats: UInt64 = 0) -> GRPCMetadata {
        var trailers = GRPCMetadata()
        trailers.add(StreamEnd.reasonTrailer, reason)
        trailers.add(StreamEnd.tokenTrailer, binary: token.encoded())
        if repeats > 0 { trailers.add(StreamEnd.repeatsTrailer, String(repeats)) }
        if case .missing(let ranges) = self {
            for range in ranges { trailers.add(StreamEnd.missingTrailer, range.description) }
        }
        return trailers
    }
}

/// Bounds of the edge; reaching one is answered with a clear end of the stream or a status.
public struct EdgeLimits: Sendable {
    /// How far a subscriber of everything may fall behind the tape, in bytes of records.
    public var cursorLagBytesMax: UInt64 = 1 << 30
    /// Bytes that wait for one filtered subscriber under policy ALL.
    public var queueBytesMax = 8 << 20
    /// Bytes that wait for one subscriber under LATEST or INTERVAL before it is conflated.
    public var pressureBytes = 64 << 10
    /// Symbols in one subscription.
    public var symbolsMax = 10_000
    /// Longest conflation window, in milliseconds.
    public var throttleMillisecondsMax = 60_000

    public init() {}
}
