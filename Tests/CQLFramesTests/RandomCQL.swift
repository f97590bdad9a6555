import TestSupport

@testable import CQLFrames

/// Types, values, requests and responses by seed.
struct RandomCQL {
    var numbers: SeededNumbers

    init(seed: UInt64) { numbers = SeededNumbers(seed: seed) }

    mutating func below(_ bound: Int) -> Int { numbers.below(bound) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }

    mutating func bytes(_ most: Int) -> [UInt8] {
        (0..<below(most + 1)).map { _ in UInt8(truncatingIfNeeded: numbers.next()) }
    }

    mutating func text(_ most: Int = 12) -> String {
        String(
            (0..<below(most + 1)).map { _ in ["a", "Z", "0", "_", " ", "é", "し", "\0", "\""][below(9)] as Character })
    }

    mutating func pick<T>(_ list: [T]) -> T { list[below(list.count)] }

    mutating func optional<T>(_ make: (inout RandomCQL) -> T) -> T? { chance(50) ? make(&self) : nil }

    mutating func list<T>(_ most: Int, _ make: (inout RandomCQL) -> T) -> [T] {
        var list: [T] = []
        for _ in 0..<below(most + 1) { list.append(make(&self)) }
        return list
    }

    // MARK: Types and values

    static let simple: [CQLType] = [
        .ascii, .bigint, .blob, .boolean, .counter, .decimal, .double, .float, .int, .timestamp, .uuid, .text, .varint,
        .timeuuid, .inet, .date, .time, .smallint, .tinyint, .duration,
    ]

    mutating func type(depth: Int = 0) -> CQLType {
        guard depth < 3, chance(40) else {
            return chance(3) ? .custom("com.example.Odd\(below(9))") : pick(Self.simple)
        }
        switch below(6) {
        case 0: return .list(type(depth: depth + 1))
        case 1: return .set(type(depth: depth + 1))
        case 2: return .map(type(depth: depth + 1), type(depth: depth + 1))
        case 3: return .tuple([type(depth: depth + 1)] + list(2) { $0.type(depth: depth + 1) })
        case 4: return .vector(pick(Self.simple), dimension: 1 + below(4))
        default:
            return .userDefined(
                CQLUserType(
                    keyspace: text(), name: text(),
                    fields: [CQLUserType.Field(text(), type(depth: depth + 1))]
                        + list(2) { CQLUserType.Field($0.text(), $0.type(depth: depth + 1)) }))
        }
    }

    /// A value of a type; null only where it may be.
    mutating func value(_ type: CQLType, nullable: Bool = true) -> CQLValue {
        if nullable, chance(10) { return .null }
        switch type {
        case .ascii, .text: return .text(text(300))
        case .blob, .custom: return .blob(bytes(300))
        case .boolean: return .boolean(chance(50))
        case .tinyint: return .tinyint(Int8(truncatingIfNeeded: numbers.next()))
        case .smallint: return .smallint(Int16(truncatingIfNeeded: numbers.next()))
        case .int: return .int(Int32(truncatingIfNeeded: numbers.next()))
        case .bigint, .counter: return .bigint(Int64(truncatingIfNeeded: numbers.next()))
        case .float: return .float(Float(bitPattern: UInt32(truncatingIfNeeded: numbers.next()) & 0xbf7f_ffff))
        case .double: return .double(Double(Int64(truncatingIfNeeded: numbers.next())) / 3)
        case .timestamp: return .timestamp(Int64(truncatingIfNeeded: numbers.next()))
        case .time: return .time(Int64(below(86_400_000_000_000)))
        case .date: return .date(Int64(Int32(truncatingIfNeeded: numbers.next())))
        case .uuid, .timeuuid: return .uuid(CQLUUID(high: numbers.next(), low: numbers.next()))
        case .varint: return .varint(CQLVarint(bytes: [UInt8(below(256))] + bytes(20)))
        case .decimal:
            return .decimal(
                CQLDecimal(
                    scale: Int32(truncatingIfNeeded: numbers.next()),
                    unscaled: CQLVarint(bytes: [UInt8(below(256))] + bytes(20))))
        case .inet: return .inet((0..<(chance(50) ? 4 : 16)).map { _ in UInt8(below(256)) })
        case .duration:
            return .duration(
                CQLDuration(
                    months: Int32(truncatingIfNeeded: numbers.next()), days: Int32(truncatingIfNeeded: numbers.next()),
                    nanoseconds: Int64(truncatingIfNeeded: numbers.next()) >> Int64(below(64))))
        case .list(let element): return .list(list(4) { $0.value(element) })
        case .set(let element): return .set(list(4) { $0.value(element) })
        case .map(let key, let element):
            return .map(list(4) { CQLMapEntry($0.value(key, nullable: false), $0.value(element)) })
        case .tuple(let types): return .tuple(types.map { value($0) })
        case .userDefined(let user):
            return .userDefined(user.fields.prefix(1 + below(user.fields.count)).map { value($0.type) })
        case .vector(let element, let dimension):
            return .vector((0..<dimension).map { _ in value(element, nullable: false) })
        }
    }

