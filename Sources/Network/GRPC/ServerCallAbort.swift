import HTTP2

extension ServerCall {
    /// The call's connection takes no new calls and will end: a stream does well to end before it.
    public var isConnectionEnding: Bool { isClosed || connection.isDraining }

    /// The call's connection is about to end, which it was not when the call began. Called at most once, on the loop;
    /// it may end the call, not the connection.
    public var onConnectionEnding: (() -> Void)? {
        get { rare?.onConnectionEnding }
        set { makeRare().onConnectionEnding = newValue }
    }
}

// Ends that no answer explains: for servers that try their clients.
extension ServerCall {
    /// Resets the call's stream, without status or trailers. Not from within ``FrameSource/read(into:)``.
    public func abort(_ code: UInt32) {
        guard end == nil, !isClosed else { return }
        end = (GRPCStatus(.cancelled, "the server reset the stream"), GRPCMetadata())
        source = nil
        reset(code)
    }

    /// Ends the connection of the call, and every call on it: GOAWAY with a code and a text, then the end. Not from
    /// within ``FrameSource/read(into:)``.
    public func endConnection(_ code: UInt32, _ text: String) {
        guard !isClosed else { return }
        connection.goAway(code, text)
        connection.close(reason: text)
    }
}
