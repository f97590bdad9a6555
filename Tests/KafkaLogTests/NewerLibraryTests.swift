import Foundation
import KafkaLog
import KafkaTestSupport
import TestSupport
import Testing

extension KafkaTests {
    /// Debian's librdkafka is old, and knows no groups of KIP-848 (ConsumerProtocolTests). What is built on it runs on
    /// a newer one unchanged: all tests here do.
    @Suite struct NewerLibraryTests {
        /// The library of Python's Kafka client, which `make deps` installs for this.
        private static let library: String? = {
            let root = Checkout.path + "/.venv/lib"
            let pythons = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
            for python in pythons.sorted() {
                let folder = "\(root)/\(python)/site-packages/confluent_kafka.libs"
                let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
                if let name = names.first(where: { $0.hasPrefix("librdkafka-") }) { return folder + "/" + name }
            }
            return nil
        }()

        /// Says to the tests inside that they are.
        private static let mark = "TAPEDECK_NEWER_LIBRDKAFKA"

        @Test(.enabled(if: library != nil, "no Python Kafka client in .venv")) func `All of it on a newer library`()
            async throws
        {
            let environment = ProcessInfo.processInfo.environment
            if environment[NewerLibraryTests.mark] != nil {
                #expect(KafkaLog.libraryVersion >= 0x0210_00ff)
                return
            }
            let library = try #require(NewerLibraryTests.library)
            let folder = try TemporaryFolder()
            try FileManager.default.createSymbolicLink(
                atPath: folder.path + "/librdkafka.so.1", withDestinationPath: library)
            let path = folder.path + ":" + URL(fileURLWithPath: library).deletingLastPathComponent().path
            let (status, output) = try await apart {
                let process = ChildProcess()
                process.executableURL = URL(fileURLWithPath: CommandLine.arguments[0])
                process.arguments = ["--testing-library", "swift-testing", "--filter", "^KafkaLogTests\\."]
                process.environment = environment.merging(
                    ["LD_LIBRARY_PATH": path, NewerLibraryTests.mark: "1"]
                ) { $1 }
                let output = Pipe()
                process.standardOutput = output
                process.standardError = output
                try process.run()
                let bytes = output.fileHandleForReading.readDataToEndOfFile()
                process.waitUntilExit()
                return (process.terminationStatus, String(decoding: bytes, as: UTF8.self))
            }
            withExtendedLifetime(folder) {}
            let failures = output.split(separator: "\n").filter { $0.contains("✘") || $0.contains("error:") }
            #expect(status == 0, "\(failures.prefix(20).joined(separator: "\n"))")
            #expect(output.contains("Test run with"))
        }
    }
}
