import EventLoop
import HTTP2
import Synchronization

// MARK: What goes out

extension ServerCall {
    static let responseHeaders = [HTTP2Header(":status", "200"), HTTP2Header("content-type", "application/grpc")]
    private static let plainHeaders = HTTP2FixedHeaders(responseHeaders)
    private static let plainTrailers = HTTP2FixedHeaders([HTTP2Header("grpc-status", "0")])

    /// Sends the response's headers now; by themselves they go with the first message.
    public func sendHeaders() {
        guard !isHeaderSent, !isClosed else { return }
        isHeaderSent = true
        guard let rare, rare.needsHeaders else { return respond(ServerCall.plainHeaders) }
        respond(headers(status: "200"))
    }

    private func headers(status: String) -> [HTTP2Header] {
        var headers = [HTTP2Header(":status", status)]
        headers.append(HTTP2Header("content-type", rare?.web?.contentType ?? "application/grpc"))
        guard let rare else { return headers }
        if let compression = rare.responseCompression {
            headers.append(HTTP2Header("grpc-encoding", compression.rawValue))
        }
        if rare.requestCompression != nil || rare.isEncodingUnknown {
            headers.append(HTTP2Header("grpc-accept-encoding", GRPCCompression.accepted))
        }
        if let web = rare.web { headers += web.crossOriginHeaders(exposing: rare.responseMetadata) }
        return headers + rare.responseMetadata.headers
    }

    /// A message as it goes out: compressed where that is agreed, asked for (or not asked against) and smaller.
    func frame(_ payload: UnsafeRawBufferPointer, compressed: Bool?) -> [UInt8] {
        guard let responseCompression = rare?.responseCompression,
            compressed ?? (payload.count >= context.configuration.compressedBytesMin),
            let small = context.compressors.compressor(responseCompression).compress(payload),
            compressed == true || small.count < payload.count
        else { return MessageFrame.make(payload) }
        return MessageFrame.make(small, isCompressed: true)
    }

    /// Ends the response with its headers; a browser gets its trailers in the body all the same.
    func sendTrailersOnly() {
        guard !isClosed, let end else { return }
        if rare?.web != nil { return sendHeaders() }
        isHeaderSent = true
        rare?.responseCompression = nil
        sendEnd(headers(status: "200") + ServerCall.trailers(end.status, end.trailers))
    }

    /// Answers what is no gRPC at all by HTTP's means, with a text for whoever reads it: once the request has ended, or
    /// is longer than anybody waits for.
    func refuse(_ httpStatus: String, _ status: GRPCStatus) {
        guard end == nil, !isClosed else { return }
        end = (status, GRPCMetadata())
        makeRare().refusal = httpStatus
        refuseIfDue()
    }

    /// Sends a refusal that waits for the request.
    func refuseIfDue() {
        guard let rare, let refusal = rare.refusal, !isHeaderSent, !isClosed, let end else { return }
        guard isEndReceived || receivedBytes > ServerCall.refusedBytesMax else { return }
        isHeaderSent = true
        var headers = [HTTP2Header(":status", refusal), HTTP2Header("content-type", "text/plain; charset=utf-8")]
        if refusal == "405" { headers.append(HTTP2Header("allow", "POST")) }
        headers += ServerCall.trailers(end.status, GRPCMetadata())
        if rare.isHeadersOnly { return sendEnd(headers) }
        frames.append(Array("\(end.status.message)\n".utf8))
        respond(headers)
    }

