import CRdKafka
import EventLog
import Glibc
import KafkaClient
import Synchronization

/// One client of librdkafka, with a name for every setting that it refuses. Its callbacks come from threads of the
/// library.
final class KafkaHandle: @unchecked Sendable {
    enum Kind { case producer, consumer }

    /// What callbacks reach: no library call is made from them but that for tokens.
    final class Context: Sendable {
        let report: KafkaReport
        let token: (@Sendable () throws -> KafkaToken)?
        /// The latest thing that the library complained of.
        let problem = Mutex("")
        /// The latest word that this process is not let in; empty once it was.
        let refusal = Mutex("")
        /// Told of partitions that come to a member of a group, and go; on the thread that polls.
        let rebalanced = Mutex<(@Sendable (rd_kafka_resp_err_t, Partitions) -> Void)?>(nil)

        init(report: @escaping KafkaReport, token: (@Sendable () throws -> KafkaToken)?) {
            self.report = report
            self.token = token
        }
    }

    static var versionText: String { String(cString: rd_kafka_version_str()) }

    let rk: OpaquePointer
    let context: Context
    private let brokers: String
    private let topics = Mutex<[String: Opaque]>([:])
    private let destroyed = Mutex(false)

    struct Opaque: @unchecked Sendable { let pointer: OpaquePointer }

    /// Makes a client; nothing is connected to yet. `settings` are librdkafka's own; `prepare` may set callbacks.
    init(
        _ kind: Kind, _ configuration: KafkaConfiguration, _ settings: [(String, String)],
        report: @escaping KafkaReport, prepare: (OpaquePointer) -> Void = { _ in }
    ) throws(LogError) {
        var token: (@Sendable () throws -> KafkaToken)?
        if case .token(let source)? = configuration.security.login { token = source }
        let context = Context(report: report, token: token)
        self.context = context
        brokers = configuration.brokers
        guard let conf = rd_kafka_conf_new() else { throw LogError(.io, "no memory for a Kafka client") }
        do throws(LogError) {
            let common = [
                ("bootstrap.servers", configuration.brokers), ("client.id", configuration.clientID),
                ("socket.keepalive.enable", "true"), ("reconnect.backoff.max.ms", "2000"),
                ("topic.metadata.refresh.interval.ms", "60000"), ("log_level", "4"),
            ]
            let security = try configuration.security.properties(libraryVersion: rd_kafka_version())
            for (name, value) in common + security + settings { try KafkaHandle.set(conf, name, value) }
            for (name, value) in configuration.properties { try KafkaHandle.set(conf, name, value) }
        } catch {
            rd_kafka_conf_destroy(conf)
            throw error
        }
        rd_kafka_conf_set_opaque(conf, Unmanaged.passRetained(context).toOpaque())
        rd_kafka_conf_set_log_cb(conf, KafkaHandle.log)
        if token != nil {
            rd_kafka_conf_set_oauthbearer_token_refresh_cb(conf, KafkaHandle.refreshToken)
            rd_kafka_conf_enable_sasl_queue(conf, 1)
        }
        prepare(conf)
        var text = [CChar](repeating: 0, count: 512)
        guard let rk = rd_kafka_new(kind == .producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, conf, &text, text.count)
        else {
            rd_kafka_conf_destroy(conf)
            Unmanaged.passUnretained(context).release()
            throw LogError(.invalid, "Kafka client: \(KafkaHandle.string(text))")
        }
        self.rk = rk
        if token != nil, let error = rd_kafka_sasl_background_callbacks_enable(rk) {
            let text = KafkaHandle.take(error).text
            destroy()
            throw LogError(.invalid, "Kafka client: tokens cannot be refreshed: \(text)")
        }
    }

    private static func set(_ conf: OpaquePointer, _ name: String, _ value: String) throws(LogError) {
        var text = [CChar](repeating: 0, count: 512)
        guard rd_kafka_conf_set(conf, name, value, &text, text.count) != RD_KAFKA_CONF_OK else { return }
        throw LogError(.invalid, "Kafka setting \(name): \(string(text)) (librdkafka \(versionText))")
    }

