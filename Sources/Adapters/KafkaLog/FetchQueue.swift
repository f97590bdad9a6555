import EventLog
import KafkaClient
import KafkaFrames
import Synchronization

/// What was read of one partition and is not decoded yet: filled on the loop, emptied by a reader. Where much waits,
/// no more is asked for.
final class FetchQueue: @unchecked Sendable {
    /// Bytes that wait of one partition, and of all of a kind of readers, before reading stands still.
    private static let bytesMax = 1 << 20
    private static let totalBytesMax = 8 << 20
    /// What a reader who may not go on is fetched at first; twice as much each time it does.
    private static let firstBytes = 128 << 10

    final class Chunk {
        let error: KafkaError
        let bytes: UnsafeRawBufferPointer
        let aborted: [KafkaAbortedTransaction]
        let damagedOffset: Int64?
        let next: UInt64
        let end: UInt64

        var batches: FetchedBatches { FetchedBatches(bytes, aborted, damagedOffset: damagedOffset) }

        /// Keeps what is borrowed.
        init(_ fetched: KafkaFetcher.Fetched) {
            error = fetched.error
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: fetched.records.count, alignment: 8)
            copy.copyMemory(from: fetched.records)
            bytes = UnsafeRawBufferPointer(copy)
            aborted = fetched.aborted
            damagedOffset = fetched.damagedOffset
            next = UInt64(max(fetched.next, 0))
            end = UInt64(max(fetched.end, 0))
        }

        deinit { bytes.deallocate() }
    }

    private let monitor = Monitor()
    private let ready: @Sendable () -> Void
    private let total: Shared
    /// Where the partition ends, as far as it is known; 0 where it is not.
    private let end: Shared
    // Guarded by `monitor`.
    private var chunks: [Chunk] = []
    private var bytes = 0
    private var isPaused = false
    /// What may wait now; nil: as much as of any partition.
    private var allowance: Int?
    private var through: UInt64 = 0
    // The loop's own.
    private var stream: KafkaFetcher.Stream?

    /// `total` counts the bytes in all queues of a kind of readers; `end` is told where the partition ends. `ready` is
    /// called on the loop when something has come after there was nothing. With `isCautious` little is fetched until
    /// it is read.
    init(total: Shared, end: Shared, isCautious: Bool = false, ready: @escaping @Sendable () -> Void) {
        self.ready = ready
        self.total = total
        self.end = end
        if isCautious { allowance = FetchQueue.firstBytes }
    }

    /// One past what has come; 0 where nothing has.
    var fetchedThrough: UInt64 { monitor.locked { through } }

    var isEmpty: Bool { monitor.locked { chunks.isEmpty } }

    /// A number of several threads.
    final class Shared: Sendable {
        let value = Atomic<Int>(0)
    }

    /// On the loop.
    func begin(_ fetcher: KafkaFetcher, topic: String, partition: Int32, at offset: UInt64) {
        stream = fetcher.add(topic: topic, partition: partition, at: Int64(clamping: offset)) { [weak self] fetched in
            self?.put(fetched)
        }
        stream?.bytesMax = monitor.locked { allowance.map { Int32(clamping: $0) } }
    }

    /// On the loop.
    func end(_ fetcher: KafkaFetcher) {
        guard let stream else { return }
        fetcher.remove(stream)
        self.stream = nil
        monitor.locked {
            total.value.subtract(bytes, ordering: .relaxed)
            chunks = []
            bytes = 0
        }
    }

    private func put(_ fetched: KafkaFetcher.Fetched) {
        let chunk = Chunk(fetched)
        let all = total.value.add(chunk.bytes.count, ordering: .relaxed).newValue
        end.value.store(Int(max(fetched.highWatermark, 0)), ordering: .relaxed)
        let wasEmpty = monitor.locked { () -> Bool in
            let wasEmpty = chunks.isEmpty
            chunks.append(chunk)
            bytes += chunk.bytes.count
            through = max(through, chunk.next)
            isPaused = all >= FetchQueue.totalBytesMax || bytes >= allowance.map { $0 / 2 } ?? FetchQueue.bytesMax
            stream?.isWanted = !isPaused
            return wasEmpty
        }
        if wasEmpty { ready() }
    }

    /// Takes the oldest; whether reading has to be resumed.
    func take() -> (chunk: Chunk?, resumes: Bool) {
        monitor.locked {
            guard !chunks.isEmpty else { return (nil, false) }
            let chunk = chunks.removeFirst()
            bytes -= chunk.bytes.count
            total.value.subtract(chunk.bytes.count, ordering: .relaxed)
            if let now = allowance { allowance = min(now * 2, FetchQueue.bytesMax) }
            let resumes = isPaused && chunks.isEmpty
            if resumes { isPaused = false }
            return (chunk, resumes)
        }
    }

    /// On the loop: goes on after a pause.
    func resume(_ fetcher: KafkaFetcher) {
        stream?.isWanted = true
        // As much as the fetcher's own limit once the reader has gone on for a while.
        stream?.bytesMax = monitor.locked { allowance.flatMap { $0 < FetchQueue.bytesMax ? Int32($0) : nil } }
        fetcher.resume()
    }
}
