import EventLog
import KafkaClient
import KafkaFrames
import Synchronization

/// What was read of one partition and is not decoded yet: filled on the loop, emptied by a reader. Where much waits,
/// no more is asked for.
final class FetchQueue: @unchecked Sendable {
    /// Bytes that wait of one partition, and of all of a log, before reading stands still.
    private static let bytesMax = 1 << 20
    private static let totalBytesMax = 8 << 20

    final class Chunk {
        let error: KafkaError
        let bytes: UnsafeRawBufferPointer
        let aborted: [KafkaAbortedTransaction]
        let next: UInt64
        let end: UInt64

        /// Keeps what is borrowed.
        init(_ fetched: KafkaFetcher.Fetched) {
            error = fetched.error
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: fetched.records.count, alignment: 8)
            copy.copyMemory(from: fetched.records)
            bytes = UnsafeRawBufferPointer(copy)
            aborted = fetched.aborted
            next = UInt64(max(fetched.next, 0))
            end = UInt64(max(fetched.end, 0))
        }

        deinit { bytes.deallocate() }
    }

    private let monitor = Monitor()
    private let ready: ReadySignal
    private let total: Shared
    /// Where the partition ends, as far as it is known; 0 where it is not.
    private let end: Shared
    // Guarded by `monitor`.
    private var chunks: [Chunk] = []
    private var bytes = 0
    private var isPaused = false
    // The loop's own.
    private var stream: KafkaFetcher.Stream?

    /// `total` counts the bytes in all queues of a log; `end` is told where the partition ends.
    init(_ ready: ReadySignal, total: Shared, end: Shared) {
        self.ready = ready
        self.total = total
        self.end = end
    }

    /// A number of several threads.
    final class Shared: Sendable {
        let value = Atomic<Int>(0)
    }

    /// On the loop.
    func begin(_ fetcher: KafkaFetcher, topic: String, partition: Int32, at offset: UInt64) {
        stream = fetcher.add(topic: topic, partition: partition, at: Int64(clamping: offset)) { [weak self] fetched in
            self?.put(fetched)
        }
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
            isPaused = bytes >= FetchQueue.bytesMax || all >= FetchQueue.totalBytesMax
            stream?.isWanted = !isPaused
            monitor.wakeAll()
            return wasEmpty
        }
        if wasEmpty { ready.set() }
    }

    /// Waits for something, and takes the oldest; whether reading has to be resumed.
    func take(timeoutNs: Int64) -> (chunk: Chunk?, resumes: Bool) {
        monitor.locked {
            if chunks.isEmpty, timeoutNs > 0 { _ = monitor.wait(ns: timeoutNs) }
            guard !chunks.isEmpty else { return (nil, false) }
            let chunk = chunks.removeFirst()
            bytes -= chunk.bytes.count
            total.value.subtract(chunk.bytes.count, ordering: .relaxed)
            let resumes = isPaused && chunks.isEmpty
            if resumes { isPaused = false }
            return (chunk, resumes)
        }
    }

    /// On the loop: goes on after a pause.
    func resume(_ fetcher: KafkaFetcher) {
        stream?.isWanted = true
        fetcher.resume()
    }
}