    static func string(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The topic's handle, made once.
    func topic(_ name: String) throws(LogError) -> OpaquePointer {
        if let known = topics.withLock({ $0[name] }) { return known.pointer }
        guard let made = rd_kafka_topic_new(rk, name, nil) else {
            throw fail("topic \(name)", rd_kafka_last_error())
        }
        topics.withLock { $0[name] = Opaque(pointer: made) }
        return made
    }

    /// Lets the client go. Everything made of it must be gone before. *Blocking.*
    func destroy() {
        let isOver = destroyed.withLock { destroyed in
            defer { destroyed = true }
            return destroyed
        }
        guard !isOver else { return }
        let made = topics.withLock { topics in
            defer { topics = [:] }
            return topics
        }
        for topic in made.values { rd_kafka_topic_destroy(topic.pointer) }
        // A consumer is closed by whoever joined with it; closing again can wait for a partition that was lost.
        rd_kafka_destroy_flags(rk, Int32(RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE))
        Unmanaged.passUnretained(context).release()
    }

    deinit { destroy() }

    // MARK: Errors

    /// Takes an error object apart and frees it.
    static func take(_ error: OpaquePointer) -> (code: rd_kafka_resp_err_t, text: String, isRetriable: Bool) {
        defer { rd_kafka_error_destroy(error) }
        return (
            rd_kafka_error_code(error), String(cString: rd_kafka_error_string(error)),
            rd_kafka_error_is_retriable(error) != 0
        )
    }

    /// What a code of the library means to a caller: what was tried, why it failed, what to do.
    func fail(_ what: String, _ code: rd_kafka_resp_err_t, detail: String = "") -> LogError {
        var text = [CChar](repeating: 0, count: 512)
        if code == RD_KAFKA_RESP_ERR__FATAL {
            let fatal = rd_kafka_fatal_error(rk, &text, text.count)
            return LogError(
                .stopped, "\(what): \(KafkaErrors.name(fatal)): \(KafkaHandle.string(text)); start this process again")
        }
        let refusal = context.refusal.withLock { $0 }
        let problem = context.problem.withLock { $0 }
        var failure: KafkaFailure?
        if !refusal.isEmpty {
            failure = KafkaFailure(.refused, refusal)
        } else if !problem.isEmpty {
            failure = KafkaFailure(.lost, problem)
        }
        return KafkaErrors(brokers: brokers, problem: failure).error(what, code, detail: detail)
    }

    // MARK: Callbacks

    private static let log:
        @convention(c) (OpaquePointer?, Int32, UnsafePointer<CChar>?, UnsafePointer<CChar>?) -> Void = {
            rk, level, facility, text in
            guard let rk, let raw = rd_kafka_opaque(rk), let text else { return }
            let context = Unmanaged<Context>.fromOpaque(raw).takeUnretainedValue()
            let line = String(cString: text)
            context.problem.withLock { $0 = line }
            let isRefusal = ["Authentication failed", "SSL handshake failed", "authentication error"].contains {
                line.contains($0)
            }
            if isRefusal { context.refusal.withLock { $0 = line } }
            // Connections come and go, as with every broker that restarts: said when a call fails for it.
            let kind = facility.map { String(cString: $0) } ?? ""
            if level <= 2 || kind == "CONFWARN" || kind == "MAXPOLL" {
                context.report("kafka.client", "\(kind): \(line)")
            }
        }

    /// For ``Context/rebalanced``; set in a configuration before its client is made.
    static let rebalance:
        @convention(c) (OpaquePointer?, rd_kafka_resp_err_t, Partitions?, UnsafeMutableRawPointer?) -> Void = {
            _, code, list, raw in
            guard let raw, let list else { return }
            let context = Unmanaged<Context>.fromOpaque(raw).takeUnretainedValue()
            let rebalanced = context.rebalanced.withLock { $0 }
            rebalanced?(code, list)
        }

    private static let refreshToken:
        @convention(c) (OpaquePointer?, UnsafePointer<CChar>?, UnsafeMutableRawPointer?) -> Void = { rk, _, raw in
            guard let rk, let raw else { return }
            let context = Unmanaged<Context>.fromOpaque(raw).takeUnretainedValue()
            guard let source = context.token else { return }
            var text = [CChar](repeating: 0, count: 512)
            do {
                let token = try source()
                let code = KafkaHandle.withExtensions(token) { words, count in
                    rd_kafka_oauthbearer_set_token(
                        rk, token.value, token.expiryMs, token.principal, words, count, &text, text.count)
                }
                guard code != RD_KAFKA_RESP_ERR_NO_ERROR else { return }
                context.report("kafka.token", "the token for the brokers is refused: \(KafkaHandle.string(text))")
                rd_kafka_oauthbearer_set_token_failure(rk, text)
            } catch {
                context.report("kafka.token", "there is no token for the brokers: \(error)")
                rd_kafka_oauthbearer_set_token_failure(rk, "\(error)")
            }
        }
}

extension KafkaHandle {
    /// Names and values in turn, valid during the call.
    private static func withExtensions<R>(
        _ token: KafkaToken, _ body: (UnsafeMutablePointer<UnsafePointer<CChar>?>?, Int) -> R
    ) -> R {
        let copies = token.extensions.flatMap { [strdup($0.name), strdup($0.value)] }
        defer { for copy in copies { free(copy) } }
        var words = copies.map { UnsafePointer($0) }
        return words.withUnsafeMutableBufferPointer { body($0.baseAddress, $0.count) }
    }
}

/// The library's own list of partitions.
typealias Partitions = UnsafeMutablePointer<rd_kafka_topic_partition_list_t>

/// A list of partitions for the library; freed with this.
struct PartitionList: ~Copyable {
    let list: Partitions

    init(capacity: Int = 8) { list = rd_kafka_topic_partition_list_new(Int32(clamping: capacity)) }

    deinit { rd_kafka_topic_partition_list_destroy(list) }

    func add(_ topic: String, _ partition: Int32, offset: Int64) {
        let added = rd_kafka_topic_partition_list_add(list, topic, partition)
        added?.pointee.offset = offset
    }

    var count: Int { Int(list.pointee.cnt) }

    subscript(_ index: Int) -> rd_kafka_topic_partition_t { list.pointee.elems[index] }
}
