extension CQLValue {
    /// Reads the content of a value that is not null.
    public init(_ bytes: UnsafeRawBufferPointer, as type: CQLType) throws(CQLFormatError) {
        try self.init(bytes, as: type, depth: 0)
    }

    private init(_ bytes: UnsafeRawBufferPointer, as type: CQLType, depth: Int) throws(CQLFormatError) {
        guard depth < CQLLimits.typeDepthMax else {
            throw CQLFormatError(.tooLarge, at: 0, "values deeper than \(depth)")
        }
        var reader = CQLReader(bytes)
        switch type {
        case .ascii, .text:
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw reader.fail(.invalid, "text that is not UTF-8")
            }
            self = .text(text)
            return
        case .blob, .custom:
            self = .blob(Array(bytes))
            return
        default: break
        }
        if bytes.isEmpty {
            self = .empty
            return
        }
        self = try CQLValue.read(&reader, type, depth)
        try reader.end("a value of type \(type)")
    }

    private static func read(
        _ reader: inout CQLReader, _ type: CQLType, _ depth: Int
    ) throws(CQLFormatError) -> CQLValue {
        switch type {
        case .boolean:
            // Cassandra takes any other byte for true as well; what it writes is 0 or 1.
            return .boolean(try reader.byte() != 0)
        case .tinyint: return .tinyint(Int8(bitPattern: try reader.byte()))
        case .smallint: return .smallint(Int16(bitPattern: try reader.short()))
        case .int: return .int(try reader.int())
        case .bigint, .counter: return .bigint(try reader.long())
        case .float: return .float(Float(bitPattern: UInt32(bitPattern: try reader.int())))
        case .double: return .double(Double(bitPattern: UInt64(bitPattern: try reader.long())))
        case .timestamp: return .timestamp(try reader.long())
        case .date: return .date(Int64(UInt32(bitPattern: try reader.int())) - 1 << 31)
        case .time: return .time(try reader.long())
        case .uuid, .timeuuid: return .uuid(try reader.uuid())
        case .varint: return .varint(CQLVarint(bytes: Array(try reader.take(reader.remaining))))
        case .decimal:
            let scale = try reader.int()
            guard reader.remaining > 0 else { throw reader.fail(.truncated, "a decimal without digits") }
            return .decimal(
                CQLDecimal(scale: scale, unscaled: CQLVarint(bytes: Array(try reader.take(reader.remaining)))))
        case .inet:
            guard reader.remaining == 4 || reader.remaining == 16 else {
                throw reader.fail(.invalid, "an address of \(reader.remaining) bytes")
            }
            return .inet(Array(try reader.take(reader.remaining)))
        case .duration: return .duration(try duration(&reader))
        case .list(let element): return .list(try elements(&reader, element, depth))
        case .set(let element): return .set(try elements(&reader, element, depth))
        case .map(let key, let value):
            let count = try reader.count(Int(reader.int()), bytesMin: 8, "pairs")
            var entries: [CQLMapEntry] = []
            for _ in 0..<count {
                entries.append(
                    CQLMapEntry(try element(&reader, key, depth), try element(&reader, value, depth)))
            }
            return .map(entries)
        case .tuple(let types): return .tuple(try fields(&reader, types, depth))
        case .userDefined(let user): return .userDefined(try fields(&reader, user.fields.map(\.type), depth))
        case .vector(let element, let dimension): return .vector(try vector(&reader, element, dimension, depth))
        case .ascii, .text, .blob, .custom:
            return try CQLValue(reader.take(reader.remaining), as: type, depth: depth)
        }
    }

    private static func duration(_ reader: inout CQLReader) throws(CQLFormatError) -> CQLDuration {
        let months = try reader.vint()
        let days = try reader.vint()
        let nanoseconds = try reader.vint()
        guard let months = Int32(exactly: months), let days = Int32(exactly: days) else {
            throw reader.fail(.invalid, "a duration of \(months) months and \(days) days")
        }
        return CQLDuration(months: months, days: days, nanoseconds: nanoseconds)
    }

    private static func element(
        _ reader: inout CQLReader, _ type: CQLType, _ depth: Int
    ) throws(CQLFormatError) -> CQLValue {
        guard let bytes = try reader.optionalBytes() else { return .null }
        return try CQLValue(bytes, as: type, depth: depth + 1)
    }

    private static func elements(
        _ reader: inout CQLReader, _ type: CQLType, _ depth: Int
    ) throws(CQLFormatError) -> [CQLValue] {
        let count = try reader.count(Int(reader.int()), bytesMin: 4, "elements")
        var list: [CQLValue] = []
        for _ in 0..<count { list.append(try element(&reader, type, depth)) }
        return list
    }

    /// Values that were written before a field was added end before it.
    private static func fields(
        _ reader: inout CQLReader, _ types: [CQLType], _ depth: Int
    ) throws(CQLFormatError) -> [CQLValue] {
        var fields: [CQLValue] = []
        for type in types where reader.remaining > 0 { fields.append(try element(&reader, type, depth)) }
        return fields
    }

    private static func vector(
        _ reader: inout CQLReader, _ type: CQLType, _ dimension: Int, _ depth: Int
    ) throws(CQLFormatError) -> [CQLValue] {
        var elements: [CQLValue] = []
        for _ in 0..<dimension {
            let length: Int
            if type.hasFixedLengthInVector, let fixed = type.fixedLength {
                length = fixed
            } else {
                guard let announced = Int(exactly: try reader.unsignedVint()) else {
                    throw reader.fail(.tooLarge, "an element past all limits")
                }
                length = announced
            }
            elements.append(try CQLValue(reader.take(length), as: type, depth: depth + 1))
        }
        return elements
    }
}

