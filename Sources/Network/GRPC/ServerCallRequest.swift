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
    func begin(_ fields: HTTP2FieldBlock, endsStream: Bool) {
        // Trailers of a request mean nothing to gRPC.
        guard !isHeadRead else { return }
        isHeadRead = true
        isEndReceived = endsStream
        if let plain = fields.reading { return begin(unsafeDowncast(plain, to: PlainHead.self)) }
        fields.withFields { bytes in
            var head = RequestHead()
            let metadata = context.metadata
            metadata.begin()
            bytes.forEach { name, value in if head.read(name, value) { metadata.append(name, value) } }
            begin(&head, fields)
        }
    }

    func refuseLargeHeaders() {
        isHeadRead = true
        refuseLargeHeaders(GRPCStatus(.resourceExhausted, "the request's headers are larger than the limit"))
    }

    private func begin(_ head: inout RequestHead, _ fields: HTTP2FieldBlock) {
        if RequestHead.equal(head.method, "OPTIONS"), !head.origin.isEmpty { return answerPreflight(head) }
        guard RequestHead.equal(head.method, "POST") else {
            makeRare().isHeadersOnly = RequestHead.equal(head.method, "HEAD")
            return refuse("405", GRPCStatus(.unknown, "gRPC calls are POST"))
        }
        if !ServerCall.isGRPC(head.contentType) {
            guard
                let web = WebFraming(head.contentType, origin: head.origin, origins: context.configuration.webOrigins)
            else { return refuse("415", GRPCStatus(.unknown, "content-type is not application/grpc")) }
            makeRare().web = web
        } else if !head.hasTrailersTE {
            return fail(GRPCStatus(.internalError, "the header te: trailers is missing"))
        }
        rawMetadata = context.metadata.finish()
        storedHasAuthorization = head.hasAuthorization
        guard let entry = context.paths.find(head.path) else {
            let path = RequestHead.string(head.path)
            makeRare().unknownPath = path
            return fail(context.table.refusal(path))
        }
        self.entry = entry
        guard agreeOnCompression(head) else { return }
        guard rawMetadata.isBinaryValid else {
            return fail(GRPCStatus(.internalError, "a value of a -bin header is no base64"))
        }
        if let timeout = head.timeout {
            startDeadline(timeout)
        } else if rare?.web == nil, rare?.requestCompression == nil {
            fields.reading = PlainHead(
                entry: entry, metadata: rawMetadata, hasAuthorization: head.hasAuthorization,
                acceptedCompressions: rare?.acceptedCompressions ?? [])
        }
        begin(entry)
    }

    /// A head that came before.
    private func begin(_ head: PlainHead) {
        rawMetadata = head.metadata
        storedHasAuthorization = head.hasAuthorization
        if !head.acceptedCompressions.isEmpty { makeRare().acceptedCompressions = head.acceptedCompressions }
        entry = head.entry
        begin(head.entry)
    }

    private func begin(_ entry: GRPCServiceTable.Entry) {
        askInterceptors()
        guard end == nil, entry.takesStream else { return }
        let sink = entry.begin(self)
        if end == nil { self.sink = sink }
    }

    /// Responses are compressed as requests are, which is how a client asks for it.
    private func agreeOnCompression(_ head: RequestHead) -> Bool {
        guard head.acceptedEncodings != nil || head.encoding != nil else { return true }
        let rare = makeRare()
        if let accepted = head.acceptedEncodings {
            for name in accepted.split(separator: UInt8(ascii: ",")) {
                let trimmed = UnsafeRawBufferPointer(rebasing: name).trimmed
                if let compression = GRPCCompression(trimmed) { rare.acceptedCompressions.append(compression) }
            }
        }
        guard let encoding = head.encoding, !RequestHead.equal(encoding, "identity") else { return true }
        guard let compression = GRPCCompression(encoding) else {
            rare.isEncodingUnknown = true
            fail(
                GRPCStatus(
                    .unimplemented,
                    "grpc-encoding \(RequestHead.string(encoding)) is not supported; use \(GRPCCompression.accepted)"))
            return false
        }
        rare.requestCompression = compression
        if !rare.acceptedCompressions.contains(compression) { rare.acceptedCompressions.append(compression) }
        if isCompressible { rare.responseCompression = compression }
        return true
    }

    /// Whether the method's responses may be compressed.
    var isCompressible: Bool {
        entry.map { $0.compresses && !context.table.isUncompressed($0.method.path) } ?? false
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
        let interceptors = context.interceptors
        for index in 0..<interceptors.count {
            guard end == nil else { return }
            interceptorsBegun += 1
            if let refusal = interceptors.begin(index, self) { return fail(refusal) }
        }
    }
}