    // MARK: Responses

    mutating func column(_ table: (String, String)?) -> CQLColumn {
        CQLColumn(keyspace: table?.0 ?? text(), table: table?.1 ?? text(), name: text(), type: type())
    }

    mutating func columns() -> [CQLColumn] {
        let table = optional { ($0.text(), $0.text()) }
        return list(4) { $0.column(table) }
    }

    mutating func metadata(_ version: CQLVersion) -> CQLRowsMetadata {
        let columns = columns()
        return CQLRowsMetadata(
            columnCount: columns.count, columns: columns, pagingState: optional { $0.bytes(20) },
            newMetadataID: version >= .v5 ? optional { $0.bytes(16) } : nil)
    }

    mutating func consistency() -> CQLConsistency { pick(CQLConsistency.allCases) }

    mutating func failures(_ version: CQLVersion) -> CQLServerError.Failures {
        guard version >= .v5 else { return .count(Int32(below(9))) }
        return .reasons(
            list(3) { random in
                CQLServerError.Failure(
                    address: (0..<(random.chance(50) ? 4 : 16)).map { _ in UInt8(random.below(256)) },
                    reason: UInt16(random.below(6)))
            })
    }

    mutating func error(_ version: CQLVersion) -> CQLServerError {
        let (a, b) = (Int32(below(9)), Int32(below(9)))
        let type = pick([
            CQLWriteType.simple, .batch, .unloggedBatch, .counter, .batchLog, .compareAndSet, .view, .changeDataCapture,
            .other("NEW"),
        ])
        let details: [(Int32, CQLServerError.Detail)] = [
            (0x0000, .server), (0x000a, .protocol), (0x0100, .badCredentials),
            (0x1000, .unavailable(consistency(), required: a, alive: b)), (0x1001, .overloaded),
            (0x1002, .bootstrapping), (0x1003, .truncating),
            (
                0x1100,
                .writeTimeout(
                    consistency(), received: a, required: b, type: type,
                    contentions: version >= .v5 && type == .compareAndSet ? UInt16(below(9)) : nil)
            ), (0x1200, .readTimeout(consistency(), received: a, required: b, hasData: chance(50))),
            (
                0x1300,
                .readFailure(
                    consistency(), received: a, required: b, failures: failures(version), hasData: chance(50))
            ), (0x1400, .functionFailure(keyspace: text(), function: text(), arguments: list(3) { $0.text() })),
            (
                0x1500,
                .writeFailure(consistency(), received: a, required: b, failures: failures(version), type: type)
            ), (0x1600, .changeDataCaptureFailure),
            (0x1700, .lightweightTransactionUnknown(consistency(), received: a, required: b)), (0x2000, .syntax),
            (0x2100, .unauthorized), (0x2200, .invalid), (0x2300, .configuration),
            (0x2400, .alreadyExists(keyspace: text(), table: text())), (0x2500, .unprepared(id: bytes(16))),
            (0x7777, .other),
        ]
        let (code, detail) = pick(details)
        return CQLServerError(code: code, message: text(40), detail: detail)
    }

    mutating func schemaChange() -> CQLSchemaChange {
        let target: CQLSchemaChange.Target = pick([
            .keyspace, .table(text()), .type(text()), .function(text(), arguments: list(2) { $0.text() }),
            .aggregate(text(), arguments: list(2) { $0.text() }),
        ])
        return CQLSchemaChange(pick(CQLSchemaChange.Change.allCases), keyspace: text(), target)
    }

    mutating func endpoint() -> CQLEndpoint {
        CQLEndpoint(address: (0..<(chance(50) ? 4 : 16)).map { _ in UInt8(below(256)) }, port: below(65_536))
    }

    mutating func rows(_ version: CQLVersion) -> CQLRows {
        let metadata = metadata(version)
        let rows =
            metadata.columnCount == 0
            ? [] : list(5) { random in metadata.columns!.map { random.value($0.type) } }
        return try! CQLRows(metadata, rows)
    }

    mutating func response(_ version: CQLVersion) -> CQLResponse {
        switch below(12) {
        case 0, 1: .error(error(version))
        case 2: .ready
        case 3: .authenticate(text())
        case 4: .supported(list(3) { random in CQLOption(random.text(), random.list(3) { $0.text() }) })
        case 5: .result(.void)
        case 6: .result(.rows(rows(version)))
        case 7: .result(.setKeyspace(text()))
        case 8:
            .result(.prepared(prepared(version)))
        case 9: .result(.schemaChange(schemaChange()))
        case 10:
            .event(
                pick([
                    .topology(pick(CQLEvent.Topology.allCases), endpoint()),
                    .status(pick(CQLEvent.Status.allCases), endpoint()), .schema(schemaChange()),
                ]))
        default: chance(50) ? .authChallenge(optional { $0.bytes(9) }) : .authSuccess(optional { $0.bytes(9) })
        }
    }

