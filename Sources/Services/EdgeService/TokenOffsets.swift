/// The offsets that a resume token stands for: for tools that have something else go on where a client was.
public struct TokenOffsets: Sendable {
    /// Which log they are of.
    public let logID: UInt64
    /// The first offset not delivered, by partition of `ticks.raw`.
    public let offsets: [UInt16: UInt64]

    /// Why bytes are no token.
    public struct Malformed: Error, Sendable, CustomStringConvertible {
        public let description: String
    }

    /// Of the bytes that a server gave. Takes any bytes.
    public init(_ bytes: [UInt8]) throws(Malformed) {
        do {
            let token = try ResumeToken(decoding: bytes)
            logID = token.logID
            offsets = Dictionary(token.offsets.map { ($0.partition, $0.offset) }, uniquingKeysWith: { $1 })
        } catch {
            if case .malformed(let why) = error { throw Malformed(description: why) }
            throw Malformed(description: "it is of another kind")
        }
    }
}
