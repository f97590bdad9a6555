import CNGHTTP2

/// What a peer did that made this side end the connection, as an operator counts it.
public enum HTTP2PeerFault: String, CaseIterable, Sendable {
    case tooManyPings = "too_many_pings"
    /// Frames that ask for nothing.
    case tooManyFrames = "too_many_frames"
    /// Streams that it began and reset.
    case tooManyResets = "too_many_resets"
    /// Answers to PING and SETTINGS that it asked for and did not read.
    case tooManyAnswers = "too_many_answers"
    case tooManyContinuations = "too_many_continuations"
    /// No sign of life after a ping.
    case silent
    /// Anything else that HTTP/2 forbids.
    case protocolError = "protocol_error"

    /// By what nghttp2 says of received bytes.
    init(_ error: nghttp2_error) {
        switch error {
        case NGHTTP2_ERR_FLOODED: self = .tooManyAnswers
        case NGHTTP2_ERR_TOO_MANY_CONTINUATIONS: self = .tooManyContinuations
        default: self = .protocolError
        }
    }

    /// By the error code of a GOAWAY that nghttp2 sends of its own accord; nil where it is none.
    init?(goAwayCode code: UInt32) {
        switch code {
        case HTTP2ErrorCode.none: return nil
        // Nothing else of a peer's has this code: nghttp2 ends a session that resets streams faster than allowed by it.
        case HTTP2ErrorCode.internalError: self = .tooManyResets
        default: self = .protocolError
        }
    }
}
