/// What the server says went wrong (section 9 of the specification), with everything it says about it.
public struct CQLServerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The code on the wire.
    public let code: Int32
    public let message: String
    public let detail: Detail

    public init(code: Int32, message: String, detail: Detail) {
        self.code = code
        self.message = message
        self.detail = detail
    }

    /// Which replica failed, and why.
    public struct Failure: Hashable, Sendable {
        public var address: [UInt8]
        public var reason: UInt16

        public init(address: [UInt8], reason: UInt16) {
            self.address = address
            self.reason = reason
        }
    }

    /// How many replicas failed: their number in v4, each with its reason in v5.
    public enum Failures: Hashable, Sendable {
        case count(Int32)
        case reasons([Failure])

        public var count: Int {
            switch self {
            case .count(let count): Int(count)
            case .reasons(let reasons): reasons.count
            }
        }
    }

    /// What kind of error it is, with its fields.
    public enum Detail: Hashable, Sendable {
        case server
        case `protocol`
        case badCredentials
        case unavailable(CQLConsistency, required: Int32, alive: Int32)
        case overloaded
        case bootstrapping
        case truncating
        case writeTimeout(
            CQLConsistency, received: Int32, required: Int32, type: CQLWriteType, contentions: UInt16?)
        case readTimeout(CQLConsistency, received: Int32, required: Int32, hasData: Bool)
        case readFailure(CQLConsistency, received: Int32, required: Int32, failures: Failures, hasData: Bool)
        case functionFailure(keyspace: String, function: String, arguments: [String])
        case writeFailure(
            CQLConsistency, received: Int32, required: Int32, failures: Failures, type: CQLWriteType)
        case changeDataCaptureFailure
        case lightweightTransactionUnknown(CQLConsistency, received: Int32, required: Int32)
        case syntax
        case unauthorized
        case invalid
        case configuration
        case alreadyExists(keyspace: String, table: String)
        case unprepared(id: [UInt8])
        /// A code that is not known.
        case other
    }

    private static let names: [Int32: String] = [
        0x0000: "server error", 0x000a: "protocol error", 0x0100: "bad credentials", 0x1000: "unavailable",
        0x1001: "overloaded", 0x1002: "bootstrapping", 0x1003: "truncate error", 0x1100: "write timeout",
        0x1200: "read timeout", 0x1300: "read failure", 0x1400: "function failure", 0x1500: "write failure",
        0x1600: "change data capture failure", 0x1700: "unknown outcome of a lightweight transaction",
        0x2000: "syntax error", 0x2100: "unauthorized", 0x2200: "invalid", 0x2300: "configuration error",
        0x2400: "already exists", 0x2500: "unprepared",
    ]

    public var description: String {
        let name = CQLServerError.names[code] ?? "error 0x" + String(code, radix: 16)
        return "\(name): \(message)"
    }
}

/// What a write that timed out or failed was. Raw values are the wire's.
public enum CQLWriteType: Hashable, Sendable {
    case simple, batch, unloggedBatch, counter, batchLog, compareAndSet, view, changeDataCapture
    case other(String)

    private static let names: [(String, CQLWriteType)] = [
        ("SIMPLE", .simple), ("BATCH", .batch), ("UNLOGGED_BATCH", .unloggedBatch), ("COUNTER", .counter),
        ("BATCH_LOG", .batchLog), ("CAS", .compareAndSet), ("VIEW", .view), ("CDC", .changeDataCapture),
    ]

    init(_ name: String) { self = CQLWriteType.names.first { $0.0 == name }?.1 ?? .other(name) }

    public var name: String {
        if case .other(let name) = self { return name }
        return CQLWriteType.names.first { $0.1 == self }?.0 ?? ""
    }
}

extension CQLReader {
    mutating func serverError(_ version: CQLVersion) throws(CQLFormatError) -> CQLServerError {
        let code = try int()
        let message = try string()
        let detail = try errorDetail(code, version)
        return CQLServerError(code: code, message: message, detail: detail)
    }