extension CQLBuffer {
    /// [value]: the content behind its length, or null, or not set. Throws where it is no value of the type.
    public func append(_ value: CQLValue, as type: CQLType) throws(CQLValueError) {
        switch value {
        case .null: return appendNull()
        case .unset: return appendUnset()
        default: break
        }
        let place = count
        append(bigEndian: Int32(0))
        do {
            try append(content: value, as: type)
        } catch {
            truncate(to: place)
            throw error
        }
        guard let length = Int32(exactly: count - place - 4) else {
            truncate(to: place)
            throw CQLValueError("a value of more than 2 GiB")
        }
        set(bigEndian: length, at: place)
    }

    /// The content of a value that is neither null nor unset.
    public func append(content value: CQLValue, as type: CQLType) throws(CQLValueError) {
        switch (type, value) {
        case (_, .empty): break
        case (.ascii, .text(let text)), (.text, .text(let text)):
            var text = text
            text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
        case (.blob, .blob(let bytes)), (.custom, .blob(let bytes)): append(bytes)
        case (.boolean, .boolean(let value)): append(byte: value ? 1 : 0)
        case (.tinyint, _): append(bigEndian: try number(value, type) as Int8)
        case (.smallint, _): append(bigEndian: try number(value, type) as Int16)
        case (.int, _): append(bigEndian: try number(value, type) as Int32)
        case (.bigint, _), (.counter, _): append(bigEndian: try number(value, type) as Int64)
        case (.float, .float(let value)): append(bigEndian: value.bitPattern)
        case (.double, .double(let value)): append(bigEndian: value.bitPattern)
        case (.timestamp, .timestamp(let value)), (.time, .time(let value)): append(bigEndian: value)
        case (.date, .date(let days)):
            guard let shifted = UInt32(exactly: days &+ 1 << 31) else {
                throw CQLValueError("day \(days) is past what a date holds")
            }
            append(bigEndian: shifted)
        case (.uuid, .uuid(let uuid)), (.timeuuid, .uuid(let uuid)): append(uuid: uuid)
        case (.varint, .varint(let number)): append(number.bytes)
        case (.varint, _): append(CQLVarint(try number(value, type)).bytes)
        case (.decimal, .decimal(let decimal)):
            append(bigEndian: decimal.scale)
            append(decimal.unscaled.bytes)
        case (.inet, .inet(let address)):
            guard address.count == 4 || address.count == 16 else {
                throw CQLValueError("an address of \(address.count) bytes")
            }
            append(address)
        case (.duration, .duration(let duration)):
            append(vint: Int64(duration.months))
            append(vint: Int64(duration.days))
            append(vint: duration.nanoseconds)
        default: try append(collection: value, as: type)
        }
    }

    private func append(collection value: CQLValue, as type: CQLType) throws(CQLValueError) {
        switch (type, value) {
        case (.list(let element), .list(let values)), (.set(let element), .set(let values)):
            append(bigEndian: Int32(values.count))
            for value in values { try append(value, as: element) }
        case (.map(let key, let element), .map(let entries)):
            append(bigEndian: Int32(entries.count))
            for entry in entries {
                try append(entry.key, as: key)
                try append(entry.value, as: element)
            }
        case (.tuple(let types), .tuple(let values)): try append(fields: values, types)
        case (.userDefined(let user), .userDefined(let values)): try append(fields: values, user.fields.map(\.type))
        case (.vector(let element, let dimension), .vector(let values)):
            guard values.count == dimension else {
                throw CQLValueError("a vector of \(values.count) elements where \(dimension) belong")
            }
            for value in values {
                let scratch = CQLBuffer()
                try scratch.append(content: value, as: element)
                if element.hasFixedLengthInVector {
                    guard scratch.count == element.fixedLength else {
                        throw CQLValueError("an element of \(scratch.count) bytes in a vector")
                    }
                } else {
                    append(unsignedVint: UInt64(scratch.count))
                }
                append(scratch.bytes)
            }
        default: throw CQLValueError("\(value) is no value of type \(type)")
        }
    }

    private func append(fields values: [CQLValue], _ types: [CQLType]) throws(CQLValueError) {
        guard values.count <= types.count else {
            throw CQLValueError("\(values.count) fields where \(types.count) belong")
        }
        for (value, type) in zip(values, types) { try append(value, as: type) }
    }

    private func number<T: FixedWidthInteger>(_ value: CQLValue, _ type: CQLType) throws(CQLValueError) -> T {
        guard let integer = value.integer, let number = T(exactly: integer) else {
            throw CQLValueError("\(value) is no value of type \(type)")
        }
        return number
    }
}
