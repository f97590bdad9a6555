@testable import tapedeck

extension FuzzTarget {
    /// A configuration file: its shape, then every value as its option reads it. What is read, written plainly, reads
    /// the same.
    static let config = FuzzTarget(
        name: "config", lengthMax: 1024,
        seeds: {
            [
                "listen: 127.0.0.1:0\ndata: /tmp/x\n", "# nothing\n", "replay: [a.gz, b.gz]\nspeed: max\n",
                "replay:\n  - a\n  - 'b c'\nloops: 3\nlog-level: debug\n", "from: 2024-08-08T09:30:00.123456789Z\n",
                "to: \"2024-08-08\"\nseed: 0x10\n", "a: &x 1\nb: *x\n", "{listen: '[::1]:50051', rate: 1e3}\n",
                "%YAML 1.1\n---\nretention-days: 7\n...\n", "data: |\n  a\n  b\n", "? data\n: >-\n  x\n", "",
            ].map { Array($0.utf8) }
        },
        run: { bytes in
            let file = Array(bytes)
            _ = try? Invocation.parse(arguments: ["up"], environment: [:], readFile: { _ in file })
            guard let entries = try? ConfigurationFile.parse(file, path: "f") else { return }
            // YAML's own limit on a name within a line.
            guard entries.allSatisfy({ quoted($0.key.text).utf8.count < 1000 }) else { return }
            let lines = entries.map { entry in
                quoted(entry.key.text) + ": [" + entry.values.map { quoted($0.text) }.joined(separator: ", ") + "]\n"
            }
            guard let again = try? ConfigurationFile.parse(Array(lines.joined().utf8), path: "f") else {
                return require(false, "refused when written plainly: \(lines)")
            }
            let texts = { (entries: [ConfigurationFile.Entry]) in entries.map { [$0.key.text] + $0.values.map(\.text) }
            }
            require(texts(again) == texts(entries), "\(texts(again)), not \(texts(entries))")
        })

    /// A double-quoted scalar of ASCII.
    private static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            if 0x20..<0x7f ~= scalar.value, scalar != "\"", scalar != "\\" {
                out.unicodeScalars.append(scalar)
            } else {
                let hex = String(scalar.value, radix: 16)
                out += "\\U" + String(repeating: "0", count: 8 - hex.count) + hex
            }
        }
        return out + "\""
    }
}
