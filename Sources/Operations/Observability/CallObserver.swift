import EventLoop
import GRPC
import Synchronization
import TimeSource

/// ``CallMonitor`` on one loop. Confined to it. A call costs it two readings of the clock and a few counters.
final class CallObserver: ServerInterceptor {
    private static let deadlineCheckMilliseconds = 250

    private let monitor: CallMonitor
    private let loop: any Loop
    private let loopNumber: Int
    private let metrics: GRPCMetricsShard
    @exclusivity(unchecked) private var successes: CallSampler
    @exclusivity(unchecked) private var refusals: CallSampler
    private var calls: ServerCalls?
    /// Places in the metrics by the number that a method has in its server's table, from 1; 0 is not known yet.
    @exclusivity(unchecked) private var places: [Int] = []
    @exclusivity(unchecked) private var deadlineTimer: (any LoopTimer)?
    /// Before that no call can be over its limit, by the monitor's clock.
    private var checkAtNs = Int64.min
    private let reference = Reference()

    /// What the timer holds of the observer: a weak reference would make each of a call's references to it a slow one.
    private final class Reference: Sendable {
        /// Its address; nil once it is gone.
        private let observer = Mutex<UInt?>(nil)

        func set(_ new: CallObserver?) {
            let address = new.map { UInt(bitPattern: Unmanaged.passUnretained($0).toOpaque()) }
            observer.withLock { $0 = address }
        }

        func checkDeadlines() {
            observer.withLock { address in
                guard let address, let pointer = UnsafeRawPointer(bitPattern: address) else { return }
                Unmanaged<CallObserver>.fromOpaque(pointer).takeUnretainedValue().checkDeadlines()
            }
        }
    }

    init(_ monitor: CallMonitor, _ loop: any Loop, number: Int) {
        self.monitor = monitor
        self.loop = loop
        loopNumber = number
        metrics = GRPCMetricsShard(monitor.metrics)
        successes = CallSampler(perSecond: monitor.log.successesPerSecond)
        refusals = CallSampler(perSecond: CallLog.refusalsPerSecond)
        let deadlines = monitor.deadlines
        guard deadlines.unaryMilliseconds > 0 || deadlines.streamMilliseconds > 0 else { return }
        reference.set(self)
        deadlineTimer = loop.repeatTimer(everyMilliseconds: CallObserver.deadlineCheckMilliseconds) { [reference] in
            reference.checkDeadlines()
        }
    }

    deinit {
        reference.set(nil)
        deadlineTimer?.cancel()
    }

    func watch(_ calls: ServerCalls) { self.calls = calls }

    func begin(_ call: ServerCall) -> GRPCStatus? {
        call.beganNs = monitor.time.monotonicNs()
        metrics.started(place(call))
        return nil
    }

    func received(_ call: ServerCall, messages: Int, bytes: Int) { metrics.received(place(call), messages) }

    func sent(_ call: ServerCall, messages: Int, bytes: Int) { metrics.sent(place(call), messages) }

    func ended(_ call: ServerCall, _ status: GRPCStatus) {
        let nowNs = monitor.time.monotonicNs()
        let ns = UInt64(max(0, nowNs &- call.beganNs))
        metrics.handled(place(call), status.code, ns: ns)
        if isLogged(status, nowNs) { monitor.log.add(call, status, ns: ns) }
    }

    /// What the server did wrong always; what clients do wrong as long as they do not do it all the time.
    private func isLogged(_ status: GRPCStatus, _ nowNs: Int64) -> Bool {
        if status.isOK { return successes.admits(nowNs) }
        if CallLog.level(status.code) == .error || refusals.admits(nowNs) { return true }
        monitor.log.leaveOut()
        return false
    }

    private func place(_ call: ServerCall) -> Int {
        guard let number = call.methodNumber else { return 0 }
        if number < places.count, places[number] > 0 { return places[number] - 1 }
        guard let method = call.method else { return 0 }
        let place = monitor.metrics.place(
            path: method.path, type: GRPCServerMetrics.type(method.clientStreaming, method.serverStreaming))
        while places.count <= number { places.append(0) }
        places[number] = place + 1
        return place
    }

    // MARK: What operators ask

    /// Those that it was told of.
    private var open: [ServerCall] { calls?.open.filter { $0.beganNs != 0 } ?? [] }

    func describe() -> [CallDescription] {
        let nowNs = monitor.time.monotonicNs()
        return open.map { call in
            CallDescription(
                id: "\(loopNumber)-\(call.number)", identity: call.identity?.name ?? "", peer: call.peerAddress,
                method: call.path, stream: (call.source as? any StreamStatusProvider)?.streamStatus,
                receivedBytes: UInt64(call.receivedBytes), sentBytes: UInt64(call.sentBytes),
                ageMilliseconds: Int((nowNs &- call.beganNs) / 1_000_000))
        }
    }

    func end(_ number: UInt64) -> Bool {
        guard let call = open.first(where: { $0.number == number }) else { return false }
        call.cutOff(CallEnding(.endedByOperator, GRPCStatus(.unavailable, "an operator ended the call")))
        return true
    }

    // MARK: Deadlines

    /// Looks at the calls when one of them may be over its limit: thousands of streams without one cost nothing.
    private func checkDeadlines() {
        let nowNs = monitor.time.monotonicNs()
        guard nowNs >= checkAtNs else { return }
        // What begins from now on has at least so long.
        var leftMilliseconds = shortestLimitMilliseconds
        calls?.forEachOpen { call in
            let limit = limitMilliseconds(call)
            guard limit > 0, call.beganNs != 0, !call.isCutOff else { return }
            let left = limit - Int((nowNs &- call.beganNs) / 1_000_000)
            guard left <= 0 else { return leftMilliseconds = min(leftMilliseconds, left) }
            let status = GRPCStatus(.deadlineExceeded, "the server lets this call take \(limit) ms at most")
            call.cutOff(CallEnding(.deadlinePassed, status))
        }
        checkAtNs = nowNs + Int64(leftMilliseconds) * 1_000_000
    }

    /// A minute at most.
    private var shortestLimitMilliseconds: Int {
        [monitor.deadlines.unaryMilliseconds, monitor.deadlines.streamMilliseconds].filter { $0 > 0 }
            .reduce(60_000, min)
    }

    private func limitMilliseconds(_ call: ServerCall) -> Int {
        call.isStream ? monitor.deadlines.streamMilliseconds : monitor.deadlines.unaryMilliseconds
    }
}
