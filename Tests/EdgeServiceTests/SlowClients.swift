import EventLog
import EventLoop
import Foundation
import GRPC
import HTTP2
import MarketProto
import Protobuf
import Synchronization

/// What a reader has of the published updates: how many, and a digest of all in their order.
struct Tally: Hashable {
    private(set) var count = 0
    private(set) var digest: UInt64 = 0

    mutating func add(_ update: UnsafeRawBufferPointer) {
        count += 1
        digest = (digest &* 0x100_0000_01b3) ^ UInt64(Checksum.crc32c(update))
    }

    mutating func add(frames: UnsafeRawBufferPointer) { for update in MessageSequence(frames: frames) { add(update) } }
}

/// A subscriber of StreamPrices that takes what comes at once.
final class PromptReader: GRPCCallOwner, Sendable {
    private struct State {
        var tally = Tally()
        var hasBegun = false
        var end: (status: GRPCStatus, trailers: GRPCMetadata)?
    }

    private let state = Mutex(State())

    init(_ channel: GRPCChannel, _ change: (inout Proto.PriceSubscription) -> Void = { _ in }) {
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        change(&subscription)
        let request = subscription.encodedBytes()
        channel.call(path: Proto.MarketDataService.streamPrices.path, owner: self) { call in
            call.send(request)
            call.halfClose()
        }
    }

    func received(metadata: GRPCMetadata) { state.withLock { $0.hasBegun = true } }

    func received(frames: UnsafeRawBufferPointer) {
        nonisolated(unsafe) let frames = frames
        state.withLock { $0.tally.add(frames: frames) }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { state.withLock { $0.end = (status, trailers) } }

    var tally: Tally { state.withLock { $0.tally } }
    var hasBegun: Bool { state.withLock { $0.hasBegun } }
    var hasEnded: Bool { state.withLock { $0.end != nil } }
}

/// A subscriber that reads no more than it is told to, through the smallest windows.
final class SlowReader {
    let stream: GRPCClientStream
    let channel: GRPCChannel
    private(set) var bytesRead = 0
    private(set) var frames: [[UInt8]] = []
    private(set) var end: GRPCStatus?

    /// Windows of 4 KiB: what is not read waits at the server.
    static func options() -> GRPCChannelOptions {
        var options = GRPCChannelOptions()
        options.readBytesMax = 1
        options.connection.http2.streamWindowBytes = 4096
        return options
    }

    init(port: Int, loop: any Loop, path: String) throws {
        channel = try GRPCChannel(target: "127.0.0.1:\(port)", options: SlowReader.options(), loop: loop)
        stream = channel.stream(path: path)
    }

    /// Begins a stream of prices.
    convenience init(port: Int, loop: any Loop, _ change: (inout Proto.PriceSubscription) -> Void) throws {
        try self.init(port: port, loop: loop, path: Proto.MarketDataService.streamPrices.path)
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        change(&subscription)
        stream.sendOnly(subscription.encodedBytes())
    }

    deinit { channel.close() }

    /// Reads until it has had so many bytes in all, or to the end.
    func read(to bytes: Int) async {
        while bytesRead < bytes, end == nil { await readOnce() }
    }

    /// Reads until the condition holds, or to the end.
    func read(until condition: () throws -> Bool) async rethrows {
        while end == nil, try !condition() { await readOnce() }
    }

    private func readOnce() async {
        do throws(GRPCStatus) {
            guard let more = try await stream.nextFrames() else { return end = .ok }
            bytesRead += more.count
            more.withUnsafeBytes { for message in MessageSequence(frames: $0) { frames.append(Array(message)) } }
        } catch {
            end = error
        }
    }

    var trailers: GRPCMetadata { stream.end?.trailers ?? GRPCMetadata() }
}

/// The same for `Subscribe`, with one subscription.
final class SlowSubscriber {
    let reader: SlowReader
    private var requests: UInt64 = 0
    private var decoded = 0
    private(set) var updates: [Proto.PriceUpdate] = []
    private(set) var filled: [UInt64: [Proto.PriceUpdate]] = [:]
    private(set) var fillEnds: [UInt64: Proto.FillEnd] = [:]
    private(set) var results: [UInt64: Proto.RequestResult] = [:]
    private(set) var end: Proto.SubscriptionEnd?

    init(port: Int, loop: any Loop) throws {
        reader = try SlowReader(port: port, loop: loop, path: Proto.MarketDataService.subscribe.path)
    }

    @discardableResult
    func send(_ request: Proto.SubscribeRequest.OneOf_Request) async -> UInt64 {
        requests += 1
        var message = Proto.SubscribeRequest()
        message.requestId = requests
        message.request = request
        await reader.stream.send(message.encodedBytes())
        return requests
    }

    func add(_ id: UInt64, _ change: (inout Proto.PriceSubscription) -> Void) async throws {
        end = nil
        let request = await send(
            SubscribeClient.adding(id) {
                $0.skipSnapshot = true
                change(&$0)
            })
        try await read { $0.results[request] != nil }
    }

    /// Reads until the condition holds, or to the end.
    func read(until condition: (SlowSubscriber) -> Bool) async throws {
        try await reader.read {
            try decode()
            return condition(self)
        }
        try decode()
    }

    func decode() throws {
        for message in reader.frames[decoded...] {
            let response = try Proto.SubscribeResponse(decoding: message)
            if response.fillRequestId != 0 {
                filled[response.fillRequestId, default: []] += response.updates
            } else {
                updates += response.updates
            }
            switch response.event {
            case .result(let result): results[result.requestId] = result
            case .fillEnd(let end): fillEnds[end.fillRequestId] = end
            case .subscriptionEnd(let end): self.end = end
            default: break
            }
        }
        decoded = reader.frames.count
    }
}

/// A client that asks for everything and then never reads its socket.
final class DeafClient {
    private let descriptor: Int32

    init(port: Int, _ subscription: Proto.PriceSubscription) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var size: Int32 = 4096
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw POSIXError(.ECONNREFUSED) }
        let message = subscription.encodedBytes()
        var bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
        // Windows as wide as they go: it is TCP that stands still.
        bytes += DeafClient.frame(4, flags: 0, stream: 0, [0, 4, 0x7f, 0xff, 0xff, 0xff])
        bytes += DeafClient.frame(8, flags: 0, stream: 0, [0x7f, 0xff, 0, 0])
        bytes += DeafClient.frame(1, flags: 4, stream: 1, DeafClient.headers)
        bytes += DeafClient.frame(0, flags: 1, stream: 1, [0, 0, 0, 0, UInt8(message.count)] + message)
        _ = Foundation.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    deinit { close(descriptor) }

    private static func frame(_ type: UInt8, flags: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
        let length = UInt16(payload.count)
        let head: [UInt8] = [0, UInt8(length >> 8), UInt8(length & 255), type, flags, 0, 0, 0, UInt8(stream)]
        return head + payload
    }

    /// Literal fields without indexing (RFC 7541, 6.2.2).
    private static let headers: [UInt8] = {
        let fields = [
            (":method", "POST"), (":scheme", "http"), (":path", Proto.MarketDataService.streamPrices.path),
            (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers"),
        ]
        var bytes: [UInt8] = []
        for (name, value) in fields {
            for text in [name, value] {
                if text == name { bytes.append(0) }
                bytes.append(UInt8(text.utf8.count))
                bytes += Array(text.utf8)
            }
        }
        return bytes
    }()
}
