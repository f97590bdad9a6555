import HTTP2

/// The calls of a server on one loop. Confined to it.
public final class ServerCalls {
    var connections: [ObjectIdentifier: (connection: HTTP2Connection, address: String, number: Int64)] = [:]

    /// Those that are open now, in the order they began.
    public var open: [ServerCall] {
        var calls: [ServerCall] = []
        forEachOpen { calls.append($0) }
        return calls.sorted { $0.number < $1.number }
    }

    /// Calls `body` with each that is open now, in no order. It may end them; it begins and closes no connection.
    public func forEachOpen(_ body: (ServerCall) -> Void) {
        for entry in connections.values {
            entry.connection.forEachStream { if let call = $0 as? ServerCall { body(call) } }
        }
    }
}
