import Glibc

/// A thread that does one thing again and again, at an interval or when woken.
final class BackgroundThread: @unchecked Sendable {
    private let work: @Sendable () -> Void
    private let intervalMs: Int32
    private var pipe: (read: Int32, write: Int32) = (-1, -1)
    private var thread = pthread_t()
    private var isRunning = false

    /// Starts it. `work` is called on the new thread until ``stop()``.
    init(intervalMs: Int, _ work: @escaping @Sendable () -> Void) {
        self.work = work
        self.intervalMs = Int32(clamping: intervalMs)
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { return }
        pipe = (ends[0], ends[1])
        _ = fcntl(pipe.read, F_SETFD, FD_CLOEXEC)
        _ = fcntl(pipe.write, F_SETFD, FD_CLOEXEC)
        _ = fcntl(pipe.write, F_SETFL, O_NONBLOCK)
        let box = Unmanaged.passRetained(self)
        isRunning =
            pthread_create(
                &thread, nil,
                { context in
                    guard let context else { return nil }
                    Unmanaged<BackgroundThread>.fromOpaque(context).takeRetainedValue().run()
                    return nil
                }, box.toOpaque()) == 0
        if !isRunning { box.release() }
    }

    private func run() {
        while true {
            var waiting = pollfd(fd: pipe.read, events: Int16(POLLIN), revents: 0)
            if poll(&waiting, 1, intervalMs) > 0 {
                var bytes = [UInt8](repeating: 0, count: 64)
                let count = read(pipe.read, &bytes, bytes.count)
                // Anything but a wake-up ends the thread.
                if count <= 0 || bytes[..<count].contains(0) { return }
            }
            work()
        }
    }

    /// Has it work soon.
    func wake() {
        var byte: UInt8 = 1
        _ = write(pipe.write, &byte, 1)
    }

    /// Returns when the thread has ended; called from its own work, it ends after that.
    func stop() {
        guard isRunning else { return }
        isRunning = false
        var byte: UInt8 = 0
        _ = write(pipe.write, &byte, 1)
        if pthread_equal(thread, pthread_self()) != 0 {
            pthread_detach(thread)
            return
        }
        pthread_join(thread, nil)
        close(pipe.read)
        close(pipe.write)
    }
}
