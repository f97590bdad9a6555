import GRPC
import Observability
import Testing

@testable import tapedeck

/// What stands around the services of a process.
struct PlatformOperationsTests {
    @Test func `Each server has a seed of its own, so that ids of errors never come again`() throws {
        let options = try Invocation.parse(
            arguments: ["up"], environment: [:], readFile: { (_: String) throws(UsageError) -> [UInt8]? in nil }
        ).options
        let operations = try PlatformOperations(
            options, SystemTime(), Diagnostics(wallNs: { 0 }, write: { (_: String) in }))
        #expect(Set((0..<4).map { _ in operations.server.seed }).count == 4)
    }
}
