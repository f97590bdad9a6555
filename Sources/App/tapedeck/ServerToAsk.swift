import GRPC
import TLS
import TapedeckClient

/// How a command reaches the server that it asks: address, TLS and proof of who asks.
struct ServerToAsk {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    /// Connects when first used.
    func client() throws -> MarketDataClient {
        let tls = try tls()
        let token = options.optionalString(.token)
        if token != nil, tls == nil, !GRPCAddress(host: address.host, port: Int(address.port)).isThisMachine {
            throw CommandError(
                "without TLS the token could be read on its way to \(address): add --tls-ca, with `system` for the "
                    + "authorities of this machine")
        }
        return try MarketDataClient(target: address.description, tls: tls, token: token)
    }

    private var address: Address { options.address(.server) }

    /// Spoken where anything of it is configured.
    private func tls() throws(CommandError) -> TLSClientContext? {
        guard options.isSet(.tlsCA) || options.isSet(.tlsCert) || options.isSet(.tlsKey) else { return nil }
        var configuration = TLSClientConfiguration(serverName: address.host)
        let authority = options.optionalString(.tlsCA)
        configuration.authorityFile = authority == "system" ? nil : authority
        configuration.certificateChainFile = options.optionalString(.tlsCert)
        configuration.privateKeyFile = options.optionalString(.tlsKey)
        do {
            return try TLSClientContext(configuration)
        } catch {
            throw CommandError(error.description)
        }
    }
}
