import MarketModel
import TestSupport
import VenueFormats

/// A recording of ../shared/data, unpacked, for tests that read it line by line.
struct RecordingFile {
    var lines: [[UInt8]]

    init(_ name: String) throws {
        lines = try SharedData.lines(name)
    }

    /// Every message with its receive time, in order. Throws on the first bad line.
    func messages(_ format: VenueFormat) throws -> [(ns: Int64, message: VenueMessage)] {
        let parser = JSONParser()
        var out: [(ns: Int64, message: VenueMessage)] = []
        var lastSymbol = ""
        for line in lines {
            try line.withUnsafeBytes { bytes in
                guard case .received(let ns, let text, let symbol) = try RecordingLine.split(bytes) else { return }
                var messages: [VenueMessage] = []
                try format.read(parser.parse(text), symbol: symbol ?? lastSymbol, into: &messages)
                lastSymbol = messages.last?.symbol ?? lastSymbol
                for message in messages { out.append((ns, message)) }
            }
        }
        return out
    }
}
