@testable import CQLFrames

extension FuzzTarget {
    /// The first byte chooses version and side, the second the opcode, the third the flags. What is read, written and
    /// read again is the same.
    static let cqlBody = FuzzTarget(
        name: "cqlbody", lengthMax: 512,
        seeds: {
            var seeds: [[UInt8]] = []
            for version in CQLVersion.allCases {
                for answer in cqlAnswers(version) {
                    let buffer = CQLBuffer()
                    answer.append(to: buffer, version, stream: 0)
                    seeds.append(seed(version, isResponse: true, Array(buffer.bytes)))
                }
                for request in cqlRequests {
                    let buffer = CQLBuffer()
                    request.append(to: buffer, version, stream: 0)
                    seeds.append(seed(version, isResponse: false, Array(buffer.bytes)))
                }
            }
            return seeds
        },
        run: { bytes in
            guard bytes.count >= 3, let opcode = CQLOpcode(rawValue: bytes[1]) else { return }
            let version: CQLVersion = bytes[0] & 1 == 0 ? .v4 : .v5
            let header = CQLFrameHeader(
                version: version, isResponse: opcode.isResponse, flags: CQLFrameFlags(rawValue: bytes[2]), stream: 1,
                opcode: opcode, length: bytes.count - 3)
            let body = bytes.dropping(3)
            let buffer = CQLBuffer()
            if opcode.isResponse {
                guard let answer = try? CQLAnswer(header, body) else { return }
                if case .result(.rows(let rows)) = answer.response { _ = try? rows.values() }
                if case .error(let error) = answer.response, error.detail == .other { return }
                answer.append(to: buffer, version, stream: 1)
                let again = try? CQLAnswer(
                    CQLFrameHeader(buffer.bytes, lengthMax: 1 << 20), buffer.bytes.dropping(CQLFrameHeader.byteCount))
                require(again == answer, "\(answer) became \(String(describing: again))")
            } else {
                guard let (request, payload) = try? CQLRequest.read(header, body) else { return }
                request.append(to: buffer, version, stream: 1, payload: payload)
                let again = try? CQLRequest.read(
                    CQLFrameHeader(buffer.bytes, lengthMax: 1 << 20), buffer.bytes.dropping(CQLFrameHeader.byteCount))
                require(again?.request == request, "\(request) became \(String(describing: again))")
            }
        })

    private static func seed(_ version: CQLVersion, isResponse: Bool, _ frame: [UInt8]) -> [UInt8] {
        [version == .v4 ? 0 : 1, frame[4], frame[1]] + frame[9...]
    }

    private static func cqlAnswers(_ version: CQLVersion) -> [CQLAnswer] {
        let columns = [
            CQLColumn(keyspace: "k", table: "t", name: "a", type: .map(.text, .list(.int))),
            CQLColumn(keyspace: "k", table: "t", name: "b", type: .vector(.text, dimension: 2)),
        ]
        let metadata = CQLRowsMetadata(columnCount: 2, columns: columns, pagingState: [1, 2])
        let cells: [CQLValue] = [.map([CQLMapEntry("x", .list([1, .null]))]), .vector(["u", "v"])]
        let prepared = CQLPreparedResult(
            id: [1, 2], resultMetadataID: version == .v5 ? [3] : nil,
            parameters: CQLParametersMetadata(columns: columns, partitionKey: [0]), result: metadata)
        let rows = try? CQLRows(metadata, [cells, [.null, .null]])
        let failures: CQLServerError.Failures =
            version == .v5 ? .reasons([CQLServerError.Failure(address: [127, 0, 0, 1], reason: 1)]) : .count(1)
        return [
            CQLAnswer(.ready), CQLAnswer(.authenticate("a")), CQLAnswer(.supported([CQLOption("C", ["lz4"])])),
            CQLAnswer(.result(.void), tracingID: CQLUUID(high: 1, low: 2), warnings: ["w"]),
            CQLAnswer(.result(.prepared(prepared)), payload: [CQLPayloadEntry(name: "p", value: nil)]),
            CQLAnswer(
                .result(.schemaChange(CQLSchemaChange(.created, keyspace: "k", .function("f", arguments: ["a"]))))),
            CQLAnswer(.event(.status(.up, CQLEndpoint(address: [127, 0, 0, 1], port: 9042)))),
            CQLAnswer(
                .error(
                    CQLServerError(
                        code: 0x1500, message: "m",
                        detail: .writeFailure(.quorum, received: 1, required: 2, failures: failures, type: .batch)))),
            CQLAnswer(.authSuccess([1])),
        ] + (rows.map { [CQLAnswer(.result(.rows($0)))] } ?? [])
    }

