import CUV

/// A UDP socket that is connected to one address, from a port that the system picks: what others send does not arrive.
/// Confined to its loop.
public final class DatagramSocket {
    private let loop: EventLoop
    private let handle: UnsafeMutablePointer<uv_udp_t>
    private var received: ((Result<UnsafeRawBufferPointer, StreamError>) -> Void)?

    /// `received` is called on the loop with each datagram, valid during the call, and with what the network reports
    /// (nobody listens there). Throws where there is no way to the address.
    public init(
        to address: SocketAddress, loop: EventLoop,
        received: @escaping (Result<UnsafeRawBufferPointer, StreamError>) -> Void
    ) throws(StreamError) {
        self.loop = loop
        handle = .allocate(capacity: 1)
        self.received = received
        uv_udp_init(loop.uv, handle)
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        var result = Resolver.withAddress(address.storage) { pointer, _ in uv_udp_connect(handle, pointer) }
        if result == 0 { result = startReading() }
        guard result == 0 else {
            close()
            throw StreamError(String(cString: uv_strerror(result)))
        }
    }

    private func startReading() -> Int32 {
        uv_udp_recv_start(
            handle,
            { handle, _, buffer in
                let socket = Unmanaged<DatagramSocket>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
                buffer!.pointee = uv_buf_init(
                    socket.loop.readBuffer.baseAddress!.assumingMemoryBound(to: CChar.self),
                    UInt32(socket.loop.readBuffer.count))
            },
            { handle, count, buffer, address, _ in
                // Without an address there was nothing to read.
                guard count != 0 || address != nil else { return }
                let socket = Unmanaged<DatagramSocket>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
                guard count >= 0 else {
                    socket.received?(.failure(StreamError(String(cString: uv_strerror(Int32(count))))))
                    return
                }
                socket.received?(.success(UnsafeRawBufferPointer(start: buffer!.pointee.base, count: count)))
            })
    }

    /// Sends one datagram, or not at all.
    public func send(_ bytes: [UInt8]) throws(StreamError) {
        let result = bytes.withUnsafeBytes { bytes in
            var buffer = uv_buf_init(
                UnsafeMutableRawPointer(mutating: bytes.baseAddress)?.assumingMemoryBound(to: CChar.self),
                UInt32(bytes.count))
            return uv_udp_try_send(handle, &buffer, 1, nil)
        }
        guard result >= 0 else { throw StreamError(String(cString: uv_strerror(result))) }
    }

    /// Nothing is received any more.
    public func close() {
        guard received != nil else { return }
        received = nil
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            let socket = Unmanaged<DatagramSocket>.fromOpaque(handle!.pointee.data).takeRetainedValue()
            socket.handle.deallocate()
        }
    }
}
