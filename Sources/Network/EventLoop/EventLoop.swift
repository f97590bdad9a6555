// Event loops on libuv: one thread each, TCP, timers and wake-ups, and a Swift executor, so that async code can run on
// the loop's thread. Everything above (HTTP/2, gRPC, services) is confined to a loop and entered only from its
// callbacks.

import CLinux
import CUV
import Glibc
import Synchronization

/// One libuv loop on a thread of its own.
///
/// What is confined to a loop is not Sendable and is reached with ``execute(_:)`` from elsewhere. A job that is
/// enqueued from the loop's own thread runs at the end of the current callback, never inside it.
public final class EventLoop: SerialExecutor, Loop, @unchecked Sendable {
    let uv: UnsafeMutablePointer<uv_loop_t>
    private let async: UnsafeMutablePointer<uv_async_t>
    /// Every read of the loop goes here: owners take what they need before they return.
    let readBuffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 64)
    private let prepare: UnsafeMutablePointer<uv_prepare_t>
    private var local: [() -> Void] = []
    private let work = Mutex(Work())
    private let thread = Mutex<pthread_t?>(nil)
    /// Connections on this loop, for balancing. Any thread may read it.
    public let connectionCount = Atomic<Int>(0)
    /// How long it was busy each time. Any thread may read it.
    public let turns = LoopTurns()

    private struct Work {
        var jobs: [Job] = []
        var isClosed = false
    }

    private enum Job {
        case closure(@Sendable () -> Void)
        case swift(UnownedJob)
    }

    let name: String

    public init(name: String) {
        self.name = String(name.prefix(15))
        uv = .allocate(capacity: 1)
        async = .allocate(capacity: 1)
        prepare = .allocate(capacity: 1)
        precondition(uv_loop_init(uv) == 0, "cannot make an event loop")
        async.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        precondition(
            uv_async_init(uv, async) { handle in
                Unmanaged<EventLoop>.fromOpaque(handle!.pointee.data).takeUnretainedValue().runJobs()
            } == 0, "cannot make a wake-up handle")
        prepare.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        uv_prepare_init(uv, prepare)
        uv_prepare_start(prepare) { handle in
            Unmanaged<EventLoop>.fromOpaque(handle!.pointee.data).takeUnretainedValue().runLocal()
        }
        start()
    }

    deinit {
        uv_loop_close(uv)
        readBuffer.deallocate()
        async.deallocate()
        prepare.deallocate()
        uv.deallocate()
    }

    public var isCurrent: Bool { thread.withLock { $0.map { pthread_equal($0, pthread_self()) != 0 } ?? false } }

    public func execute(_ body: @escaping @Sendable () -> Void) { add(.closure(body)) }

    public func enqueue(_ job: consuming ExecutorJob) { add(.swift(UnownedJob(job))) }

    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }

    public func checkIsolated() { precondition(isCurrent, "not on the loop's thread") }

    public func afterTurn(_ body: @escaping () -> Void) { local.append(body) }

    private func runLocal() {
        defer { turns.end() }
        while !local.isEmpty {
            let bodies = local
            local.removeAll(keepingCapacity: true)
            for body in bodies { body() }
        }
    }

    /// Runs a closure on the loop and waits for its result. Never from a loop's thread.
    public func runAndWait<R: Sendable>(_ body: @escaping @Sendable (EventLoop) -> R) -> R {
        let box = Mutex<R?>(nil)
        nonisolated(unsafe) let done = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        sem_init(done, 0, 0)
        execute { [self] in
            let result = body(self)
            box.withLock { $0 = result }
            sem_post(done)
        }
        while sem_wait(done) != 0 {}
        sem_destroy(done)
        done.deallocate()
        return box.withLock { $0! }
    }

    /// Ends the loop's thread once its sockets and timers are closed. What is handed to the loop later does not run:
    /// its users end before it. From any thread, once.
    public func stop() {
        execute { [self] in
            afterTurn { [self] in
                work.withLock { $0.isClosed = true }
                uv_close(UnsafeMutableRawPointer(prepare).assumingMemoryBound(to: uv_handle_t.self), nil)
                uv_close(UnsafeMutableRawPointer(async).assumingMemoryBound(to: uv_handle_t.self), nil)
            }
        }
    }

    private func add(_ job: Job) {
        let isFirst = work.withLock { work in
            if work.isClosed { return false }
            work.jobs.append(job)
            return work.jobs.count == 1
        }
        if isFirst { uv_async_send(async) }
    }

    private func runJobs() {
        turns.begin()
        let jobs = work.withLock { work in
            defer { work.jobs = [] }
            return work.jobs
        }
        for job in jobs {
            switch job {
            case .closure(let body): body()
            case .swift(let job):
                job.runSynchronously(on: asUnownedTaskExecutor())
            }
        }
    }

    private func start() {
        let box = Unmanaged.passRetained(self).toOpaque()
        var id = pthread_t()
        let error = pthread_create(&id, nil, EventLoop.main, box)
        precondition(error == 0, "cannot start a loop's thread")
        thread.withLock { $0 = id }
    }

    /// libuv writes without MSG_NOSIGNAL: a peer that went away would end the process by SIGPIPE, which goes to the
    /// thread that wrote. Blocked here, the write fails with EPIPE, whatever the program does with the signal.
    private static func blockBrokenPipe() {
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGPIPE)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    private static let main: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
        let loop = Unmanaged<EventLoop>.fromOpaque(argument!).takeRetainedValue()
        pthread_detach(pthread_self())
        clinux_name_thread(loop.name)
        EventLoop.blockBrokenPipe()
        uv_run(loop.uv, UV_RUN_DEFAULT)
        loop.thread.withLock { $0 = nil }
        return nil
    }
}
