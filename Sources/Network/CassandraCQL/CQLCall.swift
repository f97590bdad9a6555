import CQLFrames
import Synchronization

/// How a request is carried out.
public struct CQLCallOptions: Sendable {
    /// Whether carrying it out twice is the same as once: such requests are tried again, and speculated on.
    public var isIdempotent = false
    /// With all its retries; nil: the session's.
    public var timeoutMilliseconds: Int?
    /// Another node is asked as well when there is no answer for so long; idempotent requests only.
    public var speculativeDelayMilliseconds: Int?
    /// The server keeps a trace, under the answer's `tracingID`.
    public var isTraced = false

    public init() {}
}

/// A request on its way: a whole frame, where it belongs, and who waits for the answer.
///
/// Made on any thread, handed to a session once, and its loop's from then on.
public final class CQLCall: @unchecked Sendable {
    /// What a request becomes.
    public typealias Outcome = Result<CQLAnswer, CQLRequestError>

    /// One frame, which begins at the buffer's start. Bytes are kept until the outcome is told.
    public let frame: CQLBuffer
    public let options: CQLCallOptions
    /// The token of its partition, and the keyspace whose replicas keep it.
    public let token: Int64?
    public let keyspace: String?
    /// Told once, on the session's loop.
    let done: (Outcome) -> Void

    /// The statement, and the rows that its request expects: what the answer leaves out.
    let prepared: CQLPrepared?
    let shape: CQLPrepared.Shape?
    var deadlineMilliseconds: UInt64 = 0
    var retries = 0
    /// Re-preparations so far: a server that forgets again and again is no server.
    var preparations = 0
    /// Nodes that were asked, by their number in the session.
    var tried: [Int] = []
    /// Attempts that nobody has answered yet.
    var attempts = 0
    var isDone = false
    /// Whether any server may have it.
    var wasSent = false
    var lastError: CQLRequestError?

    /// `frame` holds one request for the session's version, with any stream. Where it asks to leave out what rows are,
    /// `shape` is what it expects.
    public init(
        frame: CQLBuffer, token: Int64? = nil, keyspace: String? = nil, prepared: CQLPrepared? = nil,
        shape: CQLPrepared.Shape? = nil, options: CQLCallOptions = CQLCallOptions(),
        done: @escaping @Sendable (Outcome) -> Void
    ) {
        self.frame = frame
        self.token = token
        self.keyspace = keyspace
        self.prepared = prepared
        self.shape = shape
        self.options = options
        self.done = done
        if options.isTraced {
            frame.set(bigEndian: frame.bytes[1] | CQLFrameFlags.tracing.rawValue, at: 1)
        }
    }

    /// Of a request.
    public convenience init(
        _ request: CQLRequest, _ version: CQLVersion, token: Int64? = nil, keyspace: String? = nil,
        prepared: CQLPrepared? = nil, shape: CQLPrepared.Shape? = nil, options: CQLCallOptions = CQLCallOptions(),
        done: @escaping @Sendable (Outcome) -> Void
    ) {
        let frame = CQLBuffer()
        request.append(to: frame, version, stream: 0, tracing: options.isTraced)
        self.init(
            frame: frame, token: token, keyspace: keyspace, prepared: prepared, shape: shape, options: options,
            done: done)
    }

    func finish(_ outcome: Outcome) {
        guard !isDone else { return }
        isDone = true
        done(outcome)
    }
}

/// A statement that servers keep. From any thread.
public final class CQLPrepared: Sendable {
    public let text: String
    public let id: [UInt8]
    public let parameters: CQLParametersMetadata
    /// The keyspace of its table, for routing; nil where it takes no values.
    public let keyspace: String?
    private let current: Mutex<Shape>

    /// What its rows are, and v5's id of that.
    public struct Shape: Hashable, Sendable {
        public let columns: [CQLColumn]?
        public let metadataID: [UInt8]?
    }

    /// Of the answer to PREPARE.
    public init(_ text: String, _ result: CQLPreparedResult) {
        self.text = text
        id = result.id
        parameters = result.parameters
        keyspace = result.parameters.columns.first?.keyspace
        current = Mutex(Shape(columns: result.result.columns, metadataID: result.resultMetadataID))
    }

    /// What its rows are, as the server last told.
    public var shape: Shape { current.withLock { $0 } }

    /// The schema changed, and with it the rows.
    func update(_ metadata: CQLRowsMetadata) {
        guard let id = metadata.newMetadataID, let columns = metadata.columns else { return }
        current.withLock { $0 = Shape(columns: columns, metadataID: id) }
    }

    func update(_ result: CQLPreparedResult) {
        current.withLock { $0 = Shape(columns: result.result.columns, metadataID: result.resultMetadataID) }
    }

    /// The token of the partition that these values belong to; nil where one of its columns is null or not bound.
    public func token(_ values: CQLBoundValues) -> Int64? {
        guard !parameters.partitionKey.isEmpty, !values.hasNames else { return nil }
        let contents = values.contents()
        var key: [[UInt8]] = []
        for index in parameters.partitionKey {
            guard index < contents.count, let content = contents[index] else { return nil }
            key.append(content)
        }
        return Murmur3.token(of: key)
    }
}
