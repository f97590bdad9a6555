// Connections to Kafka's brokers: how one is made and proved, whose answer is whose, which broker leads what. Fed by
// EventLoop and TLS, feeds KafkaLog, which knows what is sent and why.

import EventLoop
import KafkaFrames

/// Limits of connections, and who their client is.
public struct KafkaClientOptions: Sendable {
    /// What brokers' logs and quotas know this process by.
    public var clientID = "tapedeck"
    public var login: KafkaLogin?
    /// How long connecting and proving who one is may take.
    public var handshakeMilliseconds = 10_000
    /// The longest answer that is taken, bytes.
    public var answerBytesMax = 128 << 20
    /// Pauses between attempts to reach a broker, the first and the longest.
    public var reconnectMilliseconds = 50...2000

    public init() {}
}

/// A connection to one broker. Requests are answered in their order. Confined to its loop.
public final class KafkaConnection: ByteStreamOwner {
    /// What a connection tells its owner.
    public enum Event {
        /// The broker takes requests.
        case ready
        /// The connection is over; its requests were told before. Told once, last.
        case ended(KafkaFailure)
    }

    /// The bytes of an answer, valid during the call.
    public typealias Answer = (Result<UnsafeRawBufferPointer, KafkaFailure>) -> Void

    /// What is used of the protocol, for a broker that does not have it to be named.
    private static let needed: [KafkaAPI] = [.produce, .fetch, .metadata, .initProducerID]

    private struct Pending {
        let correlation: Int32
        let api: KafkaAPI
        let deadline: UInt64
        let answer: Answer
    }

    public let loop: any Loop
    public private(set) var isReady = false
    private let stream: any ByteStream
    private let options: KafkaClientOptions
    private var tell: ((KafkaConnection, Event) -> Void)?
    private var pending: [Pending] = []
    private var head = 0
    private var correlation: Int32 = 0
    private let output = KafkaBuffer()
    private let input = KafkaBuffer()
    private var scram: SCRAMExchange?

    /// Takes over a connected stream and asks what the broker speaks. `tell` is called from later turns on.
    public init(
        over stream: any ByteStream, options: KafkaClientOptions, tell: @escaping (KafkaConnection, Event) -> Void
    ) {
        loop = stream.loop
        self.stream = stream
        self.options = options
        self.tell = tell
        stream.owner = self
        stream.startReading()
        send(.apiVersions, milliseconds: options.handshakeMilliseconds, { _ in }) { [weak self] result in
            self?.tookVersions(result)
        }
    }

    public var isEnded: Bool { tell == nil }

    /// Requests without an answer.
    public var openCount: Int { pending.count - head }

    /// Sends a request; `answer` is called once, on the loop, never inside this call. Where no answer comes in its time
    /// the connection is over.
    public func send(
        _ api: KafkaAPI, milliseconds: Int, _ body: (KafkaBuffer) -> Void, answered answer: @escaping Answer
    ) {
        guard !isEnded else {
            return loop.afterTurn { answer(.failure(KafkaFailure(.closed, "the connection is closed"))) }
        }
        correlation &+= 1
        pending.append(
            Pending(
                correlation: correlation, api: api, deadline: loop.nowMilliseconds + UInt64(max(milliseconds, 1)),
                answer: answer))
        output.removeAll(keeping: 4 << 20)
        let start = api.begin(output, correlation: correlation, clientID: options.clientID)
        body(output)
        KafkaAPI.finish(output, at: start)
        stream.write(output.bytes)
    }

    /// Ends the connection where the oldest request is past its time.
    public func expire() {
        guard head < pending.count, pending[head].deadline <= loop.nowMilliseconds else { return }
        end(KafkaFailure(.silent, "the broker did not answer \(pending[head].api.name) in its time"))
    }

    public func close(_ reason: String) { end(KafkaFailure(.closed, reason)) }

    private func end(_ failure: KafkaFailure) {
        guard let tell else { return }
        self.tell = nil
        isReady = false
        let open = pending[head...]
        pending = []
        head = 0
        if !stream.isClosed { stream.close() }
        // Never inside a call of the owner.
        loop.afterTurn { [self] in
            for request in open { request.answer(.failure(failure)) }
            tell(self, .ended(failure))
        }
    }

    // MARK: The stream

    public func received(_ bytes: UnsafeRawBufferPointer) {
        take(bytes)
        guard !isEnded else { return }
        // A broker writes an answer in pieces, two for each partition that has records in it.
        let missing = input.count < 4 ? 1 : 4 + (length(input.bytes) ?? 0) - input.count
        stream.needs(bytes: missing)
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes
        if input.count > 0 {
            // No more than the answer that is begun has.
            while input.count < 4, !rest.isEmpty { take(1, of: &rest) }
            guard input.count >= 4, let length = length(input.bytes) else { return }
            take(4 + length - input.count, of: &rest)
            guard input.count == 4 + length else { return }
            answered(UnsafeRawBufferPointer(rebasing: input.bytes[4...]))
            input.removeAll()
        }
        while !isEnded, rest.count >= 4 {
            guard let length = length(rest) else { return }
            guard rest.count >= 4 + length else { break }
            answered(UnsafeRawBufferPointer(rebasing: rest[4..<(4 + length)]))
            rest = UnsafeRawBufferPointer(rebasing: rest[(4 + length)...])
        }
        if !isEnded { input.append(rest) }
    }

    private func take(_ count: Int, of rest: inout UnsafeRawBufferPointer) {
        let taken = min(max(count, 0), rest.count)
        input.append(UnsafeRawBufferPointer(rebasing: rest[..<taken]))
        rest = UnsafeRawBufferPointer(rebasing: rest[taken...])
    }

