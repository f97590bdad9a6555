/// Walks bytes of the protocol. Every read is checked; integers are big endian.
public struct CQLReader {
    public let bytes: UnsafeRawBufferPointer
    public private(set) var position = 0

    public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    public var remaining: Int { bytes.count - position }

    func fail(_ code: CQLFormatError.Code, _ message: String) -> CQLFormatError {
        CQLFormatError(code, at: position, message)
    }

    private mutating func integer<T: FixedWidthInteger>(_ what: StaticString) throws(CQLFormatError) -> T {
        guard remaining >= MemoryLayout<T>.size else { throw fail(.truncated, "\(what) ends too early") }
        defer { position += MemoryLayout<T>.size }
        return T(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    /// [byte]
    public mutating func byte() throws(CQLFormatError) -> UInt8 { try integer("a byte") }
    /// [short]
    public mutating func short() throws(CQLFormatError) -> UInt16 { try integer("a short") }
    /// [int]
    public mutating func int() throws(CQLFormatError) -> Int32 { try integer("an int") }
    /// [long]
    public mutating func long() throws(CQLFormatError) -> Int64 { try integer("a long") }

    /// The next bytes, where they lie.
    public mutating func take(_ count: Int) throws(CQLFormatError) -> UnsafeRawBufferPointer {
        guard count >= 0, count <= remaining else {
            throw fail(.truncated, "\(count) bytes are announced, \(remaining) are there")
        }
        defer { position += count }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<(position + count)])
    }

    private mutating func text(_ count: Int) throws(CQLFormatError) -> String {
        let start = position
        let part = try take(count)
        guard let text = String(validating: part, as: UTF8.self) else {
            throw CQLFormatError(.invalid, at: start, "text that is not UTF-8")
        }
        return text
    }

    /// [string]
    public mutating func string() throws(CQLFormatError) -> String { try text(Int(short())) }

    /// [long string]
    public mutating func longString() throws(CQLFormatError) -> String {
        let count = try int()
        guard count >= 0 else { throw fail(.invalid, "a text of \(count) bytes") }
        return try text(Int(count))
    }

    /// [bytes]; nil where the length is negative.
    public mutating func optionalBytes() throws(CQLFormatError) -> UnsafeRawBufferPointer? {
        let count = try int()
        return count < 0 ? nil : try take(Int(count))
    }

    /// [short bytes]
    public mutating func shortBytes() throws(CQLFormatError) -> [UInt8] { Array(try take(Int(short()))) }

    /// A count of things of at least `bytesMin` bytes each, that may be there in what is left.
    mutating func count(_ value: Int, bytesMin: Int, _ what: StaticString) throws(CQLFormatError) -> Int {
        guard value >= 0 else { throw fail(.invalid, "\(value) \(what)") }
        guard value <= remaining / bytesMin else {
            throw fail(.truncated, "\(value) \(what) are announced, \(remaining) bytes are there")
        }
        return value
    }

    /// [string list]
    public mutating func stringList() throws(CQLFormatError) -> [String] {
        let count = try count(Int(short()), bytesMin: 2, "texts")
        var list: [String] = []
        for _ in 0..<count { list.append(try string()) }
        return list
    }

    /// [string map]; in the order of the bytes.
    public mutating func stringMap() throws(CQLFormatError) -> [(String, String)] {
        let count = try count(Int(short()), bytesMin: 4, "pairs of texts")
        var map: [(String, String)] = []
        for _ in 0..<count { map.append((try string(), try string())) }
        return map
    }

    /// [string multimap]; in the order of the bytes.
    public mutating func stringMultimap() throws(CQLFormatError) -> [(String, [String])] {
        let count = try count(Int(short()), bytesMin: 4, "lists of texts")
        var map: [(String, [String])] = []
        for _ in 0..<count { map.append((try string(), try stringList())) }
        return map
    }

    /// [bytes map]; in the order of the bytes.
    public mutating func bytesMap() throws(CQLFormatError) -> [CQLPayloadEntry] {
        let count = try count(Int(short()), bytesMin: 6, "entries of the payload")
        var map: [CQLPayloadEntry] = []
        for _ in 0..<count {
            let name = try string()
            map.append(CQLPayloadEntry(name: name, value: try optionalBytes().map(Array.init)))
        }
        return map
    }

    /// [uuid]
    public mutating func uuid() throws(CQLFormatError) -> CQLUUID {
        let high: UInt64 = try integer("a UUID")
        return CQLUUID(high: high, low: try integer("a UUID"))
    }

    /// [inetaddr]: 4 or 16 bytes behind their count.
    public mutating func inetAddress() throws(CQLFormatError) -> [UInt8] {
        let count = Int(try byte())
        guard count == 4 || count == 16 else { throw fail(.invalid, "an address of \(count) bytes") }
        return Array(try take(count))
    }

    /// [inet]
    public mutating func inet() throws(CQLFormatError) -> CQLEndpoint {
        let address = try inetAddress()
        let port = try int()
        guard (0...65_535).contains(port) else { throw fail(.invalid, "port \(port)") }
        return CQLEndpoint(address: address, port: Int(port))
    }

    /// [consistency]
    public mutating func consistency() throws(CQLFormatError) -> CQLConsistency {
        let start = position
        let value = try short()
        guard let consistency = CQLConsistency(rawValue: value) else {
            throw CQLFormatError(.unknown, at: start, "consistency \(value)")
        }
        return consistency
    }

    /// [unsigned vint]
    public mutating func unsignedVint() throws(CQLFormatError) -> UInt64 {
        let first = try byte()
        let extra = (~first).leadingZeroBitCount
        var value = extra >= 7 ? 0 : UInt64(first & (0xff >> UInt8(extra)))
        for byte in try take(extra) { value = value << 8 | UInt64(byte) }
        return value
    }

    /// [vint]
    public mutating func vint() throws(CQLFormatError) -> Int64 {
        let value = try unsignedVint()
        return Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1)
    }

    func end(_ what: @autoclosure () -> String) throws(CQLFormatError) {
        guard remaining == 0 else { throw fail(.invalid, "\(remaining) bytes behind \(what())") }
    }
}

/// A custom payload's entry.
public struct CQLPayloadEntry: Hashable, Sendable {
    public var name: String
    public var value: [UInt8]?

    public init(name: String, value: [UInt8]?) {
        self.name = name
        self.value = value
    }
}

/// An address as the protocol has it: 4 or 16 bytes and a port.
public struct CQLEndpoint: Hashable, Sendable {
    public var address: [UInt8]
    public var port: Int

    public init(address: [UInt8], port: Int) {
        self.address = address
        self.port = port
    }
}
