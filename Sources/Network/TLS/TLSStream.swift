import EventLoop

/// A stream of bytes encrypted over another. Confined to its loop.
///
/// Plaintext is gathered into full records, and what it becomes is handed on once per turn. Until its end is told it
/// keeps itself alive, as a socket does. An end of the stream below without TLS's own end (close_notify) is an error:
/// bytes may be missing.
public final class TLSStream: ByteStream, ByteStreamOwner {
    /// Encrypted bytes that are handed on before the turn is over.
    private static let outputBytesMax = 256 << 10

    public let loop: any Loop
    /// Kept until it has heard of the end, as a socket's is.
    public var owner: (any ByteStreamOwner)?
    public private(set) var isClosed = false
    public private(set) var peerCertificate: PeerCertificate?
    /// What was agreed; nil before the handshake is done.
    public private(set) var version: TLSVersion?
    public private(set) var applicationProtocol: String?
    /// Kept: a socket that was reset has none any more.
    public let peerAddress: String

    private let transport: any ByteStream
    private let engine: TLSEngine
    private let limits: TLSLimits
    private let applicationProtocols: [String]
    private let tally: TLSTally
    /// Plaintext that was not encrypted yet: a record's beginning, or all there is before the handshake is done.
    private var plain = ByteQueue()
    /// Encrypted bytes that arrived after their owner wanted no more.
    private var held = ByteQueue()
    private var isOpen = false
    private var isReading = false
    private var isFlushScheduled = false
    private var isPumpScheduled = false
    private var owesDrained = false
    private var closeError: StreamError?
    /// After the end, until the last bytes are handed on or the peer has left.
    private var isLingering = false
    private var lingersForPeer = false
    private var timer: (any LoopTimer)?
    private var isTransportClosed = false
    private var isEndTold = false
    private var myself: TLSStream?

    init(
        _ transport: any ByteStream, _ engine: TLSEngine, limits: TLSLimits, applicationProtocols: [String],
        tally: TLSTally
    ) {
        self.transport = transport
        self.engine = engine
        self.limits = limits
        self.applicationProtocols = applicationProtocols
        self.tally = tally
        loop = transport.loop
        peerAddress = transport.peerAddress
        myself = self
        transport.owner = self
        guard !transport.isClosed else {
            isTransportClosed = true
            refuse(TLSFailure(.abandoned, "the connection was closed before TLS began"))
            return
        }
        timer = loop.timer(afterMilliseconds: limits.handshakeMilliseconds) { [weak self] in
            self?.refuse(
                TLSFailure(.abandoned, "the TLS handshake took longer than \(limits.handshakeMilliseconds) ms"))
        }
        transport.startReading()
        shakeHands()
        scheduleFlush()
    }

    public var waitingBytes: Int { plain.count + engine.outputCount + transport.waitingBytes }
}

// MARK: Handshake

extension TLSStream {
    private func shakeHands() {
        switch engine.handshake() {
        case .needsInput: break
        case .failed(let failure): refuse(failure)
        case .done:
            do {
                try finishHandshake()
            } catch {
                refuse(error)
            }
        }
    }

    private func finishHandshake() throws(TLSFailure) {
        applicationProtocol = engine.applicationProtocol
        guard applicationProtocols.isEmpty || applicationProtocols.contains(applicationProtocol ?? "") else {
            throw TLSFailure(.other, "the peer speaks none of \(applicationProtocols.joined(separator: ", "))")
        }
        peerCertificate = try engine.peerCertificate()?.peerCertificate
        version = engine.version
        tally.handshakeDone(engine.version ?? .tls12)
        isOpen = true
        timer?.cancel()
        timer = nil
        if !isReading { transport.stopReading() }
    }

    /// Ends a handshake; the peer is told why where TLS has a word for it.
    private func refuse(_ failure: TLSFailure) {
        guard !isClosed else { return }
        tally.refused(failure, peer: peerAddress)
        end(failure.streamError, lingersForPeer: true)
    }
}

// MARK: Reading

extension TLSStream {
    public func startReading() {
        guard !isClosed, !isReading else { return }
        isReading = true
        guard isOpen else { return }
        // First what was held; never inside this call.
        guard !isPumpScheduled else { return }
        isPumpScheduled = true
        loop.afterTurn { [self] in
            isPumpScheduled = false
            readHeld()
        }
    }

    public func stopReading() {
        guard !isClosed, isReading else { return }
        isReading = false
        if isOpen { transport.stopReading() }
    }

    private func readHeld() {
        guard !isClosed, isReading else { return }
        var bytes = ByteQueue()
        swap(&bytes, &held)
        pump(bytes.bytes)
        if !isClosed, isReading { transport.startReading() }
    }

    public func received(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed else { return }
        if held.count > 0 || isOpen && !isReading { return held.append(bytes) }
        pump(bytes)
    }

    /// Takes encrypted bytes as far as the owner wants what is in them, and keeps the rest.
    private func pump(_ bytes: UnsafeRawBufferPointer) {
        engine.feed(bytes)
        if !isOpen { shakeHands() }
        if isOpen, isReading, !isClosed { readRecords() }
        let rest = engine.endInput()
        if !isClosed {
            held.append(rest)
            scheduleFlush()
        }
    }

