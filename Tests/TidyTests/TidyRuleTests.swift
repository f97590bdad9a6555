import Testing

/// Each rule is red on what it forbids and silent on what it allows.
struct TidyRuleTests {
    private func rules(_ path: String, _ text: String) -> [String] {
        TidyRules.findings(SwiftText(path: path, text)).map(\.rule)
    }

    private let table = LayerTable(layerOfRoom: [
        "EdgeService": "Services", "GRPC": "Network", "HTTP2": "Network", "EventLoop": "Network", "Bars": "Engines",
        "Book": "Engines",
        "MarketModel": "Model", "RocksStore": "Adapters", "SegmentLog": "Adapters", "EventLog": "Ports",
        "CRocksDB": "C",
        "Protobuf": "Wire", "TickCodec": "Wire", "tapedeck": "App",
    ])

    @Test func `Comments, strings and raw identifiers are no code; interpolations are`() {
        let text = ##"""
            let a = "import X \(f("y", b)) // no" // import Z
            /* import /* nested */ W */ let b = #"raw " \( no )"# + """
                import V \#("not raw")
                """
            func `import "quoted"`() {}
            """##
        let code = SwiftText.code(text)
        for hidden in ["import", "no", "nested", "quoted", "raw"] { #expect(!code.contains(hidden), "\(hidden)") }
        for kept in ["let a = ", "f( ", ", b)", "let b =", "func `"] {
            #expect(code.contains(kept), "\(kept) in \(code)")
        }
        #expect(
            code.split(separator: "\n", omittingEmptySubsequences: false).count
                == text.split(separator: "\n", omittingEmptySubsequences: false).count)
    }

    @Test func `Imports are found in every form`() {
        let text = """
            import A
            @testable import B
            public import C
            import struct D.E
            @_exported public import F // and
            // import G
            let important = 1
            """
        #expect(TidyRules.imports(SwiftText(path: "x.swift", text)).map(\.module) == ["A", "B", "C", "D", "F"])
    }

    @Test(arguments: [
        ("Bars", "Book"), ("Bars", "EventLog"), ("EdgeService", "RocksStore"), ("RocksStore", "SegmentLog"),
        ("EventLoop", "HTTP2"),
        ("MarketModel", "Protobuf"), ("GRPC", "TickCodec"), ("GRPC", "MarketModel"), ("Protobuf", "TickCodec"),
        ("Bars", "Foundation"),
        ("EventLog", "CRocksDB"), ("Nowhere", "MarketModel"), ("Bars", "XCTest"),
    ])
    func `A forbidden import is found`(_ room: String, _ module: String) {
        #expect(table.objection(room, imports: module) != nil)
        let layer = table.layerOfRoom[room] ?? "Wire"
        let source = SwiftText(path: "Sources/\(layer)/\(room)/X.swift", "import \(module)\n")
        #expect(TidyRules.importTable(source, table).map(\.rule) == ["imports"])
    }

    @Test(arguments: [
        ("Bars", "MarketModel"), ("EdgeService", "GRPC"), ("EdgeService", "HTTP2"), ("RocksStore", "CRocksDB"),
        ("GRPC", "EventLoop"),
        ("TickCodec", "Protobuf"), ("GRPC", "Protobuf"), ("tapedeck", "RocksStore"), ("Bars", "Synchronization"),
    ])
    func `An allowed import is not`(_ room: String, _ module: String) {
        #expect(table.objection(room, imports: module) == nil)
    }

    @Test(arguments: [
        "Task.sleep(for: .seconds(1))", "Task.detached { }", "clock_gettime(CLOCK_REALTIME, &t)",
        "let c = ContinuousClock()",
        "Int.random(in: 0..<3)", "a.shuffled()", "a.randomElement()", "var g = SystemRandomNumberGenerator()",
        "uv_hrtime()", "let t = time(nil)",
        "let d = Date()", "usleep(5)",
    ])
    func `Clocks and randomness are found outside EventLoop and App`(_ line: String) {
        #expect(rules("Sources/Engines/Bars/X.swift", line) == ["clock-or-randomness"])
        #expect(rules("Sources/Adapters/RocksStore/X.swift", line) == ["clock-or-randomness"])
        #expect(rules("Sources/Network/EventLoop/X.swift", line).isEmpty)
        #expect(rules("Sources/App/tapedeck/X.swift", line).isEmpty)
        #expect(rules("Sources/Engines/Bars/X.swift", "// " + line).isEmpty)
    }

    @Test(arguments: [
        "Int.random(in: 0..<3, using: &g)", "a.shuffled(using: &g)", "source.sleep(ns: 5)", "event.time(nil)",
        "updateTime(nil)",
    ])
    func `Time and randomness that come in as arguments are allowed`(_ line: String) {
        #expect(rules("Sources/Engines/Bars/X.swift", line).isEmpty)
    }

    @Test(arguments: [
        "let s = socket(AF_INET, 1, 0)", "uv_tcp_init(loop, tcp)", "Glibc.connect(s, a, n)", "getaddrinfo(a, b, c, d)",
    ])
    func `Sockets are found outside EventLoop`(_ line: String) {
        #expect(rules("Sources/Network/GRPC/X.swift", line) == ["sockets"])
        #expect(rules("Sources/Network/EventLoop/X.swift", line).isEmpty)
        #expect(rules("Sources/Network/GRPC/X.swift", "self.socket(1)").isEmpty)
    }

