/// The rows of a result, as they came: cells are read where they lie.
public struct CQLRows: Hashable, Sendable {
    public let metadata: CQLRowsMetadata
    public let count: Int
    /// The cells, one behind the other, each behind its length. Checked when the rows were read.
    let content: [UInt8]

    /// Reads rows. Throws where a cell ends outside.
    init(_ reader: inout CQLReader, _ version: CQLVersion) throws(CQLFormatError) {
        metadata = try reader.rowsMetadata(version)
        let rows = Int(try reader.int())
        let cellBytes = metadata.columnCount * 4
        guard rows >= 0, cellBytes > 0 || rows == 0, rows <= reader.remaining / max(1, cellBytes) else {
            throw reader.fail(.truncated, "\(rows) rows of \(metadata.columnCount) columns")
        }
        count = rows
        let start = reader.position
        for _ in 0..<(rows * metadata.columnCount) { _ = try reader.optionalBytes() }
        content = Array(reader.bytes[start..<reader.position])
    }

    /// Rows of values, for whoever answers requests. Throws where a value is none of its column's type.
    public init(_ metadata: CQLRowsMetadata, _ rows: [[CQLValue]]) throws(CQLValueError) {
        self.metadata = metadata
        count = rows.count
        let buffer = CQLBuffer()
        for row in rows {
            guard row.count == metadata.columnCount, let columns = metadata.columns else {
                throw CQLValueError("\(row.count) values where \(metadata.columnCount) columns are described")
            }
            for (value, column) in zip(row, columns) { try buffer.append(value, as: column.type) }
        }
        content = Array(buffer.bytes)
    }

    private init(_ rows: CQLRows, _ metadata: CQLRowsMetadata) {
        self.metadata = metadata
        count = rows.count
        content = rows.content
    }

    /// The same rows, described otherwise, for whoever answers requests. The number of columns stays.
    public func replacing(_ metadata: CQLRowsMetadata) -> CQLRows {
        precondition(metadata.columnCount == self.metadata.columnCount)
        return CQLRows(self, metadata)
    }

    /// The same rows with the columns that the statement is known to give, where the answer left them out.
    public func described(by columns: [CQLColumn]?) -> CQLRows {
        guard metadata.columns == nil, let columns, columns.count == metadata.columnCount else { return self }
        var described = metadata
        described.columns = columns
        return CQLRows(self, described)
    }

    /// Calls `body` with each row; its bytes are valid during the call.
    public func forEach<Failure: Error>(_ body: (CQLRow) throws(Failure) -> Void) throws(Failure) {
        guard count > 0 else { return }
        let columnCount = metadata.columnCount
        let failure: Failure? = withUnsafeTemporaryAllocation(of: CQLRow.Cell.self, capacity: columnCount) { cells in
            content.withUnsafeBytes { bytes -> Failure? in
                var position = 0
                for _ in 0..<count {
                    for column in 0..<columnCount {
                        let length = Int32(
                            bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: Int32.self))
                        position += 4
                        cells.initializeElement(at: column, to: CQLRow.Cell(start: position, length: Int(length)))
                        position += max(0, Int(length))
                    }
                    do throws(Failure) {
                        try body(
                            CQLRow(bytes: bytes, cells: UnsafeBufferPointer(cells), columns: metadata.columns ?? []))
                    } catch {
                        return error
                    }
                }
                return nil
            }
        }
        if let failure { throw failure }
    }

    /// All values. Throws where one is none of its column's type, or the columns are not described.
    public func values() throws(CQLFormatError) -> [[CQLValue]] {
        var rows: [[CQLValue]] = []
        rows.reserveCapacity(count)
        try forEach { (row) throws(CQLFormatError) in rows.append(try row.values()) }
        return rows
    }
}

/// One row, during a call of ``CQLRows/forEach(_:)``. Columns are counted from 0; one that is not there is null.
public struct CQLRow {
    struct Cell {
        let start: Int
        let length: Int
    }

    let bytes: UnsafeRawBufferPointer
    let cells: UnsafeBufferPointer<Cell>
    public let columns: [CQLColumn]

    public var count: Int { cells.count }

    /// The content of a cell; nil where it is null.
    public func bytes(_ column: Int) -> UnsafeRawBufferPointer? {
        guard cells.indices.contains(column), cells[column].length >= 0 else { return nil }
        let cell = cells[column]
        return UnsafeRawBufferPointer(rebasing: bytes[cell.start..<(cell.start + cell.length)])
    }

    /// A text; bytes that are not UTF-8 are replaced.
    public func text(_ column: Int) -> String? { bytes(column).map { String(decoding: $0, as: UTF8.self) } }

    /// A `bigint`, `counter`, `timestamp` or `time`; nil where the cell has not eight bytes.
    public func int64(_ column: Int) -> Int64? {
        guard let bytes = bytes(column), bytes.count == 8 else { return nil }
        return Int64(bigEndian: bytes.loadUnaligned(as: Int64.self))
    }

    /// An `int`; nil where the cell has not four bytes.
    public func int32(_ column: Int) -> Int32? {
        guard let bytes = bytes(column), bytes.count == 4 else { return nil }
        return Int32(bigEndian: bytes.loadUnaligned(as: Int32.self))
    }

    /// Any value by its column's type.
    public func value(_ column: Int) throws(CQLFormatError) -> CQLValue {
        guard columns.indices.contains(column) else {
            throw CQLFormatError(.unknown, at: 0, "column \(column) is not described")
        }
        guard let bytes = bytes(column) else { return .null }
        return try CQLValue(bytes, as: columns[column].type)
    }

    /// All values of the row, by their columns' types.
    public func values() throws(CQLFormatError) -> [CQLValue] {
        var values: [CQLValue] = []
        for column in 0..<count { values.append(try value(column)) }
        return values
    }
}