    mutating func prepared(_ version: CQLVersion) -> CQLPreparedResult {
        let columns = columns()
        return CQLPreparedResult(
            id: bytes(16), resultMetadataID: version >= .v5 ? bytes(16) : nil,
            parameters: CQLParametersMetadata(
                columns: columns, partitionKey: columns.isEmpty ? [] : list(2) { $0.below(columns.count) }),
            result: metadata(version))
    }

    mutating func payload() -> [CQLPayloadEntry] {
        chance(70)
            ? [] : list(2) { random in CQLPayloadEntry(name: random.text(), value: random.optional { $0.bytes(9) }) }
    }

    mutating func answer(_ version: CQLVersion) -> CQLAnswer {
        CQLAnswer(
            response(version), tracingID: chance(30) ? CQLUUID(high: numbers.next(), low: numbers.next()) : nil,
            warnings: chance(30) ? list(2) { $0.text() } : [], payload: payload())
    }

    // MARK: Requests

    mutating func boundValues(names: Bool = true) -> CQLBoundValues {
        if names, chance(20) {
            return try! CQLBoundValues(
                named: list(4) { random in
                    let type = random.type()
                    return (random.text(), random.value(type), type)
                })
        }
        return try! CQLBoundValues(
            list(4) { random in
                let type = random.type()
                return (random.chance(10) ? .unset : random.value(type), type)
            })
    }

    mutating func parameters(_ version: CQLVersion) -> CQLParameters {
        var parameters = CQLParameters(consistency: consistency(), values: boundValues())
        parameters.skipsMetadata = chance(50)
        parameters.pageSize = optional { Int32($0.below(5000)) }
        parameters.pagingState = optional { $0.bytes(20) }
        parameters.serialConsistency = optional { $0.pick([.serial, .localSerial]) }
        parameters.timestampMicroseconds = optional { Int64(truncatingIfNeeded: $0.numbers.next()) }
        guard version >= .v5 else { return parameters }
        parameters.keyspace = optional { $0.text() }
        parameters.nowSeconds = optional { Int32($0.below(1 << 30)) }
        return parameters
    }

    mutating func request(_ version: CQLVersion) -> CQLRequest {
        switch below(8) {
        case 0: return .startup(list(3) { CQLStartupOption($0.text(), $0.text()) })
        case 1: return .authResponse(optional { $0.bytes(20) })
        case 2: return .options
        case 3: return .query(text(40), parameters(version))
        case 4: return .prepare(text(40), keyspace: version >= .v5 ? optional { $0.text() } : nil)
        case 5:
            return .execute(
                CQLPreparedID(id: bytes(16), resultMetadataID: version >= .v5 ? bytes(16) : nil), parameters(version))
        case 6: return .register(list(3) { $0.text() })
        default:
            var batch = CQLBatch(
                pick(CQLBatch.Kind.allCases),
                list(4) { random in
                    CQLBatch.Entry(
                        random.chance(50) ? .query(random.text()) : .prepared(random.bytes(16)),
                        random.boundValues(names: false))
                }, consistency: consistency())
            batch.serialConsistency = optional { $0.pick([.serial, .localSerial]) }
            batch.timestampMicroseconds = optional { Int64(truncatingIfNeeded: $0.numbers.next()) }
            if version >= .v5 {
                batch.keyspace = optional { $0.text() }
                batch.nowSeconds = optional { Int32($0.below(1 << 30)) }
            }
            return .batch(batch)
        }
    }
}

extension CQLFrameDecoder {
    /// All frames of these bytes, fed in pieces: headers and copies of their bodies.
    func frames(
        _ bytes: [UInt8], pieces: (Int) -> Int = { $0 }
    ) throws(CQLFormatError) -> [(CQLFrameHeader, [UInt8])] {
        var found: [(CQLFrameHeader, [UInt8])] = []
        var position = 0
        while position < bytes.count {
            let count = max(1, min(bytes.count - position, pieces(bytes.count - position)))
            let part = Array(bytes[position..<(position + count)])
            position += count
            let result: Result<Void, CQLFormatError> = part.withUnsafeBytes { part in
                feed(part)
                defer { endFeed() }
                do throws(CQLFormatError) {
                    while let frame = try next() { found.append((frame.header, Array(frame.body))) }
                    return .success(())
                } catch {
                    return .failure(error)
                }
            }
            try result.get()
        }
        return found
    }
}
