// HTTP/2 on one connection, client or server: nghttp2 does framing, HPACK and flow control; this room moves the bytes
// and asks a stream's body for more only when the peer's window and the output have room. Fed by sockets, feeds GRPC.

import CNGHTTP2
import EventLoop
import Glibc

/// What a connection's owner is told. On the loop.
public protocol HTTP2ConnectionOwner: AnyObject {
    /// Server: a request begins. The owner sets the stream's `owner`.
    func opened(_ stream: HTTP2Stream, on connection: HTTP2Connection)
    /// The connection is over; every stream was closed before.
    func closed(_ connection: HTTP2Connection, reason: String)
}

/// Settings of one side.
public struct HTTP2Settings: Sendable {
    public var streamsMax: UInt32 = 1000
    public var headerListBytesMax: UInt32 = 64 << 10
    /// Receive windows.
    public var streamWindowBytes: Int32 = 1 << 20
    public var connectionWindowBytes: Int32 = 8 << 20
    /// Bytes that may wait for the transport before streams are asked for more.
    public var outputBytesMax = 256 << 10

    public init() {}
}

/// One HTTP/2 connection. Confined to the loop of its transport.
public final class HTTP2Connection: ByteStreamOwner {
    /// A full DATA frame: 9 bytes of header and the largest payload sent.
    static let frameBytesMax = 9 + 16_384

    public let transport: any ByteStream
    public let isServer: Bool
    public private(set) var isClosed = false
    public private(set) var goAwayReceived = false
    public private(set) var streams: [Int32: HTTP2Stream] = [:]
    let settings: HTTP2Settings
    private weak var owner: (any HTTP2ConnectionOwner)?
    private var session: OpaquePointer?
    private let output: UnsafeMutableRawBufferPointer
    private var outputCount = 0
    private var isFlushScheduled = false
    private var isInside = false
    private var isClosing = false
    private var closeReason = "the connection was closed"

    /// Takes over a connected stream of bytes and sends its settings.
    public init(transport: any ByteStream, isServer: Bool, settings: HTTP2Settings, owner: any HTTP2ConnectionOwner) {
        self.transport = transport
        self.isServer = isServer
        self.settings = settings
        self.owner = owner
        output = .allocate(byteCount: 128 << 10, alignment: 64)
        let me = Unmanaged.passUnretained(self).toOpaque()
        session = HTTP2Callbacks.makeSession(isServer: isServer, settings: settings, me)
        var entries = [
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue), value: settings.streamsMax),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue),
                value: UInt32(settings.streamWindowBytes)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue), value: settings.headerListBytesMax),
        ]
        if !isServer {
            entries.append(nghttp2_settings_entry(settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0))
        }
        nghttp2_submit_settings(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), entries, entries.count)
        nghttp2_session_set_local_window_size(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, settings.connectionWindowBytes)
        transport.owner = self
        transport.startReading()
        scheduleFlush()
    }

    deinit {
        nghttp2_session_del(session)
        output.deallocate()
    }
}

// MARK: Streams

extension HTTP2Connection {
    /// Client: begins a request. nil when the connection takes no more.
    public func request(_ headers: [HTTP2Header], body: (any HTTP2Body)?, owner: any HTTP2StreamOwner) -> HTTP2Stream? {
        guard !isClosed, !goAwayReceived else { return nil }
        let stream = HTTP2Stream(self)
        stream.owner = owner
        stream.body = body
        let id = withHeaders(headers) { fields, count in
            nghttp2_submit_request(session, nil, fields, count, body == nil ? nil : HTTP2Callbacks.provider, nil)
        }
        guard id > 0 else { return nil }
        stream.id = id
        streams[id] = stream
        scheduleFlush()
        return stream
    }