// MARK: The request's messages

extension ServerCall {
    /// Whether bytes wait that the sink did not want yet.
    private var isHolding: Bool { rare.map { !$0.held.isEmpty } ?? false }

    private func hold(_ bytes: some Collection<UInt8>) {
        makeRare().held.append(contentsOf: bytes)
        account()
    }

    func take(_ data: UnsafeRawBufferPointer) {
        receivedBytes += data.count
        guard end == nil, !isCutOff, let entry else {
            consume(data.count)
            return refuseIfDue()
        }
        if let web = rare?.web, web.isText { return take(text: data, web, entry) }
        guard !isPaused, !isHolding else { return hold(data) }
        let taken = deliver(data, entry)
        guard taken < data.count, end == nil, !isCutOff else { return consume(data.count) }
        consume(taken)
        hold(data[taken...])
    }

    /// Base64 of a browser, whose requests come whole: the window is given back at once, the message limit bounds it.
    private func take(text: UnsafeRawBufferPointer, _ web: WebFraming, _ entry: GRPCServiceTable.Entry) {
        consume(text.count)
        guard let bytes = web.decodeText(text) else {
            return fail(GRPCStatus(.internalError, "the request is no base64"))
        }
        guard !isPaused, !isHolding else {
            let rare = makeRare()
            rare.held += bytes
            if rare.held.count - rare.heldPosition > context.configuration.messageBytesMax {
                fail(GRPCStatus(.resourceExhausted, "the request is larger than the limit"))
            }
            account()
            return
        }
        let taken = bytes.withUnsafeBytes { deliver($0, entry) }
        if taken < bytes.count, end == nil, !isCutOff { makeRare().held.append(contentsOf: bytes[taken...]) }
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
        guard !isPaused, isHolding, !isHeldDeliveryScheduled else { return }
        isHeldDeliveryScheduled = true
        loop.afterTurn { [weak self] in
            self?.isHeldDeliveryScheduled = false
            self?.deliverHeld()
        }
    }

    private func deliverHeld() {
        guard !isPaused, end == nil, !isCutOff, let entry, !isClosed, let rare else { return }
        let bytes = rare.held
        let taken = bytes.withUnsafeBytes {
            deliver(UnsafeRawBufferPointer(rebasing: $0[rare.heldPosition...]), entry)
        }
        rare.heldPosition += taken
        if rare.web?.isText != true { consume(taken) }
        if rare.heldPosition >= rare.held.count {
            rare.held = []
            rare.heldPosition = 0
        } else if rare.heldPosition > rare.held.count / 2 {
            rare.held.removeFirst(rare.heldPosition)
            rare.heldPosition = 0
        }
        account()
        if rare.held.isEmpty, isEndReceived { deliverEnd() }
    }

    /// Hands messages on until the sink wants no more; returns the bytes taken.
    private func deliver(_ bytes: UnsafeRawBufferPointer, _ entry: GRPCServiceTable.Entry) -> Int {
        var rest = bytes
        do throws(GRPCStatus) {
            while end == nil, !isPaused, !isCutOff, let message = try reader.next(&rest) {
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
        guard let requestCompression = rare?.requestCompression else {
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
        context.interceptors.received(self, messages: 1, bytes: message.count)
        if let sink { return sink.received(message: message, self) }
        guard request == nil, !context.request.isOf(self) else { return fail(ServerCall.tooMany) }
        if !context.request.put(message, of: self) { request = Array(message) }
    }

    private static let tooMany = GRPCStatus(.unimplemented, "more than one request message")

    func takeEnd() {
        isEndReceived = true
        if rare?.refusal != nil { return refuseIfDue() }
        if !isHolding { deliverEnd() }
    }

    private func deliverEnd() {
        guard end == nil, !isCutOff, let entry, !isEndDelivered else { return }
        isEndDelivered = true
        guard reader.count == 0 else { return fail(GRPCStatus(.internalError, "a request message is cut off")) }
        if entry.takesStream { return sink.map { $0.receivedEnd(self) } ?? () }
        if context.request.isOf(self) { return context.request.take { entry.handle(self, $0) } }
        guard let request else { return fail(GRPCStatus(.internalError, "no request message")) }
        self.request = nil
        account()
        request.withUnsafeBytes { entry.handle(self, $0) }
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
