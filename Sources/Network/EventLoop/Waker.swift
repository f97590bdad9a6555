import CLinux
import CUV
import Glibc
import Synchronization

/// Wakes its loop from any thread. Several wakes may become one call of the body.
///
/// It has a descriptor of its own and not libuv's `uv_async_t`: there a loop that is quicker than who woke it spins
/// until that thread has returned from its call, which on few cores it is kept from by the loop.
public final class Waker: @unchecked Sendable {
    private let handle = UnsafeMutablePointer<uv_poll_t>.allocate(capacity: 1)
    /// Closed when nobody can use it any more: with this object.
    private let descriptor = clinux_event_descriptor()
    private let isPending = Atomic<Bool>(false)
    private let body: () -> Void
    private let turns: LoopTurns

    /// On the loop only, which keeps it until it is closed.
    fileprivate init(_ loop: EventLoop, _ body: @escaping () -> Void) {
        self.body = body
        turns = loop.turns
        precondition(descriptor >= 0, "cannot make a wake-up handle")
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        precondition(uv_poll_init(loop.uv, handle, descriptor) == 0, "cannot make a wake-up handle")
        let error = uv_poll_start(handle, Int32(UV_READABLE.rawValue)) { handle, _, _ in
            Unmanaged<Waker>.fromOpaque(handle!.pointee.data).takeUnretainedValue().woken()
        }
        precondition(error == 0, "cannot make a wake-up handle")
    }

    deinit {
        Glibc.close(descriptor)
        handle.deallocate()
    }

    private func woken() {
        turns.begin()
        var count: UInt64 = 0
        _ = Glibc.read(descriptor, &count, MemoryLayout<UInt64>.size)
        isPending.store(false, ordering: .sequentiallyConsistent)
        body()
    }

    /// Wakes nobody any more, and no longer keeps the loop running. On the loop, once.
    public func close() {
        isPending.store(true, ordering: .sequentiallyConsistent)
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            Unmanaged<Waker>.fromOpaque(handle!.pointee.data).release()
        }
    }

    /// From any thread; cheap while an earlier wake is pending.
    public func wake() {
        guard !isPending.exchange(true, ordering: .sequentiallyConsistent) else { return }
        var one: UInt64 = 1
        _ = Glibc.write(descriptor, &one, MemoryLayout<UInt64>.size)
    }
}

extension EventLoop {
    /// Something that other threads may wake. On the loop only.
    public func makeWaker(_ body: @escaping () -> Void) -> Waker { Waker(self, body) }
}

/// Carries what is confined to a loop through closures that run on it, and nowhere else.
public struct LoopConfined<Value>: @unchecked Sendable {
    public let value: Value
    public init(_ value: Value) { self.value = value }
}