    private mutating func errorDetail(
        _ code: Int32, _ version: CQLVersion
    ) throws(CQLFormatError) -> CQLServerError.Detail {
        switch code {
        case 0x0000: return .server
        case 0x000a: return .protocol
        case 0x0100: return .badCredentials
        case 0x1000: return .unavailable(try consistency(), required: try int(), alive: try int())
        case 0x1001: return .overloaded
        case 0x1002: return .bootstrapping
        case 0x1003: return .truncating
        case 0x1100:
            let consistency = try consistency()
            let (received, required) = (try int(), try int())
            let type = CQLWriteType(try string())
            let contentions = version >= .v5 && type == .compareAndSet ? try short() : nil
            return .writeTimeout(
                consistency, received: received, required: required, type: type, contentions: contentions)
        case 0x1200:
            return .readTimeout(
                try consistency(), received: try int(), required: try int(), hasData: try byte() != 0)
        case 0x1300:
            return .readFailure(
                try consistency(), received: try int(), required: try int(), failures: try failures(version),
                hasData: try byte() != 0)
        case 0x1400:
            return .functionFailure(keyspace: try string(), function: try string(), arguments: try stringList())
        case 0x1500:
            return .writeFailure(
                try consistency(), received: try int(), required: try int(), failures: try failures(version),
                type: CQLWriteType(try string()))
        case 0x1600: return .changeDataCaptureFailure
        case 0x1700:
            return .lightweightTransactionUnknown(try consistency(), received: try int(), required: try int())
        case 0x2000: return .syntax
        case 0x2100: return .unauthorized
        case 0x2200: return .invalid
        case 0x2300: return .configuration
        case 0x2400: return .alreadyExists(keyspace: try string(), table: try string())
        case 0x2500: return .unprepared(id: try shortBytes())
        default:
            // What a code that is not known brings with it, nobody can tell.
            _ = try take(remaining)
            return .other
        }
    }

    private mutating func failures(_ version: CQLVersion) throws(CQLFormatError) -> CQLServerError.Failures {
        let number = try int()
        guard version >= .v5 else { return .count(number) }
        var reasons: [CQLServerError.Failure] = []
        for _ in 0..<(try count(Int(number), bytesMin: 7, "failures")) {
            reasons.append(CQLServerError.Failure(address: try inetAddress(), reason: try short()))
        }
        return .reasons(reasons)
    }
}

extension CQLBuffer {
    func append(serverError error: CQLServerError, _ version: CQLVersion) {
        append(bigEndian: error.code)
        append(string: error.message)
        switch error.detail {
        case .unavailable(let consistency, let required, let alive): append(counts: consistency, required, alive)
        case .writeTimeout(let consistency, let received, let required, let type, let contentions):
            append(counts: consistency, received, required)
            append(string: type.name)
            if version >= .v5, type == .compareAndSet { append(bigEndian: contentions ?? 0) }
        case .readTimeout(let consistency, let received, let required, let hasData):
            append(counts: consistency, received, required)
            append(byte: hasData ? 1 : 0)
        case .readFailure(let consistency, let received, let required, let failures, let hasData):
            append(counts: consistency, received, required)
            append(failures: failures, version)
            append(byte: hasData ? 1 : 0)
        case .functionFailure(let keyspace, let function, let arguments):
            append(string: keyspace)
            append(string: function)
            append(stringList: arguments)
        case .writeFailure(let consistency, let received, let required, let failures, let type):
            append(counts: consistency, received, required)
            append(failures: failures, version)
            append(string: type.name)
        case .lightweightTransactionUnknown(let consistency, let received, let required):
            append(counts: consistency, received, required)
        case .alreadyExists(let keyspace, let table):
            append(string: keyspace)
            append(string: table)
        case .unprepared(let id): append(shortBytes: id)
        default: break
        }
    }

    private func append(counts consistency: CQLConsistency, _ first: Int32, _ second: Int32) {
        append(bigEndian: consistency.rawValue)
        append(bigEndian: first)
        append(bigEndian: second)
    }

    private func append(failures: CQLServerError.Failures, _ version: CQLVersion) {
        append(bigEndian: Int32(failures.count))
        guard version >= .v5, case .reasons(let reasons) = failures else { return }
        for failure in reasons {
            append(inetAddress: failure.address)
            append(bigEndian: failure.reason)
        }
    }
}