    func respond(_ stream: HTTP2Stream, _ headers: [HTTP2Header], endsStream: Bool) {
        guard !isClosed else { return }
        withHeaders(headers) { fields, count in
            _ = nghttp2_submit_response(session, stream.id, fields, count, endsStream ? nil : HTTP2Callbacks.provider)
        }
        scheduleFlush()
    }

    /// During a body's last read.
    func submitTrailers(_ stream: HTTP2Stream, _ trailers: [HTTP2Header]) {
        withHeaders(trailers) { fields, count in _ = nghttp2_submit_trailer(session, stream.id, fields, count) }
    }

    func resume(_ stream: HTTP2Stream) {
        guard !isClosed else { return }
        nghttp2_session_resume_data(session, stream.id)
        scheduleFlush()
    }

    func reset(_ stream: HTTP2Stream, _ code: UInt32) {
        guard !isClosed else { return }
        nghttp2_submit_rst_stream(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, code)
        scheduleFlush()
    }

    /// Gives the peer room for bytes that were taken.
    func consume(_ stream: HTTP2Stream, _ count: Int) {
        guard !isClosed else { return }
        nghttp2_session_consume(session, stream.id, count)
        scheduleFlush()
    }

    private func withHeaders<R>(_ headers: [HTTP2Header], _ body: (UnsafePointer<nghttp2_nv>, Int) -> R) -> R {
        var bytes: [UInt8] = []
        for header in headers {
            bytes.append(contentsOf: header.name.utf8)
            bytes.append(contentsOf: header.value.utf8)
        }
        return bytes.withUnsafeMutableBufferPointer { buffer in
            withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: max(1, headers.count)) { fields in
                var place = buffer.baseAddress ?? UnsafeMutablePointer<UInt8>.allocate(capacity: 0)
                for (index, header) in headers.enumerated() {
                    let nameLength = header.name.utf8.count
                    let valueLength = header.value.utf8.count
                    fields.baseAddress!.advanced(by: index).initialize(
                        to: nghttp2_nv(
                            name: place, value: place + nameLength, namelen: nameLength, valuelen: valueLength, flags: 0
                        ))
                    place += nameLength + valueLength
                }
                return body(UnsafePointer(fields.baseAddress!), headers.count)
            }
        }
    }
}

// MARK: Ends

extension HTTP2Connection {
    /// Server: takes no new streams from now on; the open ones go on. A second notice follows with the last stream's
    /// number.
    public func startDraining() {
        guard !isClosed else { return }
        nghttp2_submit_shutdown_notice(session)
        scheduleFlush()
    }

    /// Tells the peer that only streams up to the last one seen count, with an error code and a text.
    public func goAway(_ code: UInt32 = 0, _ text: String = "") {
        guard !isClosed else { return }
        var bytes = Array(text.utf8)
        nghttp2_submit_goaway(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), nghttp2_session_get_last_proc_stream_id(session), code, &bytes,
            bytes.count)
        scheduleFlush()
    }

    /// Ends the connection at once.
    public func close(reason: String) {
        guard !isClosed, !isClosing else { return }
        isClosing = true
        closeReason = reason
        flush()
        transport.close()
        finish()
    }

    public func closed(_ error: StreamError?) {
        if let error { closeReason = "the connection failed: \(error)" }
        finish()
    }

    private func finish() {
        guard !isClosed else { return }
        isClosed = true
        let open = streams
        streams.removeAll()
        for stream in open.values { stream.wasClosed(HTTP2ErrorCode.connectionLost) }
        owner?.closed(self, reason: closeReason)
    }
}

// MARK: Bytes

extension HTTP2Connection {
    public func received(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed else { return }
        isInside = true
        let count = nghttp2_session_mem_recv(
            session, bytes.baseAddress!.assumingMemoryBound(to: UInt8.self), bytes.count)
        isInside = false
        if count < 0 {
            return close(reason: "the peer broke the protocol: \(String(cString: nghttp2_strerror(Int32(count))))")
        }
        scheduleFlush()
    }

    public func drained() { scheduleFlush() }

