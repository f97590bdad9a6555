import Foundation
import TestSupport
import Testing

@testable import tapedeck

struct ConfigurationTests {
    /// Parses with files held in memory.
    private func parse(
        _ line: String, environment: [String: String] = [:], files: [String: String] = [:]
    ) throws(UsageError) -> Invocation {
        try Invocation.parse(
            arguments: line.split(separator: " ").map(String.init), environment: environment,
            readFile: { files[$0].map { Array($0.utf8) } })
    }

    private func message(
        _ line: String, environment: [String: String] = [:], files: [String: String] = [:]
    ) -> String {
        do {
            _ = try parse(line, environment: environment, files: files)
            return "accepted"
        } catch {
            return error.description
        }
    }

    @Test func `Nothing needs to be configured`() throws {
        let options = try parse("up").options
        #expect(options.string(.data) == "tapedeck-data")
        #expect(options.address(.listen) == Address(host: "127.0.0.1", port: 50051))
        #expect(options.int(.tickSyncMs) == 5)
        #expect(options.speed(.speed) == .times(1))
        #expect(options.strings(.replay) == [])
        #expect(!options.bool(.json))
        #expect(options.source(.data) == .defaultValue)
    }

    @Test func `Every default is allowed by its own definition, and every option belongs to a command`() {
        for option in OptionName.allCases {
            let definition = option.definition
            if let text = definition.defaultText { #expect(definition.kind.parse(text) != nil, "\(option)") }
            let isTaken =
                Command.commonOptions.contains(option)
                || Command.allCases.contains { $0.definition.options.contains(option) }
            #expect(isTaken, "no command takes \(option.flag)")
            #expect(definition.help.hasSuffix("."), "\(option)")
        }
    }

    @Test func `A flag comes before the environment, that before the file, that before the default`() throws {
        let files = ["tapedeck.yaml": "rate: 30\nseed: 3\nspeed: max\n"]
        let environment = ["TAPEDECK_RATE": "20", "TAPEDECK_SEED": "2"]
        let options = try parse("up --rate 10", environment: environment, files: files).options
        #expect(options.int(.rate) == 10)
        #expect(options.int(.seed) == 2)
        #expect(options.speed(.speed) == .unlimited)
        #expect(options.int(.drainSeconds) == 10)
        #expect(options.source(.speed) == .file(ConfigurationFile.Mark(path: "tapedeck.yaml", line: 3, column: 8)))
    }

    @Test func `The file in the data directory comes before the one in the current directory`() throws {
        let files = ["tapedeck.yaml": "rate: 1", "d/tapedeck.yaml": "rate: 2", "other.yaml": "rate: 3"]
        #expect(try parse("up", files: files).options.int(.rate) == 1)
        #expect(try parse("up --data d", files: files).options.int(.rate) == 2)
        #expect(try parse("up --data d --config other.yaml", files: files).options.int(.rate) == 3)
        #expect(message("up --config none.yaml") == "tapedeck: --config: there is no file none.yaml")
    }

    @Test func `Flags may be written in both ways, between operands, and repeated where that means something`() throws {
        let up = try parse("up --replay a.gz --replay=b.gz --speed=max")
        #expect(up.options.strings(.replay) == ["a.gz", "b.gz"])
        #expect(try parse("inspect --json").options.bool(.json))
        let watch = try parse("watch AAPL --exchange X MSFT -- --odd")
        #expect(watch.operands == ["AAPL", "MSFT", "--odd"])
        #expect(message("up --rate 1 --rate 2") == "tapedeck: --rate is given twice")
        #expect(try parse("up", files: ["tapedeck.yaml": "replay: [a, b]"]).options.strings(.replay) == ["a", "b"])
    }

    @Test(arguments: [
        ("up --rate 0", "--rate: rate must be a whole number from 1 to 1000000, not `0`"),
        ("up --rate 1e3", "--rate: rate must be a whole number from 1 to 1000000, not `1e3`"),
        ("up --rate 99999999999999999999", "not `99999999999999999999`"),
        ("up --listen 50051", "listen must be HOST:PORT"),
        ("up --listen 1.2.3.4:70000", "listen must be HOST:PORT"),
        ("up --listen ::1:50051", "listen must be HOST:PORT"),
        ("up --speed fast", "speed must be a whole number from 1 to 10000, or max, not `fast`"),
        ("up --rate", "--rate needs a value"),
        ("up --rat 5", "Did you mean --rate?"),
        ("up --symbol A", "up has no option --symbol"),
        ("up -r", "up has no option -r"),
        ("up now", "up does not know what to do with `now`"),
        ("quote", "SYMBOL is missing"),
        ("quote A --replay f", "It belongs to: up, run."),
        ("wacth", "Did you mean `tapedeck watch`?"),
        ("xyzzy", "`tapedeck help` lists the commands."),
        ("--data d", "a command comes first"),
        ("help me", "there is no command `me`"),
        ("verify --from 2024-02-30", "from must be a UTC time"),
        ("verify --from 2024-02-02 --to 2024-02-02", "--from is not before --to"),
        ("inspect --json=maybe", "json must be true or false"),
        ("up --log-level loud", "one of debug, info, warning, error"),
    ])
    func `What is wrong is said with its place and what is allowed`(_ line: String, _ expected: String) {
        let message = message(line)
        #expect(message.contains(expected), "\(message)")
    }

    @Test func `Origins of pages are as browsers write them`() throws {
        let good = [
            "*", "https://desk.example", "http://localhost:8080", "https://127.0.0.1:1", "http://[::1]:3000",
            "https://[2001:db8::1]", "http://a:443",
        ]
        let up = try parse("up " + good.map { "--web-origin " + $0 }.joined(separator: " "))
        #expect(up.options.strings(.webOrigin) == good)
        #expect(try parse("run edge --web-origin=http://a").options.strings(.webOrigin) == ["http://a"])
        let file = ["tapedeck.yaml": "web-origin: [https://a, https://b]"]
        #expect(try parse("up", files: file).options.strings(.webOrigin) == ["https://a", "https://b"])
        for wrong in [
            "desk.example", "https://", "https://desk.example/", "https://desk.example:443", "http://desk.example:80",
            "https://Desk.example", "https://*.example", "https://a:", "https://a:0", "https://a:080",
            "https://a:70000", "https://me@a", "https://a?b", "https://a,https://b", "ftp://a", "null", "https://[::1",
            "https://::1", "https://a\u{e9}",
        ] {
            #expect(message("up --web-origin " + wrong).contains("web-origin must be * or an origin"), "\(wrong)")
        }
    }

    @Test(arguments: [
        ("rate: 1\nrat: 2\n", "t.yaml:2:1: there is no option `rat`\n  Did you mean rate?"),
        ("rate: none\n", "t.yaml:1:7: rate must be a whole number from 1 to 1000000, not `none`"),
        ("rate: 1\nrate: 2\n", "t.yaml:2:1: rate is given twice, first in line 1"),
        ("rate: [1, 2]\n", "t.yaml:1:1: rate takes one value, not a list"),
        ("rate: {a: 1}\n", "t.yaml:1:7: rate takes a value or a list of values, not a group"),
        ("- rate\n", "t.yaml:1:1: a configuration is one list of `name: value` lines"),
        ("seed: &x 1\nrate: *x\n", "t.yaml:2:7: anchors and aliases are not read here"),
        ("rate: \"1\n", "t.yaml:2:1: found unexpected end of stream"),
        ("rate: 1\n\tseed: 2\n", "t.yaml:2:"),
        ("config: x\n", "t.yaml:1:1: there is no option `config`"),
        ("replay: [[a]]\n", "t.yaml:1:10: a list here holds plain values"),
        ("rate: 1\n---\nrate: 2\n", "a configuration is one list"),
    ])
    func `A mistake in the file is told with line and column`(_ text: String, _ expected: String) {
        let message = message("up --config t.yaml", files: ["t.yaml": text])
        #expect(message.contains(expected), "\(message)")
    }

    @Test func `A file that is empty or all comment configures nothing`() throws {
        for text in ["", "\n", "# rate: 1\n", "---\n", "{}"] {
            #expect(try parse("up", files: ["tapedeck.yaml": text]).options.int(.rate) == 2000)
        }
    }

    @Test func `Damaged files are refused or read, and never trap`() throws {
        let good = Array("# all\nrate: 12\nreplay:\n  - a.gz\n  - 'b'\nlisten: \"[::1]:0\"\n".utf8)
        #expect(try ConfigurationFile.parse(good, path: "f").count == 3)
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        for round in 0..<3000 {
            var bytes = Array(good.prefix(round < good.count ? round : good.count))
            for _ in 0..<(round % 4) where !bytes.isEmpty {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                bytes[Int(state >> 33) % bytes.count] = UInt8(truncatingIfNeeded: state >> 24)
            }
            _ = try? ConfigurationFile.parse(bytes, path: "f")
        }
    }

    @Test func `Addresses and times are read exactly`() {
        #expect(ValueKind.address.parse("[::1]:0") == .address(Address(host: "::1", port: 0)))
        #expect(Address(host: "::1", port: 9).description == "[::1]:9")
        for bad in ["", ":1", "h:", "h:-1", "h:65536", "[]:1", "a b:1", "h:1x", "http://h:1"] {
            #expect(ValueKind.address.parse(bad) == nil, "\(bad)")
        }
        #expect(UTCTime.parse("1970-01-01") == 0)
        #expect(UTCTime.parse("2024-08-08T09:30:00Z") == 1_723_109_400_000_000_000)
        #expect(UTCTime.parse("2024-02-29T00:00:00.000000001Z") == 1_709_164_800_000_000_001)
        #expect(UTCTime.parse("2024-02-29T00:00:00.5Z") == 1_709_164_800_500_000_000)
        for bad in [
            "2023-02-29", "2024-1-1", "2024-01-01T", "2024-01-01T24:00:00Z", "2024-01-01T00:00:00", "9999-01-01",
            "2024-01-01T00:00:00.Z",
        ] {
            #expect(UTCTime.parse(bad) == nil, "\(bad)")
        }
    }

    @Test func `Help is asked for in every usual way`() throws {
        for line in ["", "help", "--help", "-h"] {
            let invocation = try parse(line)
            #expect(invocation.command == .help && invocation.operands.isEmpty)
        }
        for line in ["up --help", "up -h --rate 5", "help up"] {
            let invocation = try parse(line)
            #expect(invocation.command == .help && invocation.operands == ["up"])
        }
        #expect(try parse("--version").command == .version)
        // Wrong surroundings do not stop anyone from reading the help.
        #expect(try parse("up --help", environment: ["TAPEDECK_RATE": "x"]).command == .help)
    }

    @Test func `Help names every command, option and example, and its examples parse`() throws {
        for command in Command.allCases {
            #expect(Help.overview.contains(command.definition.summary))
            let text = Help.text(for: command)
            for option in command.definition.options {
                #expect(text.contains(option.flag + " ") || text.contains(option.flag + "\n"))
            }
            #expect(!command.definition.examples.isEmpty)
            for example in command.definition.examples {
                let words = example.line.prefix { $0 != "|" }.split(separator: " ").dropFirst()
                #expect(try parse(words.joined(separator: " ")).command == command, "\(example.line)")
            }
            for line in text.split(separator: "\n") { #expect(line.count <= 120, "\(line)") }
        }
    }

    @Test func `Command lines and configuration files in the pages are accepted`() throws {
        var lineCount = 0
        for page in ["README.md", "docs/OPERATIONS.md", "docs/BENCHMARKS.md", "docs/ARCHITECTURE.md", "docs/API.md"] {
            let text = try String(contentsOfFile: Checkout.path + "/" + page, encoding: .utf8)
            for match in text.matches(of: #/(?:`|^ {4}(?:\S+\/)?)tapedeck ([^`\n]+)/#.anchorsMatchLineEndings()) {
                let line = String(match.1)
                if line.hasPrefix("COMMAND") { continue }
                #expect(throws: Never.self, "\(page): tapedeck \(line)") { try parse(line) }
                lineCount += 1
            }
            for match in text.matches(of: #/```yaml\n((?:[^`]|\n)+)```/#) {
                #expect(try parse("up", files: ["tapedeck.yaml": String(match.1)]).options.isSet(.replay))
                lineCount += 1
            }
        }
        #expect(lineCount > 8)
    }

    @Test func `The real environment and real files are read`() throws {
        let environment = ConfigurationEnvironment.read()
        #expect(environment["PATH"] == ProcessInfo.processInfo.environment["PATH"])
        #expect(environment.count == ProcessInfo.processInfo.environment.count)
        let manifest = Checkout.path + "/Package.swift"
        #expect(try ConfigurationFile.read(manifest).map { Data($0) } == FileManager.default.contents(atPath: manifest))
        #expect(try ConfigurationFile.read(Checkout.path + "/none") == nil)
        #expect(throws: UsageError.self) { try ConfigurationFile.read(Checkout.path) }
    }

    @Test func `A mistyped variable is told, somebody else's is left alone`() throws {
        let invocation = try parse(
            "up", environment: ["TAPEDECK_RATEE": "1", "TAPEDECK_SERVICE_HOST": "x", "TAPEDECK_RATE": ""])
        #expect(invocation.warnings == ["the environment variable TAPEDECK_RATEE is no option; TAPEDECK_RATE is"])
        #expect(
            message("up", environment: ["TAPEDECK_RATE": "many"]).contains(
                "the environment variable TAPEDECK_RATE: rate must"))
    }
}