    private func length(_ bytes: UnsafeRawBufferPointer) -> Int? {
        let length = Int32(bigEndian: bytes.loadUnaligned(as: Int32.self))
        guard length >= 4, length <= options.answerBytesMax else {
            end(KafkaFailure(.protocol, "an answer of \(length) bytes"))
            return nil
        }
        return Int(length)
    }

    private func answered(_ bytes: UnsafeRawBufferPointer) {
        let number = Int32(bigEndian: bytes.loadUnaligned(as: Int32.self))
        guard head < pending.count, pending[head].correlation == number else {
            return end(KafkaFailure(.protocol, "an answer to a request that was not the next, or none"))
        }
        let request = pending[head]
        head += 1
        if head == pending.count || head >= 64 {
            pending.removeFirst(head)
            head = 0
        }
        request.answer(.success(UnsafeRawBufferPointer(rebasing: bytes[4...])))
    }

    /// Ends the connection over an answer that is none.
    public func refuse(_ api: KafkaAPI, _ error: KafkaFormatError) {
        end(KafkaFailure(.protocol, "the answer to \(api.name) is none: \(error)"))
    }

    public func drained() {}

    public func closed(_ error: StreamError?) {
        let text = error.map { "\($0)" } ?? "the broker ended the connection"
        // What a side of TLS has against the other.
        let isRefusal = ["certificate", "ended TLS", "speak TLS"].contains { text.contains($0) }
        end(KafkaFailure(isRefusal ? .refused : .lost, isRefusal ? "SSL handshake failed: \(text)" : text))
    }

    // MARK: The handshake

    private func read<T>(
        _ api: KafkaAPI, _ result: Result<UnsafeRawBufferPointer, KafkaFailure>,
        _ body: (inout KafkaReader) throws(KafkaFormatError) -> T
    ) -> T? {
        guard case .success(let bytes) = result else { return nil }
        var reader = KafkaReader(bytes)
        do {
            return try body(&reader)
        } catch {
            refuse(api, error)
            return nil
        }
    }

    private func tookVersions(_ result: Result<UnsafeRawBufferPointer, KafkaFailure>) {
        let versions = read(.apiVersions, result) { reader throws(KafkaFormatError) in try KafkaVersions(&reader) }
        guard let versions else { return }
        if let missing = KafkaConnection.needed.first(where: { !versions.contains($0) }) {
            return end(
                KafkaFailure(
                    .protocol,
                    "the broker does not speak version \(missing.version) of \(missing.name): Kafka 2.1 or "
                        + "newer does"))
        }
        guard let login = options.login else { return becomeReady() }
        let milliseconds = options.handshakeMilliseconds
        send(.saslHandshake, milliseconds: milliseconds, { KafkaRequest.saslHandshake($0, mechanism: login.mechanism) })
        {
            [weak self] result in self?.tookMechanisms(result, login)
        }
    }

    private func tookMechanisms(_ result: Result<UnsafeRawBufferPointer, KafkaFailure>, _ login: KafkaLogin) {
        let answer = read(.saslHandshake, result) { reader throws(KafkaFormatError) in
            try KafkaLoginAnswer.handshake(&reader)
        }
        guard let answer else { return }
        guard answer.error == .none else {
            return end(
                KafkaFailure(
                    .refused,
                    "Authentication failed: the broker does not take \(login.mechanism), but "
                        + answer.mechanisms.joined(separator: ", ")))
        }
        switch login {
        case .plain(let user, let password): authenticate([0] + Array(user.utf8) + [0] + Array(password.utf8))
        case .scram(let hash, let user, let password):
            let nonce = (0..<3).map { _ in String(RandomSeed.make(), radix: 36) }.joined()
            let exchange = SCRAMExchange(hash, user: user, password: password, nonce: nonce)
            scram = exchange
            authenticate(exchange.first)
        case .token(let source):
            let this = LoopConfined(self)
            let loop = loop
            source { result in loop.execute { this.value.tookToken(result) } }
        }
    }

    private func tookToken(_ result: Result<KafkaBearer, KafkaFailure>) {
        switch result {
        case .success(let bearer): authenticate(bearer.first)
        case .failure(let failure): end(failure)
        }
    }

    private func authenticate(_ bytes: [UInt8]) {
        send(
            .saslAuthenticate, milliseconds: options.handshakeMilliseconds,
            { KafkaRequest.saslAuthenticate($0, bytes) }
        ) { [weak self] result in self?.tookProof(result) }
    }

    private var sentFinal = false

    private func tookProof(_ result: Result<UnsafeRawBufferPointer, KafkaFailure>) {
        let answer = read(.saslAuthenticate, result) { reader throws(KafkaFormatError) in
            try KafkaLoginAnswer.authenticate(&reader)
        }
        guard let answer else { return }
        guard answer.error == .none else {
            return end(KafkaFailure(.refused, "Authentication failed: \(answer.message ?? "without a reason")"))
        }
        if case .token = options.login { return tookWord(answer.bytes) }
        guard var exchange = scram else { return becomeReady() }
        do throws(KafkaFailure) {
            if sentFinal {
                try exchange.check(answer.bytes)
                becomeReady()
            } else {
                let final = try exchange.final(answering: answer.bytes)
                scram = exchange
                sentFinal = true
                authenticate(final)
            }
        } catch {
            end(error)
        }
    }

    /// A broker that takes a token says nothing; one that does not says why, and ends the login at the next message.
    private func tookWord(_ bytes: [UInt8]) {
        if bytes.isEmpty { return becomeReady() }
        guard !sentFinal else {
            return end(KafkaFailure(.refused, "Authentication failed: the broker does not take the token"))
        }
        sentFinal = true
        authenticate(KafkaBearer.last)
    }

    private func becomeReady() {
        isReady = true
        tell?(self, .ready)
    }
}
