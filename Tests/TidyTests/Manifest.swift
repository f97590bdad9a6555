/// Package.swift's targets, as far as the rules need them.
struct Manifest {
    struct Target: Hashable {
        let name: String
        /// Relative to the checkout.
        let path: String
        let dependencies: [String]
    }

    let targets: [Target]
    let text: String

    init(_ text: String) {
        self.text = text
        let rooms = text.matches(of: #/room\(\s*"(\w+)", in: "(\w+)"(?:,\s*\[([^\]]*)\])?/#).map {
            Target(name: String($0.1), path: "Sources/\($0.2)/\($0.1)", dependencies: Manifest.names($0.3 ?? ""))
        }
        let tests = text.matches(of: #/tests\(\s*"(\w+)",\s*\[([^\]]*)\]/#).map {
            Target(name: String($0.1), path: "Tests/\($0.1)", dependencies: Manifest.names($0.2))
        }
        let libraries = text.matches(of: #/library\("(\w+)", pkgConfig:/#).map {
            Target(name: String($0.1), path: "Sources/C/\($0.1)", dependencies: [])
        }
        let written = text.matches(
            of: #/\.(?:executableT|t)arget\(\s*name: "([\w-]+)",(?:\s*dependencies: \[([^\]]*)\],)?\s*path: "([^"]+)"/#
        ).map {
            Target(name: String($0.1), path: String($0.3), dependencies: Manifest.names($0.2 ?? ""))
        }
        targets = rooms + tests + libraries + written
    }

    /// Room to layer, of what lies under Sources.
    var layerOfRoom: [String: String] {
        var layers: [String: String] = [:]
        for target in targets {
            let parts = target.path.split(separator: "/")
            if parts.count == 3, parts[0] == "Sources" { layers[target.name] = String(parts[1]) }
        }
        return layers
    }

    func findings(exists: (String) -> Bool) -> [Finding] {
        let table = LayerTable(layerOfRoom: layerOfRoom)
        var findings: [Finding] = []
        func add(_ message: String) {
            findings.append(Finding(path: "Package.swift", line: 0, rule: "manifest", message: message))
        }
        if text.contains("unsafe" + "Flags") { add("unsafe flags make a package unusable as a dependency") }
        if text.contains(".package(") { add("there are no package dependencies") }
        for target in targets {
            if !exists(target.path) { add("\(target.name) has no folder \(target.path)") }
            guard target.path.hasPrefix("Sources/"), !target.path.hasPrefix("Sources/C/") else { continue }
            for dependency in target.dependencies {
                if let objection = table.objection(target.name, imports: dependency) { add(objection) }
            }
        }
        return findings
    }

    /// What a source imports without its target declaring it.
    func undeclared(_ source: SwiftText) -> [Finding] {
        guard let target = targets.first(where: { source.path.hasPrefix($0.path + "/") }), source.isSource else {
            return []
        }
        return TidyRules.imports(source).compactMap { line, module in
            guard !LayerTable.toolchainModules.contains(module), !target.dependencies.contains(module) else {
                return nil
            }
            return Finding(
                path: source.path, line: line, rule: "imports",
                message: "\(target.name) does not declare \(module) in Package.swift")
        }
    }

    private static func names(_ list: some StringProtocol) -> [String] {
        String(list).matches(of: #/"([\w-]+)"/#).map { String($0.1) }
    }
}
