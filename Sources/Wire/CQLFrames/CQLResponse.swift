/// What a server sends (4.2 of the specification).
public enum CQLResponse: Hashable, Sendable {
    case error(CQLServerError)
    case ready
    /// The class of the authenticator that wants to know who it is.
    case authenticate(String)
    case supported([CQLOption])
    case result(CQLResult)
    case event(CQLEvent)
    case authChallenge([UInt8]?)
    case authSuccess([UInt8]?)
}

/// What a server supports of one thing.
public struct CQLOption: Hashable, Sendable {
    public var name: String
    public var values: [String]

    public init(_ name: String, _ values: [String]) {
        self.name = name
        self.values = values
    }
}

/// The outcome of a statement (4.2.5).
public enum CQLResult: Hashable, Sendable {
    case void
    case rows(CQLRows)
    case setKeyspace(String)
    case prepared(CQLPreparedResult)
    case schemaChange(CQLSchemaChange)
}

/// A statement that the server keeps.
public struct CQLPreparedResult: Hashable, Sendable {
    public var id: [UInt8]
    /// v5 only.
    public var resultMetadataID: [UInt8]?
    public var parameters: CQLParametersMetadata
    public var result: CQLRowsMetadata

    public init(
        id: [UInt8], resultMetadataID: [UInt8]?, parameters: CQLParametersMetadata, result: CQLRowsMetadata
    ) {
        self.id = id
        self.resultMetadataID = resultMetadataID
        self.parameters = parameters
        self.result = result
    }
}

/// What changed in the schema (4.2.5.5).
public struct CQLSchemaChange: Hashable, Sendable {
    /// What was done to it. Raw values are the wire's.
    public enum Change: String, CaseIterable, Sendable {
        case created = "CREATED"
        case updated = "UPDATED"
        case dropped = "DROPPED"
    }

    /// What it was done to.
    public enum Target: Hashable, Sendable {
        case keyspace
        case table(String)
        case type(String)
        case function(String, arguments: [String])
        case aggregate(String, arguments: [String])
    }

    public var change: Change
    public var keyspace: String
    public var target: Target

    public init(_ change: Change, keyspace: String, _ target: Target) {
        self.change = change
        self.keyspace = keyspace
        self.target = target
    }
}

/// News that a client asked for (4.2.6).
public enum CQLEvent: Hashable, Sendable {
    /// What happened to a node. Raw values are the wire's.
    public enum Topology: String, CaseIterable, Sendable {
        case newNode = "NEW_NODE"
        case removedNode = "REMOVED_NODE"
        case movedNode = "MOVED_NODE"
    }

    /// Whether a node answers. Raw values are the wire's.
    public enum Status: String, CaseIterable, Sendable {
        case up = "UP"
        case down = "DOWN"
    }

    case topology(Topology, CQLEndpoint)
    case status(Status, CQLEndpoint)
    case schema(CQLSchemaChange)

    /// What a client can ask for by REGISTER.
    public static let allTypes = ["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"]
}

/// A response with what may come with any: the id of its trace, warnings, and bytes of the server's own.
public struct CQLAnswer: Hashable, Sendable {
    public var response: CQLResponse
    public var tracingID: CQLUUID?
    public var warnings: [String]
    public var payload: [CQLPayloadEntry]

    public init(
        _ response: CQLResponse, tracingID: CQLUUID? = nil, warnings: [String] = [], payload: [CQLPayloadEntry] = []
    ) {
        self.response = response
        self.tracingID = tracingID
        self.warnings = warnings
        self.payload = payload
    }

    /// Reads the body of a response, decompressed.
    public init(_ header: CQLFrameHeader, _ body: UnsafeRawBufferPointer) throws(CQLFormatError) {
        var reader = CQLReader(body)
        tracingID = header.flags.contains(.tracing) ? try reader.uuid() : nil
        warnings = header.flags.contains(.warning) ? try reader.stringList() : []
        payload = header.flags.contains(.customPayload) ? try reader.bytesMap() : []
        response = try reader.response(header.opcode, header.version)
        try reader.end("a response")
    }

    /// Appends a frame with the answer.
    public func append(to buffer: CQLBuffer, _ version: CQLVersion, stream: Int16) {
        var flags: CQLFrameFlags = []
        if tracingID != nil { flags.insert(.tracing) }
        if !warnings.isEmpty { flags.insert(.warning) }
        if !payload.isEmpty { flags.insert(.customPayload) }
        let start = CQLFrameHeader(
            version: version, isResponse: true, flags: flags, stream: stream, opcode: response.opcode, length: 0
        ).begin(buffer)
        if let tracingID { buffer.append(uuid: tracingID) }
        if !warnings.isEmpty { buffer.append(stringList: warnings) }
        if !payload.isEmpty { buffer.append(bytesMap: payload) }
        response.append(to: buffer, version)
        CQLFrameHeader.end(buffer, start)
    }
}

extension CQLResponse {
    public var opcode: CQLOpcode {
        switch self {
        case .error: .error
        case .ready: .ready
        case .authenticate: .authenticate
        case .supported: .supported
        case .result: .result
        case .event: .event
        case .authChallenge: .authChallenge
        case .authSuccess: .authSuccess
        }
    }

    fileprivate func append(to buffer: CQLBuffer, _ version: CQLVersion) {
        switch self {
        case .error(let error): buffer.append(serverError: error, version)
        case .ready: break
        case .authenticate(let name): buffer.append(string: name)
        case .supported(let options): buffer.append(stringMultimap: options.map { ($0.name, $0.values) })
        case .result(let result): result.append(to: buffer, version)
        case .event(let event): event.append(to: buffer)
        case .authChallenge(let token), .authSuccess(let token): buffer.append(optionalBytes: token)
        }
    }
}

