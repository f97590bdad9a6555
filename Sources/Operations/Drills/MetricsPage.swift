import EventLoop
import Synchronization

/// The metrics that a platform serves, read over HTTP.
final class MetricsPage: Sendable {
    private let host: String
    private let port: Int
    private let loop: EventLoop

    /// `address` is HOST:PORT, the host numeric.
    init(_ address: String, on loop: EventLoop) throws(DrillError) {
        let parts = address.split(separator: ":")
        guard parts.count == 2, let port = Int(parts[1]) else { throw DrillError("\(address) is no address") }
        host = String(parts[0])
        self.port = port
        self.loop = loop
    }

    /// Sums of all samples of each metric, by name, and each labelled sample by its whole name; empty where the page
    /// did not come in time. Blocks; never on a loop.
    func read() -> [String: Double] {
        let request = PageRequest()
        let host = host
        let port = port
        loop.execute { [loop] in
            guard let address = try? SocketAddress(host: host, port: port) else { return request.finish() }
            Socket.connect(address, loop: loop) { result in
                guard case .success(let socket) = result else { return request.finish() }
                request.begin(on: socket, host: host)
            }
        }
        return request.wait(milliseconds: 2000).map(MetricsPage.sums) ?? [:]
    }

    /// Of what a histogram counted between two pages, linear within a bucket; nil where there was nothing.
    static func percentile(
        _ name: String, _ share: Double, from before: [String: Double], to after: [String: Double]
    ) -> Double? {
        let prefix = name + "_bucket{le=\""
        let counts = after.compactMap { key, value -> (bound: Double, count: Double)? in
            guard key.hasPrefix(prefix), let bound = Double(key.dropFirst(prefix.count).prefix { $0 != "\"" }) else {
                return nil
            }
            return (bound, value - (before[key] ?? 0))
        }.sorted { $0.bound < $1.bound }
        let count = (after[name + "_count"] ?? 0) - (before[name + "_count"] ?? 0)
        guard count > 0, let last = counts.last else { return nil }
        var (lower, below) = (0.0, 0.0)
        for (bound, upTo) in counts {
            if upTo >= count * share, upTo > below {
                return lower + (bound - lower) * (count * share - below) / (upTo - below)
            }
            (lower, below) = (bound, upTo)
        }
        return last.bound
    }

    private static func sums(_ text: String) -> [String: Double] {
        var sums: [String: Double] = [:]
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ")
            guard words.count == 2, let value = Double(words[1]) else { continue }
            sums[String(words[0].prefix { $0 != "{" }), default: 0] += value
            if words[0].contains("{") { sums[String(words[0])] = value }
        }
        return sums
    }
}

/// One request and its answer, which the server ends with the connection.
private final class PageRequest: ByteStreamOwner, @unchecked Sendable {
    private let state = Mutex<(text: String?, isDone: Bool)>((nil, false))
    /// Confined to the loop.
    private var bytes: [UInt8] = []
    private var socket: Socket?

    func begin(on socket: Socket, host: String) {
        self.socket = socket
        socket.owner = self
        socket.startReading()
        let text = "GET /metrics HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n\r\n"
        Array(text.utf8).withUnsafeBytes { socket.write($0) }
    }

    func received(_ new: UnsafeRawBufferPointer) { bytes += new }
    func drained() {}

    func closed(_ error: StreamError?) {
        socket = nil
        state.withLock { $0.text = String(decoding: bytes, as: UTF8.self) }
        finish()
    }

    func finish() { state.withLock { $0.isDone = true } }

    func wait(milliseconds: Int) -> String? {
        for _ in 0..<milliseconds {
            if state.withLock({ $0.isDone }) { break }
            Drill.pause(milliseconds: 1)
        }
        return state.withLock { $0.text }
    }
}
