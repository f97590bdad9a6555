import EventLoop
import GRPC
import Synchronization

/// ``AccessPolicy`` on one loop. Confined to it.
final class AccessInterceptor: ServerInterceptor {
    /// Probes of load balancers and orchestrators have no identity.
    private static let openService = "/grpc.health.v1.Health/"
    /// Tokens that were proved on this loop lately, so that a call costs a comparison and no hash.
    private static let provedMax = 64

    private struct Stream {
        let call: ServerCall
        let caller: Caller
        var resumption: (any LoopTimer)?
    }

    /// Who is behind a connection, with a certificate or without, found once: names are not looked up at each call.
    private final class ConnectionCaller {
        let result: Result<Caller, GRPCStatus>
        /// As of this reading of the rules.
        let callers: Callers

        init(_ result: Result<Caller, GRPCStatus>, _ callers: Callers) {
            self.result = result
            self.callers = callers
        }
    }

    private let policy: AccessPolicy
    private let loop: any Loop
    @exclusivity(unchecked) private var callers: Callers
    @exclusivity(unchecked) private var proved: [(header: [UInt8], caller: Caller)?]
    @exclusivity(unchecked) private var streams: [ObjectIdentifier: Stream] = [:]

    init(_ policy: AccessPolicy, _ loop: any Loop, _ callers: Callers) {
        self.policy = policy
        self.loop = loop
        self.callers = callers
        proved = Array(repeating: nil, count: AccessInterceptor.provedMax)
    }

    // MARK: The row of interceptors

    var hears: CallEvents { [.receivedOnStreams, .endedStreams] }

    func begin(_ call: ServerCall) -> GRPCStatus? {
        guard !call.hasAuthorization, let known = call.connectionAttachment as? ConnectionCaller,
            known.callers === callers
        else { return begin(call, identify(call)) }
        return begin(call, known.result)
    }

    private func begin(_ call: ServerCall, _ result: Result<Caller, GRPCStatus>) -> GRPCStatus? {
        let caller: Caller
        switch result {
        case .success(let found): caller = found
        case .failure(let status):
            if call.path.hasPrefix(AccessInterceptor.openService) { return nil }
            policy.count(status.code == .unauthenticated ? .unauthenticated : .denied)
            return status
        }
        call.permissions = caller
        guard
            caller.permissions.methods.matchesAll || caller.permissions.methods.matches(call.path)
                || call.path.hasPrefix(AccessInterceptor.openService)
        else {
            policy.count(.denied)
            return GRPCStatus(.permissionDenied, "\(caller.identity.name) may not call \(call.path)")
        }
        if let calls = caller.calls, let wait = calls.take(nowMilliseconds: loop.nowMilliseconds) {
            policy.count(.rate)
            return refuse(
                call, "more than \(caller.limits.callsPerSecond) calls per second", retryMilliseconds: wait)
        }
        return call.isStream ? beginStream(call, caller) : nil
    }

    func received(_ call: ServerCall, messages: Int, bytes: Int) {
        guard call.isStream, let stream = streams[ObjectIdentifier(call)], stream.resumption == nil,
            let wait = stream.caller.messages?.charge(messages, nowMilliseconds: loop.nowMilliseconds)
        else { return }
        policy.count(.delayed)
        call.holdRequests()
        streams[ObjectIdentifier(call)]?.resumption = loop.timer(afterMilliseconds: wait) { [weak self] in
            self?.streams[ObjectIdentifier(call)]?.resumption = nil
            call.releaseRequests()
        }
    }

    func ended(_ call: ServerCall, _ status: GRPCStatus) {
        guard call.isStream, let stream = streams.removeValue(forKey: ObjectIdentifier(call)) else { return }
        stream.resumption?.cancel()
        stream.caller.openStreams.subtract(1, ordering: .relaxed)
    }

    private func beginStream(_ call: ServerCall, _ caller: Caller) -> GRPCStatus? {
        let open = caller.openStreams.add(1, ordering: .relaxed).newValue
        guard caller.limits.streams == 0 || open <= caller.limits.streams else {
            caller.openStreams.subtract(1, ordering: .relaxed)
            policy.count(.streams)
            // Nobody knows when one ends: a second is a courtesy to the others.
            return refuse(call, "more than \(caller.limits.streams) streams at once", retryMilliseconds: 1000)
        }
        streams[ObjectIdentifier(call)] = Stream(call: call, caller: caller)
        return nil
    }