    private static var cqlRequests: [CQLRequest] {
        var parameters = CQLParameters()
        parameters.values = (try? CQLBoundValues([(1, .int), (.null, .text), (.unset, .text)])) ?? CQLBoundValues()
        parameters.pageSize = 10
        parameters.timestampMicroseconds = 7
        return [
            .startup([CQLStartupOption("CQL_VERSION", "3.0.0")]), .options, .register(CQLEvent.allTypes),
            .authResponse([0, 1]), .query("SELECT", parameters), .prepare("SELECT", keyspace: nil),
            .execute(CQLPreparedID(id: [1], resultMetadataID: [2]), parameters),
            .batch(CQLBatch(.unlogged, [CQLBatch.Entry(.prepared([1]), parameters.values)])),
        ]
    }

    /// The first byte chooses the framing, the second seeds the cuts. Bytes make the same frames however they are cut;
    /// frames that went through make the same frames again. Checksums are put right first.
    static let cqlFraming = FuzzTarget(
        name: "cqlframing", lengthMax: 600,
        seeds: {
            let options: [UInt8] = [5, 0, 0, 1, 5, 0, 0, 0, 0]
            let text: [UInt8] = [5, 0, 0, 1, 0xf, 0, 0, 0, 40] + [UInt8](repeating: 0x61, count: 40)
            var seeds: [[UInt8]] = []
            for (number, framing) in framings.enumerated() {
                let encoder = CQLFrameEncoder(framing)
                for frame in [options, text, options] { frame.withUnsafeBytes { encoder.add($0) } }
                encoder.finish()
                seeds.append([UInt8(number), 9] + Array(encoder.output.bytes))
            }
            let parts = CQLBuffer()
            text[..<20].withUnsafeBytes { CQLSegment.append($0, isSelfContained: false, .segments(.none), to: parts) }
            text[20...].withUnsafeBytes { CQLSegment.append($0, isSelfContained: false, .segments(.none), to: parts) }
            return seeds + [[2, 3] + Array(parts.bytes)]
        },
        run: { bytes in
            guard bytes.count >= 2 else { return }
            let framing = framings[Int(bytes[0]) % framings.count]
            var stream = Array(bytes.dropping(2))
            mend(&stream, framing)
            let whole = cqlFrames(stream, framing) { $0 }
            var state = UInt32(bytes[1]) &* 2_654_435_761 | 1
            let cut = cqlFrames(stream, framing) { left in
                state = state &* 1_664_525 &+ 1_013_904_223
                return 1 + Int(state >> 24) % 40
            }
            require(whole.frames == cut.frames, "other frames when cut")
            require(whole.isRefused == cut.isRefused, "refused in one way only")
            let encoder = CQLFrameEncoder(framing)
            for frame in whole.frames { frame.withUnsafeBytes { encoder.add($0) } }
            encoder.finish()
            let again = cqlFrames(Array(encoder.output.bytes), framing) { $0 }
            require(again.frames == whole.frames && !again.isRefused, "other frames when written again")
        })

    private static let framings: [CQLFraming] = [.frames(.none), .frames(.lz4), .segments(.none), .segments(.lz4)]

    /// Frames as they were before compression, and whether the rest was refused.
    private static func cqlFrames(
        _ bytes: [UInt8], _ framing: CQLFraming, pieces: (Int) -> Int
    ) -> (frames: [[UInt8]], isRefused: Bool) {
        var limits = CQLLimits()
        limits.frameBytesMax = 1 << 16
        let decoder = CQLFrameDecoder(framing, limits: limits)
        var frames: [[UInt8]] = []
        var position = 0
        while position < bytes.count {
            let count = min(bytes.count - position, max(1, pieces(bytes.count - position)))
            let isRefused = withCopy(Array(bytes[position..<(position + count)])) { part in
                decoder.feed(UnsafeRawBufferPointer(part))
                defer { decoder.endFeed() }
                while true {
                    do {
                        guard let frame = try decoder.next() else { return false }
                        var header = frame.header
                        header.length = frame.body.count
                        header.flags.remove(.compression)
                        let buffer = CQLBuffer()
                        _ = header.begin(buffer)
                        buffer.append(frame.body)
                        frames.append(Array(buffer.bytes))
                    } catch {
                        return true
                    }
                }
            }
            if isRefused { return (frames, true) }
            position += count
        }
        return (frames, false)
    }

