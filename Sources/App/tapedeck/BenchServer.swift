import Bench
import Drills
import EdgeService
import EventLog
import Glibc
import Observability
import SegmentLog

/// `tapedeck bench-server`: the edge alone, fed by ``EdgeSource``.
struct BenchServer {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    /// Runs until a signal, or a failure that no retry mends.
    func run() throws -> ExitCode {
        let signals = Signals()
        var logConfiguration = EmbeddedPlatform.logConfiguration(options)
        logConfiguration.segmentBytes = 4 << 20
        logConfiguration.retentions[.ticksRaw] = SegmentLog.Configuration.Retention(timeNs: nil, bytes: 16 << 20)
        let platform = try EmbeddedPlatform(options, diagnostics, log: logConfiguration)
        let sockets = try PlatformSockets(options, diagnostics)
        try platform.serve(options, loops: EdgeLoops.count(options), on: sockets, orderFeed: EdgeSource.feed)
        guard let edge = platform.edge else { return .failure }
        var plan = EdgeSource.Plan()
        plan.symbolCount = options.int(.symbolCount)
        plan.batch = options.int(.batch)
        plan.ticksPerSecond = options.int(.sourceRate) > 0 ? options.int(.sourceRate) : nil
        let source = EdgeSource(log: platform.log, plan: plan) { edge.slowestLagBytes() }
        let thread = ServiceThread(name: "source", ended: { _ in }) { try source.run() }
        let (address, metrics) = (Address(sockets.clients), Address(sockets.metrics))
        print(ReadyLine.make(address: address.description, metrics: metrics.description))
        fflush(nil)
        while signals.wait(milliseconds: 100) == nil, platform.fatalFailure == nil, !thread.isDone { platform.tick() }
        source.stop()
        _ = thread.join(milliseconds: 5000)
        let failure = platform.fatalFailure ?? thread.failure
        try platform.stop(drainSeconds: 0)
        diagnostics.flush()
        if let failure { throw CommandError(failure) }
        return .success
    }
}
