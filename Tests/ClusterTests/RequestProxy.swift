import CQLFrames
import EventLoop
import Simulation
import Synchronization

/// What was asked of a node, as it was on the wire.
struct SeenRequest: Hashable {
    enum What: String { case read, write }
    let table: String
    let what: What
    let consistency: CQLConsistency
}

/// Stands between a program and a node, for protocol v4 and v5: reads every request, keeps with which consistency each
/// table is read and written, and may answer a level with Unavailable.
final class RequestProxy: Sendable {
    fileprivate final class State: Sendable {
        struct Contents {
            var seen: Set<SeenRequest> = []
            var unreachable: CQLConsistency?
            var refused = 0
            /// Requests that could not be read, and statements that nobody prepared.
            var unknown = 0
            /// Statements by their number.
            var prepared: [[UInt8]: String] = [:]
        }

        let contents = Mutex(Contents())
    }

    private let proxy: ConnectionProxy
    private let state = State()
    var port: Int { proxy.port }

    init(to port: Int) throws {
        proxy = try ConnectionProxy(to: port) { [state] in ProxyPair($0, $1, state) }
    }

    /// Everything since the last time it was taken.
    func take() -> Set<SeenRequest> {
        state.contents.withLock { contents in
            defer { contents.seen = [] }
            return contents.seen
        }
    }

    var unknown: Int { state.contents.withLock { $0.unknown } }
    var refused: Int { state.contents.withLock { $0.refused } }

    /// Requests of this level are answered with Unavailable from now on; nil: none.
    func refuse(_ level: CQLConsistency?) { state.contents.withLock { $0.unreachable = level } }

    func stop() { proxy.stop() }
}

/// A connection and the one behind it. On the proxy's loop.
private final class ProxyPair: ProxiedConnection {
    private let state: RequestProxy.State
    private let requests = CQLFrameDecoder(.frames(.none))
    private let answers = CQLFrameDecoder(.frames(.none))
    private let toServer = CQLFrameEncoder(.frames(.none))
    private let toClient = CQLFrameEncoder(.frames(.none))
    private var isSettled = false
    /// Statements whose preparation is not answered yet, by stream.
    private var preparing: [Int16: String] = [:]

    init(_ client: Socket, _ server: Socket, _ state: RequestProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        if isFromServer { answered(bytes) } else { asked(bytes) }
    }

    private func asked(_ bytes: UnsafeRawBufferPointer) {
        requests.feed(bytes)
        while let frame = try? requests.next() {
            guard let refused = look(frame) else {
                ProxyPair.add(ProxyPair.bytes(frame), to: toServer)
                continue
            }
            ProxyPair.add(refused, to: toClient)
        }
        requests.endFeed()
        flush()
    }

    private func answered(_ bytes: UnsafeRawBufferPointer) {
        answers.feed(bytes)
        while let frame = try? answers.next() {
            if frame.header.opcode == .result, let text = preparing.removeValue(forKey: frame.header.stream) {
                learn(text, frame.body)
            }
            ProxyPair.add(ProxyPair.bytes(frame), to: toClient)
            // Behind v5's first answer both sides speak in segments.
            guard !isSettled, frame.header.opcode == .ready || frame.header.opcode == .authenticate else { continue }
            isSettled = true
            guard frame.header.version == .v5 else { continue }
            flush()
            for decoder in [requests, answers] { decoder.framing = .segments(.none) }
            for encoder in [toServer, toClient] { encoder.framing = .segments(.none) }
        }
        answers.endFeed()
        flush()
    }

    private func flush() {
        for (encoder, socket) in [(toServer, server), (toClient, client)] {
            encoder.finish()
            guard encoder.output.count > 0 else { continue }
            socket.write(encoder.output.bytes)
            encoder.output.removeAll()
        }
    }

