import EventLog
import GRPC
import MarketProto

/// Why the server ends a stream. Every end carries the reason and a resume token in its trailers.
enum StreamEnd {
    /// The server stops; another one, or this one later, goes on from the token.
    case shutdown
    case tooSlow(String)
    /// Records between the reader and the tape are gone.
    case missing([MissingRange])
    case logFailed(String)
    /// By nobody on the stream: an operator, changed rights, a limit of the server's.
    case imposed(CallEnding)
    /// `Subscribe`: the client has closed its side, and nothing is left to send.
    case completed
    /// `Subscribe`: a message was none.
    case badRequest(String)
    /// `Subscribe`: the answers to requests are not read.
    case tooManyRequests(String)

    /// Machine-readable, stable.
    enum Reason: String, CaseIterable {
        case serverStopping = "SERVER_STOPPING"
        case readerTooSlow = "READER_TOO_SLOW"
        case recordsMissing = "RECORDS_MISSING"
        case logFailed = "LOG_FAILED"
        case endedByOperator = "ENDED_BY_OPERATOR"
        case rightsChanged = "RIGHTS_CHANGED"
        case deadlinePassed = "DEADLINE_PASSED"
        case serverOutOfMemory = "SERVER_OUT_OF_MEMORY"
        case completed = "COMPLETED"
        case badRequest = "BAD_REQUEST"
        case tooManyRequests = "TOO_MANY_REQUESTS"
        /// `LiveTrading` only.
        case tooManyAccounts = "TOO_MANY_ACCOUNTS"

        init(_ reason: CallEnding.Reason) {
            self =
                switch reason {
                case .endedByOperator: .endedByOperator
                case .rightsChanged: .rightsChanged
                case .deadlinePassed: .deadlinePassed
                case .serverOutOfMemory: .serverOutOfMemory
                }
        }
    }

    /// Trailer names, all ASCII but the token.
    static let reasonTrailer = CallEnding.trailer
    static let tokenTrailer = "tapedeck-resume-token-bin"
    static let missingTrailer = "tapedeck-missing"
    /// In the headers of a resumed stream: records that the log has no more and the store brings.
    static let storedHeader = "tapedeck-from-store"
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
        case .imposed(let ending):
            GRPCStatus(ending.status.code, "\(ending.status.message); resume with the token in the trailers")
        case .completed: .ok
        case .badRequest(let what): GRPCStatus(.invalidArgument, what)
        case .tooManyRequests(let what): GRPCStatus(.resourceExhausted, what)
        }
    }

    var reason: Reason {
        switch self {
        case .shutdown: .serverStopping
        case .tooSlow: .readerTooSlow
        case .missing: .recordsMissing
        case .logFailed: .logFailed
        case .imposed(let ending): Reason(ending.reason)
        case .completed: .completed
        case .badRequest: .badRequest
        case .tooManyRequests: .tooManyRequests
        }
    }

    func read(token: ResumeToken, repeats: UInt64) -> FrameRead {
        .end(status, trailers: trailers(token: token, repeats: repeats))
    }

    func trailers(token: ResumeToken, repeats: UInt64 = 0) -> GRPCMetadata {
        var trailers = GRPCMetadata()
        trailers.add(StreamEnd.reasonTrailer, reason.rawValue)
        trailers.add(StreamEnd.tokenTrailer, binary: token.encoded())
        if repeats > 0 { trailers.add(StreamEnd.repeatsTrailer, String(repeats)) }
        if case .missing(let ranges) = self {
            for range in ranges { trailers.add(StreamEnd.missingTrailer, range.description) }
        }
        return trailers
    }
}

// MARK: As messages of Subscribe

extension StreamEnd {
    private var endReason: Proto.EndReason {
        switch self {
        case .shutdown: .serverStopping
        case .tooSlow: .readerTooSlow
        case .missing: .recordsMissing
        case .logFailed: .logFailed
        case .imposed(let ending):
            switch ending.reason {
            // For the client it is the same: this server wants it elsewhere, or later.
            case .endedByOperator: .serverStopping
            case .rightsChanged: .rightsChanged
            case .deadlinePassed: .deadlinePassed
            case .serverOutOfMemory: .serverOutOfMemory
            }
        case .completed: .completed
        case .badRequest: .badRequest
        case .tooManyRequests: .tooManyRequests
        }
    }

    func subscriptionEnd(token: ResumeToken) -> Proto.SubscriptionEnd {
        var end = Proto.SubscriptionEnd()
        end.reason = endReason
        end.message = status.message
        end.resumeToken = token.encoded()
        if case .missing(let ranges) = self { end.lost = ranges.map(\.message) }
        return end
    }

    func streamEnd(token: ResumeToken) -> Proto.StreamEnd {
        var end = Proto.StreamEnd()
        end.reason = endReason
        end.message = status.message
        end.resumeToken = token.encoded()
        return end
    }
}

extension StoredRange {
    /// As `Subscribe` says it.
    var message: Proto.StoredRecords {
        var stored = Proto.StoredRecords()
        stored.topic = place.topic.name
        stored.partition = UInt32(place.partition)
        stored.firstOffset = from
        stored.lastOffset = to &- 1
        return stored
    }
}

extension MissingRange {
    /// As `Subscribe` says it.
    var message: Proto.LostRecords {
        var lost = Proto.LostRecords()
        lost.topic = place.topic.name
        lost.partition = UInt32(place.partition)
        lost.firstOffset = from
        lost.lastOffset = to &- 1
        lost.reason = reason
        return lost
    }
}
