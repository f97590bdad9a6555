import CLinux
import Glibc
import Synchronization

/// A thread that runs one service's loop.
final class ServiceThread: Sendable {
    private struct State {
        var isDone = false
        var failure: String?
    }

    private final class Body {
        let name: String
        let run: () throws -> Void
        let thread: ServiceThread
        init(name: String, thread: ServiceThread, run: @escaping () throws -> Void) {
            self.name = name
            self.thread = thread
            self.run = run
        }
    }

    let name: String
    private let givesWay: Bool
    private let state = Mutex(State())

    /// `ended` is called on the thread when the body returned or threw. One that gives way runs behind the others where
    /// cores are short.
    init(
        name: String, givesWay: Bool = false, ended: @escaping @Sendable (ServiceThread) -> Void,
        body: @escaping @Sendable () throws -> Void
    ) {
        self.name = name
        self.givesWay = givesWay
        let box = Unmanaged.passRetained(
            Body(name: name, thread: self) { [self] in
                defer { ended(self) }
                do { try body() } catch { state.withLock { $0.failure = "\(error)" } }
                state.withLock { $0.isDone = true }
            })
        var thread = pthread_t()
        let error = pthread_create(&thread, nil, ServiceThread.main, box.toOpaque())
        precondition(error == 0, "cannot start a thread: \(String(cString: strerror(error)))")
        pthread_detach(thread)
    }

    var isDone: Bool { state.withLock { $0.isDone } }
    /// What its body threw.
    var failure: String? { state.withLock { $0.failure } }

    /// Waits for its end, at most the given time. False when it is still running then.
    func join(milliseconds: Int) -> Bool {
        for _ in 0..<max(1, milliseconds) {
            if isDone { return true }
            poll(nil, 0, 1)
        }
        return isDone
    }

    private static let main: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
        let body = Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue()
        clinux_name_thread(String(body.name.prefix(15)))
        clinux_sleep_precisely()
        if body.thread.givesWay { clinux_give_way() }
        try? body.run()
        return nil
    }
}
