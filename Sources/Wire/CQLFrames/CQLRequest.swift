/// What a client sends (4.1 of the specification).
public enum CQLRequest: Hashable, Sendable {
    case startup([CQLStartupOption])
    case authResponse([UInt8]?)
    case options
    case query(String, CQLParameters)
    /// The keyspace may be given from v5 on.
    case prepare(String, keyspace: String?)
    case execute(CQLPreparedID, CQLParameters)
    case batch(CQLBatch)
    case register([String])
}

/// An option of STARTUP.
public struct CQLStartupOption: Hashable, Sendable {
    public var name: String
    public var value: String

    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

/// By what the server knows a prepared statement.
public struct CQLPreparedID: Hashable, Sendable {
    public var id: [UInt8]
    /// v5: which result the client expects.
    public var resultMetadataID: [UInt8]?

    public init(id: [UInt8], resultMetadataID: [UInt8]? = nil) {
        self.id = id
        self.resultMetadataID = resultMetadataID
    }
}

/// Values that are bound to a statement, as they go over the wire.
public struct CQLBoundValues: Hashable, Sendable {
    public private(set) var count = 0
    /// [value] after [value], each behind its name where there are names.
    public private(set) var bytes: [UInt8] = []
    public private(set) var hasNames = false

    public init() {}

    /// Values by the columns they are for. Throws where one is no value of its column's type.
    public init(_ values: [CQLValue], for columns: [CQLColumn]) throws(CQLValueError) {
        guard values.count <= columns.count else {
            throw CQLValueError("\(values.count) values where the statement takes \(columns.count)")
        }
        let buffer = CQLBuffer()
        for (value, column) in zip(values, columns) {
            do {
                try buffer.append(value, as: column.type)
            } catch {
                throw CQLValueError("\(column.name): \(error)")
            }
        }
        count = values.count
        bytes = Array(buffer.bytes)
    }

    /// Values whose types the client says, for a statement that is not prepared.
    public init(_ values: [(CQLValue, CQLType)]) throws(CQLValueError) {
        let buffer = CQLBuffer()
        for (value, type) in values { try buffer.append(value, as: type) }
        count = values.count
        bytes = Array(buffer.bytes)
    }

    /// Values by name.
    public init(named values: [(String, CQLValue, CQLType)]) throws(CQLValueError) {
        let buffer = CQLBuffer()
        for (name, value, type) in values {
            buffer.append(string: name)
            try buffer.append(value, as: type)
        }
        count = values.count
        bytes = Array(buffer.bytes)
        hasNames = !values.isEmpty
    }

    init(_ reader: inout CQLReader, hasNames: Bool) throws(CQLFormatError) {
        count = Int(try reader.short())
        // No values have no names, whatever the flag says.
        self.hasNames = hasNames && count > 0
        let start = reader.position
        for _ in 0..<count {
            if hasNames { _ = try reader.string() }
            _ = try reader.optionalBytes()
        }
        bytes = Array(reader.bytes[start..<reader.position])
    }

    /// The content of each value; nil where it is null or not set.
    public func contents() -> [[UInt8]?] {
        bytes.withUnsafeBytes { bytes in
            var reader = CQLReader(bytes)
            var contents: [[UInt8]?] = []
            for _ in 0..<count {
                if hasNames { _ = try? reader.string() }
                contents.append((try? reader.optionalBytes()).flatMap { $0 }.map(Array.init))
            }
            return contents
        }
    }
}

/// What goes with a statement (4.1.4).
public struct CQLParameters: Hashable, Sendable {
    public var consistency: CQLConsistency
    public var values: CQLBoundValues
    /// The answer leaves out what the client knows already.
    public var skipsMetadata = false
    /// Rows in a page; nil for the server's own.
    public var pageSize: Int32?
    public var pagingState: [UInt8]?
    public var serialConsistency: CQLConsistency?
    /// Microseconds since 1970, for what the statement writes without a timestamp of its own.
    public var timestampMicroseconds: Int64?
    /// v5.
    public var keyspace: String?
    /// v5: seconds since 1970 that the server takes for now.
    public var nowSeconds: Int32?

    public init(consistency: CQLConsistency = .localOne, values: CQLBoundValues = CQLBoundValues()) {
        self.consistency = consistency
        self.values = values
    }
}

/// Several statements as one (4.1.7).
public struct CQLBatch: Hashable, Sendable {
    /// What holds of them together. Raw values are the wire's.
    public enum Kind: UInt8, CaseIterable, Sendable {
        /// All or none, after a while.
        case logged = 0
        /// Nothing: worth it within one partition only.
        case unlogged = 1
        case counter = 2
    }

