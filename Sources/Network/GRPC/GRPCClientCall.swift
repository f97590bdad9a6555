import EventLoop
import HTTP2

/// What a call's owner is told. On the loop.
public protocol GRPCCallOwner: AnyObject {
    /// The response's headers.
    func received(metadata: GRPCMetadata)
    /// Whole frames, back to back (``MessageSequence`` walks them); valid during the call.
    func received(frames: UnsafeRawBufferPointer)
    /// What was sent has gone on: more may be sent. Told after a call was not writable.
    func becameWritable()
    /// The call is over. Told once, last.
    func ended(_ status: GRPCStatus, trailers: GRPCMetadata)
}

extension GRPCCallOwner {
    public func becameWritable() {}
}

/// One call on one connection, of any of the four patterns. Confined to its loop.
public final class ClientCall: HTTP2StreamOwner, HTTP2Body {
    /// More waiting bytes than this, and the call is not writable.
    public static let waitingBytesMax = 64 << 10

    weak var stream: HTTP2Stream?
    /// The server has certainly not begun the call: it may be made again whatever it does.
    private(set) var isUnprocessed = false
    /// Bytes of messages that the connection has not taken yet.
    public private(set) var waitingBytes = 0
    public private(set) var isReadingPaused = false
    private var owner: (any GRPCCallOwner)?
    private let messageBytesMax: Int
    private var output: [[UInt8]] = []
    private var outputStart = 0
    private var outputPosition = 0
    private var isHalfClosed = false
    private var isEndSent = false
    private var wasFull = false
    private var reader: MessageReader
    /// Of an answer that may be compressed, in place of ``reader``.
    private var compressedReader: RequestReader?
    private let compressors: Compressors
    /// Arrived while reading was paused.
    private var held: [UInt8] = []
    private var isDeliveryScheduled = false
    private var endAfterHeld: GRPCStatus?
    /// For what is delivered after the stream has gone.
    private var heldLoop: (any Loop)?
    private var deadline: (any LoopTimer)?
    private var httpStatus = ""
    private var contentType = ""
    private var encoding: String?
    private var compression: GRPCCompression?
    private var trailers = GRPCMetadata()
    private var hasHeaders = false

    init(owner: any GRPCCallOwner, messageBytesMax: Int, compressors: Compressors) {
        self.owner = owner
        self.messageBytesMax = messageBytesMax
        self.compressors = compressors
        reader = MessageReader(lengthMax: messageBytesMax)
    }

    /// Whether the call is over.
    public var isEnded: Bool { owner == nil }

    /// Ends the call; the server is told.
    public func cancel(_ status: GRPCStatus = GRPCStatus(.cancelled, "cancelled by the client")) {
        guard owner != nil else { return }
        stream?.reset(HTTP2ErrorCode.cancel)
        finish(status)
    }

    func startDeadline(_ loop: any Loop, _ milliseconds: Int) {
        deadline = loop.timer(afterMilliseconds: milliseconds) { [weak self] in
            self?.cancel(GRPCStatus(.deadlineExceeded, "no answer within \(milliseconds) ms"))
        }
    }

    /// The connection takes no more calls.
    func refuse() {
        isUnprocessed = true
        finish(GRPCStatus(.unavailable, "the connection takes no more calls"))
    }

    func finish(_ status: GRPCStatus) {
        guard let owner else { return }
        self.owner = nil
        deadline?.cancel()
        deadline = nil
        output = []
        held = []
        owner.ended(status, trailers: trailers)
    }
}

// MARK: Requests

extension ClientCall {
    /// Whether more should be sent now; ``GRPCCallOwner/becameWritable()`` tells when, after it was not.
    public var isWritable: Bool {
        if waitingBytes < ClientCall.waitingBytesMax { return true }
        wasFull = true
        return false
    }

    /// Sends a message. It is kept until the connection takes it, also when the call is not writable. A message above
    /// the limit ends the call.
    public func send(_ message: [UInt8]) {
        guard message.count <= messageBytesMax else {
            return cancel(
                GRPCStatus(.resourceExhausted, "a message of \(message.count) bytes is larger than the limit"))
        }
        send(frame: message.withUnsafeBytes { MessageFrame.make($0) })
    }

    func send(frame: [UInt8]) {
        guard owner != nil, !isHalfClosed else { return }
        output.append(frame)
        waitingBytes += frame.count
        stream?.resumeBody()
    }

    /// Sends no more messages.
    public func halfClose() {
        guard owner != nil, !isHalfClosed else { return }
        isHalfClosed = true
        stream?.resumeBody()
    }

    public func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        var filled = 0
        while filled < buffer.count, outputStart < output.count {
            let rest = output[outputStart].count - outputPosition
            let count = min(buffer.count - filled, rest)
            output[outputStart].withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: buffer[filled..<(filled + count)]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: $0[outputPosition..<(outputPosition + count)]))
            }
            filled += count
            outputPosition += count
            if count == rest { dropFirst() }
        }
        waitingBytes -= filled
        if filled > 0 {
            if wasFull, waitingBytes < ClientCall.waitingBytesMax { scheduleWritable(stream) }
            return .bytes(filled)
        }
        guard isHalfClosed else { return .wait }
        isEndSent = true
        return .end(trailers: nil)
    }

    private func dropFirst() {
        output[outputStart] = []
        outputStart += 1
        outputPosition = 0
        if outputStart == output.count || outputStart >= 64 {
            output.removeFirst(outputStart)
            outputStart = 0
        }
    }

    /// Inside a read nothing may be sent: the owner is told at the end of the turn.
    private func scheduleWritable(_ stream: HTTP2Stream) {
        wasFull = false
        stream.connection.transport.loop.afterTurn { [weak self] in self?.owner?.becameWritable() }
    }
}

