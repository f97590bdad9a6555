import EventLoop

/// Resolves names as the system does.
public struct GRPCSystemResolver: GRPCResolver {
    public init() {}

    public func resolve(
        _ name: GRPCAddress, server: GRPCAddress?, loop: any Loop,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void
    ) {
        guard server == nil else {
            return done(.failure(GRPCStatus(.unavailable, "no resolver for name servers")))
        }
        done(.success([name]))
    }
}