    private func readRefusal(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead {
        let count = frames.read(into: buffer, context.output.memory)
        if count > 0 { return .bytes(count) }
        endIsSent()
        return .end(trailers: nil)
    }

    /// What of a refused request is read before it is answered.
    private static let refusedBytesMax = 65_536

    /// Answers a call whose headers were not looked at: both HTTP's and gRPC's clients find what they look for.
    func refuseLargeHeaders(_ status: GRPCStatus) {
        guard end == nil, !isClosed else { return }
        end = (status, GRPCMetadata())
        isHeaderSent = true
        sendEnd(headers(status: "431") + ServerCall.trailers(status, GRPCMetadata()))
    }

    /// Answers a browser that asks whether it may call.
    func answerPreflight(_ head: RequestHead) {
        guard end == nil, !isClosed else { return }
        end = (.ok, GRPCMetadata())
        isHeaderSent = true
        sendEnd(WebFraming.preflight(head, context.configuration.webOrigins))
    }

    private func sendEnd(_ headers: [HTTP2Header]) {
        isEndSent = true
        respond(headers, endsStream: true)
        if !isEndReceived { stopRequestAfterResponse() }
    }

    static func trailers(_ status: GRPCStatus, _ metadata: GRPCMetadata) -> [HTTP2Header] {
        var trailers = [HTTP2Header("grpc-status", String(status.code.rawValue))]
        if !status.message.isEmpty {
            trailers.append(HTTP2Header("grpc-message", PercentCoding.encode(status.message)))
        }
        return trailers + metadata.headers
    }

    func nextBytes(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead {
        if let rare {
            if rare.refusal != nil { return readRefusal(into: buffer) }
            if rare.web != nil { return readWeb(into: buffer) }
        }
        switch next(into: buffer) {
        case .wait: return .wait
        case .bytes(let count), .frames(let count, _):
            guard frames.isEmpty, let end, ServerCall.isPlain(end) else { return .bytes(count) }
            endIsSent()
            return .last(count, trailers: ServerCall.plainTrailers)
        case .end(let status, let trailers):
            endIsSent()
            if ServerCall.isPlain((status, trailers)) { return .last(0, trailers: ServerCall.plainTrailers) }
            return .end(trailers: ServerCall.trailers(status, trailers))
        }
    }

    private static func isPlain(_ end: (status: GRPCStatus, trailers: GRPCMetadata)) -> Bool {
        end.status.isOK && end.status.message.isEmpty && end.trailers.entries.isEmpty
    }

    private func endIsSent() {
        isEndSent = true
        // The rest of the request is not wanted.
        if !isEndReceived { stopRequestAfterResponse() }
    }

    /// The next bytes of frames.
    private func next(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        let count = frames.read(into: buffer, context.output.memory)
        if count > 0 {
            handedOn(buffer, count)
            return .bytes(count)
        }
        if let end { return .end(end.status, trailers: end.trailers) }
        guard let source else { return .wait }
        let read = source.read(into: buffer)
        switch read {
        case .bytes(let count): handedOn(buffer, count)
        case .frames(let count, let ended): handedOn(count, messages: ended)
        case .wait: break
        case .end(let status, let trailers): end = (status, trailers)
        }
        return read
    }

    /// What the source lends, where nothing waits before it and nothing is to be made of it.
    func lendBytes(_ countMax: Int, to output: HTTP2Output) -> Int {
        guard frames.isEmpty, end == nil, let source, rare?.web == nil else { return 0 }
        let lent = source.lend(countMax, to: output)
        if lent.bytes > 0 { handedOn(lent.bytes, messages: lent.ended) }
        return lent.bytes
    }

    /// A browser sees no trailers: they come as the last frame of the body.
    private func readWeb(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead {
        while let web = rare?.web {
            let copied = web.readText(into: buffer)
            if copied > 0 { return .bytes(copied) }
            let read = web.isText ? web.encodeText { next(into: $0) } : next(into: buffer)
            switch read {
            case .wait: return .wait
            case .bytes(let count), .frames(let count, _): if !web.isText { return .bytes(count) }
            case .end(let status, let trailers):
                guard !web.hasTrailers else {
                    endIsSent()
                    return .end(trailers: nil)
                }
                web.hasTrailers = true
                frames.append(WebFraming.trailerFrame(ServerCall.trailers(status, trailers)))
            }
        }
        return .wait
    }

    private func handedOn(_ buffer: UnsafeMutableRawBufferPointer, _ count: Int) {
        let isHeard = context.interceptors.hearSent && rare?.web?.hasTrailers != true
        handedOn(count, messages: isHeard ? counter.count(UnsafeRawBufferPointer(rebasing: buffer[..<count])) : 0)
    }

    /// `messages`: frames that end in the bytes.
    private func handedOn(_ count: Int, messages: Int) {
        sentBytes += count
        if context.interceptors.hearSent, rare?.web?.hasTrailers != true {
            context.interceptors.sent(self, messages: messages, bytes: count)
        }
        account()
        guard wasFull, isWritable else { return }
        wasFull = false
        if onWritable != nil {
            loop.afterTurn { [weak self] in self?.onWritable?() }
        }
    }

    private static let outOfMemory = CallEnding(
        .serverOutOfMemory,
        GRPCStatus(.resourceExhausted, "the server holds as many bytes of calls as it may; try again later"))

    /// Keeps the server's count of bytes held in step; false where they are too many, and the call has failed.
    @discardableResult
    func account() -> Bool {
        let now = frames.bytes + reader.count + (rare?.held.count ?? 0) + (request?.count ?? 0)
        // Small ones are many and come to little.
        guard now >= 4096 || countedBytes > 0 else { return true }
        let change = now - countedBytes
        countedBytes = now
        let total = context.shared.heldBytes.add(change, ordering: .relaxed).newValue
        guard change > 0, total > context.configuration.heldBytesMax, end == nil, !isCutOff else { return true }
        context.shared.callsOutOfMemory.add(1, ordering: .relaxed)
        cutOff(ServerCall.outOfMemory)
        return false
    }
}

extension ServerCall.Rare {
    /// Whether the response's headers are not the plain ones.
    var needsHeaders: Bool {
        web != nil || requestCompression != nil || responseCompression != nil || isEncodingUnknown
            || !responseMetadata.entries.isEmpty
    }
}

/// Frames that wait to be sent, read in pieces. The common case is one, in memory of the loop.
struct FrameQueue {
    /// A short frame, which is the first.
    private var short: UnsafeMutableRawPointer?
    private var shortCount = 0
    private var first: [UInt8] = []
    private var position = 0
    private var rest: [[UInt8]] = []
    private var restStart = 0
    /// Bytes that wait.
    private(set) var bytes = 0

    var isEmpty: Bool { bytes == 0 }

    mutating func append(_ frame: [UInt8]) {
        if bytes == 0 {
            first = frame
            position = 0
        } else {
            rest.append(frame)
        }
        bytes += frame.count
    }

    /// The frame of a payload that is not compressed.
    mutating func append(payload: UnsafeRawBufferPointer, _ memory: HTTP2Memory) {
        let count = MessageReader.prefixLength + payload.count
        guard bytes == 0, let place = memory.takeShort(count) else { return append(MessageFrame.make(payload)) }
        place.storeBytes(of: 0, as: UInt8.self)
        place.storeBytes(of: UInt32(payload.count).bigEndian, toByteOffset: 1, as: UInt32.self)
        if let from = payload.baseAddress {
            (place + MessageReader.prefixLength).copyMemory(from: from, byteCount: payload.count)
        }
        short = place
        shortCount = count
        position = 0
        bytes = count
    }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer, _ memory: HTTP2Memory) -> Int {
        var filled = 0
        while bytes > 0, filled < buffer.count {
            let place = buffer.baseAddress! + filled
            let count: Int
            if let short {
                count = min(buffer.count - filled, shortCount - position)
                place.copyMemory(from: short + position, byteCount: count)
            } else {
                count = min(buffer.count - filled, first.count - position)
                first.withUnsafeBytes { place.copyMemory(from: $0.baseAddress! + position, byteCount: count) }
            }
            position += count
            filled += count
            bytes -= count
            if position == (short == nil ? first.count : shortCount) { advance(memory) }
        }
        return filled
    }

    private mutating func advance(_ memory: HTTP2Memory) {
        position = 0
        if let short {
            memory.giveBack(short)
            self.short = nil
        }
        guard restStart < rest.count else {
            if !first.isEmpty { first = [] }
            return
        }
        first = rest[restStart]
        rest[restStart] = []
        restStart += 1
        if restStart == rest.count {
            rest.removeAll(keepingCapacity: rest.count <= 64)
            restStart = 0
        }
    }

    /// Drops all but the rest of a frame that was begun.
    mutating func dropWaiting(_ memory: HTTP2Memory) {
        guard position > 0 else { return drop(memory) }
        rest = []
        restStart = 0
        bytes = (short == nil ? first.count : shortCount) - position
    }

    mutating func drop(_ memory: HTTP2Memory) {
        if let short { memory.giveBack(short) }
        self = FrameQueue()
    }
}
