import EventLoop
import HTTP2

/// The deadline of one call.
final class CallDeadline: Deadline {
    /// Until the call is closed, which takes the deadline back.
    private let call: ServerCall

    init(_ call: ServerCall) { self.call = call }

    override func passed() { call.deadlinePassed() }
}

// MARK: The request's head

extension ServerCall {
    public func received(fields: HTTP2FieldBlock, endsStream: Bool, _ stream: HTTP2Stream) {
        // Trailers of a request mean nothing to gRPC.
        guard !isHeadRead else { return }
        isHeadRead = true
        isEndReceived = endsStream
        fields.withFields { fields in
            var head = RequestHead()
            fields.forEach { name, value in head.read(name, value) }
            begin(head)
        }
    }

    public func receivedTooLargeHeaders(_ stream: HTTP2Stream) {
        isHeadRead = true
        refuseLargeHeaders(GRPCStatus(.resourceExhausted, "the request's headers are larger than the limit"))
    }

    private func begin(_ head: RequestHead) {
        if RequestHead.equal(head.method, "OPTIONS"), !head.origin.isEmpty { return answerPreflight(head) }
        guard RequestHead.equal(head.method, "POST") else {
            isHeadersOnly = RequestHead.equal(head.method, "HEAD")
            return refuse("405", GRPCStatus(.unknown, "gRPC calls are POST"))
        }
        if !ServerCall.isGRPC(head.contentType) {
            web = WebFraming(head.contentType, origin: head.origin, origins: context.configuration.webOrigins)
            guard web != nil else {
                return refuse("415", GRPCStatus(.unknown, "content-type is not application/grpc"))
            }
        } else if !head.hasTrailersTE {
            return fail(GRPCStatus(.internalError, "the header te: trailers is missing"))
        }
        rawMetadata = head.metadata
        guard let entry = context.table.find(head.path) else {
            unknownPath = RequestHead.string(head.path)
            return fail(context.table.refusal(unknownPath))
        }
        self.entry = entry
        guard agreeOnCompression(head, entry) else { return }
        guard rawMetadata.isBinaryValid else {
            return fail(GRPCStatus(.internalError, "a value of a -bin header is no base64"))
        }
        if let timeout = head.timeout { startDeadline(timeout) }
        askInterceptors()
        guard end == nil, case .streaming(let handler) = entry.handler else { return }
        let sink = handler(self)
        if end == nil { self.sink = sink }
    }

    /// Responses are compressed as requests are, which is how a client asks for it.
    private func agreeOnCompression(_ head: RequestHead, _ entry: GRPCServiceTable.Entry) -> Bool {
        if let accepted = head.acceptedEncodings {
            for name in accepted.split(separator: UInt8(ascii: ",")) {
                let trimmed = UnsafeRawBufferPointer(rebasing: name).trimmed
                if let compression = GRPCCompression(trimmed) { acceptedCompressions.append(compression) }
            }
        }
        guard let encoding = head.encoding, !RequestHead.equal(encoding, "identity") else { return true }
        guard let compression = GRPCCompression(encoding) else {
            isEncodingUnknown = true
            fail(
                GRPCStatus(
                    .unimplemented,
                    "grpc-encoding \(RequestHead.string(encoding)) is not supported; use \(GRPCCompression.accepted)"))
            return false
        }
        requestCompression = compression
        if !acceptedCompressions.contains(compression) { acceptedCompressions.append(compression) }
        if entry.compresses { responseCompression = compression }
        return true
    }

    static func isGRPC(_ contentType: UnsafeRawBufferPointer) -> Bool {
        if RequestHead.equal(contentType, "application/grpc") { return true }
        let text = RequestHead.string(contentType)
        guard text.hasPrefix("application/grpc") else { return false }
        let rest = text.dropFirst("application/grpc".count)
        return rest.first == ";" || rest == "+proto" || rest.hasPrefix("+proto;")
    }

    private func startDeadline(_ text: UnsafeRawBufferPointer) {
        guard let milliseconds = Timeout.milliseconds(text) else {
            return fail(GRPCStatus(.internalError, "malformed grpc-timeout \(RequestHead.string(text))"))
        }
        let at = context.deadlines.now &+ UInt64(milliseconds)
        deadlineMilliseconds = at
        let deadline = CallDeadline(self)
        self.deadline = deadline
        context.deadlines.set(deadline, at: at)
    }

    private func askInterceptors() {
        for index in context.interceptors.indices {
            guard end == nil else { return }
            interceptorsBegun += 1
            if let refusal = context.interceptors[index].begin(self) { return fail(refusal) }
        }
    }
}

// MARK: The request's messages

