import EventLog
import EventLoop
import Glibc
import KafkaClient
import TLS

/// How connections that send and read reach the brokers.
struct KafkaSockets: KafkaTransport {
    private let connector: StreamConnector

    /// Reads the files of TLS. Throws `.invalid` where they cannot be used.
    init(_ configuration: KafkaConfiguration) throws(LogError) {
        guard let tls = configuration.security.tls else {
            connector = StreamConnector()
            return
        }
        // Each broker must have the name that it is reached by; this one is for a context, which has to have one.
        let name = KafkaAddress.list(configuration.brokers).first?.host ?? "localhost"
        var client = TLSClientConfiguration(
            serverName: name, authorityFile: tls.authorities, certificateChainFile: tls.certificate,
            privateKeyFile: tls.key)
        client.applicationProtocols = []
        do {
            connector = StreamConnector(tls: try TLSClientContext(client), verifiesAddress: true)
        } catch {
            throw LogError(.invalid, "TLS to the brokers: \(error)")
        }
    }

    func connect(
        _ address: KafkaAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        guard let loop = loop as? EventLoop else {
            return loop.afterTurn { done(.failure(StreamError("sockets need an EventLoop"))) }
        }
        connector.connect(host: address.host, port: address.port, loop: loop, done)
    }
}

extension KafkaConfiguration {
    /// The published sizes.
    var fetchLimits: KafkaFetcher.Limits {
        var limits = KafkaFetcher.Limits()
        limits.bytesMax = 10_485_760
        limits.partitionBytesMax = 1_048_576
        return limits
    }

    /// Of a lane: there are some, each with an answer of its own in memory.
    var laneLimits: KafkaFetcher.Limits {
        var limits = KafkaFetcher.Limits()
        limits.bytesMax = 2 << 20
        limits.partitionBytesMax = 512 << 10
        return limits
    }

    /// What connections that send and read say of themselves.
    var clientOptions: KafkaClientOptions {
        var options = KafkaClientOptions()
        options.clientID = clientID
        options.login =
            switch security.login {
            case nil: nil
            case .plain(let user, let password): .plain(user: user, password: password)
            case .scramSHA256(let user, let password): .scram(.sha256, user: user, password: password)
            case .scramSHA512(let user, let password): .scram(.sha512, user: user, password: password)
            case .token(let source): .token { done in KafkaToken.ask(source, done) }
            }
        return options
    }
}

extension KafkaToken {
    /// Asks for a token on a thread of its own, since that may wait for another server.
    fileprivate static func ask(
        _ source: @escaping @Sendable () throws -> KafkaToken,
        _ done: @escaping @Sendable (Result<KafkaBearer, KafkaFailure>) -> Void
    ) {
        do throws(LogError) {
            try WorkerThread("kafka-token") {
                do {
                    let token = try source()
                    done(.success(KafkaBearer(token: token.value, extensions: token.extensions)))
                } catch {
                    done(.failure(KafkaFailure(.refused, "there is no token for the brokers: \(error)")))
                }
            }.detach()
        } catch {
            done(.failure(KafkaFailure(.lost, error.message)))
        }
    }
}
