/// Why a connection to a broker is over, or was never there.
public struct KafkaFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of end it was.
    public enum Kind: Hashable, Sendable {
        /// It was closed here.
        case closed
        /// It could not be made, or was lost.
        case lost
        /// No answer came in its time.
        case silent
        /// The broker does not let this process in: its login, or a certificate on either side.
        case refused
        /// The broker sent what is not the protocol, or does not speak what is needed.
        case `protocol`
    }

    public let kind: Kind
    public let description: String

    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }
}
