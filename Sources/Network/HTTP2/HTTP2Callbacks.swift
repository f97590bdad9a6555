import CNGHTTP2

/// The functions that nghttp2 calls, and a session with them.
enum HTTP2Callbacks {
    static func makeSession(
        isServer: Bool, settings: HTTP2Settings, _ connection: UnsafeMutableRawPointer,
        _ memory: UnsafeMutablePointer<nghttp2_mem>
    ) -> OpaquePointer? {
        var callbacks: OpaquePointer?
        nghttp2_session_callbacks_new(&callbacks)
        defer { nghttp2_session_callbacks_del(callbacks) }
        setIncoming(callbacks)
        nghttp2_session_callbacks_set_send_data_callback(callbacks) { _, frame, header, length, _, me in
            HTTP2Callbacks.with(me) { $0.sendBody(header!, length) }
            return 0
        }
        let option = makeOption(settings, isServer: isServer)
        defer { nghttp2_option_del(option) }
        var session: OpaquePointer?
        if isServer {
            nghttp2_session_server_new3(&session, callbacks, connection, option, memory)
        } else {
            nghttp2_session_client_new3(&session, callbacks, connection, option, memory)
        }
        return session
    }

    private static func makeOption(_ settings: HTTP2Settings, isServer: Bool) -> OpaquePointer? {
        var option: OpaquePointer?
        nghttp2_option_new(&option)
        // Windows are given back when the bytes were taken, not when they arrived.
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_max_outbound_ack(option, settings.acksWaitingMax)
        nghttp2_option_set_stream_reset_rate_limit(option, settings.resetsMax, settings.resetsPerSecond)
        nghttp2_option_set_max_continuations(option, settings.continuationsMax)
        // HTTP2RequestRules has them for requests, and looks at what comes again once.
        if isServer { nghttp2_option_set_no_http_messaging(option, 1) }
        return option
    }

    private static func setIncoming(_ callbacks: OpaquePointer?) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, me in
            HTTP2Callbacks.with(me) { $0.beginHeaders(frame!.pointee.hd.stream_id) }
            return 0
        }
        nghttp2_session_callbacks_set_on_header_callback2(callbacks) { _, _, name, value, _, me in
            HTTP2Callbacks.with(me) { $0.header(name!, value!) }
            return 0
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) { _, _, id, bytes, count, me in
            HTTP2Callbacks.with(me) { $0.data(id, UnsafeRawBufferPointer(start: bytes, count: count)) }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, me in
            HTTP2Callbacks.with(me) { HTTP2Callbacks.received(frame!, $0) }
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, me in
            guard let frame, UInt32(frame.pointee.hd.type) == NGHTTP2_GOAWAY.rawValue else { return 0 }
            HTTP2Callbacks.with(me) { $0.sentGoAway(frame.pointee.goaway.error_code) }
            return 0
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, id, code, me in
            HTTP2Callbacks.with(me) { $0.streamClosed(id, code) }
            return 0
        }
    }

    private static func received(_ frame: UnsafePointer<nghttp2_frame>, _ connection: HTTP2Connection) {
        let header = frame.pointee.hd
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        let isAck = header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            connection.headersDone(header.stream_id, endsStream: endsStream)
        case NGHTTP2_DATA.rawValue:
            if endsStream {
                connection.endOfData(header.stream_id)
            } else if header.length == 0 {
                connection.emptyFrame()
            }
        case NGHTTP2_PING.rawValue:
            if isAck { connection.receivedPong(frame.pointee.ping.opaque_data.0) } else { connection.receivedPing() }
        case NGHTTP2_GOAWAY.rawValue:
            let goAway = frame.pointee.goaway
            let text = UnsafeRawBufferPointer(start: goAway.opaque_data, count: goAway.opaque_data_len)
            connection.receivedGoAway(goAway.error_code, String(decoding: text, as: UTF8.self))
        case NGHTTP2_WINDOW_UPDATE.rawValue, NGHTTP2_PRIORITY.rawValue: connection.emptyFrame()
        case NGHTTP2_SETTINGS.rawValue: if !isAck { connection.receivedSettings() }
        default: break
        }
    }

    /// The connection, without a reference counted for it: whoever calls nghttp2 holds one.
    @inline(__always)
    private static func with(_ pointer: UnsafeMutableRawPointer?, _ body: (HTTP2Connection) -> Void) {
        Unmanaged<HTTP2Connection>.fromOpaque(pointer!)._withUnsafeGuaranteedRef { body($0) }
    }
}
