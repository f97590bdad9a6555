import Synchronization
import Testing

@testable import EventLoop

struct LoopTests {
    @Test func `A closure runs on the loop's thread, and never inside the call`() {
        let loop = EventLoop(name: "test")
        let isInside = loop.runAndWait { loop -> Bool in
            let ran = Mutex(false)
            loop.execute { ran.withLock { $0 = true } }
            return loop.isCurrent && ran.withLock { $0 }
        }
        #expect(!isInside)
        #expect(loop.runAndWait { $0.isCurrent })
        #expect(!loop.isCurrent)
    }

    @Test func `Async code with the loop as executor comes back to its thread`() async {
        let loop = EventLoop(name: "test")
        let places = await Task(executorPreference: loop) {
            var places = [loop.isCurrent]
            await Task.yield()
            places.append(loop.isCurrent)
            await withCheckedContinuation { continuation in
                loop.execute { continuation.resume() }
            }
            places.append(loop.isCurrent)
            return places
        }.value
        #expect(places == [true, true, true])
    }

    @Test(.timeLimit(.minutes(1)))
    func `A stopped loop ends with its thread, wakers that were closed or not made`() async {
        for hasWaker in [false, true] {
            weak var ended: EventLoop?
            do {
                let loop = EventLoop(name: "test")
                ended = loop
                let waker = hasWaker ? loop.runAndWait { $0.makeWaker {} } : nil
                waker?.wake()
                if let waker { loop.execute { waker.close() } }
                loop.stop()
            }
            while ended != nil { await Task.yield() }
        }
    }

    @Test func `Timers fire in order, repeat, and stay silent when cancelled`() async {
        let loop = EventLoop(name: "test")
        let fired: [Int] = await withCheckedContinuation { continuation in
            loop.execute {
                let box = LoopConfined(Collector())
                let cancelled = loop.timer(afterMilliseconds: 1) { box.value.values.append(-1) }
                cancelled.cancel()
                _ = loop.timer(afterMilliseconds: 20) { box.value.values.append(2) }
                _ = loop.timer(afterMilliseconds: 2) { box.value.values.append(1) }
                box.value.timer = loop.repeatTimer(everyMilliseconds: 10) {
                    box.value.values.append(0)
                    guard box.value.values.count(where: { $0 == 0 }) == 5 else { return }
                    box.value.timer?.cancel()
                    continuation.resume(returning: box.value.values)
                }
            }
        }
        #expect(fired.first == 1)
        #expect(fired.count { $0 == 0 } == 5)
        #expect(fired.contains(2) && !fired.contains(-1))
    }

    private final class Collector {
        var values: [Int] = []
        var timer: (any LoopTimer)?
    }

    @Test func `Many wakes become at least one call, and the last is never lost`() async {
        let loop = EventLoop(name: "test")
        let counts = Counts()
        let waker = loop.runAndWait { loop in
            loop.makeWaker { counts.seen.store(counts.wakes.load(ordering: .acquiring), ordering: .releasing) }
        }
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask { @Sendable in
                    for _ in 0..<1000 {
                        counts.wakes.add(1, ordering: .acquiringAndReleasing)
                        waker.wake()
                    }
                }
            }
        }
        // The call that follows the last wake has seen everything before it.
        while counts.seen.load(ordering: .acquiring) < 4000 { await Task.yield() }
    }

    private final class Counts: Sendable {
        let wakes = Atomic<Int>(0)
        let seen = Atomic<Int>(0)
    }

    @Test func `Connections are spread over the loops`() async throws {
        let group = EventLoopGroup(count: 3)
        let accepted = Mutex<[Int]>([])
        let listener = try Listener(host: "127.0.0.1", port: 0, group: group) { socket in
            let index = group.loops.firstIndex { $0 === socket.loop } ?? -1
            accepted.withLock { $0.append(index) }
        }
        defer { listener.close() }
        let client = EventLoop(name: "client")
        let address = try SocketAddress(host: "127.0.0.1", port: listener.port)
        for _ in 0..<9 {
            client.execute { Socket.connect(address, loop: client) { _ in } }
            let count = accepted.withLock { $0.count }
            while accepted.withLock({ $0.count }) == count { await Task.yield() }
        }
        let loops = accepted.withLock { $0 }
        for index in 0..<3 { #expect(loops.count { $0 == index } == 3, "\(loops)") }
    }

    @Test func `A port that nobody listens on, and one that is taken, are errors`() async throws {
        let group = EventLoopGroup(count: 1)
        let listener = try Listener(host: "127.0.0.1", port: 0, group: group) { _ in }
        #expect(throws: AddressError.self) {
            try Listener(host: "127.0.0.1", port: listener.port, group: group) { _ in }
        }
        #expect(throws: AddressError.self) {
            try Listener(host: "no.such.host.invalid", port: 1, group: group) { _ in }
        }
        let address = try SocketAddress(host: "127.0.0.1", port: 1)
        let loop = group.loops[0]
        let isRefused: Bool = await withCheckedContinuation { continuation in
            loop.execute {
                Socket.connect(address, loop: loop) { result in
                    if case .failure = result {
                        continuation.resume(returning: true)
                    } else {
                        continuation.resume(returning: false)
                    }
                }
            }
        }
        #expect(isRefused)
        listener.close()
    }

    /// Nobody listens on a port of the range that the system takes from: sooner or later it takes that one.
    @Test(.timeLimit(.minutes(1))) func `A connection to itself is none`() async throws {
        let group = EventLoopGroup(count: 1)
        defer { group.stop() }
        let loop = group.loops[0]
        // Linux takes even ports for those who connect, and odd ones for those who listen.
        var port = 1
        while port % 2 == 1 {
            let taken = try Listener(host: "127.0.0.1", port: 0, group: group) { _ in }
            if let free = try? Listener(host: "127.0.0.1", port: taken.port & ~1, group: group, accepted: { _ in }) {
                port = free.port
                free.close()
            }
            taken.close()
        }
        let address = try SocketAddress(host: "127.0.0.1", port: port)
        for _ in 0..<80_000 {
            let isOfItself: Bool = await withCheckedContinuation { continuation in
                loop.execute {
                    Socket.connect(address, loop: loop) { result in
                        // Another program may listen there by now: that is a connection like any other.
                        guard let socket = try? result.get() else { return continuation.resume(returning: false) }
                        let isOfItself = socket.isConnectedToItself
                        socket.close()
                        continuation.resume(returning: isOfItself)
                    }
                }
            }
            guard isOfItself else { continue }
            Issue.record("a socket is its own peer")
            return
        }
    }
}
