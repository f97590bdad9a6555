import CUV

/// A libuv timer. Confined to its loop.
final class EventLoopTimer: LoopTimer {
    private let handle = UnsafeMutablePointer<uv_timer_t>.allocate(capacity: 1)
    private var body: (() -> Void)?
    private let repeats: Bool
    private let turns: LoopTurns

    fileprivate init(_ loop: EventLoop, _ milliseconds: Int, repeats: Bool, _ body: @escaping () -> Void) {
        self.body = body
        self.repeats = repeats
        turns = loop.turns
        uv_timer_init(loop.uv, handle)
        uv_update_time(loop.uv)
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        let interval = UInt64(max(repeats ? 1 : 0, milliseconds))
        uv_timer_start(
            handle,
            { handle in
                let timer = Unmanaged<EventLoopTimer>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
                timer.turns.begin()
                let body = timer.body
                if !timer.repeats { timer.cancel() }
                body?()
            }, interval, repeats ? interval : 0)
    }

    func cancel() {
        guard body != nil else { return }
        body = nil
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            let timer = Unmanaged<EventLoopTimer>.fromOpaque(handle!.pointee.data).takeRetainedValue()
            timer.handle.deallocate()
        }
    }
}

extension EventLoop {
    public func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        EventLoopTimer(self, milliseconds, repeats: false, body)
    }

    public func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        EventLoopTimer(self, milliseconds, repeats: true, body)
    }

    public var nowMilliseconds: UInt64 { uv_now(uv) }
}
