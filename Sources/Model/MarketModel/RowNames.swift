/// Names of a tick as bytes, and whether a store's row may have them: one rule for who writes rows and who compares
/// them with the log.
public enum RowNames {
    /// The longest name of a feed that a row may have, in UTF-8 bytes.
    public static let feedBytesMax = 64

    /// Whether ``Instrument`` takes an exchange and a symbol, without making one.
    @inlinable
    public static func isInstrument(_ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer) -> Bool {
        !exchange.isEmpty && !symbol.isEmpty && isName(exchange, Instrument.nameBytesMax, refusing: UInt8(ascii: "|"))
            && isName(symbol, Instrument.nameBytesMax, refusing: UInt8(ascii: "|"))
    }

    /// Whether a feed may be called so: UTF-8 without control characters. It may have no name.
    @inlinable
    public static func isFeed(_ name: UnsafeRawBufferPointer) -> Bool { isName(name, feedBytesMax, refusing: 0) }

    @inlinable
    static func isName(_ name: UnsafeRawBufferPointer, _ bytesMax: Int, refusing refused: UInt8) -> Bool {
        guard name.count <= bytesMax else { return false }
        var bits: UInt8 = 0
        for byte in name {
            if byte < 0x20 || byte == 0x7f || byte == refused { return false }
            bits |= byte
        }
        return bits < 0x80 || String(validating: name, as: UTF8.self) != nil
    }
}
