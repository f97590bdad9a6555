import MarketModel
import VenueFormats

/// A document through one venue's format.
struct FormatReading {
    let parser = JSONParser()
    let format: VenueFormat

    /// What a document becomes, or why it is refused.
    func read(_ bytes: [UInt8], symbol: String = "") throws(FormatError) -> [VenueMessage] {
        let result: Result<[VenueMessage], FormatError> = bytes.withUnsafeBytes { buffer in
            do throws(FormatError) {
                var out: [VenueMessage] = []
                try format.read(try parser.parse(buffer), symbol: symbol, into: &out)
                return .success(out)
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    func read(_ text: String, symbol: String = "") throws(FormatError) -> [VenueMessage] {
        try read(Array(text.utf8), symbol: symbol)
    }

    /// The error of a document; nil when it is read.
    func refusal(_ text: String, symbol: String = "") -> FormatError? {
        do throws(FormatError) {
            _ = try read(text, symbol: symbol)
            return nil
        } catch {
            return error
        }
    }
}