extension ServerCall {
    public func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        receivedBytes += data.count
        guard end == nil, let entry else {
            stream.consume(data.count)
            return refuseIfDue()
        }
        if let web, web.isText { return received(text: data, web, entry, stream) }
        guard held.isEmpty, !isPaused else {
            held.append(contentsOf: data)
            account()
            return
        }
        let taken = deliver(data, entry)
        guard taken < data.count, end == nil else { return stream.consume(data.count) }
        stream.consume(taken)
        held.append(contentsOf: data[taken...])
        account()
    }

    /// Base64 of a browser, whose requests come whole: the window is given back at once, the message limit bounds it.
    private func received(
        text: UnsafeRawBufferPointer, _ web: WebFraming, _ entry: GRPCServiceTable.Entry, _ stream: HTTP2Stream
    ) {
        stream.consume(text.count)
        guard let bytes = web.decodeText(text) else {
            return fail(GRPCStatus(.internalError, "the request is no base64"))
        }
        guard held.isEmpty, !isPaused else {
            held += bytes
            if held.count - heldPosition > context.configuration.messageBytesMax {
                fail(GRPCStatus(.resourceExhausted, "the request is larger than the limit"))
            }
            account()
            return
        }
        let taken = bytes.withUnsafeBytes { deliver($0, entry) }
        if taken < bytes.count, end == nil { held.append(contentsOf: bytes[taken...]) }
    }

    /// The sink is told no more messages until ``resumeRequests()``; the client may send as much as its window takes.
    public func pauseRequests() { pauses.insert(.sink) }

    /// As ``pauseRequests()``, for an interceptor: neither undoes the other's.
    public func holdRequests() { pauses.insert(.interceptor) }

    /// Messages go to the sink again, after the current callback.
    public func resumeRequests() { resume(.sink) }

    /// Ends what ``holdRequests()`` began.
    public func releaseRequests() { resume(.interceptor) }

    private func resume(_ pause: RequestPauses) {
        pauses.remove(pause)
        guard !isPaused, !held.isEmpty, !isHeldDeliveryScheduled else { return }
        isHeldDeliveryScheduled = true
        loop.afterTurn { [weak self] in
            self?.isHeldDeliveryScheduled = false
            self?.deliverHeld()
        }
    }

    private func deliverHeld() {
        guard !isPaused, end == nil, let entry, let stream else { return }
        let bytes = held
        let taken = bytes.withUnsafeBytes {
            deliver(UnsafeRawBufferPointer(rebasing: $0[heldPosition...]), entry)
        }
        heldPosition += taken
        if web?.isText != true { stream.consume(taken) }
        if heldPosition >= held.count {
            held = []
            heldPosition = 0
        } else if heldPosition > held.count / 2 {
            held.removeFirst(heldPosition)
            heldPosition = 0
        }
        account()
        if held.isEmpty, isEndReceived { deliverEnd() }
    }

    /// Hands messages on until the sink wants no more; returns the bytes taken.
    private func deliver(_ bytes: UnsafeRawBufferPointer, _ entry: GRPCServiceTable.Entry) -> Int {
        var rest = bytes
        do throws(GRPCStatus) {
            while end == nil, !isPaused, let message = try reader.next(&rest) {
                if message.isCompressed {
                    let payload = try decompress(message)
                    payload.withUnsafeBytes { deliver(message: $0) }
                } else {
                    message.withPayload { deliver(message: $0) }
                }
            }
        } catch {
            fail(error)
        }
        account()
        return bytes.count - rest.count
    }

    private func decompress(_ message: RequestReader.Message) throws(GRPCStatus) -> [UInt8] {
        guard let requestCompression else {
            throw GRPCStatus(.internalError, "a compressed message without grpc-encoding")
        }
        let decompressor = context.compressors.decompressor(requestCompression)
        var result: Result<[UInt8], GRPCStatus> = .success([])
        message.withPayload { payload in
            do throws(GRPCStatus) {
                result = .success(
                    try decompressor.decompress(payload, lengthMax: context.configuration.messageBytesMax))
            } catch {
                result = .failure(error)
            }
        }
        return try result.get()
    }

    private func deliver(message: UnsafeRawBufferPointer) {
        for index in context.interceptors.indices {
            context.interceptors[index].received(self, messages: 1, bytes: message.count)
        }
        if let sink { return sink.received(message: message, self) }
        if request == nil { request = Array(message) } else { fail(ServerCall.tooMany) }
    }

    private static let tooMany = GRPCStatus(.unimplemented, "more than one request message")

    public func receivedEnd(_ stream: HTTP2Stream) {
        isEndReceived = true
        if refusal != nil { return refuseIfDue() }
        if held.isEmpty { deliverEnd() }
    }

    private func deliverEnd() {
        guard end == nil, let entry, !isEndDelivered else { return }
        isEndDelivered = true
        guard reader.count == 0 else { return fail(GRPCStatus(.internalError, "a request message is cut off")) }
        switch entry.handler {
        case .streaming: sink?.receivedEnd(self)
        case .unary(let handle):
            guard let request else { return fail(GRPCStatus(.internalError, "no request message")) }
            self.request = nil
            account()
            request.withUnsafeBytes { handle(self, $0) }
        }
    }
}

/// `grpc-timeout`: at most 8 digits and a unit.
enum Timeout {
    /// Rounded up to milliseconds; nil where it is malformed.
    static func milliseconds(_ text: UnsafeRawBufferPointer) -> Int? {
        guard (2...9).contains(text.count) else { return nil }
        var value = 0
        for byte in text.dropLast() {
            guard byte >= 0x30, byte <= 0x39 else { return nil }
            value = value * 10 + Int(byte - 0x30)
        }
        switch text[text.count - 1] {
        case UInt8(ascii: "H"): return value * 3_600_000
        case UInt8(ascii: "M"): return value * 60_000
        case UInt8(ascii: "S"): return value * 1000
        case UInt8(ascii: "m"): return value
        case UInt8(ascii: "u"): return (value + 999) / 1000
        case UInt8(ascii: "n"): return (value + 999_999) / 1_000_000
        default: return nil
        }
    }

    static func text(milliseconds: Int) -> String {
        milliseconds < 100_000_000 ? "\(max(1, milliseconds))m" : "\(min(99_999_999, milliseconds / 1000))S"
    }
}

/// Who wants no more request messages for now.
struct RequestPauses: OptionSet {
    let rawValue: UInt8
    static let sink = RequestPauses(rawValue: 1)
    static let interceptor = RequestPauses(rawValue: 2)
}
