import Protobuf

extension GRPCMetadata {
    /// The trailer with a status's details (`grpc-status-details-bin`).
    public static let statusDetailsName = "grpc-status-details-bin"

    /// Adds the details of a status, for the trailers of a call that fails with it: each is a message packed into Any.
    public mutating func addDetails(_ details: [WellKnown.AnyMessage], of status: GRPCStatus) {
        var message = GoogleRPC.Status()
        message.code = Int32(clamping: status.code.rawValue)
        message.message = status.message
        message.details = details
        add(GRPCMetadata.statusDetailsName, binary: message.encodedBytes())
    }

    /// The details of a status in a call's trailers; nil where there are none, or they are unreadable.
    public var statusDetails: [WellKnown.AnyMessage]? {
        guard let bytes = binary(GRPCMetadata.statusDetailsName) else { return nil }
        return try? GoogleRPC.Status(decoding: bytes).details
    }
}