extension CQLReader {
    fileprivate mutating func response(
        _ opcode: CQLOpcode, _ version: CQLVersion
    ) throws(CQLFormatError) -> CQLResponse {
        switch opcode {
        case .error: return .error(try serverError(version))
        case .ready: return .ready
        case .authenticate: return .authenticate(try string())
        case .supported: return .supported(try stringMultimap().map { CQLOption($0.0, $0.1) })
        case .result: return .result(try result(version))
        case .event: return .event(try event())
        case .authChallenge: return .authChallenge(try optionalBytes().map(Array.init))
        case .authSuccess: return .authSuccess(try optionalBytes().map(Array.init))
        default: throw fail(.unknown, "a response that is a request: \(opcode)")
        }
    }

    private mutating func result(_ version: CQLVersion) throws(CQLFormatError) -> CQLResult {
        let kind = try int()
        switch kind {
        case 1: return .void
        case 2: return .rows(try CQLRows(&self, version))
        case 3: return .setKeyspace(try string())
        case 4:
            let id = try shortBytes()
            let metadataID = version >= .v5 ? try shortBytes() : nil
            return .prepared(
                CQLPreparedResult(
                    id: id, resultMetadataID: metadataID, parameters: try parametersMetadata(),
                    result: try rowsMetadata(version)))
        case 5: return .schemaChange(try schemaChange())
        default: throw fail(.unknown, "a result of kind \(kind)")
        }
    }

    private mutating func schemaChange() throws(CQLFormatError) -> CQLSchemaChange {
        let word = try string()
        guard let change = CQLSchemaChange.Change(rawValue: word) else { throw fail(.unknown, "change \(word)") }
        let target = try string()
        let keyspace = try string()
        switch target {
        case "KEYSPACE": return CQLSchemaChange(change, keyspace: keyspace, .keyspace)
        case "TABLE": return CQLSchemaChange(change, keyspace: keyspace, .table(try string()))
        case "TYPE": return CQLSchemaChange(change, keyspace: keyspace, .type(try string()))
        case "FUNCTION":
            return CQLSchemaChange(
                change, keyspace: keyspace, .function(try string(), arguments: try stringList()))
        case "AGGREGATE":
            return CQLSchemaChange(
                change, keyspace: keyspace, .aggregate(try string(), arguments: try stringList()))
        default: throw fail(.unknown, "a change of \(target)")
        }
    }

    private mutating func event() throws(CQLFormatError) -> CQLEvent {
        let type = try string()
        switch type {
        case "TOPOLOGY_CHANGE":
            let word = try string()
            guard let change = CQLEvent.Topology(rawValue: word) else { throw fail(.unknown, "change \(word)") }
            return .topology(change, try inet())
        case "STATUS_CHANGE":
            let word = try string()
            guard let status = CQLEvent.Status(rawValue: word) else { throw fail(.unknown, "status \(word)") }
            return .status(status, try inet())
        case "SCHEMA_CHANGE": return .schema(try schemaChange())
        default: throw fail(.unknown, "event \(type)")
        }
    }
}

extension CQLResult {
    fileprivate func append(to buffer: CQLBuffer, _ version: CQLVersion) {
        switch self {
        case .void: buffer.append(bigEndian: Int32(1))
        case .rows(let rows):
            buffer.append(bigEndian: Int32(2))
            buffer.append(rowsMetadata: rows.metadata)
            buffer.append(bigEndian: Int32(rows.count))
            buffer.append(rows.content)
        case .setKeyspace(let name):
            buffer.append(bigEndian: Int32(3))
            buffer.append(string: name)
        case .prepared(let prepared):
            buffer.append(bigEndian: Int32(4))
            buffer.append(shortBytes: prepared.id)
            if version >= .v5 { buffer.append(shortBytes: prepared.resultMetadataID ?? []) }
            buffer.append(parametersMetadata: prepared.parameters)
            buffer.append(rowsMetadata: prepared.result)
        case .schemaChange(let change):
            buffer.append(bigEndian: Int32(5))
            change.append(to: buffer)
        }
    }
}

extension CQLSchemaChange {
    fileprivate func append(to buffer: CQLBuffer) {
        buffer.append(string: change.rawValue)
        let (word, name, arguments): (String, String?, [String]?) =
            switch target {
            case .keyspace: ("KEYSPACE", nil, nil)
            case .table(let name): ("TABLE", name, nil)
            case .type(let name): ("TYPE", name, nil)
            case .function(let name, let arguments): ("FUNCTION", name, arguments)
            case .aggregate(let name, let arguments): ("AGGREGATE", name, arguments)
            }
        buffer.append(string: word)
        buffer.append(string: keyspace)
        if let name { buffer.append(string: name) }
        if let arguments { buffer.append(stringList: arguments) }
    }
}

extension CQLEvent {
    fileprivate func append(to buffer: CQLBuffer) {
        switch self {
        case .topology(let change, let endpoint):
            buffer.append(string: "TOPOLOGY_CHANGE")
            buffer.append(string: change.rawValue)
            buffer.append(inet: endpoint)
        case .status(let status, let endpoint):
            buffer.append(string: "STATUS_CHANGE")
            buffer.append(string: status.rawValue)
            buffer.append(inet: endpoint)
        case .schema(let change):
            buffer.append(string: "SCHEMA_CHANGE")
            change.append(to: buffer)
        }
    }
}
