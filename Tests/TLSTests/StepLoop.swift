import EventLoop

/// xorshift64: the same numbers for a seed.
struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }
    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}

/// A loop that the test turns by hand, with streams whose bytes arrive in pieces that a seed decides.
final class StepLoop: Loop, @unchecked Sendable {
    private(set) var nowMilliseconds: UInt64 = 0
    var random: SeededNumbers
    private var jobs: [() -> Void] = []
    private var after: [() -> Void] = []
    private var timers: [StepTimer] = []
    fileprivate var pipes: [MemoryStream] = []

    init(seed: UInt64) { random = SeededNumbers(seed: seed) }

    var isCurrent: Bool { true }
    func execute(_ body: @escaping @Sendable () -> Void) { jobs.append(body) }
    func afterTurn(_ body: @escaping () -> Void) { after.append(body) }
    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.append { [self] in job.runSynchronously(on: asUnownedTaskExecutor()) }
    }
    func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(milliseconds, nil, body)
    }
    func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(milliseconds, milliseconds, body)
    }

    private func add(_ milliseconds: Int, _ every: Int?, _ body: @escaping () -> Void) -> any LoopTimer {
        let timer = StepTimer(at: nowMilliseconds + UInt64(milliseconds), every: every, body)
        timers.append(timer)
        return timer
    }

    var openTimers: Int { timers.count { $0.body != nil } }

    private func endTurn() {
        while !after.isEmpty {
            let bodies = after
            after = []
            for body in bodies { body() }
        }
    }

    /// A turn: jobs, and every stream moves some bytes. Whether anything happened.
    func step() -> Bool {
        var moved = !jobs.isEmpty || !after.isEmpty
        endTurn()
        let ready = jobs
        jobs = []
        for job in ready { job() }
        endTurn()
        for pipe in pipes.shuffled(using: &random) where pipe.step() {
            moved = true
            endTurn()
        }
        pipes.removeAll { $0.isOver }
        return moved
    }

    /// Turns until nothing happens any more.
    func run(turnsMax: Int = 1_000_000) -> Bool {
        for _ in 0..<turnsMax where !step() { return true }
        return false
    }

    /// Lets time pass: timers that are due are called in order.
    func advance(milliseconds: Int) {
        _ = run()
        let until = nowMilliseconds + UInt64(milliseconds)
        while let next = timers.filter({ $0.body != nil && $0.at <= until }).min(by: { $0.at < $1.at }) {
            nowMilliseconds = next.at
            let body = next.body
            if let every = next.every { next.at += UInt64(every) } else { next.body = nil }
            body?()
            _ = run()
        }
        timers.removeAll { $0.body == nil }
        nowMilliseconds = until
    }

    /// Two ends of a connection. `pieceMax` is the most bytes that arrive at once, `roomMax` what one end takes unread.
    func pair(pieceMax: Int = 1 << 20, roomMax: Int = 1 << 20) -> (MemoryStream, MemoryStream) {
        let one = MemoryStream(self, pieceMax, roomMax)
        let other = MemoryStream(self, pieceMax, roomMax)
        one.peer = other
        other.peer = one
        pipes += [one, other]
        return (one, other)
    }
}

final class StepTimer: LoopTimer {
    var at: UInt64
    let every: Int?
    var body: (() -> Void)?
    init(at: UInt64, every: Int?, _ body: @escaping () -> Void) {
        self.at = at
        self.every = every
        self.body = body
    }
    func cancel() { body = nil }
}

/// Bytes on their way.
private struct Pending {
    var bytes: [UInt8] = []
    private var start = 0
    var count: Int { bytes.count - start }

    mutating func take(_ size: Int) -> [UInt8] {
        defer {
            start += size
            if start > 65_536 || start == bytes.count {
                bytes.removeFirst(start)
                start = 0
            }
        }
        return Array(bytes[start..<(start + size)])
    }
}

/// One end of a connection in memory.
final class MemoryStream: ByteStream {
    private let stepLoop: StepLoop
    var loop: any Loop { stepLoop }
    weak var owner: (any ByteStreamOwner)?
    private(set) var isClosed = false
    let peerAddress = "memory"
    fileprivate(set) weak var peer: MemoryStream?
    /// What arrived here and was not read, what this end wrote and nobody took.
    private var inbox = Pending()
    private var outbox = Pending()
    private var isReading = false
    private var peerHasEnded = false
    private var closeError: StreamError?
    fileprivate private(set) var isOver = false
    private let pieceMax: Int
    private let roomMax: Int
    /// Bytes that the test changes or takes away before they arrive.
    var tamper: (([UInt8]) -> [UInt8])?

    fileprivate init(_ loop: StepLoop, _ pieceMax: Int, _ roomMax: Int) {
        stepLoop = loop
        self.pieceMax = pieceMax
        self.roomMax = roomMax
    }

    var waitingBytes: Int { outbox.count }
    func startReading() { isReading = true }
    func stopReading() { isReading = false }
    func write(_ bytes: UnsafeRawBufferPointer) { if !isClosed { outbox.bytes += bytes } }

    func close(_ error: StreamError?) {
        guard !isClosed else { return }
        isClosed = true
        closeError = error
    }

    /// As a network does at an end that nobody closed.
    func cut() { peerHasEnded = true }

    fileprivate func step() -> Bool {
        if isClosed { return tellEnd() }
        var moved = false
        if let peer, outbox.count > 0, !peer.isClosed, peer.inbox.count < peer.roomMax {
            let count = Int.random(
                in: 1...min(outbox.count, pieceMax, peer.roomMax - peer.inbox.count), using: &stepLoop.random)
            let part = outbox.take(count)
            peer.inbox.bytes += tamper?(part) ?? part
            moved = true
            if outbox.count == 0 { owner?.drained() }
        }
        guard isReading, !isClosed else { return moved }
        if inbox.count > 0 {
            let count = Int.random(in: 1...min(inbox.count, pieceMax), using: &stepLoop.random)
            // A memory of its own, so that a reader who keeps it is found out.
            let part = inbox.take(count)
            part.withUnsafeBytes { owner?.received($0) }
            return true
        }
        if peerHasEnded, !isClosed {
            close(nil)
            return true
        }
        return moved
    }

    private func tellEnd() -> Bool {
        guard !isOver else { return false }
        isOver = true
        peer?.inbox.bytes += outbox.take(outbox.count)
        peer?.peerHasEnded = true
        owner?.closed(closeError)
        return true
    }
}

/// What a stream's owner was told.
final class Recorder: ByteStreamOwner {
    var bytes: [UInt8] = []
    var drainedCount = 0
    var ends: [StreamError?] = []
    /// Called with what arrived, in place of keeping it.
    var onBytes: ((UnsafeRawBufferPointer) -> Void)?
    var onDrained: (() -> Void)?

    func received(_ bytes: UnsafeRawBufferPointer) {
        if let onBytes { onBytes(bytes) } else { self.bytes += bytes }
    }
    func drained() {
        drainedCount += 1
        onDrained?()
    }
    func closed(_ error: StreamError?) { ends.append(error) }

    /// The one end told, in words; "-" where there was none, or several.
    var end: String { ends.count == 1 ? ends[0].map(\.description) ?? "in order" : "-" }
}

extension ByteStream {
    func write(_ bytes: [UInt8]) { bytes.withUnsafeBytes { write($0) } }
}
