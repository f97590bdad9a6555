import EventLog
import EventLoop
import Glibc
import HTTP1
import HTTP1Codec
import TLS
import TimeSource

/// Where tokens come from, and who asks: the client credentials grant (RFC 6749, section 4.4), as OpenID Connect
/// providers have it.
public struct OIDCConfiguration: Sendable {
    /// The token endpoint: https, or http on this machine.
    public var endpoint: String
    public var clientID: String
    /// Read for each request, so that a secret may be changed while this runs.
    public var secretFile: String
    public var scope: String?
    /// The authorities that the endpoint's certificate must come from, PEM; nil takes the system's.
    public var authorities: String?
    /// Further words to the brokers (RFC 7628, section 3.1).
    public var extensions: [(name: String, value: String)] = []
    /// How long one request may take.
    public var requestMilliseconds = 10_000

    public init(endpoint: String, clientID: String, secretFile: String) {
        self.endpoint = endpoint
        self.clientID = clientID
        self.secretFile = secretFile
    }
}

/// Fetches tokens for the brokers and holds the newest: renewed when four fifths of its life are over, and tried again
/// after growing pauses while the old one is good. From any thread but a loop's.
public final class OIDCTokens: @unchecked Sendable {
    private let configuration: OIDCConfiguration
    private let url: HTTP1URL
    private let client: HTTP1Client
    private let time: any TimeSource
    private let report: KafkaReport
    private let loop: EventLoop
    private let timer = LoopConfined(Timer())
    private let monitor = Monitor()
    // Under the monitor.
    private var renewal = TokenRenewal()
    private var isFetching = true
    private var isClosed = false
    private var isStopped = false

    private final class Timer {
        var timer: (any LoopTimer)?
        var isClosed = false
    }

    /// The longest answer that is taken.
    private static let answerBytesMax = 256 << 10
    /// How long a token is believed that does not say when it ends.
    private static let unsaidMs: Int64 = 300_000

    /// Begins with the first request. Throws where the configuration cannot be used.
    public init(
        _ configuration: OIDCConfiguration, time: any TimeSource, report: @escaping KafkaReport
    ) throws(KafkaTokenError) {
        do throws(HTTP1URLError) {
            url = try HTTP1URL(configuration.endpoint)
        } catch {
            throw KafkaTokenError(description: "the token endpoint's address: \(error)")
        }
        try OIDCTokens.check(configuration, url)
        var tls: TLSClientContext?
        do throws(TLSError) {
            if url.isSecure {
                var settings = TLSClientConfiguration(serverName: url.host, authorityFile: configuration.authorities)
                settings.applicationProtocols = []
                tls = try TLSClientContext(settings)
            }
        } catch {
            throw KafkaTokenError(description: "TLS to the token endpoint \(url): \(error)")
        }
        var client = HTTP1Client(tls: tls)
        client.timeoutMilliseconds = configuration.requestMilliseconds
        client.limits.bodyBytesMax = OIDCTokens.answerBytesMax
        self.client = client
        self.configuration = configuration
        self.time = time
        self.report = report
        // Last: a thread, which an error above would leave.
        loop = EventLoop(name: "kafka-oidc")
        loop.execute { [weak self] in self?.fetch() }
    }

    private static func check(_ configuration: OIDCConfiguration, _ url: HTTP1URL) throws(KafkaTokenError) {
        guard url.isSecure || url.isLoopback else {
            throw KafkaTokenError(
                description: "the token endpoint \(url) would be sent the client secret unencrypted; use https, which "
                    + "is left out on this machine only")
        }
        guard !configuration.clientID.isEmpty, configuration.clientID.utf8.allSatisfy({ $0 >= 32 && $0 < 127 }) else {
            throw KafkaTokenError(description: "a client id is printable ASCII, and not empty")
        }
        for (name, value) in configuration.extensions {
            let isName = !name.isEmpty && name != "auth" && name.utf8.allSatisfy { isLetter($0) }
            guard isName, !value.isEmpty, value.utf8.allSatisfy({ $0 >= 32 && $0 < 127 }) else {
                throw KafkaTokenError(
                    description:
                        "the extension \(name)=\(value): a name is ASCII letters and not auth, a value printable "
                        + "ASCII and not empty")
            }
        }
        _ = try OIDCCredentials(clientID: configuration.clientID, secretFile: configuration.secretFile)
    }

