import EventLoop

/// Where a channel connects to, as text:
///
/// - `HOST:PORT`, `[IPV6]:PORT`, `dns:///NAME:PORT`: every address of the name
/// - `dns://SERVER:PORT/NAME:PORT`: the same, asked of a name server, whose address is numeric and whose port 53 may be
///   left out
/// - `ipv4:ADDRESS:PORT,…`, `ipv6:[ADDRESS]:PORT,…`: these addresses
///
/// (https://github.com/grpc/grpc/blob/master/doc/naming.md)
public struct GRPCTarget: Hashable, Sendable {
    /// How its addresses are found.
    public enum Kind: Hashable, Sendable {
        /// Resolve the name; `server` is the name server to ask, nil for the system's.
        case name(GRPCAddress, server: GRPCAddress?)
        case addresses([GRPCAddress])
    }

    public let kind: Kind
    /// What requests carry as `:authority`.
    public let authority: String
    /// The name without the port, for a server's certificate.
    public let serverName: String

    /// Whether what is sent there stays on this machine.
    public var isThisMachine: Bool {
        switch kind {
        case .name(let address, _): address.isThisMachine
        case .addresses(let addresses): addresses.allSatisfy(\.isThisMachine)
        }
    }

    /// Refuses with INVALID_ARGUMENT what is no target.
    public init(_ text: String) throws(GRPCStatus) {
        func refuse() -> GRPCStatus {
            GRPCStatus(
                .invalidArgument,
                "\(text) is no target: HOST:PORT, dns:///NAME:PORT, dns://SERVER:PORT/NAME:PORT, ipv4:ADDRESS:PORT,… "
                    + "or ipv6:[ADDRESS]:PORT,…")
        }
        let isIPv6 = text.hasPrefix("ipv6:")
        if let list = GRPCTarget.strip(text, "ipv4:") ?? GRPCTarget.strip(text, "ipv6:") {
            var addresses: [GRPCAddress] = []
            for part in list.split(separator: ",", omittingEmptySubsequences: false) {
                guard let address = GRPCTarget.address(part),
                    let numeric = SocketAddress(numericHost: address.host, port: address.port),
                    numeric.isIPv6 == isIPv6
                else { throw refuse() }
                addresses.append(address)
            }
            kind = .addresses(addresses)
            authority = addresses[0].description
            serverName = addresses[0].host
            return
        }
        var rest = Substring(text)
        var server: GRPCAddress?
        if let uri = GRPCTarget.strip(text, "dns://") {
            guard let slash = uri.firstIndex(of: "/") else { throw refuse() }
            if slash != uri.startIndex {
                guard let found = GRPCTarget.nameServer(uri[..<slash]) else { throw refuse() }
                server = found
            }
            rest = uri[uri.index(after: slash)...]
        } else if let name = GRPCTarget.strip(text, "dns:") {
            rest = name
        }
        guard !rest.contains("/"), let address = GRPCTarget.address(rest) else { throw refuse() }
        kind = .name(address, server: server)
        authority = address.description
        serverName = address.host
    }

    private static func strip(_ text: String, _ prefix: String) -> Substring? {
        text.hasPrefix(prefix) ? text.dropFirst(prefix.count) : nil
    }

    /// `ADDRESS` or `ADDRESS:PORT`; to find the address of a name server there would be none to ask.
    private static func nameServer(_ text: Substring) -> GRPCAddress? {
        guard let found = address(text) ?? address(text + ":53"),
            SocketAddress(numericHost: found.host, port: found.port) != nil
        else { return nil }
        return found
    }

    /// `HOST:PORT`, an IPv6 host in brackets.
    private static func address(_ text: Substring) -> GRPCAddress? {
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let digits = text[text.index(after: colon)...]
        guard let port = Int(digits), (1...65535).contains(port), digits.utf8.allSatisfy({ $0 >= 0x30 }) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty, !host.contains(where: { $0.isWhitespace || $0 == "," }) else { return nil }
        return GRPCAddress(host: String(host), port: port)
    }
}

/// Finds the addresses of names.
public protocol GRPCResolver: Sendable {
    /// Calls `done` once with all addresses of a name, at least one, or why there are none. Called on the loop, and
    /// `done` is called on it, now or later.
    func resolve(
        _ name: GRPCAddress, server: GRPCAddress?, loop: any Loop,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void)
}

/// When names are resolved again: at once when asked for, but no oftener than the pause, again after the interval
/// anyway, and after a wait that grows with failures. Pure; times are the loop's milliseconds.
struct GRPCResolutionSchedule {
    enum Action: Equatable {
        case none
        case resolve
        /// Ask again (``due(nowMilliseconds:)``) after the time; replaces an earlier wait.
        case wait(milliseconds: Int)
    }

    private let pauseMilliseconds: Int
    private let intervalMilliseconds: Int
    private let backoff: GRPCBackoff
    private var isRunning = false
    private var isWanted = false
    private var failures = 0
    private var notBefore: UInt64 = 0
    private var dueAt: UInt64 = .max

    init(pauseMilliseconds: Int, intervalMilliseconds: Int, backoff: GRPCBackoff) {
        self.pauseMilliseconds = pauseMilliseconds
        self.intervalMilliseconds = intervalMilliseconds
        self.backoff = backoff
    }

    /// Somebody needs fresh addresses.
    mutating func wanted(nowMilliseconds now: UInt64) -> Action {
        if isRunning {
            isWanted = true
            return .none
        }
        guard now < notBefore else {
            isRunning = true
            return .resolve
        }
        guard dueAt > notBefore else { return .none }
        dueAt = notBefore
        return .wait(milliseconds: Int(notBefore - now))
    }

    /// A wait is over.
    mutating func due(nowMilliseconds now: UInt64) -> Action {
        guard !isRunning else { return .none }
        guard now >= dueAt else { return .wait(milliseconds: Int(min(dueAt - now, 1 << 30))) }
        isRunning = true
        return .resolve
    }

    mutating func ended(
        isSuccess: Bool, nowMilliseconds now: UInt64, using random: inout some RandomNumberGenerator
    ) -> Action {
        isRunning = false
        failures = isSuccess ? 0 : failures + 1
        let pause = isSuccess ? pauseMilliseconds : backoff.milliseconds(afterFailures: failures, using: &random)
        notBefore = now + UInt64(max(0, pause))
        let wait = isSuccess && !isWanted ? max(intervalMilliseconds, pause) : pause
        isWanted = false
        dueAt = now + UInt64(max(0, wait))
        return .wait(milliseconds: wait)
    }
}
