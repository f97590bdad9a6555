// HTTP/2 on one connection, client or server: nghttp2 does framing, HPACK and flow control; this room moves the bytes
// and asks a stream's body for more only when the peer's window and the output have room. Fed by sockets, feeds GRPC.

import CNGHTTP2
import EventLoop
import Glibc

/// What a connection's owner is told. On the loop.
public protocol HTTP2ConnectionOwner: AnyObject {
    /// Server: a request begins; its stream is what the owner makes of it.
    func makeStream(on connection: HTTP2Connection) -> HTTP2Stream
    /// The peer takes no more streams, with its error code and text; those it has not begun were closed with
    /// ``HTTP2ErrorCode/refusedStream``, the others may go on.
    func receivedGoAway(_ connection: HTTP2Connection, code: UInt32, text: String)
    /// The connection is over; every stream was closed before.
    func closed(_ connection: HTTP2Connection, reason: String)
    /// The peer's settings are there: it speaks HTTP/2.
    func receivedSettings(_ connection: HTTP2Connection)
}

extension HTTP2ConnectionOwner {
    public func makeStream(on connection: HTTP2Connection) -> HTTP2Stream { HTTP2Stream(connection) }
    public func receivedGoAway(_ connection: HTTP2Connection, code: UInt32, text: String) {}
    public func receivedSettings(_ connection: HTTP2Connection) {}
}

/// One HTTP/2 connection. Confined to the loop of its transport.
public final class HTTP2Connection: ByteStreamOwner {
    /// The largest payload of a DATA frame.
    static let payloadBytesMax = 16_384

    public let transport: any ByteStream
    public let isServer: Bool
    @exclusivity(unchecked) public private(set) var isClosed = false
    public private(set) var goAwayReceived = false
    @exclusivity(unchecked) var streams = HTTP2StreamTable<HTTP2Stream>()
    let settings: HTTP2Settings
    /// Kept until it has heard of the end, as a stream of bytes keeps this connection.
    @exclusivity(unchecked) private var owner: (any HTTP2ConnectionOwner)?
    @exclusivity(unchecked) private(set) var session: OpaquePointer?
    private let output: HTTP2Output
    let deadlines: DeadlineQueue
    @exclusivity(unchecked) var lifetime: HTTP2Lifetime
    @exclusivity(unchecked) var pingRule: HTTP2PingRule
    @exclusivity(unchecked) private var frameBudget: HTTP2FrameBudget
    let lifetimeDeadline = LifetimeDeadline()
    /// It takes no new streams, because of its age, or because it is to stop; the open ones have the grace time.
    public internal(set) var isDraining = false
    /// Server: the peer is told that nothing was done of what is behind it.
    @exclusivity(unchecked) private var lastStreamTaken = Int32.max
    /// The block that is being received: header blocks of a connection do not interleave.
    private let fields: HTTP2FieldBlock
    /// The stream of the last frame, which is mostly that of the next; one of `streams`.
    @exclusivity(unchecked) private var current: (id: Int32, stream: Unmanaged<HTTP2Stream>)?
    /// Streams to be reset once their response is sent: nghttp2 drops what waits on a stream that is being reset.
    private var responding: [Int32] = []
    @exclusivity(unchecked) private var isFlushScheduled = false
    @exclusivity(unchecked) private var isInside = false
    /// Streams that ended while nghttp2 was at work: it may be telling of one of them.
    private var ended: [HTTP2Stream] = []
    @exclusivity(unchecked) private var isClosing = false
    private var closeReason = "the connection was closed"
    /// Why this side ends the connection, where it is the peer's doing: the first fault found.
    public private(set) var peerFault: HTTP2PeerFault?
    /// What an owner keeps with the connection, such as who its peer is.
    public var attachment: AnyObject? {
        get { storedAttachment }
        set { storedAttachment = newValue }
    }
    @exclusivity(unchecked) private var storedAttachment: AnyObject?
    /// Numeric address of the peer, as far as the owner has noted it.
    @exclusivity(unchecked) public var peerAddress = ""

