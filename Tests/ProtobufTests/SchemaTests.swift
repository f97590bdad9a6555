import Foundation
import MarketProto
import Protobuf
import TestSupport
import Testing

/// Our schema against the published one and against our last release.
struct SchemaTests {
    /// `Message.field number type`, `Service.Method request response`, as in `proto/released.txt`.
    static func lines(of source: String) -> Set<String> {
        var lines: Set<String> = []
        var scopes: [String] = []
        for raw in source.split(separator: "\n") {
            var line = String(raw)
            if let comment = line.range(of: "//") { line.removeSubrange(comment.lowerBound...) }
            line = line.trimmingCharacters(in: .whitespaces)
            let words = line.split { " ();=".contains($0) }.map(String.init)
            guard let first = words.first else { continue }
            if first == "message" || first == "service" || first == "enum" || first == "oneof" {
                scopes.append(first == "oneof" ? "" : words[1])
                if line.hasSuffix("}") { scopes.removeLast() }
            } else if first == "}" {
                if !scopes.isEmpty { scopes.removeLast() }
            } else if first == "rpc" {
                let types = words.dropFirst(2).filter { $0 != "returns" }.joined(separator: " ")
                lines.insert("\(scopes.last ?? "").\(words[1]) \(types)")
            } else if !scopes.isEmpty, first != "option", words.count >= 2, let number = Int(words[words.count - 1]) {
                let scope = scopes.filter { !$0.isEmpty }.joined(separator: ".")
                // Presence is ours to add: name, number and type stay.
                let kept = words.dropLast().filter { $0 != "optional" }
                lines.insert("\(scope).\(kept.last!) \(number) \(kept.dropLast().joined(separator: " "))")
            }
        }
        return lines
    }

    static var ours: Set<String> {
        get throws {
            var all: Set<String> = []
            for name in ["market_data", "order_service", "log_records"] {
                let path = Checkout.path + "/proto/financial/marketdata/v1/\(name).proto"
                all.formUnion(lines(of: try String(contentsOfFile: path, encoding: .utf8)))
            }
            return all
        }
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `Every published service, method, message and field is here with its number and type`() throws {
        let text = try String(
            contentsOfFile: SharedData.path("seed/000_5abb53ff7e4d2827.txt"), encoding: .utf8)
        let start = try #require(text.range(of: "syntax = \"proto3\";"))
        let end = try #require(text.range(of: "}A note on the decimal"))
        let published = SchemaTests.lines(of: text[start.lowerBound..<end.lowerBound] + "}")
        #expect(published.count > 50)
        #expect(published.contains("PriceUpdate.bid_micros 3 int64"))
        #expect(published.contains("MarketDataService.StreamPrices PriceSubscription stream PriceUpdate"))
        let missing = published.subtracting(try SchemaTests.ours)
        #expect(missing.isEmpty, "\(missing.sorted())")
    }

    @Test func `What was released keeps its name, number and type`() throws {
        let released = try String(contentsOfFile: Checkout.path + "/proto/released.txt", encoding: .utf8)
        let lines = Set(released.split(separator: "\n").map(String.init).filter { !$0.hasPrefix("#") })
        #expect(lines.count > 100)
        let missing = lines.subtracting(try SchemaTests.ours)
        #expect(missing.isEmpty, "\(missing.sorted())")
    }

    @Test func `Extensions of PriceUpdate start at 10`() throws {
        let published: Set<Int> = [1, 2, 3, 4, 5, 6, 7, 8, 9]
        let numbers = try SchemaTests.ours.filter { $0.hasPrefix("PriceUpdate.") }.compactMap { line in
            Int(line.split(separator: " ")[1])
        }
        #expect(numbers.filter { $0 < 10 }.count == published.count)
        #expect(Set(numbers).count == numbers.count)
    }

    @Test func `The embedded descriptors name their files and are what protoc gave`() {
        #expect(Proto.files.map(\.name).contains("financial/marketdata/v1/market_data.proto"))
        for file in Proto.files {
            let bytes = file.descriptorBytes
            // FileDescriptorProto begins with its name.
            #expect(bytes.starts(with: [0x0a, UInt8(file.name.utf8.count)] + Array(file.name.utf8)))
        }
    }
}
