import Foundation
import TestSupport
import Testing

/// The sources, the manifest and the pages keep the rules.
struct TidyTests {
    private static let sources: [SwiftText] = files(under: ["Sources", "Tests"], suffix: ".swift").map {
        SwiftText(path: $0, read($0))
    }
    private static let findings: [Finding] = {
        let requirements = sources.filter(\.isSource).reduce(into: Set<String>()) {
            $0.formUnion(TidyRules.requirements($1))
        }
        return sources.flatMap { TidyRules.findings($0, requirements: requirements) }
    }()
    private static let manifest = Manifest(read("Package.swift"))

    private static func read(_ path: String) -> String {
        (try? String(contentsOfFile: Checkout.path + "/" + path, encoding: .utf8)) ?? ""
    }

    private static func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: Checkout.path + "/" + path)
    }

    /// Relative paths, sorted.
    private static func files(under folders: [String], suffix: String) -> [String] {
        folders.flatMap { folder in
            (FileManager.default.enumerator(atPath: Checkout.path + "/" + folder)?.compactMap { $0 as? String } ?? [])
                .filter { $0.hasSuffix(suffix) }.map { folder + "/" + $0 }
        }.sorted()
    }

    private func expectNone(_ findings: [Finding], sourceLocation: SourceLocation = #_sourceLocation) {
        let open = findings.filter { !TidyRules.isExcepted($0) }
        guard !open.isEmpty else { return }
        let list = open.map(\.description).joined(separator: "\n")
        Issue.record("\(open.count) places break a rule:\n\(list)", sourceLocation: sourceLocation)
    }

    @Test func `Rooms import what their layer may, and declare it`() {
        #expect(TidyTests.sources.count > 30)
        let table = LayerTable(layerOfRoom: TidyTests.manifest.layerOfRoom)
        expectNone(TidyTests.sources.flatMap { TidyRules.importTable($0, table) + TidyTests.manifest.undeclared($0) })
    }

    @Test func `Every target has its folder, and the manifest obeys the layer table`() {
        #expect(TidyTests.manifest.targets.count > 40)
        expectNone(TidyTests.manifest.findings(exists: TidyTests.exists))
        // Every room on the disk is a target.
        for (layer, room) in Set(TidyTests.sources.compactMap { $0.layerAndRoom }.map { [$0.layer, $0.room] }).map({
            ($0[0], $0[1])
        }) {
            #expect(TidyTests.manifest.layerOfRoom[room] == layer, "Sources/\(layer)/\(room) is no target")
        }
    }

    @Test func `Sources keep the rules`() { expectNone(TidyTests.findings) }

    @Test func `Every exception still excepts something`() {
        let table = LayerTable(layerOfRoom: TidyTests.manifest.layerOfRoom)
        // A folder's exception is policy; a file's is a debt that ends.
        for exception in TidyRules.exceptions where !exception.path.hasSuffix("/") {
            let isUsed = TidyTests.findings.contains { $0.rule == exception.rule && $0.path == exception.path }
            #expect(isUsed, "\(exception.path) no longer breaks \(exception.rule)")
        }
        for exception in LayerTable.exceptions {
            #expect(table.layerOfRoom[exception.room] != nil && table.layerOfRoom[exception.imports] != nil)
        }
    }

    @Test func `Every link of the pages resolves`() {
        let paths = ["README.md"] + TidyTests.files(under: ["docs"], suffix: ".md")
        #expect(paths.count > 5)
        expectNone(
            paths.flatMap { path in
                Markdown(path: path, TidyTests.read(path)).findings(
                    page: { Markdown(path: $0, TidyTests.read($0)) }, exists: TidyTests.exists)
                    + TidyRules.words(path: path, TidyTests.read(path).components(separatedBy: "\n"))
            })
    }

    @Test func `The page's table of rooms is the manifest's`() {
        let rows = TidyTests.read("docs/ARCHITECTURE.md").matches(
            of: #/\n\| (\w+) \| ([\w, -]+?) \| [^|\n]* \| [^|\n]*\|/#)
        var rooms: [String: Set<String>] = [:]
        for row in rows where row.1 != "layer" {
            rooms[String(row.1)] = Set(row.2.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) })
        }
        var expected: [String: Set<String>] = [:]
        for (room, layer) in TidyTests.manifest.layerOfRoom { expected[layer, default: []].insert(room) }
        for layer in Set(rooms.keys).union(expected.keys).sorted() {
            #expect(rooms[layer] == expected[layer], "\(layer)")
        }
    }

    @Test func `Make has every stage, and every test target is in exactly one`() {
        let lines = TidyTests.read("scripts/stages").split(separator: "\n").filter { !$0.hasPrefix("#") }
        let filters = lines.map { String($0.split(separator: " ", omittingEmptySubsequences: true)[2]) }
        for target in TidyTests.manifest.targets
        where target.path == "Tests/\(target.name)" && target.name.hasSuffix("Tests") {
            let stages = filters.filter { $0.split(separator: "|").contains { $0 == target.name } }
            #expect(stages.count == 1, "\(target.name) is in \(stages.count) stages of scripts/stages")
        }
        let budgets = lines.compactMap { Int($0.split(separator: " ", omittingEmptySubsequences: true)[1]) }
        #expect(budgets.count == lines.count && budgets.reduce(0, +) < 45 * 60)
    }

    @Test(
        .enabled(
            if: FileManager.default.isExecutableFile(atPath: Checkout.path + "/scripts/generate-proto"),
            "no generator yet"))
    func `Generated code is up to date`() throws {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.path + "/scripts/generate-proto")
        process.arguments = ["--check"]
        process.currentDirectoryURL = URL(fileURLWithPath: Checkout.path)
        // The generator lies beside the tests; building it here would wait for the build folder's lock, which the tests
        // hold.
        let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
        process.environment = ProcessInfo.processInfo.environment.merging(
            ["PROTOC_GEN_TAPEDECK": folder + "/protoc-gen-tapedeck"]) { $1 }
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(String(decoding: output, as: UTF8.self))")
    }
}
