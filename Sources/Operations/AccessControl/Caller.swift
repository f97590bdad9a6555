import GRPC
import Synchronization

/// Who calls, with what it may do and how much of it: one object per identity, which all loops share. Safe to use from
/// any thread.
final class Caller: CallerPermissions, Sendable {
    let identity: CallerIdentity
    let permissions: Permissions
    let limits: CallerLimits
    let proof: AccessFile.Proof
    let calls: RateBucket?
    let messages: RateBucket?
    /// Streams open now, on all loops.
    let openStreams = Atomic<Int>(0)

    init(_ identity: CallerIdentity, _ proof: AccessFile.Proof, _ permissions: Permissions, _ limits: CallerLimits) {
        self.identity = identity
        self.proof = proof
        self.permissions = permissions
        self.limits = limits
        calls = limits.callsPerSecond > 0 ? RateBucket(perSecond: limits.callsPerSecond) : nil
        messages = limits.messagesPerSecond > 0 ? RateBucket(perSecond: limits.messagesPerSecond) : nil
    }

    convenience init(_ entry: AccessFile.Entry) {
        let source: CallerIdentity.Source =
            switch entry.proof {
            case .token: .token
            case .certificate: .certificate
            case .anonymous: .anonymous
            }
        self.init(
            CallerIdentity(name: entry.name, source: source), entry.proof, entry.permissions, entry.limits)
    }

    func isSame(as entry: AccessFile.Entry) -> Bool {
        identity.name == entry.name && proof == entry.proof && permissions == entry.permissions
            && limits == entry.limits
    }

    func allows(exchange: String, symbol: String) -> Bool {
        permissions.symbols.matches(exchange: exchange, symbol: symbol)
    }

    func allows(account: String) -> Bool { permissions.accounts.matches(account) }

    var allowsEverySymbol: Bool { permissions.symbols.matchesAll }
}

/// Everybody that may call, as of one reading of the access file. Immutable.
final class Callers: Sendable {
    let tokens: [String: Caller]
    let certificates: [String: Caller]
    /// What certificates without a line of their own may do; nil: nothing.
    let anyCertificate: AccessFile.Entry?
    let anonymous: Caller?
    let isFromFile: Bool

    /// No file: whoever proves an identity may do everything, and the configuration says who need not.
    init(limits: CallerLimits) {
        isFromFile = false
        tokens = [:]
        certificates = [:]
        anyCertificate = AccessFile.Entry(name: "*", proof: .certificate, permissions: .all, limits: limits)
        anonymous = Caller(
            AccessFile.Entry(name: "anonymous", proof: .anonymous, permissions: .all, limits: limits))
    }

    /// Callers whose lines are the same as before keep their buckets and counts.
    init(_ file: AccessFile, before: Callers) {
        isFromFile = true
        var tokens: [String: Caller] = [:]
        var certificates: [String: Caller] = [:]
        var anyCertificate: AccessFile.Entry?
        var anonymous: Caller?
        for entry in file.entries {
            switch entry.proof {
            case .token:
                tokens[entry.name] = Callers.keep(before.tokens[entry.name], entry)
            case .certificate where entry.name == "*": anyCertificate = entry
            case .certificate: certificates[entry.name] = Callers.keep(before.certificates[entry.name], entry)
            case .anonymous: anonymous = Callers.keep(before.anonymous, entry)
            }
        }
        self.tokens = tokens
        self.certificates = certificates
        self.anyCertificate = anyCertificate
        self.anonymous = anonymous
    }

    private static func keep(_ caller: Caller?, _ entry: AccessFile.Entry) -> Caller {
        if let caller, caller.isSame(as: entry) { return caller }
        return Caller(entry)
    }
}
