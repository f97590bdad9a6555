import CLinux
import CUV
import Glibc

/// A timer of the kernel's: libuv's own are of whole milliseconds. Confined to its loop.
final class EventLoopAlarm: LoopAlarm {
    private let handle = UnsafeMutablePointer<uv_poll_t>.allocate(capacity: 1)
    private let descriptor = clinux_timer_descriptor()
    private let body: () -> Void
    private let turns: LoopTurns
    private var isClosed = false

    fileprivate init(_ loop: EventLoop, _ body: @escaping () -> Void) {
        self.body = body
        turns = loop.turns
        precondition(descriptor >= 0, "cannot make a timer")
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        precondition(uv_poll_init(loop.uv, handle, descriptor) == 0, "cannot make a timer")
        let error = uv_poll_start(handle, Int32(UV_READABLE.rawValue)) { handle, _, _ in
            Unmanaged<EventLoopAlarm>.fromOpaque(handle!.pointee.data).takeUnretainedValue().rang()
        }
        precondition(error == 0, "cannot make a timer")
    }

    deinit {
        Glibc.close(descriptor)
        handle.deallocate()
    }

    private func rang() {
        turns.begin()
        var count: UInt64 = 0
        // Nothing where it was set again meanwhile.
        guard Glibc.read(descriptor, &count, MemoryLayout<UInt64>.size) > 0, !isClosed else { return }
        body()
    }

    func set(afterNs: Int64) {
        guard !isClosed else { return }
        // A time of 0 would switch it off.
        _ = clinux_timer_set(descriptor, max(afterNs, 1))
    }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            Unmanaged<EventLoopAlarm>.fromOpaque(handle!.pointee.data).release()
        }
    }
}

extension EventLoop {
    public func makeAlarm(_ body: @escaping () -> Void) -> any LoopAlarm { EventLoopAlarm(self, body) }
}
