// What interceptors ask at every call, without making strings or copies.

extension ServerCall {
    /// The method's place in ``GRPCServiceTable/methods``; nil where there is no such method.
    public var methodNumber: Int? { entry?.number }

    /// Whether the requests or the responses are a stream.
    public var isStream: Bool { entry?.isStream ?? false }

    /// Calls `body` with the first value of a name, whose bytes are valid during the call; nil where there is none.
    public func withMetadata<R>(_ name: StaticString, _ body: (UnsafeRawBufferPointer) -> R) -> R? {
        rawMetadata.withValue(name, body)
    }
}
