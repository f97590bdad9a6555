import EventLoop
import Synchronization

/// A loop that is turned by hand, for connections that are fuzzed: nothing happens beside it.
final class FuzzLoop: Loop, @unchecked Sendable {
    private final class Timer: LoopTimer {
        var at: UInt64
        let every: UInt64?
        var body: (() -> Void)?

        init(at: UInt64, every: UInt64?, _ body: @escaping () -> Void) {
            self.at = at
            self.every = every
            self.body = body
        }

        func cancel() { body = nil }
    }

    private(set) var nowMilliseconds: UInt64 = 1
    private var turn: [() -> Void] = []
    private var timers: [Timer] = []
    private let jobs = Mutex<[@Sendable () -> Void]>([])

    var isCurrent: Bool { true }
    func execute(_ body: @escaping @Sendable () -> Void) { jobs.withLock { $0.append(body) } }
    func afterTurn(_ body: @escaping () -> Void) { turn.append(body) }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.withLock { $0.append { [self] in job.runSynchronously(on: asUnownedTaskExecutor()) } }
    }

    func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(Timer(at: nowMilliseconds &+ UInt64(max(0, milliseconds)), every: nil, body))
    }

    func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        let every = UInt64(max(1, milliseconds))
        return add(Timer(at: nowMilliseconds &+ every, every: every, body))
    }

    private func add(_ timer: Timer) -> any LoopTimer {
        timers.append(timer)
        return timer
    }

    /// Does what is to be done now.
    func settle() {
        while true {
            let bodies = turn
            turn = []
            for body in bodies { body() }
            if !bodies.isEmpty { continue }
            let waiting = jobs.withLock { jobs in
                defer { jobs = [] }
                return jobs
            }
            if waiting.isEmpty { return }
            for job in waiting { job() }
        }
    }

    /// Lets time pass in one leap: what is due then is done.
    func advance(milliseconds: UInt64) {
        nowMilliseconds &+= milliseconds
        for timer in timers where timer.at <= nowMilliseconds {
            timer.body?()
            if let every = timer.every { timer.at = nowMilliseconds &+ every } else { timer.body = nil }
        }
        timers.removeAll { $0.body == nil }
        settle()
    }
}

/// A stream of bytes whose other end is the fuzzer. Confined to its loop.
final class FuzzStream: ByteStream {
    private let fuzzLoop: FuzzLoop
    var loop: any Loop { fuzzLoop }
    weak var owner: (any ByteStreamOwner)?
    private(set) var isClosed = false
    private(set) var isReading = false
    let waitingBytes = 0
    let peerAddress = "192.0.2.1"
    /// What its owner wrote and nobody took yet.
    private(set) var output: [UInt8] = []

    init(_ loop: FuzzLoop) { fuzzLoop = loop }

    func startReading() { isReading = true }
    func stopReading() { isReading = false }
    func write(_ bytes: UnsafeRawBufferPointer) { if !isClosed { output += bytes } }

    func takeOutput() -> [UInt8] {
        defer { output = [] }
        return output
    }

    /// Bytes of the other end, and what they bring about.
    func feed(_ bytes: some Collection<UInt8>) {
        guard !isClosed, !bytes.isEmpty else { return }
        // In memory of its own: a read past it is found.
        Array(bytes).withUnsafeBytes { owner?.received($0) }
        fuzzLoop.settle()
    }

    func close(_ error: StreamError?) {
        guard !isClosed else { return }
        isClosed = true
        let box = LoopConfined(self)
        fuzzLoop.execute { box.value.owner?.closed(error) }
    }

    /// The other end goes.
    func end(_ error: StreamError? = nil) {
        close(error)
        fuzzLoop.settle()
    }
}

/// Pieces of bytes by a seed: the same for the same seed; 0 cuts nothing.
func forEachPiece(_ bytes: [UInt8], seed: UInt8, _ body: (ArraySlice<UInt8>) -> Void) {
    guard seed > 0 else { return body(bytes[...]) }
    var state = UInt32(seed) &* 2_654_435_761 | 1
    var position = 0
    while position < bytes.count {
        state = state &* 1_664_525 &+ 1_013_904_223
        let end = min(bytes.count, position + 1 + Int(state >> 24) % (1 + Int(seed) % 61))
        body(bytes[position..<end])
        position = end
    }
}
