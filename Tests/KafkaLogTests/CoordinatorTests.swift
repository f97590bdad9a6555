import CRdKafka
import EventLog
import Testing

@testable import KafkaLog

/// Coordinators of groups that are not ready, without a broker.
@Suite(.timeLimit(.minutes(1)))
struct CoordinatorTests {
    private static let notReady = [
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    ]

    @Test func `A coordinator that is not ready is asked again some seconds long, anything else is not`() {
        for code in CoordinatorTests.notReady {
            var retry = CoordinatorRetry()
            var waits: [Int32] = []
            while let wait = retry.wait(after: code) { waits.append(wait) }
            #expect(waits.count == retry.attemptsMax - 1)
            #expect(waits.prefix(5) == [100, 200, 400, 800, 1000] && waits.last == 1000)
            #expect((5000...15_000).contains(waits.reduce(0, +)))
            #expect(retry.wait(after: code) == nil)
        }
        var retry = CoordinatorRetry()
        for code in [
            RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        ] { #expect(retry.wait(after: code) == nil) }
        // However long, the numbers hold.
        var long = CoordinatorRetry(attemptsMax: 1000)
        for _ in 0..<999 { #expect(long.wait(after: RD_KAFKA_RESP_ERR_NOT_COORDINATOR) != nil) }
        #expect(long.wait(after: RD_KAFKA_RESP_ERR_NOT_COORDINATOR) == nil)
    }

    @Test func `Whoever gives up says the code and what to do`() {
        let names = ["COORDINATOR_LOAD_IN_PROGRESS, 14", "COORDINATOR_NOT_AVAILABLE, 15", "NOT_COORDINATOR, 16"]
        for (code, name) in zip(CoordinatorTests.notReady, names) {
            let error = KafkaErrors(brokers: "b:9092").error("describing groups", code)
            #expect(error.code == .unavailable && error.retryable)
            let message = error.message
            #expect(message.contains("describing groups") && message.contains(name), "\(message)")
            #expect(message.contains("try again") && message.contains("__consumer_offsets"), "\(message)")
        }
    }
}