    /// gRPC's retries wait as long as the server says (gRFC A6).
    private func refuse(_ call: ServerCall, _ what: String, retryMilliseconds: Int) -> GRPCStatus {
        let status = GRPCStatus(.resourceExhausted, what)
        var trailers = GRPCMetadata()
        trailers.add("grpc-retry-pushback-ms", String(retryMilliseconds))
        call.fail(status, trailers: trailers)
        return status
    }

    // MARK: Who it is

    private func identify(_ call: ServerCall) -> Result<Caller, GRPCStatus> {
        if call.hasAuthorization, let result = call.withMetadata("authorization", { prove($0) }) { return result }
        if let certificate = call.peerCertificate, let name = AccessInterceptor.name(certificate) {
            let found = byCertificate(name)
            call.connectionAttachment = ConnectionCaller(found, callers)
            return found
        }
        if let caller = callers.anonymous, isAnonymousAllowed(call) {
            call.connectionAttachment = ConnectionCaller(.success(caller), callers)
            return .success(caller)
        }
        return .failure(
            GRPCStatus(
                .unauthenticated, "a token (authorization: Bearer ...) or a client certificate is needed"))
    }

    private func byCertificate(_ name: String) -> Result<Caller, GRPCStatus> {
        if let caller = callers.certificates[name] ?? policy.unlisted(name) { return .success(caller) }
        return .failure(GRPCStatus(.permissionDenied, "\(name) is not among those who may call"))
    }

    /// A file says itself what they may do; without one it depends on where they come from.
    private func isAnonymousAllowed(_ call: ServerCall) -> Bool {
        if callers.isFromFile { return true }
        return switch policy.anonymous {
        case .everyone: true
        case .nobody: false
        case .loopback: AccessInterceptor.isLoopback(call.peerAddress)
        }
    }

    static func isLoopback(_ address: String) -> Bool {
        address.hasPrefix("127.") || address == "::1" || address.hasPrefix("::ffff:127.")
    }

    /// SPIFFE id, else DNS name, else common name.
    static func name(_ certificate: PeerCertificate) -> String? {
        certificate.uris.first { $0.hasPrefix("spiffe://") } ?? certificate.dnsNames.first
            ?? (certificate.commonName.isEmpty ? nil : certificate.commonName)
    }

    /// Wrong in its form, unknown, revoked: the answer is the same.
    private static let wrongToken = GRPCStatus(.unauthenticated, "the token in authorization is none of this server")

    private func prove(_ header: UnsafeRawBufferPointer) -> Result<Caller, GRPCStatus> {
        let slot = AccessInterceptor.slot(header)
        if let known = proved[slot], SHA256.areEqual(header, known.header) { return .success(known.caller) }
        let parts = String(decoding: header, as: UTF8.self).split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "bearer", let token = AccessToken(text: String(parts[1]))
        else { return .failure(AccessInterceptor.wrongToken) }
        // A name that is unknown takes as long as a wrong secret.
        let caller = callers.tokens[token.name]
        guard case .token(let proof) = caller?.proof ?? .token(AccessInterceptor.nobody), proof.verifies(token),
            let caller
        else { return .failure(AccessInterceptor.wrongToken) }
        proved[slot] = (Array(header), caller)
        return .success(caller)
    }

    /// By the secret's last digits.
    private static func slot(_ header: UnsafeRawBufferPointer) -> Int {
        guard header.count >= 2 else { return 0 }
        return (Int(header[header.count - 1]) * 31 + Int(header[header.count - 2])) % provedMax
    }

    private static let nobody = TokenProof(salt: [UInt8](repeating: 0, count: 16), digest: [])

    // MARK: Changes

    /// The access file was read anew.
    func callersChanged() {
        let before = callers
        callers = policy.callers
        proved = Array(repeating: nil, count: AccessInterceptor.provedMax)
        for stream in Array(streams.values) where !stream.call.isCutOff && !isCurrent(stream.caller, before) {
            policy.count(.unauthenticated)
            let status = GRPCStatus(
                .unauthenticated, "the rights of \(stream.caller.identity.name) have changed; call again")
            stream.call.cutOff(CallEnding(.rightsChanged, status))
        }
    }

    private func isCurrent(_ caller: Caller, _ before: Callers) -> Bool {
        switch caller.proof {
        case .token: return callers.tokens[caller.identity.name] === caller
        case .anonymous: return callers.anonymous === caller
        case .certificate:
            if let listed = callers.certificates[caller.identity.name] { return listed === caller }
            // One without a line goes by the line `*`.
            guard before.certificates[caller.identity.name] == nil else { return false }
            return callers.anyCertificate.map {
                $0.permissions == caller.permissions && $0.limits == caller.limits
            } ?? false
        }
    }
}