    /// Takes over a connected stream of bytes and sends its settings. Connections of one loop may share their output
    /// and their deadlines.
    public init(
        transport: any ByteStream, isServer: Bool, settings: HTTP2Settings, owner: any HTTP2ConnectionOwner,
        output: HTTP2Output = HTTP2Output(), deadlines: DeadlineQueue? = nil
    ) {
        self.transport = transport
        self.isServer = isServer
        self.settings = settings
        fields = HTTP2FieldBlock(ofRequests: isServer)
        self.owner = owner
        self.output = output
        self.deadlines = deadlines ?? DeadlineQueue(loop: transport.loop)
        lifetime = HTTP2Lifetime(settings, now: transport.loop.nowMilliseconds)
        pingRule = HTTP2PingRule(
            gapMilliseconds: settings.pingGapMillisecondsMin, strikesMax: settings.pingStrikesMax)
        frameBudget = HTTP2FrameBudget(framesMax: settings.emptyFramesMax)
        let me = Unmanaged.passUnretained(self).toOpaque()
        session = HTTP2Callbacks.makeSession(isServer: isServer, settings: settings, me, output.memory.functions)
        lifetimeDeadline.connection = self
        submitSettings()
        transport.owner = self
        transport.startReading()
        scheduleLifetimeCheck()
        scheduleFlush()
    }

    deinit { if session != nil { deleteSession() } }

    private func submitSettings() {
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
    }

    /// Reads the body of a stream where nghttp2 asks for its DATA.
    private func provider(_ stream: HTTP2Stream) -> nghttp2_data_provider {
        var provider = nghttp2_data_provider()
        // A stream that nghttp2 asks for is open, so `streams` (or `ended`) keeps it alive.
        provider.source.ptr = Unmanaged.passUnretained(stream).toOpaque()
        provider.read_callback = { _, _, _, length, flags, source, me in
            let stream = Unmanaged<HTTP2Stream>.fromOpaque(source!.pointee.ptr)
            return Unmanaged<HTTP2Connection>.fromOpaque(me!)._withUnsafeGuaranteedRef { connection in
                stream._withUnsafeGuaranteedRef { connection.readBody($0, length, flags!) }
            }
        }
        return provider
    }
}

// MARK: Streams

extension HTTP2Connection {
    /// Client: begins a request. nil when the connection takes no more.
    public func request(_ headers: [HTTP2Header], body: (any HTTP2Body)?, owner: any HTTP2StreamOwner) -> HTTP2Stream? {
        guard !isClosed, !isClosing, !goAwayReceived else { return nil }
        let stream = HTTP2ClientStream(self, owner: owner, body: body)
        var provider = provider(stream)
        let id = withFields(headers) { fields, count in
            body == nil
                ? nghttp2_submit_request(session, nil, fields, count, nil, nil)
                : nghttp2_submit_request(session, nil, fields, count, &provider, nil)
        }
        guard id > 0 else { return nil }
        stream.id = id
        streams.insert(stream, id)
        lifetime.streamsChanged(open: streams.count, now: transport.loop.nowMilliseconds)
        scheduleLifetimeCheck()
        scheduleFlush()
        return stream
    }

    /// Calls `body` with each stream that is open, in no order. It may reset or answer them; it does not close the
    /// connection.
    public func forEachStream(_ body: (HTTP2Stream) -> Void) { streams.forEach(body) }

    func respond(_ stream: HTTP2Stream, _ fields: UnsafePointer<nghttp2_nv>, _ count: Int, endsStream: Bool) {
        guard !isClosed, !stream.isClosed else { return }
        pingRule.sentSomething()
        if endsStream {
            nghttp2_submit_response(session, stream.id, fields, count, nil)
        } else {
            var provider = provider(stream)
            nghttp2_submit_response(session, stream.id, fields, count, &provider)
        }
        scheduleFlush()
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

    func stopAfterResponse(_ stream: HTTP2Stream) { responding.append(stream.id) }

    private func resetResponded() {
        guard !responding.isEmpty else { return }
        responding.removeAll { id in
            guard streams.find(id) != nil else { return true }
            guard nghttp2_session_get_stream_local_close(session, id) == 1 else { return false }
            nghttp2_submit_rst_stream(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, HTTP2ErrorCode.none)
            scheduleFlush()
            return true
        }
    }

    func isWindowOpen(_ stream: HTTP2Stream) -> Bool {
        !isClosed && nghttp2_session_get_remote_window_size(session) > 0
            && nghttp2_session_get_stream_remote_window_size(session, stream.id) > 0
    }

    /// Gives the peer room for bytes that were taken.
    func consume(_ stream: HTTP2Stream, _ count: Int) {
        guard !isClosed else { return }
        nghttp2_session_consume(session, stream.id, count)
        scheduleFlush()
    }

    /// Gives the peer room on the connection for bytes that wait for their stream's reader: other streams go on.
    func consumeConnection(_ count: Int) {
        guard !isClosed else { return }
        nghttp2_session_consume_connection(session, count)
        scheduleFlush()
    }

    /// Gives the peer room on a stream whose bytes the connection counts as taken already.
    func consumeStream(_ stream: HTTP2Stream, _ count: Int) {
        guard !isClosed else { return }
        nghttp2_session_consume_stream(session, stream.id, count)
        scheduleFlush()
    }
}

// MARK: Ends

extension HTTP2Connection {
    /// Tells the peer that only streams up to the last one seen count, with an error code and a text.
    public func goAway(_ code: UInt32 = 0, _ text: String = "") {
        guard !isClosed else { return }
        let bytes = Array(text.utf8)
        let last = nghttp2_session_get_last_proc_stream_id(session)
        // nghttp2 itself refuses what is behind it from when the frame is sent, and what is read with it comes before.
        if isServer { lastStreamTaken = min(lastStreamTaken, last) }
        nghttp2_submit_goaway(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), last, code, bytes, bytes.count)
        scheduleFlush()
    }

