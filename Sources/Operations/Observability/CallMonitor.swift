import EventLoop
import GRPC
import Synchronization
import TimeSource

/// How long calls may take at most, whatever deadline the client sets; 0 is without limit. Looked at every quarter of
/// a second.
public struct CallDeadlines: Sendable, Hashable {
    /// Calls with one request and one response; also what they get when the client sets none.
    public var unaryMilliseconds: Int
    /// Calls of which either side is a stream.
    public var streamMilliseconds: Int

    public init(unaryMilliseconds: Int = 30_000, streamMilliseconds: Int = 0) {
        self.unaryMilliseconds = unaryMilliseconds
        self.streamMilliseconds = streamMilliseconds
    }
}

/// An open call, as an operator sees it.
public struct CallDescription: Sendable, Hashable {
    /// For ``CallMonitor/end(_:)``: `LOOP-NUMBER`, never used again.
    public let id: String
    /// `anonymous` and the like; empty while nobody is known.
    public let identity: String
    /// Numeric address of the other side.
    public let peer: String
    /// `/package.Service/Method`
    public let method: String
    /// What a stream says of itself; nil for calls that say nothing.
    public let stream: StreamStatus?
    public let receivedBytes: UInt64
    public let sentBytes: UInt64
    public let ageMilliseconds: Int
}

/// Watches a server's calls: counts them for metrics, keeps the open ones to be listed and ended, holds them to the
/// server's own deadlines, and writes lines about them. Safe to use from any thread.
public final class CallMonitor: Sendable {
    let metrics: GRPCServerMetrics
    let log: CallLog
    let deadlines: CallDeadlines
    let time: any TimeSource
    private let observers = Mutex<[(loop: any Loop, observer: LoopConfined<CallObserver>)]>([])

    /// `time` is read twice per call: a loop's own time stands still while it works, which is what one wants to see.
    public init(
        metrics: GRPCServerMetrics, log: CallLog, deadlines: CallDeadlines = CallDeadlines(), time: any TimeSource
    ) {
        self.metrics = metrics
        self.log = log
        self.deadlines = deadlines
        self.time = time
    }

    /// Its interceptor on a loop: called there, once. The outermost one, so that it sees what others refuse.
    public func makeInterceptor(loop: any Loop) -> any ServerInterceptor {
        let made = observers.withLock { observers -> LoopConfined<CallObserver> in
            let observer = LoopConfined(CallObserver(self, loop, number: observers.count))
            observers.append((loop, observer))
            return observer
        }
        return made.value
    }

    /// Every open call, by loop and age. Each loop answers when it gets to it.
    public func calls() async -> [CallDescription] {
        var calls: [CallDescription] = []
        for (loop, observer) in observers.withLock({ $0 }) {
            calls += await withCheckedContinuation { continuation in
                loop.execute { continuation.resume(returning: observer.value.describe()) }
            }
        }
        return calls
    }

    /// Ends a call: UNAVAILABLE, with whatever its stream says at its end. False where there is none of that id.
    public func end(_ id: String) async -> Bool {
        let parts = id.split(separator: "-", omittingEmptySubsequences: false)
        let observers = observers.withLock { $0 }
        guard parts.count == 2, let index = Int(parts[0]), observers.indices.contains(index),
            let number = UInt64(parts[1])
        else { return false }
        let (loop, observer) = observers[index]
        return await withCheckedContinuation { continuation in
            loop.execute { continuation.resume(returning: observer.value.end(number)) }
        }
    }
}