    func scheduleFlush() {
        guard !isFlushScheduled, !isClosed else { return }
        isFlushScheduled = true
        transport.loop.afterTurn { [weak self] in
            self?.isFlushScheduled = false
            self?.flush()
        }
    }

    /// Sends what there is, as far as the socket takes it.
    private func flush() {
        guard !isClosed, !isInside else { return }
        isInside = true
        while transport.waitingBytes < settings.outputBytesMax {
            var chunk: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &chunk)
            guard count > 0 else {
                if count < 0 { closeReason = String(cString: nghttp2_strerror(Int32(count))) }
                break
            }
            if let chunk { append(UnsafeRawBufferPointer(start: chunk, count: count)) }
            if output.count - outputCount < HTTP2Connection.frameBytesMax { writeOutput() }
        }
        writeOutput()
        isInside = false
        let isDone = nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0
        if isDone, !isClosing, transport.waitingBytes == 0 {
            close(reason: goAwayReceived ? "the peer closed it" : closeReason)
        }
    }

    private func writeOutput() {
        guard outputCount > 0 else { return }
        transport.write(UnsafeRawBufferPointer(rebasing: output[..<outputCount]))
        outputCount = 0
    }

    private func append(_ bytes: UnsafeRawBufferPointer) {
        if bytes.count > output.count - outputCount { writeOutput() }
        guard bytes.count <= output.count else { return transport.write(bytes) }
        (output.baseAddress! + outputCount).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
        outputCount += bytes.count
    }

    /// nghttp2 asks for a stream's DATA: the body writes it where it will be sent from, behind room for the frame's
    /// header.
    func readBody(_ id: Int32, _ lengthMax: Int, _ flags: UnsafeMutablePointer<UInt32>) -> Int {
        guard let stream = streams[id], let body = stream.body else {
            return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
        }
        if output.count - outputCount < HTTP2Connection.frameBytesMax { writeOutput() }
        let start = outputCount + 9
        let room = UnsafeMutableRawBufferPointer(rebasing: output[start..<(start + min(lengthMax, 16_384))])
        switch body.read(into: room, stream: stream) {
        case .bytes(let count):
            flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
            return count
        case .wait: return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        case .end(let trailers):
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
            if let trailers {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
                submitTrailers(stream, trailers)
            }
            return 0
        }
    }

    /// The frame is decided: its header goes before the bytes that `readBody` wrote.
    func sendBody(_ header: UnsafePointer<UInt8>, _ length: Int) {
        (output.baseAddress! + outputCount).copyMemory(from: header, byteCount: 9)
        outputCount += 9 + length
    }
}

// MARK: What nghttp2 tells

extension HTTP2Connection {
    func beginHeaders(_ id: Int32) {
        guard streams[id] == nil, isServer else { return }
        let stream = HTTP2Stream(self)
        stream.id = id
        streams[id] = stream
    }

    func header(_ id: Int32, _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        streams[id]?.incoming.append(
            HTTP2Header(String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self)))
    }

    func headersDone(_ id: Int32, endsStream: Bool) {
        guard let stream = streams[id] else { return }
        let headers = stream.incoming
        stream.incoming = []
        if isServer, stream.owner == nil {
            stream.requestHeaders = headers
            owner?.opened(stream, on: self)
        }
        stream.owner?.received(headers: headers, endsStream: endsStream, stream)
    }

    func data(_ id: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard let stream = streams[id], let owner = stream.owner else {
            nghttp2_session_consume(session, id, bytes.count)
            return
        }
        owner.received(data: bytes, stream)
    }

    func endOfData(_ id: Int32) {
        guard let stream = streams[id] else { return }
        stream.owner?.receivedEnd(stream)
    }

    func streamClosed(_ id: Int32, _ code: UInt32) { streams.removeValue(forKey: id)?.wasClosed(code) }

    func receivedGoAway() { goAwayReceived = true }
}