    /// One statement.
    public enum Statement: Hashable, Sendable {
        case query(String)
        case prepared([UInt8])
    }

    /// A statement with its values.
    public struct Entry: Hashable, Sendable {
        public var statement: Statement
        public var values: CQLBoundValues

        public init(_ statement: Statement, _ values: CQLBoundValues = CQLBoundValues()) {
            self.statement = statement
            self.values = values
        }
    }

    /// The most statements: their number is a [short].
    public static let entriesMax = 65_535

    public var kind: Kind
    public var entries: [Entry]
    public var consistency: CQLConsistency
    public var serialConsistency: CQLConsistency?
    public var timestampMicroseconds: Int64?
    public var keyspace: String?
    public var nowSeconds: Int32?

    public init(_ kind: Kind, _ entries: [Entry], consistency: CQLConsistency = .localOne) {
        self.kind = kind
        self.entries = entries
        self.consistency = consistency
    }
}

extension CQLRequest {
    public var opcode: CQLOpcode {
        switch self {
        case .startup: .startup
        case .authResponse: .authResponse
        case .options: .options
        case .query: .query
        case .prepare: .prepare
        case .execute: .execute
        case .batch: .batch
        case .register: .register
        }
    }

    /// Appends a frame with the request. What v4 cannot say is left out there.
    public func append(
        to buffer: CQLBuffer, _ version: CQLVersion, stream: Int16, tracing: Bool = false,
        payload: [CQLPayloadEntry] = []
    ) {
        var flags: CQLFrameFlags = tracing ? [.tracing] : []
        if !payload.isEmpty { flags.insert(.customPayload) }
        let start = CQLFrameHeader(
            version: version, isResponse: false, flags: flags, stream: stream, opcode: opcode, length: 0
        ).begin(buffer)
        if !payload.isEmpty { buffer.append(bytesMap: payload) }
        switch self {
        case .startup(let options): buffer.append(stringMap: options.map { ($0.name, $0.value) })
        case .authResponse(let token): buffer.append(optionalBytes: token)
        case .options: break
        case .query(let text, let parameters):
            buffer.append(longString: text)
            parameters.append(to: buffer, version)
        case .prepare(let text, let keyspace):
            buffer.append(longString: text)
            if version >= .v5 {
                buffer.append(bigEndian: Int32(keyspace == nil ? 0 : 1))
                if let keyspace { buffer.append(string: keyspace) }
            }
        case .execute(let id, let parameters):
            buffer.append(shortBytes: id.id)
            if version >= .v5 { buffer.append(shortBytes: id.resultMetadataID ?? []) }
            parameters.append(to: buffer, version)
        case .batch(let batch): batch.append(to: buffer, version)
        case .register(let types): buffer.append(stringList: types)
        }
        CQLFrameHeader.end(buffer, start)
    }

    /// Reads the body of a request, decompressed, and its custom payload.
    public static func read(
        _ header: CQLFrameHeader, _ body: UnsafeRawBufferPointer
    ) throws(CQLFormatError) -> (request: CQLRequest, payload: [CQLPayloadEntry]) {
        var reader = CQLReader(body)
        let payload = header.flags.contains(.customPayload) ? try reader.bytesMap() : []
        let request = try CQLRequest(header, &reader)
        try reader.end("a request")
        return (request, payload)
    }