    private func readRecords() {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: TLSEngine.recordBytesMax, alignment: 16)
        defer { buffer.deallocate() }
        while isReading, !isClosed {
            switch engine.read(into: buffer) {
            case .bytes(let count): owner?.received(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            case .needsInput: return
            case .end: close(nil)
            case .failed(let failure): end(failure.streamError, lingersForPeer: true)
            }
        }
    }
}

// MARK: Writing

extension TLSStream {
    public func write(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed, bytes.count > 0 else { return }
        owesDrained = true
        guard isOpen else {
            guard plain.count + bytes.count <= limits.earlyBytesMax else {
                return end(StreamError("more than \(limits.earlyBytesMax) bytes were written before the TLS handshake"))
            }
            return plain.append(bytes)
        }
        var rest = bytes
        if plain.count > 0 {
            let part = min(max(0, TLSEngine.recordBytesMax - plain.count), rest.count)
            plain.append(UnsafeRawBufferPointer(rebasing: rest[..<part]))
            rest = UnsafeRawBufferPointer(rebasing: rest[part...])
            if plain.count >= TLSEngine.recordBytesMax { sealPlain() }
        }
        let whole = rest.count - rest.count % TLSEngine.recordBytesMax
        if plain.count == 0, whole > 0 {
            rest = UnsafeRawBufferPointer(rebasing: rest[seal(UnsafeRawBufferPointer(rebasing: rest[..<whole]))...])
        }
        guard !isClosed else { return }
        plain.append(rest)
        if engine.outputCount >= TLSStream.outputBytesMax { handOn() }
        scheduleFlush()
    }

    /// How much was encrypted; none after a failure, which ends the stream.
    private func seal(_ bytes: UnsafeRawBufferPointer) -> Int {
        do {
            return try engine.seal(bytes)
        } catch {
            end(error.streamError)
            return 0
        }
    }

    private func sealPlain() {
        guard isOpen, plain.count > 0 else { return }
        let sealed = seal(plain.bytes)
        if sealed > 0 { plain.removeFirst(sealed) }
    }

    private func scheduleFlush() {
        guard !isFlushScheduled, !isClosed else { return }
        isFlushScheduled = true
        loop.afterTurn { [self] in
            isFlushScheduled = false
            flush()
        }
    }

    private func flush() {
        guard !isClosed else { return }
        sealPlain()
        guard !isClosed else { return }
        handOn()
        tellDrained()
    }

    private func handOn() {
        guard engine.outputCount > 0 else { return }
        if !isTransportClosed { transport.write(engine.output) }
        engine.releaseOutput()
    }

    private func tellDrained() {
        guard owesDrained, !isClosed, waitingBytes == 0 else { return }
        owesDrained = false
        owner?.drained()
    }

    public func drained() {
        if isLingering {
            if !lingersForPeer { closeTransport() }
            return
        }
        tellDrained()
    }
}

// MARK: Ends

extension TLSStream {
    /// In order (without an error) what was written is sent first, and the peer is told that it was all.
    public func close(_ error: StreamError?) {
        guard !isClosed else { return }
        if error == nil, isOpen {
            sealPlain()
            guard !isClosed else { return }
            engine.sealEnd()
        }
        end(error)
    }

    public func closed(_ error: StreamError?) {
        isTransportClosed = true
        if isLingering { closeTransport() }
        if isClosed { return letGo() }
        if isOpen {
            end(error ?? StreamError("the peer cut the connection without ending TLS: bytes may be missing"))
        } else {
            let why = error.map { "the connection failed" + ": \($0)" } ?? "the peer left"
            refuse(TLSFailure(.abandoned, "\(why) before the TLS handshake was done"))
        }
    }

    /// The one way out. The stream below stays a little where it has bytes to hand on, or (after a refusal) until the
    /// peer has read them: closing over bytes that were not read would reset the connection, and the reason with it.
    private func end(_ error: StreamError?, lingersForPeer: Bool = false) {
        guard !isClosed else { return }
        isClosed = true
        closeError = error
        timer?.cancel()
        timer = nil
        self.lingersForPeer = lingersForPeer && engine.outputCount > 0
        handOn()
        plain.removeAll()
        held.removeAll()
        if !isTransportClosed, self.lingersForPeer || transport.waitingBytes > 0 {
            isLingering = true
            transport.startReading()
            timer = loop.timer(afterMilliseconds: limits.lingerMilliseconds) { [weak self] in self?.closeTransport() }
        } else {
            closeTransport()
        }
        loop.afterTurn { [self] in
            isEndTold = true
            let owner = owner
            self.owner = nil
            owner?.closed(closeError)
            letGo()
        }
    }

    private func closeTransport() {
        isLingering = false
        timer?.cancel()
        timer = nil
        if !isTransportClosed { transport.close() }
    }

    private func letGo() {
        if isEndTold, isTransportClosed { myself = nil }
    }
}