    /// Ends the connection: at once, or, called from one of its own callbacks, when that has returned.
    public func close(reason: String) {
        guard !isClosed, !isClosing else { return }
        isClosing = true
        closeReason = reason
        if !isInside { finishClosing() }
    }

    private func finishClosing() {
        flush()
        transport.close()
        finish()
    }

    public func closed(_ error: StreamError?) {
        if let error, !isClosing { closeReason = "the connection failed: \(error)" }
        finish()
    }

    private func finish() {
        guard !isClosed else { return }
        isClosed = true
        deadlines.cancel(lifetimeDeadline)
        lifetimeDeadline.connection = nil
        current = nil
        let open = streams.inOrder
        if isInside { ended = open }
        streams.removeAll()
        // In the order of their numbers, so that the same run ends the same way.
        for stream in open { stream.wasClosed(HTTP2ErrorCode.connectionLost) }
        if !isInside { deleteSession() }
        let owner = owner
        self.owner = nil
        owner?.closed(self, reason: closeReason)
    }
}

// MARK: Bytes

extension HTTP2Connection {
    public func received(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed, !isClosing, let start = bytes.baseAddress else { return }
        lifetime.received(now: transport.loop.nowMilliseconds)
        isInside = true
        let count = nghttp2_session_mem_recv(session, start.assumingMemoryBound(to: UInt8.self), bytes.count)
        leave()
        if isClosed { return }
        if isClosing { return finishClosing() }
        if count < 0 {
            note(HTTP2PeerFault(nghttp2_error(Int32(count))))
            return close(reason: "the peer broke the protocol: \(String(cString: nghttp2_strerror(Int32(count))))")
        }
        scheduleFlush()
    }

    /// nghttp2 has returned.
    private func leave() {
        isInside = false
        if !ended.isEmpty { ended = [] }
        if isClosed { deleteSession() }
    }

    /// On the loop: its memory is the loop's, and the last reference to this may be gone anywhere.
    private func deleteSession() {
        fields.forget()
        nghttp2_session_del(session)
        session = nil
    }

    public func drained() { scheduleFlush() }

    func scheduleFlush() {
        guard !isFlushScheduled, !isClosed else { return }
        isFlushScheduled = true
        transport.loop.afterTurn { [self] in
            isFlushScheduled = false
            flush()
        }
    }

    /// Sends what there is, as far as the socket takes it.
    private func flush() {
        guard !isClosed, !isInside else { return }
        isInside = true
        var failure: String?
        var hasRoom = transport.waitingBytes < settings.outputBytesMax
        while hasRoom {
            var chunk: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &chunk)
            guard count > 0 else {
                if count < 0 { failure = String(cString: nghttp2_strerror(Int32(count))) }
                break
            }
            if let chunk { append(UnsafeRawBufferPointer(start: chunk, count: count)) }
            if output.isFull {
                writeOutput()
                hasRoom = transport.waitingBytes < settings.outputBytesMax
            }
        }
        writeOutput()
        leave()
        if isClosed { return }
        if let failure { return close(reason: failure) }
        resetResponded()
        let isDone = nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0
        if isDone, isServer, goAwayReceived, !isDraining, !isClosing {
            leaveToPeer()
        } else if isDone, !isClosing, transport.waitingBytes == 0 {
            close(reason: goAwayReceived ? "the peer closed it" : closeReason)
        } else if isClosing, !isClosed {
            // Asked for by a body while it was read.
            transport.close()
            finish()
        }
    }

    /// Server: the peer has said that it goes, and no stream is open. It has a moment to close the connection itself:
    /// closing over bytes that it still sends would reset the connection under it.
    private func leaveToPeer() {
        lifetime.peerLeaves(now: transport.loop.nowMilliseconds)
        scheduleLifetimeCheck()
    }

    private func writeOutput() { output.write(to: transport) }

    private func append(_ bytes: UnsafeRawBufferPointer) {
        if bytes.count > output.room { writeOutput() }
        guard bytes.count <= output.room else { return transport.write(bytes) }
        output.append(bytes)
    }

    /// nghttp2 asks for a stream's DATA: the body writes it where it will be sent from, behind room for the frame's
    /// header.
    private func readBody(_ stream: HTTP2Stream, _ lengthMax: Int, _ flags: UnsafeMutablePointer<UInt32>) -> Int {
        if output.isFull { writeOutput() }
        let length = min(lengthMax, HTTP2Connection.payloadBytesMax)
        if transport.gathersPieces {
            output.beginLent()
            let lent = stream.lend(length, to: output)
            if lent > 0 {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
                return lent
            }
            output.cancelLent()
        }
        switch stream.read(into: output.payloadRoom(length)) {
        case .bytes(let count):
            flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
            return count
        case .wait: return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        case .end(let trailers):
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
            if let trailers {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
                withFields(trailers) { fields, count in
                    _ = nghttp2_submit_trailer(session, stream.id, fields, count)
                }
            }
            return 0
        case .last(let count, let trailers):
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue | NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
            if count > 0 { flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue }
            nghttp2_submit_trailer(session, stream.id, trailers.fields, trailers.count)
            return count
        }
    }

    /// The frame is decided: its header goes before the bytes that `readBody` wrote, or that were lent to it.
    func sendBody(_ header: UnsafePointer<UInt8>, _ length: Int) {
        output.finishFrame(header, length)
        pingRule.sentSomething()
        frameBudget.usefulFrame()
    }
}