    @Test func `An exit by way of C libraries is found in the program`() {
        for line in ["exit(code.rawValue)", "Glibc.exit(1)"] {
            #expect(rules("Sources/App/tapedeck/X.swift", line) == ["exits"], "\(line)")
        }
        for line in ["_exit(1)", "thread.exit(1)", "func leave() { onExit() }"] {
            #expect(rules("Sources/App/tapedeck/X.swift", line).isEmpty, "\(line)")
        }
    }

    @Test func `Traps, leftovers, machine paths and sleeping tests are found`() {
        for line in ["fatalError(\"x\")", "let a = try! f()", "a as! B"] {
            #expect(rules("Sources/Wire/Protobuf/X.swift", line) == ["traps"])
        }
        for line in ["// TO" + "DO: later", "let p = \"/hom" + "e/someone\"", "// see /wor" + "k/x"] {
            #expect(rules("Sources/Wire/Protobuf/X.swift", line) == ["words"], "\(line)")
        }
        #expect(rules("Sources/Wire/Protobuf/X.swift", "// docs/work/x and https://host/home/x").isEmpty)
        #expect(rules("Tests/ATests/X.swift", "try await Task.sleep(for: .seconds(1))") == ["sleeps"])
    }

    @Test func `Long lines, functions and files are found`() {
        let path = "Sources/Wire/Protobuf/X.swift"
        #expect(rules(path, "let a = \"" + String(repeating: "é", count: 110) + "\"").isEmpty)
        #expect(rules(path, "let a = \"" + String(repeating: "x", count: 111) + "\"") == ["line-length"])
        func function(_ lines: Int) -> String {
            "    func f(_ a: Int = g({ 1 })) throws(E) -> Int {\n"
                + String(repeating: "        if a { }\n", count: lines - 2) + "    }\n"
        }
        #expect(rules(path, function(70)).isEmpty)
        #expect(rules(path, function(71)) == ["function-length"])
        #expect(rules(path, "protocol P {\n    func f()\n    init(a: Int)\n}\n" + function(70)).isEmpty)
        #expect(rules(path, String(repeating: "\n", count: 500)).isEmpty)
        #expect(rules(path, String(repeating: "\n", count: 501)) == ["file-length"])
        #expect(rules("Sources/Wire/MarketProto/Generated/X.swift", String(repeating: "\n", count: 501)).isEmpty)
    }

    @Test func `Public declarations without a comment are found`() {
        let path = "Sources/Wire/Protobuf/X.swift"
        #expect(rules(path, "public struct A {}") == ["documentation"])
        #expect(rules(path, "// no\n@frozen public enum A {}") == ["documentation"])
        #expect(rules(path, "@inlinable\npublic static func f() {}") == ["documentation"])
        #expect(rules(path, "/// Yes.\n@inlinable\npublic static func f() {}").isEmpty)
        #expect(rules(path, "public static func == (a: A, b: A) -> Bool { true }").isEmpty)
        #expect(rules("Sources/App/tapedeck/X.swift", "public struct A {}").isEmpty)
        let port = SwiftText(
            path: path, "public protocol P {\n    /// Yes.\n    func f() throws\n}\npublic func g() {}\n")
        #expect(TidyRules.requirements(port) == ["f"])
        let adapter = SwiftText(path: path, "public func f() throws {}\npublic func g() {}")
        #expect(TidyRules.findings(adapter, requirements: ["f"]).map(\.line) == [2])
    }

    @Test func `A manifest that breaks the rules is found`() {
        let good = """
            room("A", in: "Wire"), room("B", in: "Services", ["A", "M"], linkerSettings: []), room("M", in: "Model"),
            .target(name: "CX", path: "Sources/C/CX"), library("CY", pkgConfig: nil, apt: "y", brew: "y"),
            tests("BTests", ["B"]),
            """
        #expect(Manifest(good).targets.map(\.name).sorted() == ["A", "B", "BTests", "CX", "CY", "M"])
        #expect(Manifest(good).findings(exists: { _ in true }).isEmpty)
        #expect(Manifest(good).findings(exists: { $0 != "Sources/C/CY" }).count == 1)
        #expect(Manifest(good + "room(\"E\", in: \"Engines\", [\"A\"])").findings(exists: { _ in true }).count == 1)
        #expect(Manifest(good + ".unsafe" + "Flags([])").findings(exists: { _ in true }).count == 1)
        #expect(Manifest(good + ".package(url: \"\")").findings(exists: { _ in true }).count == 1)
        let source = SwiftText(path: "Sources/Services/B/X.swift", "import A\nimport CX\n")
        #expect(Manifest(good).undeclared(source).map(\.line) == [2])
    }

    @Test func `Links that lead nowhere are found`() {
        let page = Markdown(
            path: "docs/A.md",
            """
            # One *fine* day, `x`
            ## Twice
            ## Twice
            [a](B.md) [b](#one-fine-day-x) [c](../README.md#top "t") [d](#twice-1) [e](https://x/y) `[f](none)`
            [g](none.md) [h](#none) [i](B.md#none) [j](../../outside.md)
            ```
            [k](none)
            ```
            """)
        let found = page.findings(
            page: { Markdown(path: $0, "# Top\n") }, exists: { ["docs/A.md", "docs/B.md", "README.md"].contains($0) })
        #expect(found.map(\.line) == [5, 5, 5, 5])
    }
}
