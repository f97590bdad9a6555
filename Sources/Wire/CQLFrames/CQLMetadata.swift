/// A column of a result, or a value that a statement takes.
public struct CQLColumn: Hashable, Sendable {
    public var keyspace: String
    public var table: String
    public var name: String
    public var type: CQLType

    public init(keyspace: String, table: String, name: String, type: CQLType) {
        self.keyspace = keyspace
        self.table = table
        self.name = name
        self.type = type
    }
}

/// What is said of rows (4.2.5.2).
public struct CQLRowsMetadata: Hashable, Sendable {
    /// How many columns there are, also where they are not described.
    public var columnCount: Int
    /// nil where the request asked to leave them out.
    public var columns: [CQLColumn]?
    /// Where the next page begins; nil after the last.
    public var pagingState: [UInt8]?
    /// v5: the prepared statement's result has changed, and this is its new id.
    public var newMetadataID: [UInt8]?

    public init(
        columnCount: Int, columns: [CQLColumn]?, pagingState: [UInt8]? = nil, newMetadataID: [UInt8]? = nil
    ) {
        self.columnCount = columnCount
        self.columns = columns
        self.pagingState = pagingState
        self.newMetadataID = newMetadataID
    }
}

/// What a prepared statement takes, and which of it makes the partition key.
public struct CQLParametersMetadata: Hashable, Sendable {
    public var columns: [CQLColumn]
    /// Indices of the values that make the partition key, in its order; empty where not all are bound.
    public var partitionKey: [Int]

    public init(columns: [CQLColumn], partitionKey: [Int]) {
        self.columns = columns
        self.partitionKey = partitionKey
    }
}

private enum Flag {
    static let globalTable: Int32 = 0x01
    static let morePages: Int32 = 0x02
    static let noMetadata: Int32 = 0x04
    static let changed: Int32 = 0x08
}

extension CQLReader {
    mutating func rowsMetadata(_ version: CQLVersion) throws(CQLFormatError) -> CQLRowsMetadata {
        let flags = try int()
        let count = Int(try int())
        guard (0...CQLLimits.columnsMax).contains(count) else { throw fail(.tooLarge, "\(count) columns") }
        var metadata = CQLRowsMetadata(columnCount: count, columns: nil)
        if flags & Flag.morePages != 0 { metadata.pagingState = try optionalBytes().map(Array.init) ?? [] }
        if flags & Flag.changed != 0 {
            guard version >= .v5 else { throw fail(.invalid, "metadata that changed, in v4") }
            metadata.newMetadataID = try shortBytes()
        }
        if flags & Flag.noMetadata == 0 { metadata.columns = try columns(count, flags) }
        return metadata
    }

    mutating func parametersMetadata() throws(CQLFormatError) -> CQLParametersMetadata {
        let flags = try int()
        let columnCount = Int(try int())
        guard (0...CQLLimits.columnsMax).contains(columnCount) else {
            throw fail(.tooLarge, "\(columnCount) values")
        }
        var key: [Int] = []
        for _ in 0..<(try count(Int(int()), bytesMin: 2, "columns of the partition key")) {
            let index = Int(try short())
            guard index < columnCount else { throw fail(.invalid, "value \(index) of \(columnCount)") }
            key.append(index)
        }
        return CQLParametersMetadata(columns: try columns(columnCount, flags), partitionKey: key)
    }

    private mutating func columns(_ count: Int, _ flags: Int32) throws(CQLFormatError) -> [CQLColumn] {
        var table: (String, String)?
        if flags & Flag.globalTable != 0 { table = (try string(), try string()) }
        var columns: [CQLColumn] = []
        for _ in 0..<(try self.count(count, bytesMin: 4, "columns")) {
            let (keyspace, name) = if let table { table } else { (try string(), try string()) }
            columns.append(CQLColumn(keyspace: keyspace, table: name, name: try string(), type: try type()))
        }
        return columns
    }
}

extension CQLBuffer {
    func append(rowsMetadata metadata: CQLRowsMetadata) {
        var flags: Int32 = 0
        if metadata.pagingState != nil { flags |= Flag.morePages }
        if metadata.newMetadataID != nil { flags |= Flag.changed }
        let global = metadata.columns.flatMap(CQLBuffer.globalTable)
        if metadata.columns == nil { flags |= Flag.noMetadata } else if global != nil { flags |= Flag.globalTable }
        append(bigEndian: flags)
        append(bigEndian: Int32(metadata.columnCount))
        if let state = metadata.pagingState { append(optionalBytes: state) }
        if let id = metadata.newMetadataID { append(shortBytes: id) }
        if let columns = metadata.columns { append(columns: columns, global) }
    }

    func append(parametersMetadata metadata: CQLParametersMetadata) {
        let global = CQLBuffer.globalTable(metadata.columns)
        append(bigEndian: global == nil ? Int32(0) : Flag.globalTable)
        append(bigEndian: Int32(metadata.columns.count))
        append(bigEndian: Int32(metadata.partitionKey.count))
        for index in metadata.partitionKey { append(bigEndian: UInt16(index)) }
        append(columns: metadata.columns, global)
    }

    private static func globalTable(_ columns: [CQLColumn]) -> CQLColumn? {
        guard let first = columns.first,
            columns.allSatisfy({ $0.keyspace == first.keyspace && $0.table == first.table })
        else { return nil }
        return first
    }

    private func append(columns: [CQLColumn], _ global: CQLColumn?) {
        if let global {
            append(string: global.keyspace)
            append(string: global.table)
        }
        for column in columns {
            if global == nil {
                append(string: column.keyspace)
                append(string: column.table)
            }
            append(string: column.name)
            append(type: column.type)
        }
    }
}
