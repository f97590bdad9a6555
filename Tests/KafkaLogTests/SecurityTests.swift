import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import TestSupport
import Testing

extension KafkaTests {
    @Suite(.serialized) struct SecurityTests {
        /// Opens the log of a tape over TLS, with a login, as changed.
        private static func open(_ tape: Tape, _ change: (inout KafkaSecurity) -> Void = { _ in }) throws -> KafkaLog {
            let certificates = tape.broker.certificates
            var configuration = tape.configuration
            configuration.brokers = tape.broker.secureBrokers
            configuration.requestTimeoutNs = 5_000_000_000
            configuration.security = KafkaSecurity(
                login: .plain(user: "app", password: "app-secret"),
                tls: KafkaSecurity.TLS(
                    authorities: certificates + "/ca.pem", certificate: certificates + "/client-a.pem",
                    key: certificates + "/client-a-key.pem"))
            change(&configuration.security)
            return try KafkaLog(configuration, time: RealTime()) { _, _ in }
        }

        /// How opening fails; nil where it does not.
        private static func refusal(_ tape: Tape, _ change: (inout KafkaSecurity) -> Void) throws -> LogError? {
            do {
                try open(tape, change).close()
                return nil
            } catch let error as LogError {
                return error
            }
        }

        @Test func `Over TLS with a client certificate and a login everything works`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try SecurityTests.open(tape)
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 100)], consumed: [])
                try log.sync()
                #expect(try readAll(log, TopicPartition(.ticksRaw, 0)).map(\.sequence) == Array(1...100))
                let member = try log.join(group: "g", .ticksRaw)
                #expect(try holds { try member.partitions().count == 1 })
                member.leave()
            }
        }

        @Test func `Who is not let in is told so, and why`() async throws {
            try await apart {
                let tape = try Tape()
                let certificates = tape.broker.certificates
                let password = try SecurityTests.refusal(tape) { $0.login = .plain(user: "app", password: "wrong") }
                #expect(password?.code == .denied, "\(String(describing: password))")
                #expect(password?.message.contains("Authentication failed") == true)
                let stranger = try SecurityTests.refusal(tape) {
                    $0.tls?.certificate = certificates + "/client-wrong.pem"
                    $0.tls?.key = certificates + "/client-wrong-key.pem"
                }
                #expect(stranger != nil)
                #expect(stranger?.message.contains("127.0.0.1:\(tape.broker.port)") == true)
                let other = try SecurityTests.refusal(tape) { $0.tls?.authorities = certificates + "/other-ca.pem" }
                #expect(other?.code == .denied, "\(String(describing: other))")
                #expect(other?.message.contains("SSL handshake failed") == true)
                let missing = try SecurityTests.refusal(tape) { $0.tls?.authorities = "/nowhere.pem" }
                #expect(missing?.code == .invalid)
                #expect(missing?.message.contains("/nowhere.pem") == true)
            }
        }

        @Test func `SCRAM works where the library is right about it, and is refused before where it is not`()
            async throws
        {
            try await apart {
                let tape = try Tape()
                for login in [
                    KafkaSecurity.Login.scramSHA256(user: "app", password: "app-secret"),
                    .scramSHA512(user: "app", password: "app-secret"),
                ] {
                    if KafkaLog.libraryVersion >= 0x0206_01ff {
                        let log = try SecurityTests.open(tape) { $0.login = login }
                        let end = log.endOffset(TopicPartition(.ticksRaw, 0), .written)
                        try log.append([tickBlock(log, from: end + 1, count: 5)], consumed: [])
                        try log.sync()
                        let read = try readAll(log, TopicPartition(.ticksRaw, 0))
                        #expect(UInt64(read.count) == end + 5)
                        try log.close()
                    }
                    let refusal = try SecurityTests.refusal(tape) { $0.login = login }
                    if KafkaLog.libraryVersion >= 0x0206_01ff {
                        #expect(refusal == nil)
                    } else {
                        #expect(refusal?.code == .invalid)
                        #expect(refusal?.message.contains("2.6.1 or newer") == true)
                    }
                }
            }
        }

        @Test func `A setting that does not exist, a topic that is not there and a broker that is not are named`()
            async throws
        {
            try await apart {
                let tape = try Tape()
                func refusal(_ change: (inout KafkaConfiguration) -> Void) -> LogError? {
                    do throws(LogError) {
                        var configuration = tape.configuration
                        configuration.requestTimeoutNs = 2_000_000_000
                        change(&configuration)
                        try KafkaLog(configuration, time: RealTime()) { _, _ in }.close()
                        return nil
                    } catch {
                        return error
                    }
                }
                let setting = refusal { $0.properties = [("no.such.setting", "1")] }
                #expect(setting?.code == .invalid && setting?.message.contains("no.such.setting") == true)
                let topic = refusal { $0.topics = [.positionsUpdates] }
                #expect(topic?.code == .invalid)
                #expect(topic?.message.contains("\(tape.configuration.prefix)positions.updates") == true)
                #expect(topic?.message.contains("topics apply") == true)
                let broker = refusal { $0.brokers = "127.0.0.1:1" }
                #expect(broker?.code == .unavailable && broker?.retryable == true)
                #expect(broker?.message.contains("Connection refused") == true, "\(broker?.message ?? "")")
            }
        }
    }
}