    private static func isLetter(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 32)
    }

    deinit { stop() }

    /// Fetches no more; who waits for a token is told so.
    public func close() {
        monitor.locked {
            isClosed = true
            monitor.wakeAll()
        }
        stop()
    }

    private func stop() {
        let isFirst = monitor.locked {
            defer { isStopped = true }
            return !isStopped
        }
        guard isFirst else { return }
        let timer = timer
        loop.execute {
            timer.value.isClosed = true
            timer.value.timer?.cancel()
            timer.value.timer = nil
        }
        loop.stop()
    }

    /// The token that is good now. *Blocking* while there is none and one is asked for; never on a loop.
    public func token() throws(KafkaTokenError) -> KafkaToken {
        let deadlineMs = nowMs + Int64(configuration.requestMilliseconds) + 5000
        return try monitor.locked { () throws(KafkaTokenError) -> KafkaToken in
            while true {
                let nowMs = nowMs
                if let held = renewal.valid(nowMs: nowMs) { return token(held, nowMs) }
                guard !isClosed else { throw KafkaTokenError(description: "tokens are fetched no more") }
                if !isFetching, let failure = renewal.failure {
                    throw KafkaTokenError(
                        description: failure + "; asked again in \(max(0, renewal.dueMs - nowMs)) ms")
                }
                guard nowMs < deadlineMs else {
                    throw KafkaTokenError(description: "the token endpoint \(url) has not answered")
                }
                _ = monitor.wait(ns: (deadlineMs - nowMs) * 1_000_000)
            }
        }
    }

    private func token(_ held: TokenRenewal.Held, _ nowMs: Int64) -> KafkaToken {
        // When it ends is told by the wall clock of now: one that was set meanwhile changes no token's life.
        let expiryMs = time.wallNs() / 1_000_000 + held.endsMs - nowMs
        let claims = KafkaToken(token: held.token, nowMs: 0)
        var token = KafkaToken(value: held.token, expiryMs: expiryMs, principal: claims.principal)
        token.extensions = configuration.extensions
        return token
    }

    private var nowMs: Int64 { time.monotonicNs() / 1_000_000 }

    // MARK: On the loop

    private func fetch() {
        guard !timer.value.isClosed else { return }
        monitor.locked { isFetching = true }
        let askedMs = nowMs
        do throws(KafkaTokenError) {
            let credentials = try OIDCCredentials(
                clientID: configuration.clientID, secretFile: configuration.secretFile)
            client.send(request(credentials), to: url, loop: loop) { [weak self] in
                self?.took($0, credentials, askedMs)
            }
        } catch {
            loop.afterTurn { [weak self] in self?.failed(error.description) }
        }
    }

    private func request(_ credentials: OIDCCredentials) -> HTTP1Request {
        var form = "grant_type=client_credentials"
        if let scope = configuration.scope { form += "&scope=\(FormText.encode(scope))" }
        return HTTP1Request(
            "POST", url.target,
            headers: [
                HTTP1Header("authorization", "Basic \(FormText.basic(credentials.basic))"),
                HTTP1Header("content-type", "application/x-www-form-urlencoded"),
                HTTP1Header("accept", "application/json"), HTTP1Header("user-agent", "tapedeck"),
            ], body: Array(form.utf8))
    }

    private func took(
        _ result: Result<HTTP1Response, HTTP1ClientError>, _ credentials: OIDCCredentials, _ askedMs: Int64
    ) {
        do throws(KafkaTokenError) {
            switch result {
            case .failure(let error): throw KafkaTokenError(description: error.description)
            case .success(let response):
                let answer = try TokenAnswer(response, client: credentials)
                let lifeMs = if let life = answer.lifeMs { life } else { try unsaidLife(answer.token) }
                monitor.locked {
                    renewal.took(answer.token, lifeMs: lifeMs, askedMs: askedMs, spread: OIDCTokens.spread())
                }
                goOn()
            }
        } catch {
            failed(error.description)
        }
    }

    /// By the claims of a JSON web token.
    private func unsaidLife(_ token: String) throws(KafkaTokenError) -> Int64 {
        let wallMs = time.wallNs() / 1_000_000
        let (lifeMs, overflow) = KafkaToken(token: token, nowMs: wallMs).expiryMs.subtractingReportingOverflow(wallMs)
        guard !overflow, lifeMs > 0 else {
            throw KafkaTokenError(description: "its token has expired already, by this machine's clock; is that right?")
        }
        return min(lifeMs, 10 * 365 * 86_400_000)
    }

    private func failed(_ what: String) {
        let failure = "the token endpoint \(url): \(what)"
        let (leftMs, againMs) = monitor.locked {
            let nowMs = nowMs
            renewal.failed(failure, nowMs: nowMs, spread: OIDCTokens.spread())
            return (renewal.valid(nowMs: nowMs).map { $0.endsMs - nowMs }, renewal.dueMs - nowMs)
        }
        let held = leftMs.map { "the token for the brokers is good for \($0 / 1000) s more and is not renewed" }
        report(
            "kafka.oidc", "\(held ?? "there is no token for the brokers"): \(failure); asked again in \(againMs) ms")
        goOn()
    }

    /// Tells who waits, and sets the time of the next request.
    private func goOn() {
        let waitMs = monitor.locked {
            isFetching = false
            monitor.wakeAll()
            return renewal.dueMs - nowMs
        }
        guard !timer.value.isClosed else { return }
        timer.value.timer = loop.timer(afterMilliseconds: Int(clamping: max(waitMs, 1))) { [weak self] in self?.fetch()
        }
    }

    private static func spread() -> Double { Double(RandomSeed.make() >> 11) / Double(1 << 53) }
}
