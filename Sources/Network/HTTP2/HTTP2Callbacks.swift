import CNGHTTP2

/// The functions that nghttp2 calls, and a session with them.
enum HTTP2Callbacks {
    /// Every stream's body is read by the same function.
    nonisolated(unsafe) static let provider: UnsafePointer<nghttp2_data_provider> = {
        let provider = UnsafeMutablePointer<nghttp2_data_provider>.allocate(capacity: 1)
        provider.initialize(to: nghttp2_data_provider())
        provider.pointee.read_callback = { _, id, _, length, flags, _, me in
            HTTP2Callbacks.connection(me).readBody(id, length, flags!)
        }
        return UnsafePointer(provider)
    }()

    static func makeSession(
        isServer: Bool, settings: HTTP2Settings, _ connection: UnsafeMutableRawPointer
    ) -> OpaquePointer? {
        var callbacks: OpaquePointer?
        nghttp2_session_callbacks_new(&callbacks)
        defer { nghttp2_session_callbacks_del(callbacks) }
        setIncoming(callbacks)
        nghttp2_session_callbacks_set_send_data_callback(callbacks) { _, frame, header, length, _, me in
            HTTP2Callbacks.connection(me).sendBody(header!, length)
            return 0
        }
        var option: OpaquePointer?
        nghttp2_option_new(&option)
        defer { nghttp2_option_del(option) }
        // Windows are given back when the bytes were taken, not when they arrived.
        nghttp2_option_set_no_auto_window_update(option, 1)
        var session: OpaquePointer?
        if isServer {
            nghttp2_session_server_new2(&session, callbacks, connection, option)
        } else {
            nghttp2_session_client_new2(&session, callbacks, connection, option)
        }
        return session
    }

    private static func setIncoming(_ callbacks: OpaquePointer?) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, me in
            HTTP2Callbacks.connection(me).beginHeaders(frame!.pointee.hd.stream_id)
            return 0
        }
        nghttp2_session_callbacks_set_on_header_callback(callbacks) {
            _, frame, name, nameLength, value, valueLength, _, me in
            HTTP2Callbacks.connection(me).header(
                frame!.pointee.hd.stream_id, UnsafeRawBufferPointer(start: name, count: nameLength),
                UnsafeRawBufferPointer(start: value, count: valueLength))
            return 0
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) { _, _, id, bytes, count, me in
            HTTP2Callbacks.connection(me).data(id, UnsafeRawBufferPointer(start: bytes, count: count))
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, me in
            HTTP2Callbacks.received(frame!, HTTP2Callbacks.connection(me))
            return 0
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, id, code, me in
            HTTP2Callbacks.connection(me).streamClosed(id, code)
            return 0
        }
    }

    private static func received(_ frame: UnsafePointer<nghttp2_frame>, _ connection: HTTP2Connection) {
        let header = frame.pointee.hd
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            connection.headersDone(header.stream_id, endsStream: endsStream)
            if endsStream { connection.endOfData(header.stream_id) }
        case NGHTTP2_DATA.rawValue: if endsStream { connection.endOfData(header.stream_id) }
        case NGHTTP2_GOAWAY.rawValue: connection.receivedGoAway()
        default: break
        }
    }

    private static func connection(_ pointer: UnsafeMutableRawPointer?) -> HTTP2Connection {
        Unmanaged<HTTP2Connection>.fromOpaque(pointer!).takeUnretainedValue()
    }
}
