/// Where a request belongs in a distributed trace: the W3C's `traceparent` (https://www.w3.org/TR/trace-context/,
/// section 3.2).
public struct TraceContext: Hashable, Sendable {
    /// 16 bytes as two numbers, big endian; never both 0.
    public let traceHigh: UInt64
    public let traceLow: UInt64
    /// The caller's span; never 0.
    public let parentID: UInt64
    /// Bit 0: the caller recorded this trace, and asks others to.
    public let flags: UInt8

    /// nil for identifiers that are all zero.
    public init?(traceHigh: UInt64, traceLow: UInt64, parentID: UInt64, flags: UInt8) {
        guard traceHigh != 0 || traceLow != 0, parentID != 0 else { return nil }
        self.traceHigh = traceHigh
        self.traceLow = traceLow
        self.parentID = parentID
        self.flags = flags
    }

    /// Reads a header's value. Later versions are read as far as version 00 goes; nil for anything else that is not
    /// exactly of the form, which a receiver treats as no trace.
    public init?(header: String) {
        var header = header
        let fields: (high: UInt64, low: UInt64, parent: UInt64, flags: UInt8)? = header.withUTF8 { text in
            guard text.count >= TraceContext.headerLength, text[2] == UInt8(ascii: "-"), text[35] == UInt8(ascii: "-"),
                text[52] == UInt8(ascii: "-"), let version = TraceContext.hex(text, 0, 2), version != 0xff,
                version == 0
                    ? text.count == TraceContext.headerLength
                    : text.count == TraceContext.headerLength || text[55] == UInt8(ascii: "-"),
                let high = TraceContext.hex(text, 3, 16), let low = TraceContext.hex(text, 19, 16),
                let parent = TraceContext.hex(text, 36, 16), let flags = TraceContext.hex(text, 53, 2)
            else { return nil }
            // Of the flags of a later version only those of this one are known.
            return (high, low, parent, UInt8(flags) & (version == 0 ? 0xff : 1))
        }
        guard let fields else { return nil }
        self.init(traceHigh: fields.high, traceLow: fields.low, parentID: fields.parent, flags: fields.flags)
    }

    private static let headerLength = 55

    /// Lower-case digits only: the specification has no others.
    private static func hex(_ text: UnsafeBufferPointer<UInt8>, _ start: Int, _ count: Int) -> UInt64? {
        var value: UInt64 = 0
        for position in start..<(start + count) {
            switch text[position] {
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                value = value << 4 | UInt64(text[position] - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"):
                value = value << 4 | UInt64(text[position] - UInt8(ascii: "a") + 10)
            default: return nil
            }
        }
        return value
    }

    public var isSampled: Bool { flags & 1 != 0 }

    /// 32 lower-case hexadecimal digits, for logs.
    public var traceID: String { TraceContext.digits(traceHigh) + TraceContext.digits(traceLow) }

    /// As a header, in version 00.
    public var header: String {
        let flagDigits = String(flags, radix: 16)
        return "00-\(traceID)-\(TraceContext.digits(parentID))-\(flags < 16 ? "0" : "")\(flagDigits)"
    }

    /// The context for what this request causes: the same trace, under a span of ours. nil for span 0.
    public func child(spanID: UInt64) -> TraceContext? {
        TraceContext(traceHigh: traceHigh, traceLow: traceLow, parentID: spanID, flags: flags & 1)
    }

    private static func digits(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.count) + text
    }
}

extension ServerCall {
    /// The caller's trace; nil without one, with one that is malformed, and with several. Read from the metadata each
    /// time: calls that nobody asks pay nothing.
    public var traceContext: TraceContext? {
        let headers = metadata.values("traceparent")
        return headers.count == 1 ? TraceContext(header: headers[0]) : nil
    }
}
