/// Links of a Markdown page and what they can point at.
struct Markdown {
    let path: String
    private let lines: [String]

    /// Code, in fences, indented or between backticks, holds no links and no headings.
    init(path: String, _ text: String) {
        self.path = path
        var isFenced = false
        lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            if line.trimmingPrefix(while: \.isWhitespace).hasPrefix("```") {
                isFenced.toggle()
                return ""
            }
            return isFenced || line.hasPrefix("    ") ? "" : String(line)
        }
    }

    /// Anchors of the headings, as GitHub makes them.
    var anchors: Set<String> {
        var seen: [String: Int] = [:]
        var anchors: Set<String> = []
        for line in lines {
            guard let match = line.wholeMatch(of: #/#{1,6}\s+(.+?)\s*#*\s*/#) else { continue }
            let text = match.1.replacing(#/\[([^\]]*)\]\([^)]*\)/#) { $0.1 }
            let slug = String(
                text.lowercased().compactMap {
                    $0 == " " ? "-" : $0.isLetter || $0.isNumber || $0 == "-" || $0 == "_" ? $0 : nil
                })
            anchors.insert(seen[slug].map { "\(slug)-\($0)" } ?? slug)
            seen[slug, default: 0] += 1
        }
        return anchors
    }

    /// Targets that lie in the checkout, with their line.
    var links: [(line: Int, target: String)] {
        lines.enumerated().flatMap { index, line in
            line.replacing(#/`[^`]*`/#, with: "").matches(of: #/\]\(\s*<?([^)>\s]+)>?(?:\s+"[^"]*")?\s*\)/#).compactMap
            { match in
                match.1.contains("://") || match.1.hasPrefix("mailto:") ? nil : (index + 1, String(match.1))
            }
        }
    }

    /// `page` gives another page of the checkout, `exists` tells files and folders.
    func findings(page: (String) -> Markdown?, exists: (String) -> Bool) -> [Finding] {
        links.compactMap { line, target in
            let parts = target.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)
            let file = parts[0].isEmpty ? path : Markdown.resolve(String(parts[0]), from: path)
            guard let file, exists(file) else {
                return Finding(path: path, line: line, rule: "links", message: "\(target) leads nowhere")
            }
            guard parts.count == 2, file.hasSuffix(".md") else { return nil }
            let anchors = (file == path ? self : page(file))?.anchors ?? []
            return anchors.contains(String(parts[1]))
                ? nil : Finding(path: path, line: line, rule: "links", message: "\(file) has no heading #\(parts[1])")
        }
    }

    /// nil where the path leaves the checkout.
    private static func resolve(_ target: String, from page: String) -> String? {
        var parts = page.split(separator: "/").dropLast().map(String.init)
        for part in target.split(separator: "/") where part != "." {
            if part == ".." {
                guard parts.popLast() != nil else { return nil }
            } else {
                parts.append(String(part))
            }
        }
        return parts.joined(separator: "/")
    }
}
