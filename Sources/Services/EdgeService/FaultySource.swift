import EventLoop
import FaultSchedule
import GRPC
import HTTP2
import MarketProto
import Protobuf

/// A stream of the edge with faults in it. Confined to its loop.
final class FaultySource: FrameSource {
    private static let readBytes = 16 << 10

    private let inner: any FrameSource
    private weak var call: ServerCall?
    private let faults: EdgeFaults
    private let method: String
    private let isSubscribe: Bool
    private let stream: UInt64
    private var message: UInt64 = 0
    /// Of the stream, not looked at yet.
    private var input = PendingBytes()
    private var output = PendingBytes()
    /// Comes behind the next message.
    private var heldBack: [UInt8]?
    /// Zeros of a message that is too large.
    private var zerosLeft = 0
    private var isStalled = false
    /// Comes when the stall is over.
    private var stalled: [UInt8]?
    private var isBroken = false
    private var end: (status: GRPCStatus, trailers: GRPCMetadata)?

    init(_ inner: any FrameSource, _ call: ServerCall, _ faults: EdgeFaults, isSubscribe: Bool) {
        self.inner = inner
        self.call = call
        self.faults = faults
        self.isSubscribe = isSubscribe
        method = call.method?.name ?? ""
        stream = faults.nextStream()
        if faults.takesStorm() {
            faults.tell(.goAway, stream, 0, method, FaultyMessage())
            breakConnection()
        }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        while true {
            let taken = output.take(into: buffer)
            if taken > 0 { return .bytes(taken) }
            if zerosLeft > 0 {
                let count = min(zerosLeft, buffer.count)
                UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]).initializeMemory(as: UInt8.self, repeating: 0)
                zerosLeft -= count
                return .bytes(count)
            }
            if isStalled || isBroken { return .wait }
            if takeMessage() { continue }
            if let end { return .end(end.status, trailers: end.trailers) }
            guard readMore() else { return .wait }
        }
    }

    /// False when there is nothing now.
    private func readMore() -> Bool {
        withUnsafeTemporaryAllocation(byteCount: FaultySource.readBytes, alignment: 8) { buffer in
            switch inner.read(into: buffer) {
            case .bytes(let count), .frames(let count, _):
                input.append(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                return true
            case .wait: return false
            case .end(let status, let trailers):
                end = (status, trailers)
                emitHeldBack()
                return true
            }
        }
    }

    /// Looks at the next whole message; false where there is none.
    private func takeMessage() -> Bool {
        let frame: [UInt8]? = input.peek { bytes in
            guard bytes.count >= 5 else { return nil }
            let length = Frame.length(bytes, at: 0)
            return bytes.count >= length ? Array(bytes[..<length]) : nil
        }
        guard let frame else { return false }
        input.drop(frame.count)
        let content = FaultyMessage(Array(frame[5...]), isSubscribe: isSubscribe)
        guard content.isMarketData else {
            emit(frame)
            return true
        }
        message += 1
        guard let fault = faults.configuration.schedule.fault(stream: stream, message: message) else {
            pass(frame)
            return true
        }
        make(fault, frame, content)
        return true
    }

    private func make(_ fault: Fault, _ frame: [UInt8], _ content: FaultyMessage) {
        switch fault {
        case .drop: break
        case .duplicate:
            emit(frame)
            pass(frame)
        case .reorder:
            guard heldBack == nil else { return pass(frame) }
            heldBack = frame
        case .crossed:
            guard let crossed = content.crossed else { return pass(frame) }
            var prefix: [UInt8] = [0]
            withUnsafeBytes(of: UInt32(crossed.count).bigEndian) { prefix += $0 }
            pass(prefix + crossed)
        case .oversize:
            let (start, zeros) = content.oversizeStart(faults.configuration.oversizeBytes)
            emit(start)
            zerosLeft = zeros
        case .stall:
            stalled = frame
            stall()
        case .reset:
            isBroken = true
            afterTurn { $0.abort(HTTP2ErrorCode.cancel) }
        case .goAway:
            faults.beginStorm()
            breakConnection()
        }
        faults.tell(fault, stream, message, method, content)
    }

    private func emit(_ frame: [UInt8]) { frame.withUnsafeBytes { output.append($0) } }

    private func pass(_ frame: [UInt8]) {
        emit(frame)
        emitHeldBack()
    }

    private func emitHeldBack() {
        if let heldBack { emit(heldBack) }
        heldBack = nil
    }

    private func stall() {
        isStalled = true
        _ = call?.loop.timer(afterMilliseconds: faults.configuration.stallMilliseconds) { [weak self] in
            guard let self else { return }
            isStalled = false
            if let stalled { pass(stalled) }
            stalled = nil
            call?.resume()
        }
    }

    private func breakConnection() {
        isBroken = true
        afterTurn { $0.endConnection(HTTP2ErrorCode.none, "simulated") }
    }

    /// A connection must not be ended from within its own reading.
    private func afterTurn(_ body: @escaping (ServerCall) -> Void) {
        guard let call else { return }
        call.loop.afterTurn { [weak call] in if let call { body(call) } }
    }
}

extension FaultySource: StreamStatusProvider {
    var streamStatus: StreamStatus {
        (inner as? any StreamStatusProvider)?.streamStatus ?? StreamStatus(policy: "", lagBytes: 0)
    }

    func end(_ ending: CallEnding) { (inner as? any StreamStatusProvider)?.end(ending) }
}

// MARK: GetQuote

extension EdgeFaults {
    /// Answers a call with what the schedule makes of the answer. The call counts as a stream of one message.
    func respond(_ call: ServerCall, _ quote: Proto.QuoteResponse) {
        let stream = nextStream()
        let fault = takesStorm() ? .goAway : configuration.schedule.fault(stream: stream, message: 1)
        guard let fault else { return call.respond(quote) }
        var answer = quote
        switch fault {
        // There is but one answer, so these would be nothing or the whole call.
        case .drop, .duplicate, .reorder: return call.respond(quote)
        case .crossed:
            guard var latest = answer.latest, FaultyMessage.cross(&latest) else { return call.respond(quote) }
            answer.latest = latest
            call.respond(answer)
        case .oversize:
            let message = FaultyMessage(quote.encodedBytes(), isSubscribe: false)
            let (start, zeros) = message.oversizeStart(configuration.oversizeBytes)
            call.respond(Array(start[5...]) + [UInt8](repeating: 0, count: zeros))
        case .stall:
            _ = call.loop.timer(afterMilliseconds: configuration.stallMilliseconds) { [weak call] in
                call?.respond(quote)
            }
        case .reset: call.abort(HTTP2ErrorCode.cancel)
        case .goAway:
            beginStorm()
            call.loop.afterTurn { [weak call] in call?.endConnection(HTTP2ErrorCode.none, "simulated") }
        }
        let content = quote.latest.map { FaultyMessage($0.encodedBytes(), isSubscribe: false) } ?? FaultyMessage()
        tell(fault, stream, 1, "GetQuote", content)
    }
}