    /// Puts the checksums of segments right, as far as there are whole ones.
    private static func mend(_ bytes: inout [UInt8], _ framing: CQLFraming) {
        guard case .segments(let compression) = framing else { return }
        let headerBytes = CQLSegment.headerBytes(compression)
        let fieldBytes = headerBytes - 3
        var position = 0
        while bytes.count - position >= headerBytes {
            var fields: UInt64 = 0
            for index in 0..<fieldBytes { fields |= UInt64(bytes[position + index]) << UInt64(8 * index) }
            let crc24 = CQLChecksums.crc24(fields, count: fieldBytes)
            for index in 0..<3 { bytes[position + fieldBytes + index] = UInt8(crc24 >> UInt32(8 * index) & 255) }
            let start = position + headerBytes
            let end = start + Int(fields & 0x1_ffff)
            guard bytes.count - end >= 4 else { return }
            let crc32 = bytes[start..<end].withUnsafeBytes { CQLChecksums.crc32($0) }
            for index in 0..<4 { bytes[end + index] = UInt8(crc32 >> UInt32(8 * index) & 255) }
            position = end + 4
        }
    }

    /// The first byte chooses a type. What is read as a value, written and read again is the same bytes.
    static let cqlValue = FuzzTarget(
        name: "cqlvalue", lengthMax: 256,
        seeds: {
            [
                [0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7], [1, 0, 0, 0, 1, 0, 0, 0, 1, 0x61, 0xff, 0xff, 0xff, 0xff],
                [2, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0x61], [3, 1, 0x61, 2, 0x61, 0x62], [4, 0x89, 0xa2, 2, 4, 6],
                [5, 0, 0, 0, 2, 25], [6, 0x3f, 0x80, 0, 0, 0, 0, 0, 0], [7, 0x61], [8, 127, 0, 0, 1],
                [9, 0, 0, 0, 1, 5, 0xff, 0xff, 0xff, 0xff],
            ]
        },
        run: { bytes in
            guard let first = bytes.first else { return }
            let type = cqlTypes[Int(first) % cqlTypes.count]
            guard let value = try? CQLValue(bytes.dropping(1), as: type) else { return }
            let buffer = CQLBuffer()
            let isWritten = (try? buffer.append(content: value, as: type)) != nil
            require(isWritten, "\(value) is no value of \(type)")
            guard let again = try? CQLValue(buffer.bytes, as: type) else {
                return require(false, "\(value) cannot be read again")
            }
            let second = CQLBuffer()
            _ = try? second.append(content: again, as: type)
            // Compared as bytes: a NaN is no other's equal.
            require(Array(second.bytes) == Array(buffer.bytes), "\(value) became \(again)")
        })

    /// Made each time: what a static holds of boxed cases looks like a leak to the sanitizer.
    private static var cqlTypes: [CQLType] {
        [
            .list(.int), .map(.text, .varint), .tuple([.int, .text]), .vector(.text, dimension: 2), .duration, .decimal,
            .vector(.float, dimension: 2), .text, .inet,
            .userDefined(
                CQLUserType(keyspace: "k", name: "t", fields: [.init("a", .tinyint), .init("b", .list(.date))])),
            .date, .boolean,
        ]
    }

    /// A type by the server's class name, which may nest.
    static let cqlType = FuzzTarget(
        name: "cqltype", lengthMax: 400,
        seeds: {
            let package = "org.apache.cassandra.db.marshal."
            return [
                "\(package)VectorType(\(package)FloatType , 3)",
                "\(package)MapType(\(package)UTF8Type,\(package)Int32Type)",
                "\(package)TupleType(\(package)ListType(\(package)LongType),\(package)ByteType)",
                "\(package)FrozenType(\(package)SetType(\(package)ReversedType(\(package)TimeUUIDType)))",
            ].map { Array($0.utf8) }
        },
        run: { bytes in
            guard let type = CQLType(className: String(decoding: bytes, as: UTF8.self)) else { return }
            let buffer = CQLBuffer()
            buffer.append(type: type)
            var reader = CQLReader(buffer.bytes)
            let again = try? reader.type()
            require(again == type, "\(type) became \(String(describing: again))")
        })
}