    /// Keeps what a request asks; the answer where it gets one from here.
    private func look(_ frame: CQLFrameDecoder.Frame) -> CQLBuffer? {
        guard let request = try? CQLRequest.read(frame.header, frame.body).request else {
            state.contents.withLock { $0.unknown += 1 }
            return nil
        }
        let (texts, level): ([String?], CQLConsistency)
        switch request {
        case .prepare(let text, _):
            preparing[frame.header.stream] = text
            return nil
        case .query(let text, let parameters): (texts, level) = ([text], parameters.consistency)
        case .execute(let id, let parameters): (texts, level) = ([statement(id.id)], parameters.consistency)
        case .batch(let batch):
            let entries = batch.entries.map { entry in
                switch entry.statement {
                case .query(let text): text
                case .prepared(let id): statement(id)
                }
            }
            (texts, level) = (entries, batch.consistency)
        default: return nil
        }
        let isRefused = state.contents.withLock { contents in
            for text in texts {
                guard let text else {
                    contents.unknown += 1
                    continue
                }
                guard let (what, table) = ProxyPair.table(text) else { continue }
                contents.seen.insert(SeenRequest(table: table, what: what, consistency: level))
            }
            guard contents.unreachable == level else { return false }
            contents.refused += 1
            return true
        }
        return isRefused ? ProxyPair.unavailable(frame.header, level) : nil
    }

    private func statement(_ id: [UInt8]) -> String? { state.contents.withLock { $0.prepared[id] } }

    /// A result of the kind `prepared` begins with its number.
    private func learn(_ text: String, _ body: UnsafeRawBufferPointer) {
        let bytes = Array(body)
        guard bytes.count >= 6, bytes[0...3] == [0, 0, 0, 4] else { return }
        let end = 6 + Int(bytes[4]) << 8 + Int(bytes[5])
        guard end <= bytes.count else { return }
        state.contents.withLock { $0.prepared[Array(bytes[6..<end])] = text }
    }

    /// `write` and `tick_data` of an INSERT into `market.tick_data`; nil of statements about tables and nodes.
    private static func table(_ text: String) -> (SeenRequest.What, String)? {
        let words = text.split(separator: " ")
        guard let first = words.first else { return nil }
        let place: Substring?
        switch first {
        case "INSERT": place = words.count > 2 ? words[2] : nil
        case "UPDATE": place = words.count > 1 ? words[1] : nil
        case "SELECT", "DELETE":
            place = words.firstIndex(of: "FROM").flatMap { $0 + 1 < words.count ? words[$0 + 1] : nil }
        default: return nil
        }
        guard let parts = place?.split(separator: "."), parts.count == 2, !parts[0].hasPrefix("system") else {
            return nil
        }
        return (first == "SELECT" ? .read : .write, String(parts[1]))
    }

    private static func add(_ frame: CQLBuffer, to encoder: CQLFrameEncoder) {
        // Its bytes are its own: they go with it.
        withExtendedLifetime(frame) { encoder.add(frame.bytes) }
    }

    private static func bytes(_ frame: CQLFrameDecoder.Frame) -> CQLBuffer {
        let buffer = CQLBuffer()
        let start = frame.header.begin(buffer)
        buffer.append(frame.body)
        CQLFrameHeader.end(buffer, start)
        return buffer
    }

    /// What a coordinator says that sees one copy where two are needed.
    private static func unavailable(_ request: CQLFrameHeader, _ level: CQLConsistency) -> CQLBuffer {
        let buffer = CQLBuffer()
        let header = CQLFrameHeader(
            version: request.version, isResponse: true, flags: [], stream: request.stream, opcode: .error, length: 0)
        let start = header.begin(buffer)
        let message = Array("Cannot achieve consistency level \(level.name) in DC dc-newyork".utf8)
        buffer.append([0, 0, 0x10, 0, UInt8(message.count >> 8), UInt8(message.count & 0xff)])
        buffer.append(message)
        buffer.append([0, UInt8(level.rawValue), 0, 0, 0, 2, 0, 0, 0, 1])
        CQLFrameHeader.end(buffer, start)
        return buffer
    }
}