    private init(_ header: CQLFrameHeader, _ reader: inout CQLReader) throws(CQLFormatError) {
        let version = header.version
        switch header.opcode {
        case .startup: self = .startup(try reader.stringMap().map { CQLStartupOption($0.0, $0.1) })
        case .authResponse: self = .authResponse(try reader.optionalBytes().map(Array.init))
        case .options: self = .options
        case .query: self = .query(try reader.longString(), try CQLParameters(&reader, version))
        case .prepare:
            let text = try reader.longString()
            guard version >= .v5 else {
                self = .prepare(text, keyspace: nil)
                return
            }
            self = .prepare(text, keyspace: try reader.int() & 1 != 0 ? try reader.string() : nil)
        case .execute:
            let id = try reader.shortBytes()
            let metadataID = version >= .v5 ? try reader.shortBytes() : nil
            self = .execute(
                CQLPreparedID(id: id, resultMetadataID: metadataID), try CQLParameters(&reader, version))
        case .batch: self = .batch(try CQLBatch(&reader, version))
        case .register: self = .register(try reader.stringList())
        default: throw reader.fail(.unknown, "a request that is a response: \(header.opcode)")
        }
    }
}

private enum Flag {
    static let values: UInt32 = 0x01
    static let skipMetadata: UInt32 = 0x02
    static let pageSize: UInt32 = 0x04
    static let pagingState: UInt32 = 0x08
    static let serialConsistency: UInt32 = 0x10
    static let timestamp: UInt32 = 0x20
    static let names: UInt32 = 0x40
    static let keyspace: UInt32 = 0x80
    static let now: UInt32 = 0x100
}

extension CQLBuffer {
    /// Flags are a byte in v4, an int in v5.
    fileprivate func append(flags: UInt32, _ version: CQLVersion) {
        if version >= .v5 { append(bigEndian: flags) } else { append(byte: UInt8(truncatingIfNeeded: flags)) }
    }
}

extension CQLReader {
    fileprivate mutating func flags(_ version: CQLVersion) throws(CQLFormatError) -> UInt32 {
        version >= .v5 ? UInt32(bitPattern: try int()) : UInt32(try byte())
    }
}

extension CQLParameters {
    public func append(to buffer: CQLBuffer, _ version: CQLVersion) {
        buffer.append(bigEndian: consistency.rawValue)
        var flags: UInt32 = 0
        if values.count > 0 { flags |= Flag.values }
        if values.hasNames { flags |= Flag.names }
        if skipsMetadata { flags |= Flag.skipMetadata }
        if pageSize != nil { flags |= Flag.pageSize }
        if pagingState != nil { flags |= Flag.pagingState }
        if serialConsistency != nil { flags |= Flag.serialConsistency }
        if timestampMicroseconds != nil { flags |= Flag.timestamp }
        if version >= .v5, keyspace != nil { flags |= Flag.keyspace }
        if version >= .v5, nowSeconds != nil { flags |= Flag.now }
        buffer.append(flags: flags, version)
        if values.count > 0 {
            buffer.append(bigEndian: UInt16(values.count))
            buffer.append(values.bytes)
        }
        if let pageSize { buffer.append(bigEndian: pageSize) }
        if let pagingState { buffer.append(optionalBytes: pagingState) }
        if let serialConsistency { buffer.append(bigEndian: serialConsistency.rawValue) }
        if let timestampMicroseconds { buffer.append(bigEndian: timestampMicroseconds) }
        if version >= .v5, let keyspace { buffer.append(string: keyspace) }
        if version >= .v5, let nowSeconds { buffer.append(bigEndian: nowSeconds) }
    }

    fileprivate init(_ reader: inout CQLReader, _ version: CQLVersion) throws(CQLFormatError) {
        consistency = try reader.consistency()
        let flags = try reader.flags(version)
        values =
            flags & Flag.values != 0
            ? try CQLBoundValues(&reader, hasNames: flags & Flag.names != 0) : CQLBoundValues()
        skipsMetadata = flags & Flag.skipMetadata != 0
        pageSize = flags & Flag.pageSize != 0 ? try reader.int() : nil
        pagingState = flags & Flag.pagingState != 0 ? try reader.optionalBytes().map(Array.init) ?? [] : nil
        serialConsistency = flags & Flag.serialConsistency != 0 ? try reader.consistency() : nil
        timestampMicroseconds = flags & Flag.timestamp != 0 ? try reader.long() : nil
        keyspace = version >= .v5 && flags & Flag.keyspace != 0 ? try reader.string() : nil
        nowSeconds = version >= .v5 && flags & Flag.now != 0 ? try reader.int() : nil
    }
}

extension CQLBatch {
    fileprivate func append(to buffer: CQLBuffer, _ version: CQLVersion) {
        buffer.append(byte: kind.rawValue)
        precondition(entries.count <= CQLBatch.entriesMax)
        buffer.append(bigEndian: UInt16(entries.count))
        for entry in entries {
            switch entry.statement {
            case .query(let text):
                buffer.append(byte: 0)
                buffer.append(longString: text)
            case .prepared(let id):
                buffer.append(byte: 1)
                buffer.append(shortBytes: id)
            }
            buffer.append(bigEndian: UInt16(entry.values.count))
            buffer.append(entry.values.bytes)
        }
        CQLBatchWriter.appendEnd(
            buffer, version, consistency, serialConsistency: serialConsistency, timestamp: timestampMicroseconds,
            keyspace: keyspace, nowSeconds: nowSeconds)
    }

