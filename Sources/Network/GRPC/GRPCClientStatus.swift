import HTTP2

/// What a client makes of answers that carry no gRPC status of their own.
enum GRPCClientStatus {
    /// The status of an answer by its HTTP status
    /// (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
    static func of(httpStatus: String) -> GRPCStatus {
        let text = "the server answered with HTTP status \(httpStatus)"
        switch httpStatus {
        case "400": return GRPCStatus(.internalError, text)
        case "401": return GRPCStatus(.unauthenticated, text)
        case "403": return GRPCStatus(.permissionDenied, text)
        case "404": return GRPCStatus(.unimplemented, text)
        case "429", "502", "503", "504": return GRPCStatus(.unavailable, text)
        case "200": return GRPCStatus(.unknown, "the server sent no grpc-status")
        default: return GRPCStatus(.unknown, text)
        }
    }

    /// The status of a stream that was reset (gRPC over HTTP/2, "Errors").
    static func of(resetCode code: UInt32) -> GRPCStatus {
        switch code {
        case HTTP2ErrorCode.connectionLost: GRPCStatus(.unavailable, "the connection ended")
        case HTTP2ErrorCode.refusedStream: GRPCStatus(.unavailable, "the server took no more calls")
        case HTTP2ErrorCode.cancel: GRPCStatus(.cancelled, "the server cancelled the stream")
        case HTTP2ErrorCode.enhanceYourCalm: GRPCStatus(.resourceExhausted, "the server asks for calm")
        case 12: GRPCStatus(.permissionDenied, "the server asks for a more secure connection")
        default: GRPCStatus(.internalError, "the stream ended with HTTP/2 error \(code)")
        }
    }

    /// The status in trailers; nil where there is none. A status that is no number is UNKNOWN.
    static func of(trailers: GRPCMetadata) -> GRPCStatus? {
        guard let text = trailers.value("grpc-status") else { return nil }
        let message = trailers.value("grpc-message").map(PercentCoding.decode) ?? ""
        guard let code = Int(text), code >= 0 else {
            return GRPCStatus(.unknown, "the server sent the grpc-status \(text)")
        }
        return GRPCStatus(GRPCStatus.Code(rawValue: code), message)
    }
}