// MARK: Responses

extension ClientCall {
    /// No frames until reading is resumed; what was read already may still come. The peer feels the pressure once the
    /// stream's window is full.
    public func pauseReading() { isReadingPaused = true }

    /// Frames come again, after the current callback.
    public func resumeReading() {
        guard isReadingPaused else { return }
        isReadingPaused = false
        guard !isDeliveryScheduled, !held.isEmpty || endAfterHeld != nil, let loop = deliveryLoop else { return }
        isDeliveryScheduled = true
        loop.afterTurn { [weak self] in self?.deliverHeld() }
    }

    private var deliveryLoop: (any Loop)? { stream?.connection.transport.loop ?? heldLoop }

    private func deliverHeld() {
        isDeliveryScheduled = false
        guard owner != nil, !isReadingPaused else { return }
        let bytes = held
        held = []
        bytes.withUnsafeBytes { if !$0.isEmpty { deliver($0) } }
        stream?.consumeFromStream(bytes.count)
        guard let status = endAfterHeld, !isReadingPaused else { return }
        endAfterHeld = nil
        end(status)
    }

    private func deliver(_ data: UnsafeRawBufferPointer) {
        if compression != nil { return deliverCompressed(data) }
        do {
            try reader.read(data) { owner?.received(frames: $0) }
        } catch {
            cancel(error.status)
        }
    }

    /// Messages one by one, each decompressed where it says that it is compressed.
    private func deliverCompressed(_ data: UnsafeRawBufferPointer) {
        var rest = data
        do throws(GRPCStatus) {
            while owner != nil, let message = try compressedReader?.next(&rest) {
                let frame = try plainFrame(message)
                frame.withUnsafeBytes { owner?.received(frames: $0) }
            }
        } catch {
            cancel(error)
        }
    }

    private func plainFrame(_ message: RequestReader.Message) throws(GRPCStatus) -> [UInt8] {
        var result = Result<[UInt8], GRPCStatus>.success([])
        message.withPayload { payload in
            guard message.isCompressed, let compression else { return result = .success(MessageFrame.make(payload)) }
            let decompressor = compressors.decompressor(compression)
            result = Result { () throws(GRPCStatus) in
                MessageFrame.make(try decompressor.decompress(payload, lengthMax: messageBytesMax))
            }
        }
        return try result.get()
    }

    public func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        let status = headers.first { $0.name == ":status" }?.value
        // An informational answer comes before the real one.
        if let status, status.hasPrefix("1") { return }
        var metadata = GRPCMetadata()
        for header in headers where !header.name.hasPrefix(":") { metadata.addWire(header.name, header.value) }
        if let status {
            httpStatus = status
            contentType = metadata.value("content-type") ?? ""
            encoding = metadata.value("grpc-encoding")
        }
        if endsStream {
            trailers = metadata
        } else if !hasHeaders, owner != nil {
            hasHeaders = true
            if let problem = checkHeaders() {
                cancel(problem)
            } else {
                owner?.received(metadata: metadata)
            }
        }
    }

    /// Why these headers begin no gRPC answer; notes how an answer is compressed.
    private func checkHeaders() -> GRPCStatus? {
        guard httpStatus == "200" else { return GRPCClientStatus.of(httpStatus: httpStatus) }
        guard contentType.hasPrefix("application/grpc") else {
            return GRPCStatus(.unknown, "the server answered with content-type \(contentType)")
        }
        guard let encoding, encoding != "identity" else { return nil }
        guard let compression = GRPCCompression(rawValue: encoding) else {
            return GRPCStatus(
                .internalError, "the server answered with grpc-encoding \(encoding), which was not asked for")
        }
        self.compression = compression
        compressedReader = RequestReader(lengthMax: messageBytesMax)
        return nil
    }

    public func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        guard owner != nil else { return stream.consume(data.count) }
        if isReadingPaused || isDeliveryScheduled {
            held.append(contentsOf: data)
            return stream.consumeFromConnection(data.count)
        }
        deliver(data)
        stream.consume(data.count)
    }

    public func receivedEnd(_ stream: HTTP2Stream) {
        end(statusFromTrailers())
        // The answer is complete; what was still to be sent has no reader.
        if !isEndSent { stream.reset(HTTP2ErrorCode.cancel) }
    }

    private func statusFromTrailers() -> GRPCStatus {
        GRPCClientStatus.of(trailers: trailers) ?? GRPCClientStatus.of(httpStatus: httpStatus)
    }

    /// Ends the call once everything that arrived was delivered.
    private func end(_ status: GRPCStatus) {
        guard owner != nil, endAfterHeld == nil else { return }
        if isReadingPaused || isDeliveryScheduled {
            endAfterHeld = status
            if let stream { heldLoop = stream.connection.transport.loop }
            return
        }
        if status.isOK, !reader.isEmpty || compressedReader.map({ $0.count > 0 }) == true {
            return finish(GRPCStatus(.internalError, "a message is cut off"))
        }
        finish(status)
    }

    public func closed(_ stream: HTTP2Stream, code: UInt32) {
        guard owner != nil, endAfterHeld == nil else { return }
        heldLoop = stream.connection.transport.loop
        isUnprocessed = code == HTTP2ErrorCode.refusedStream
        if code == HTTP2ErrorCode.none, !httpStatus.isEmpty { return end(statusFromTrailers()) }
        end(GRPCClientStatus.of(resetCode: code))
    }
}