    fileprivate init(_ reader: inout CQLReader, _ version: CQLVersion) throws(CQLFormatError) {
        let number = try reader.byte()
        guard let kind = Kind(rawValue: number) else { throw reader.fail(.unknown, "a batch of kind \(number)") }
        self.kind = kind
        entries = []
        for _ in 0..<(try reader.count(Int(reader.short()), bytesMin: 5, "statements")) {
            let number = try reader.byte()
            guard number <= 1 else { throw reader.fail(.unknown, "a statement of kind \(number)") }
            let statement: Statement =
                number == 0 ? .query(try reader.longString()) : .prepared(try reader.shortBytes())
            entries.append(Entry(statement, try CQLBoundValues(&reader, hasNames: false)))
        }
        consistency = try reader.consistency()
        let flags = try reader.flags(version)
        // The protocol has a flag for names there, but no server can take them (CASSANDRA-10246).
        guard flags & Flag.names == 0 else { throw reader.fail(.invalid, "names in a batch") }
        serialConsistency = flags & Flag.serialConsistency != 0 ? try reader.consistency() : nil
        timestampMicroseconds = flags & Flag.timestamp != 0 ? try reader.long() : nil
        keyspace = version >= .v5 && flags & Flag.keyspace != 0 ? try reader.string() : nil
        nowSeconds = version >= .v5 && flags & Flag.now != 0 ? try reader.int() : nil
    }
}

/// Writes a batch of prepared statements straight into a frame: nothing is kept of a statement but its bytes. One
/// thread at a time, and one writer at the end of a buffer.
///
/// Begin, then for each statement ``statement(_:values:)`` and its values by ``CQLBuffer/append(value:)-(Int64)`` and
/// the like, then finish.
public struct CQLBatchWriter {
    public let buffer: CQLBuffer
    private let version: CQLVersion
    private let start: Int
    private let countPlace: Int
    public private(set) var count = 0

    /// Begins a frame at the end of the buffer.
    public init(_ kind: CQLBatch.Kind, _ version: CQLVersion, into buffer: CQLBuffer) {
        self.buffer = buffer
        self.version = version
        start = CQLFrameHeader(
            version: version, isResponse: false, flags: [], stream: 0, opcode: .batch, length: 0
        ).begin(buffer)
        buffer.append(byte: kind.rawValue)
        countPlace = buffer.count
        buffer.append(bigEndian: UInt16(0))
    }

    /// Bytes of the frame so far.
    public var byteCount: Int { buffer.count - start }

    /// One more statement; exactly so many values follow. At most ``CQLBatch/entriesMax``.
    public mutating func statement(_ id: [UInt8], values: Int) {
        precondition(count < CQLBatch.entriesMax)
        count += 1
        buffer.append(byte: 1)
        buffer.append(shortBytes: id)
        buffer.append(bigEndian: UInt16(values))
    }

    /// Statements of another batch of the same version, as ``statements`` names their bytes. At most
    /// ``CQLBatch/entriesMax`` in all.
    public mutating func append(statements: UnsafeRawBufferPointer, count more: Int) {
        precondition(count + more <= CQLBatch.entriesMax)
        count += more
        buffer.append(statements)
    }

    /// Where the statements of the batch so far are in the buffer.
    public var statements: Range<Int> { (countPlace + 2)..<buffer.count }

    /// Ends the frame.
    public func finish(_ consistency: CQLConsistency, timestampMicroseconds: Int64? = nil) {
        buffer.set(bigEndian: UInt16(count), at: countPlace)
        CQLBatchWriter.appendEnd(
            buffer, version, consistency, serialConsistency: nil, timestamp: timestampMicroseconds, keyspace: nil,
            nowSeconds: nil)
        CQLFrameHeader.end(buffer, start)
    }

    static func appendEnd(
        _ buffer: CQLBuffer, _ version: CQLVersion, _ consistency: CQLConsistency,
        serialConsistency: CQLConsistency?, timestamp: Int64?, keyspace: String?, nowSeconds: Int32?
    ) {
        buffer.append(bigEndian: consistency.rawValue)
        var flags: UInt32 = 0
        if serialConsistency != nil { flags |= Flag.serialConsistency }
        if timestamp != nil { flags |= Flag.timestamp }
        if version >= .v5, keyspace != nil { flags |= Flag.keyspace }
        if version >= .v5, nowSeconds != nil { flags |= Flag.now }
        buffer.append(flags: flags, version)
        if let serialConsistency { buffer.append(bigEndian: serialConsistency.rawValue) }
        if let timestamp { buffer.append(bigEndian: timestamp) }
        if version >= .v5, let keyspace { buffer.append(string: keyspace) }
        if version >= .v5, let nowSeconds { buffer.append(bigEndian: nowSeconds) }
    }
}
