import CNGHTTP2

// For those who look at a connection from beside.
extension HTTP2Connection {
    /// Server: streams that the peer has begun so far; their numbers are odd.
    public var streamsBegun: Int64 {
        isClosed ? 0 : (Int64(nghttp2_session_get_last_proc_stream_id(session)) + 1) / 2
    }

    /// Streams that are not over.
    public var openStreams: Int { streams.count }
}