// MARK: What nghttp2 tells

extension HTTP2Connection {
    /// Calls `body` with a stream that is open, without a reference counted for it: `streams` holds one, and nghttp2
    /// closes no stream from inside of what it tells of it.
    @inline(__always)
    private func with(_ id: Int32, _ body: (HTTP2Stream) -> Void) {
        if let current, current.id == id { return current.stream._withUnsafeGuaranteedRef(body) }
        guard let found = streams.find(id) else { return }
        current = (id, found)
        found._withUnsafeGuaranteedRef(body)
    }

    func beginHeaders(_ id: Int32) {
        fields.begin()
        guard isServer, id <= lastStreamTaken, streams.find(id) == nil, let owner else { return }
        let stream = owner.makeStream(on: self)
        stream.id = id
        streams.insert(stream, id)
        current = (id, Unmanaged.passUnretained(stream))
        frameBudget.usefulFrame()
        if streams.count == 1 { lifetime.streamsChanged(open: 1, now: transport.loop.nowMilliseconds) }
    }

    @inline(__always)
    func header(_ name: OpaquePointer, _ value: OpaquePointer) {
        fields.append(name, value, listBytesMax: Int(settings.headerListBytesMax))
    }

    func headersDone(_ id: Int32, endsStream: Bool) {
        fields.finish()
        with(id) { stream in
            guard !isServer || stream.accepts(fields, endsStream: endsStream) else {
                return stream.reset(HTTP2ErrorCode.protocolError)
            }
            if fields.listBytes > Int(settings.headerListBytesMax) {
                stream.receivedTooLargeHeaders()
            } else {
                stream.received(fields: fields, endsStream: endsStream)
            }
            if endsStream { stream.receivedEnd() }
        }
    }

    func data(_ id: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard id <= lastStreamTaken else { return consumeConnection(bytes.count) }
        with(id) { $0.pass(body: bytes) }
    }

    func endOfData(_ id: Int32) { with(id) { $0.passEnd() } }

    func streamClosed(_ id: Int32, _ code: UInt32) {
        if current?.id == id { current = nil }
        streams.remove(id)?.wasClosed(code)
        if streams.isEmpty {
            lifetime.streamsChanged(open: 0, now: transport.loop.nowMilliseconds)
            scheduleLifetimeCheck()
        }
    }

    func receivedGoAway(_ code: UInt32, _ text: String) {
        goAwayReceived = true
        owner?.receivedGoAway(self, code: code, text: text)
    }

    /// A frame that asks for nothing.
    func emptyFrame() {
        guard isServer, !frameBudget.takeFrame() else { return }
        note(.tooManyFrames)
        goAway(HTTP2ErrorCode.enhanceYourCalm, "too_many_frames")
        close(reason: "the peer sent too many frames that ask for nothing")
    }

    func receivedSettings() { owner?.receivedSettings(self) }

    /// A GOAWAY is on its way, by this side's wish or by nghttp2's.
    func sentGoAway(_ code: UInt32) {
        if let fault = HTTP2PeerFault(goAwayCode: code) { note(fault) }
    }

    func note(_ fault: HTTP2PeerFault) { if peerFault == nil { peerFault = fault } }
}
