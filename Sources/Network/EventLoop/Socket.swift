import CUV
import Glibc
import Synchronization

/// A TCP connection of a loop. Confined to it.
public final class Socket: ByteStream {
    private let eventLoop: EventLoop
    public var loop: any Loop { eventLoop }
    /// Kept until it has heard of the end: a weak reference would make every other one of the owner a slow one.
    public var owner: (any ByteStreamOwner)?
    public private(set) var isClosed = false
    private let handle: UnsafeMutablePointer<uv_tcp_t>
    private var closeError: StreamError?
    public private(set) var waitingBytes = 0
    /// In how many writes.
    private(set) var waitingWrites = 0
    private static let neededBytesMax = 64 << 10
    /// What the system waits for before it tells of bytes.
    private var neededBytes: Int32 = 1

    /// `isCounted`: the loop's count of connections has it already.
    private init(loop: EventLoop, isCounted: Bool = false) {
        eventLoop = loop
        handle = .allocate(capacity: 1)
        uv_tcp_init(loop.uv, handle)
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        if !isCounted { loop.connectionCount.add(1, ordering: .relaxed) }
    }

    private var stream: UnsafeMutablePointer<uv_stream_t> {
        UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_stream_t.self)
    }

    private static func error(_ code: Int32) -> StreamError { StreamError(String(cString: uv_strerror(code))) }

    public var peerAddress: String {
        var storage = sockaddr_storage()
        var length = Int32(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                guard uv_tcp_getpeername(handle, address, &length) == 0 else { return "" }
                return Resolver.numericHost(address, socklen_t(length))
            }
        }
    }

    /// TCP connects a socket to itself where nobody listens on this machine's port and the system happened to choose
    /// that port for the socket: an echo, that keeps the server from its port when it comes back.
    var isConnectedToItself: Bool {
        var ends = (sockaddr_storage(), sockaddr_storage())
        let isSame = withUnsafeMutableBytes(of: &ends) { bytes -> Bool in
            let size = MemoryLayout<sockaddr_storage>.stride
            let own = bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self)
            let peer = (bytes.baseAddress! + size).assumingMemoryBound(to: sockaddr.self)
            var (ownLength, peerLength) = (Int32(size), Int32(size))
            guard uv_tcp_getsockname(handle, own, &ownLength) == 0,
                uv_tcp_getpeername(handle, peer, &peerLength) == 0, ownLength == peerLength
            else { return false }
            return memcmp(own, peer, Int(ownLength)) == 0
        }
        return isSame
    }

    /// Gives an accepted descriptor to a loop, which calls `accepted` with its socket. It counts from here on: of
    /// several that are accepted in one turn, the next one's loop is chosen before the first one's has run.
    static func handOver(
        _ descriptor: Int32, to loop: EventLoop, _ accepted: @escaping @Sendable (Socket) -> Void
    ) {
        loop.connectionCount.add(1, ordering: .relaxed)
        loop.execute {
            if let socket = adopt(descriptor, loop: loop) { accepted(socket) }
        }
    }

    /// Takes over an accepted descriptor that is counted; nil where it is none, and is counted no more.
    private static func adopt(_ descriptor: Int32, loop: EventLoop) -> Socket? {
        let socket = Socket(loop: loop, isCounted: true)
        guard uv_tcp_open(socket.handle, descriptor) == 0 else {
            Glibc.close(descriptor)
            socket.close()
            return nil
        }
        uv_tcp_nodelay(socket.handle, 1)
        return socket
    }

    /// Connects; `connected` is called once, on the loop.
    public static func connect(
        _ address: SocketAddress, loop: EventLoop, _ connected: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        let socket = Socket(loop: loop)
        uv_tcp_nodelay(socket.handle, 1)
        let request = UnsafeMutablePointer<uv_connect_t>.allocate(capacity: 1)
        let box = Unmanaged.passRetained(ConnectRequest(socket, connected))
        request.pointee.data = box.toOpaque()
        var address = address.storage
        let error = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                uv_tcp_connect(request, socket.handle, address) { request, status in
                    let box = Unmanaged<ConnectRequest>.fromOpaque(request!.pointee.data).takeRetainedValue()
                    request!.deallocate()
                    box.finish(status)
                }
            }
        }
        if error != 0 {
            request.deallocate()
            box.takeRetainedValue().finish(error)
        }
    }

    private final class ConnectRequest {
        let socket: Socket
        let connected: (Result<Socket, StreamError>) -> Void
        init(_ socket: Socket, _ connected: @escaping (Result<Socket, StreamError>) -> Void) {
            self.socket = socket
            self.connected = connected
        }
        func finish(_ status: Int32) {
            guard status == 0, !socket.isConnectedToItself else {
                socket.close()
                return connected(.failure(Socket.error(status == 0 ? UV_ECONNREFUSED.rawValue : status)))
            }
            connected(.success(socket))
        }
    }

    public func startReading() {
        guard !isClosed else { return }
        uv_read_start(
            stream,
            { handle, _, buffer in
                let socket = Unmanaged<Socket>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
                socket.eventLoop.turns.begin()
                buffer!.pointee = uv_buf_init(
                    socket.eventLoop.readBuffer.baseAddress!.assumingMemoryBound(to: CChar.self),
                    UInt32(socket.eventLoop.readBuffer.count))
            },
            { handle, count, buffer in
                guard count != 0 else { return }
                let socket = Unmanaged<Socket>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
                guard count > 0 else {
                    socket.close(count == Int(UV_EOF.rawValue) ? nil : Socket.error(Int32(count)))
                    return
                }
                socket.owner?.received(UnsafeRawBufferPointer(start: buffer!.pointee.base, count: count))
            })
    }

    public func stopReading() { if !isClosed { uv_read_stop(stream) } }

    /// A peer that writes a message in pieces would wake this side for each. A long message is read while it comes.
    public func needs(bytes: Int) {
        var count = Int32(min(max(bytes, 1), Socket.neededBytesMax))
        guard count != neededBytes, !isClosed else { return }
        neededBytes = count
        var descriptor: Int32 = -1
        let any = UnsafeRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)
        guard uv_fileno(any, &descriptor) == 0 else { return }
        setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &count, socklen_t(MemoryLayout<Int32>.size))
    }

    public func write(_ bytes: UnsafeRawBufferPointer) {
        guard !isClosed, bytes.count > 0 else { return }
        var written = 0
        if waitingBytes == 0 {
            var buffer = Socket.buffer(bytes)
            let result = uv_try_write(stream, &buffer, 1)
            if result >= 0 {
                written = Int(result)
            } else if result != UV_EAGAIN.rawValue {
                return close(Socket.error(result))
            }
        }
        withUnsafePointer(to: bytes) { queue(UnsafeBufferPointer(start: $0, count: 1), from: written) }
    }

    public var gathersPieces: Bool { true }

    public func write(pieces: UnsafeBufferPointer<UnsafeRawBufferPointer>) {
        guard !isClosed else { return }
        var written = 0
        if waitingBytes == 0 {
            let result = withUnsafeTemporaryAllocation(of: uv_buf_t.self, capacity: pieces.count) { buffers in
                for (index, piece) in pieces.enumerated() {
                    buffers.initializeElement(at: index, to: Socket.buffer(piece))
                }
                return uv_try_write(stream, buffers.baseAddress, UInt32(pieces.count))
            }
            if result >= 0 {
                written = Int(result)
            } else if result != UV_EAGAIN.rawValue {
                return close(Socket.error(result))
            }
        }
        queue(pieces, from: written)
    }

    private static func buffer(_ bytes: UnsafeRawBufferPointer) -> uv_buf_t {
        uv_buf_init(
            UnsafeMutableRawPointer(mutating: bytes.baseAddress!).assumingMemoryBound(to: CChar.self),
            UInt32(bytes.count))
    }

    /// What follows the first so many bytes of the pieces waits, together: of several requests libuv writes one after
    /// the other, and a frame's header that goes alone wakes a peer for nine bytes.
    private func queue(_ pieces: UnsafeBufferPointer<UnsafeRawBufferPointer>, from written: Int) {
        let count = pieces.reduce(-written) { $0 + $1.count }
        guard count > 0 else { return }
        let request = WriteRequest(self, pieces, from: written, count)
        waitingBytes += count
        waitingWrites += 1
        var buffer = Socket.buffer(UnsafeRawBufferPointer(request.bytes))
        let box = Unmanaged.passRetained(request)
        request.request.pointee.data = box.toOpaque()
        let error = uv_write(request.request, stream, &buffer, 1) { request, status in
            Unmanaged<WriteRequest>.fromOpaque(request!.pointee.data).takeRetainedValue().finish(status)
        }
        if error != 0 { box.takeRetainedValue().finish(error) }
    }

    private final class WriteRequest {
        let request = UnsafeMutablePointer<uv_write_t>.allocate(capacity: 1)
        let bytes: UnsafeMutableRawBufferPointer
        let socket: Socket

        init(
            _ socket: Socket, _ pieces: UnsafeBufferPointer<UnsafeRawBufferPointer>, from written: Int, _ count: Int
        ) {
            self.socket = socket
            bytes = .allocate(byteCount: count, alignment: 8)
            var skipped = written
            var position = 0
            for piece in pieces {
                let rest = piece.dropFirst(skipped)
                skipped -= piece.count - rest.count
                UnsafeMutableRawBufferPointer(rebasing: bytes[position...]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: rest))
                position += rest.count
            }
        }

        deinit {
            request.deallocate()
            bytes.deallocate()
        }

        func finish(_ status: Int32) {
            socket.waitingBytes -= bytes.count
            socket.waitingWrites -= 1
            if status != 0 { return socket.close(Socket.error(status)) }
            if socket.waitingBytes == 0, !socket.isClosed { socket.owner?.drained() }
        }
    }

    public func close(_ error: StreamError?) {
        guard !isClosed else { return }
        isClosed = true
        closeError = error
        eventLoop.connectionCount.subtract(1, ordering: .relaxed)
        let any = UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)
        uv_close(any) { handle in
            let socket = Unmanaged<Socket>.fromOpaque(handle!.pointee.data).takeRetainedValue()
            socket.handle.deallocate()
            let owner = socket.owner
            socket.owner = nil
            owner?.closed(socket.closeError)
        }
    }
}
