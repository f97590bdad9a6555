import CUV
import Synchronization

/// Wakes its loop from any thread. Several wakes may become one call of the body.
public final class Waker: @unchecked Sendable {
    private let handle = UnsafeMutablePointer<uv_async_t>.allocate(capacity: 1)
    private let isPending = Atomic<Bool>(false)
    private let body: () -> Void

    /// On the loop only, which keeps it until it is closed.
    fileprivate init(_ loop: EventLoop, _ body: @escaping () -> Void) {
        self.body = body
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        let error = uv_async_init(loop.uv, handle) { handle in
            let waker = Unmanaged<Waker>.fromOpaque(handle!.pointee.data).takeUnretainedValue()
            waker.isPending.store(false, ordering: .sequentiallyConsistent)
            waker.body()
        }
        precondition(error == 0, "cannot make a wake-up handle")
    }

    deinit { handle.deallocate() }

    /// Wakes nobody any more, and no longer keeps the loop running. On the loop, once; those who wake have stopped.
    public func close() {
        isPending.store(true, ordering: .sequentiallyConsistent)
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { handle in
            Unmanaged<Waker>.fromOpaque(handle!.pointee.data).release()
        }
    }

    /// From any thread; cheap while an earlier wake is pending.
    public func wake() {
        if !isPending.exchange(true, ordering: .sequentiallyConsistent) { uv_async_send(handle) }
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
