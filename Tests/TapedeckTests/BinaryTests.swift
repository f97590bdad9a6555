import Foundation
import TestSupport
import Testing

/// The built binary as a user runs it.
@Suite(.serialized, .timeLimit(.minutes(3)))
struct BinaryTests {
    /// The program beside the test bundle.
    static let program: String = {
        let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        return bundle.appendingPathComponent("tapedeck").path
    }()

    struct Ended {
        let status: Int32
        let output: String
        let errors: String
    }

    /// As ``run(_:_:)``, on a thread of its own: those of async tests are as many as there are cores.
    static func runApart(_ program: String, _ arguments: [String]) async throws -> Ended {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try run(program, arguments) }) }
        }
    }

    static func runApart(_ arguments: [String]) async throws -> Ended { try await runApart(program, arguments) }

    static func run(_ program: String = BinaryTests.program, _ arguments: [String]) throws -> Ended {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let output = Pipe()
        let errors = FileManager.default.temporaryDirectory.appendingPathComponent("tapedeck-" + UUID().uuidString)
        _ = FileManager.default.createFile(atPath: errors.path, contents: nil)
        defer { try? FileManager.default.removeItem(at: errors) }
        process.standardOutput = output
        process.standardError = try FileHandle(forWritingTo: errors)
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Ended(
            status: process.terminationStatus, output: text, errors: try String(contentsOf: errors, encoding: .utf8))
    }

    /// A running `tapedeck up`.
    final class Platform {
        let process = ChildProcess()
        let address: String
        let metrics: String
        let tickWriter: String?
        private let output = Pipe()

        /// What it writes about itself goes to the file `errors`, where one is named. `through` is what becomes the
        /// platform, given its path and arguments.
        init(
            _ data: String, _ arguments: [String] = [], defaultMetrics: Bool = false, errors: String? = nil,
            through: [String] = []
        ) throws {
            let command =
                through + [BinaryTests.program, "up", "--data", data, "--listen", "127.0.0.1:0"]
                + (defaultMetrics ? [] : ["--metrics-listen", "127.0.0.1:0"]) + arguments
            process.executableURL = URL(fileURLWithPath: command[0])
            process.arguments = Array(command.dropFirst())
            process.standardOutput = output
            process.standardError = FileHandle.nullDevice
            if let errors {
                _ = FileManager.default.createFile(atPath: errors, contents: nil)
                process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: errors))
            }
            try process.run()
            var line: [UInt8] = []
            while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != UInt8(ascii: "\n") {
                line.append(byte)
            }
            struct Ready: Decodable {
                let ready: Bool
                let address: String
                let metrics: String
                let tick_writer: String?
            }
            let ready = try JSONDecoder().decode(Ready.self, from: Data(line))
            address = ready.address
            metrics = ready.metrics
            tickWriter = ready.tick_writer
        }

        func hangUp() { kill(process.processIdentifier, SIGHUP) }

        func stop() -> Int32 {
            process.terminate()
            process.waitUntilExit()
            return process.terminationStatus
        }
    }

    private func scratch() -> String { NSTemporaryDirectory() + "tapedeck-binary-" + UUID().uuidString }

    /// Asks until there is an answer.
    private func quote(_ platform: Platform, _ symbol: String, _ exchange: String) throws -> Ended {
        while true {
            let ended = try BinaryTests.run([
                "quote", symbol, "--exchange", exchange, "--server", platform.address, "--json",
            ])
            if ended.status == 0 || !ended.errors.contains("NOT_FOUND") { return ended }
        }
    }

    static func run(_ arguments: [String]) throws -> Ended { try run(program, arguments) }

    @Test func `A new user's way: up, quote, watch, stop, verify, inspect, dump`() throws {
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let platform = try Platform(data, ["--rate", "5000"])
        let answer = try quote(platform, "AAPL", "SIMX")
        #expect(answer.status == 0 && answer.output.contains("\"symbol\":\"AAPL\""))
        let ambiguous = try BinaryTests.run(["quote", "BTCUSDT", "--server", platform.address])
        #expect(ambiguous.status == 1 && ambiguous.errors.contains("SIMY, SIMZ"))
        let second = try BinaryTests.run(["up", "--data", data, "--listen", "127.0.0.1:0"])
        #expect(second.status == 1 && second.errors.contains("another process"), "\(second.errors)")
        let taken = try BinaryTests.run(["up", "--data", scratch(), "--listen", platform.address])
        #expect(taken.status == 1 && taken.errors.contains("cannot listen"), "\(taken.errors)")
        let copy = scratch()
        defer { try? FileManager.default.removeItem(atPath: copy) }
        let backup = try BinaryTests.run(["backup", copy, "--data", data])
        #expect(backup.status == 0, "\(backup.errors)")
        #expect(platform.stop() == 0)
        let verify = try BinaryTests.run(["verify", "--data", data])
        #expect(verify.status == 0 && verify.output.contains("log and store agree"), "\(verify.output)\(verify.errors)")
        let inspect = try BinaryTests.run(["inspect", "--data", data])
        #expect(inspect.status == 0 && inspect.output.contains("ticks.raw/0"))
        let dump = try BinaryTests.run(["dump", "MSFT", "--json", "--limit", "3", "--data", data])
        let lines = dump.output.split(separator: "\n")
        #expect(lines.count == 3 && lines.allSatisfy { $0.contains("\"symbol\":\"MSFT\"") })
        let restored = scratch()
        defer { try? FileManager.default.removeItem(atPath: restored) }
        let restore = try BinaryTests.run(["restore", copy, "--data", restored])
        #expect(restore.status == 0, "\(restore.errors)")
        let again = try Platform(restored)
        #expect(try quote(again, "AAPL", "SIMX").status == 0)
        #expect(again.stop() == 0)
        #expect(try BinaryTests.run(["verify", "--data", restored]).status == 0)
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `A recording is taken once, served, and a damaged log is found`() throws {
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let recording = SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz")
        let first = try BinaryTests.run(["replay", "--speed", "max", "--json", "--data", data, recording])
        #expect(
            first.output.contains("\"ticks\":37797,\"ticks_known\":0,\"rows\":37797"), "\(first.output)\(first.errors)")
        let second = try BinaryTests.run(["replay", "--speed", "max", "--json", "--data", data, recording])
        #expect(second.output.contains("\"ticks\":0,\"ticks_known\":37797,\"rows\":0"), "\(second.output)")
        let platform = try Platform(data, ["--replay", recording, "--speed", "max"])
        #expect(try quote(platform, "BTCUSDT", "BINANCE").output.contains("\"sequence\":\"37797\""))
        #expect(platform.stop() == 0)
        #expect(try BinaryTests.run(["verify", "--data", data]).status == 0)
        let repair = try BinaryTests.run(["repair", "--data", data, "--json"])
        #expect(
            repair.status == 0 && repair.output.contains("\"matching\":37797,\"missing\":0,\"different\":0"),
            "\(repair.output)\(repair.errors)")
        #expect(repair.output.contains("\"written\":0,\"deleted\":0"))
        let then = ["book", "BTCUSDT", "--data", data, "--depth", "1", "--at", "2024-08-08T23:57:00Z"]
        let book = try BinaryTests.run(then)
        #expect(book.status == 0 && book.output.contains("61727.65         61727.66          6.91111"), "\(book)")
        let json = try BinaryTests.run(then + ["--json"])
        #expect(
            json.output.contains("\"complete\":true") && json.output.contains("\"bids\":[[\"61727.65\",\"0.31407\"]]"),
            "\(json)")
        let before = try BinaryTests.run(["book", "BTCUSDT", "--data", data, "--at", "2024-08-08T23:50:00Z"])
        #expect(before.status == 1 && before.errors.contains("no book of"), "\(before)")
        let refused = try BinaryTests.run([
            "replay", "--data", data, SharedData.path("data/cryptofeed/KRAKEN.ws.49.0.gz"),
        ])
        #expect(refused.status == 1 && refused.errors.contains("it has kraken ticker, which is not read"), "\(refused)")
        let letters = try BinaryTests.run(["dlq", "redrive", "ticks.raw", "--all", "--data", data])
        #expect(letters.status == 0 && letters.output.contains("read 0 = redriven 0 + skipped 0 + failed 0"))
        let segment = data + "/log/ticks-000000000001.seg"
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: segment))
        try handle.seek(toOffset: 1_000_000)
        try handle.write(contentsOf: Data([1, 2, 3, 4]))
        try handle.close()
        let inspect = try BinaryTests.run(["inspect", "--data", data])
        #expect(inspect.status == 1 && inspect.output.contains("damaged"), "\(inspect.output)")
        #expect(try BinaryTests.run(["verify", "--data", data]).status == 1)
    }

    @Test(.enabled(if: SharedData.isPresent && Checkout.hasPython, "../shared or .venv is absent"))
    func `grpcurl and Python's grpcio read quotes and streams`() throws {
        let tools = scratch()
        defer { try? FileManager.default.removeItem(atPath: tools) }
        _ = try BinaryTests.run("/bin/bash", [SharedData.path("tools/install"), tools, "grpcurl"])
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let platform = try Platform(data, ["--rate", "5000"])
        _ = try quote(platform, "AAPL", "SIMX")
        let schema = ["-import-path", Checkout.path + "/proto", "-proto", "financial/marketdata/v1/market_data.proto"]
        let curl = try BinaryTests.run(
            tools + "/grpcurl",
            ["-plaintext"] + schema + [
                "-d", "{\"symbol\":\"AAPL\",\"exchange\":\"SIMX\"}", platform.address,
                "financial.marketdata.v1.MarketDataService/GetQuote",
            ])
        #expect(curl.status == 0 && curl.output.contains("\"bidMicros\""), "\(curl.errors)")
        let python = try BinaryTests.run(
            Checkout.python, [Checkout.path + "/Tests/TapedeckTests/Fixtures/client.py", platform.address])
        #expect(python.status == 0 && python.output.contains("no gaps"), "\(python.output)\(python.errors)")
        #expect(platform.stop() == 0)
    }

    @Test func `Three kills lose nothing`() throws {
        let ended = try BinaryTests.run(["drill", "kill", "--rounds", "3", "--seed", "7"])
        #expect(
            ended.status == 0 && ended.output.contains("lost 0, duplicated 0, gaps 0"), "\(ended.output)\(ended.errors)"
        )
    }

    @Test func `Wrong words are refused before anything is tried`() throws {
        let directory = try BinaryTests.run(["verify", "--data", "/no/such/place"])
        #expect(directory.status == 1 && directory.errors.contains("--data"))
        #expect(try BinaryTests.run(["upp"]).status == 2)
        #expect(try BinaryTests.run(["up", "--listen", "nonsense"]).status == 2)
        let recording = try BinaryTests.run(["replay", "/no/such/file", "--data", scratch()])
        #expect(recording.status == 1 && recording.errors.contains("/no/such/file"))
        let server = try BinaryTests.run(["quote", "AAPL", "--server", "127.0.0.1:1"])
        #expect(server.status == 1 && server.errors.contains("tapedeck up"))
        let folder = try TemporaryFolder()
        let secret = try folder.write("secret", Array("hush-hush".utf8))
        func provider(_ url: String, _ secret: String) -> [String] {
            ["--kafka-oidc-url", url, "--kafka-oidc-client-id", "desk", "--kafka-oidc-client-secret-file", secret]
        }
        // What one half of the connections to a cluster would not hear of, and a login that is none.
        for (words, part) in [
            (["--kafka-set", "sasl.mechanism=PLAIN"], "--kafka-user"),
            (["--kafka-set", "ssl.ca.location=ca.pem"], "--kafka-ca"),
            (["--kafka-set", "nonsense"], "NAME=VALUE"), (["--kafka-token-file", "/no/such/file"], "/no/such/file"),
            (["--kafka-token-file", "/no/such/file", "--kafka-user", "a"], "needs a password"),
            (["--kafka-oidc-scope", "x"], "needs --kafka-oidc-url"),
            (["--kafka-oidc-url", "http://127.0.0.1:1/token"], "needs --kafka-oidc-client-id"),
            (provider("http://127.0.0.1:1/token", "/no/such/file"), "/no/such/file"),
            (provider("http://idp.example/token", secret), "unencrypted"),
            (provider("http://127.0.0.1:1/token", secret), "http://127.0.0.1:1/token: cannot connect"),
            (provider("http://127.0.0.1:1/token", secret) + ["--kafka-oidc-extension", "a"], "NAME=VALUE"),
            (provider("https://127.0.0.1:1/token", secret) + ["--kafka-oidc-ca", "/no/such/ca"], "/no/such/ca"),
        ] {
            let cluster = try BinaryTests.run(["lag", "--brokers", "127.0.0.1:1"] + words)
            #expect(cluster.status == 1 && cluster.errors.contains(part), "\(words): \(cluster.errors)")
            #expect(!cluster.errors.contains("hush-hush"))
        }
    }
}
