import EventLoop

/// Something that happens once at a time unless it is taken back. Subclassed for what happens. Confined to its loop.
open class Deadline {
    fileprivate var index = -1
    /// In the loop's milliseconds.
    public fileprivate(set) var milliseconds: UInt64 = 0

    public init() {}

    /// Whether it still waits for its time.
    public var isWaiting: Bool { index >= 0 }

    /// The time has come. On the loop.
    open func passed() {}
}

/// Deadlines of many, with one timer of the loop for all: a heap that knows where each of them lies, so that the many
/// that are taken back in time leave nothing behind. Confined to its loop; keeps what waits alive.
public final class DeadlineQueue {
    private let loop: any Loop
    private var heap: [Deadline] = []
    private var timer: (any LoopTimer)?
    private var timerAt = UInt64.max

    public init(loop: any Loop) { self.loop = loop }

    deinit { timer?.cancel() }

    /// Lets go of the loop's timer, so that the loop may end; what waits never passes.
    public func stop() {
        timer?.cancel()
        timer = nil
        timerAt = 0
    }

    /// Deadlines that wait.
    public var count: Int { heap.count }

    /// The loop's time, in milliseconds.
    public var now: UInt64 { loop.nowMilliseconds }

    /// Has it pass at a time of the loop, in milliseconds; one that waits already is moved.
    public func set(_ deadline: Deadline, at milliseconds: UInt64) {
        if deadline.isWaiting { cancel(deadline) }
        deadline.milliseconds = milliseconds
        deadline.index = heap.count
        heap.append(deadline)
        rise(deadline.index)
        arm()
    }

    /// Takes it back; nothing happens when it does not wait.
    public func cancel(_ deadline: Deadline) {
        let index = deadline.index
        guard index >= 0 else { return }
        deadline.index = -1
        let last = heap.removeLast()
        guard index < heap.count else { return }
        heap[index] = last
        last.index = index
        rise(index)
        sink(last.index)
    }

    private func rise(_ start: Int) {
        var index = start
        while index > 0, heap[index].milliseconds < heap[(index - 1) / 2].milliseconds {
            swap(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    private func sink(_ start: Int) {
        var index = start
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && heap[child].milliseconds < heap[least].milliseconds {
                least = child
            }
            if least == index { return }
            swap(index, least)
            index = least
        }
    }

    private func swap(_ a: Int, _ b: Int) {
        heap.swapAt(a, b)
        heap[a].index = a
        heap[b].index = b
    }

    /// The timer may be early, where the first deadline was taken back; never late.
    private func arm() {
        guard let first = heap.first, first.milliseconds < timerAt else { return }
        timer?.cancel()
        timerAt = first.milliseconds
        let now = loop.nowMilliseconds
        let wait = first.milliseconds > now ? first.milliseconds - now : 0
        timer = loop.timer(afterMilliseconds: Int(clamping: wait)) { [weak self] in self?.fire() }
    }

    private func fire() {
        timer = nil
        timerAt = .max
        let now = loop.nowMilliseconds
        while let first = heap.first, first.milliseconds <= now {
            cancel(first)
            first.passed()
        }
        arm()
    }
}
