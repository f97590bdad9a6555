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

    @Test func `A turn counts with what it took, and waiting is none`() {
        let loop = EventLoop(name: "test")
        loop.runAndWait { _ in
            let end = ContinuousClock.now + .milliseconds(3)
            while ContinuousClock.now < end {}
        }
        // The first turn was over before this one began.
        let (counts, sumNs) = loop.runAndWait { $0.turns.values }
        #expect(counts.reduce(0, +) == 1 && sumNs >= 3_000_000)
        // Up to 2,048 us and less have their own.
        #expect(counts[..<12].allSatisfy { $0 == 0 })
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

    @Test func `An alarm rings once for each time it is set, finer than a millisecond, and not when closed`() async {
        let loop = EventLoop(name: "test")
        let clock = ContinuousClock()
        let (rings, took): (Int, Duration) = await withCheckedContinuation { continuation in
            loop.execute {
                let box = LoopConfined(Collector())
                let began = clock.now
                // Set again before it rings: the earlier time is forgotten.
                let silent = loop.makeAlarm { box.value.values.append(-1) }
                silent.set(afterNs: 1)
                silent.close()
                silent.set(afterNs: 1)
                box.value.alarm = loop.makeAlarm {
                    box.value.values.append(1)
                    guard box.value.values.count == 100 else {
                        box.value.alarm?.set(afterNs: 1_000_000_000)
                        box.value.alarm?.set(afterNs: box.value.values.count % 2 == 0 ? 0 : 100_000)
                        return
                    }
                    box.value.alarm?.close()
                    let took = clock.now - began
                    // Nothing rings afterwards.
                    _ = loop.timer(afterMilliseconds: 20) {
                        continuation.resume(returning: (box.value.values.count { $0 == 1 }, took))
                    }
                }
                box.value.alarm?.set(afterNs: 100_000)
            }
        }
        #expect(rings == 100)
        #expect(took >= .milliseconds(5))
    }

    private final class Collector {
        var alarm: (any LoopAlarm)?
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

    /// The listener's loop stands still until all of a burst is connected: it accepts them in one turn.
    @Test(.timeLimit(.minutes(1))) func `A burst of connections is spread over the loops`() async throws {
        let connections = try Connections(loops: 3)
        defer { connections.close() }
        await connections.open(9)
        #expect(connections.countsByLoop == [3, 3, 3])
    }

    @Test(.timeLimit(.minutes(1))) func `New connections go where others have closed`() async throws {
        let connections = try Connections(loops: 3)
        defer { connections.close() }
        await connections.open(9)
        await connections.closeAll(onLoop: 1)
        #expect(connections.countsByLoop == [3, 0, 3])
        await connections.open(3)
        #expect(connections.countsByLoop == [3, 3, 3])
        await connections.closeAll(onLoop: 2)
        await connections.open(2)
        #expect(connections.countsByLoop == [3, 3, 2])
    }

    @Test func `A descriptor that becomes no connection is not counted on`() {
        let loop = EventLoop(name: "test")
        defer { loop.stop() }
        Socket.handOver(-1, to: loop) { _ in Issue.record("a connection without descriptor") }
        #expect(loop.runAndWait { $0.connectionCount.load(ordering: .relaxed) } == 0)
    }

    /// A listener with a client of its own.
    private final class Connections: Sendable {
        private let group: EventLoopGroup
        private let client = EventLoop(name: "client")
        private let listener: Listener
        private let address: SocketAddress
        private let accepted: Accepted

        /// The sockets of each loop, which only that loop touches.
        private final class Accepted: Sendable {
            let sockets = Mutex<[LoopConfined<Socket>]>([])
        }

        init(loops: Int) throws {
            let group = EventLoopGroup(count: loops)
            let accepted = Accepted()
            listener = try Listener(host: "127.0.0.1", port: 0, group: group) { socket in
                let box = LoopConfined(socket)
                accepted.sockets.withLock { $0.append(box) }
            }
            address = try SocketAddress(host: "127.0.0.1", port: listener.port)
            self.group = group
            self.accepted = accepted
        }

        /// As the loops count them.
        var countsByLoop: [Int] { group.loops.map { $0.connectionCount.load(ordering: .relaxed) } }

        private var acceptedCount: Int { accepted.sockets.withLock { $0.count } }

        /// Connects so many, all of which wait when the first is accepted.
        func open(_ count: Int) async {
            let before = acceptedCount
            let connected = Counts()
            group.loops[0].execute { while connected.seen.load(ordering: .acquiring) < count {} }
            for _ in 0..<count {
                client.execute { [client, address] in
                    Socket.connect(address, loop: client) { _ in connected.seen.add(1, ordering: .acquiringAndReleasing)
                    }
                }
            }
            while acceptedCount < before + count { await Task.yield() }
        }

        func closeAll(onLoop index: Int) async {
            let loop = group.loops[index]
            await withCheckedContinuation { continuation in
                loop.execute { [accepted] in
                    accepted.sockets.withLock { sockets in
                        for box in sockets where box.value.loop === loop { box.value.close() }
                        sockets.removeAll { $0.value.loop === loop }
                    }
                    continuation.resume()
                }
            }
        }

        func close() { listener.close() }
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
