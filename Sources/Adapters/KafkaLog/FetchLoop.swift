import EventLog
import EventLoop
import KafkaClient
import KafkaFrames
import Synchronization

/// A loop that reads from the brokers, over several sets of connections where that is asked for: a session has each
/// partition once, so who reads one in several places needs as many. Everything of the fetchers is done on the loop.
final class FetchLoop: FetchLanes, @unchecked Sendable {
    private static let tickMs = 100
    /// A lane that nobody reads by is closed after so many ticks.
    private static let idleTicksMax = 100

    private struct Client {
        let brokers: KafkaBrokers
        let fetcher: KafkaFetcher
        var idleTicks = 0
    }

    private let address: String
    private let loop: EventLoop
    private let transport: KafkaSockets
    private let configuration: KafkaConfiguration
    private let bytesLeast: Int32
    private let intervalMs: ClosedRange<Int>
    private let partitionsPerMs: Int
    // The loop's own.
    private var clients: [Int: Client] = [:]
    private var timer: (any LoopTimer)?
    private var isStopped = false
    private let problem = Mutex<KafkaFailure?>(nil)

    /// `name` has at most 15 bytes. `bytesLeast`: what the brokers wait for, a tenth of a second at most. `intervalMs`
    /// and `partitionsPerMs` are those of ``KafkaFetcher/Limits``.
    init(
        _ name: String, _ configuration: KafkaConfiguration, bytesLeast: Int32, intervalMs: ClosedRange<Int>,
        partitionsPerMs: Int
    ) throws(LogError) {
        address = configuration.brokers
        transport = try KafkaSockets(configuration)
        self.configuration = configuration
        self.bytesLeast = bytesLeast
        self.intervalMs = intervalMs
        self.partitionsPerMs = partitionsPerMs
        loop = EventLoop(name: name)
        loop.runAndWait { [unowned self] loop in
            timer = loop.repeatTimer(everyMilliseconds: FetchLoop.tickMs) { [unowned self] in tick() }
        }
    }

    private func tick() {
        var latest: KafkaFailure?
        for (lane, client) in clients.sorted(by: { $0.key < $1.key }) {
            client.fetcher.tick()
            latest = latest ?? client.brokers.problem
            clients[lane]?.idleTicks = client.fetcher.isIdle ? client.idleTicks + 1 : 0
            if lane > 0, client.fetcher.isIdle, client.idleTicks >= FetchLoop.idleTicksMax {
                client.fetcher.close()
                clients[lane] = nil
            }
        }
        problem.withLock { $0 = latest }
    }

    /// Lane 0 is that of readers that are alone with their partitions, and stays; the others ask for less at a time.
    private func fetcher(_ lane: Int) -> KafkaFetcher {
        if let known = clients[lane] { return known.fetcher }
        let brokers = KafkaBrokers(
            KafkaAddress.list(configuration.brokers), options: configuration.clientOptions, transport: transport,
            loop: loop)
        var limits = lane == 0 ? configuration.fetchLimits : configuration.laneLimits
        limits.bytesLeast = bytesLeast
        limits.intervalMs = intervalMs
        limits.partitionsPerMs = partitionsPerMs
        let fetcher = KafkaFetcher(brokers, limits: limits)
        clients[lane] = Client(brokers: brokers, fetcher: fetcher)
        return fetcher
    }

    func execute(_ body: @escaping (KafkaFetcher) -> Void) { execute(lane: 0, body) }

    func execute(lane: Int, _ body: @escaping (KafkaFetcher) -> Void) {
        let body = LoopConfined(body)
        loop.execute { [self] in
            guard !isStopped else { return }
            body.value(fetcher(lane))
        }
    }

    /// Ends the loop; nothing is handed on afterwards. *Blocking.*
    func stop() {
        loop.runAndWait { [self] _ in
            isStopped = true
            timer?.cancel()
            timer = nil
            for client in clients.values { client.fetcher.close() }
            clients = [:]
        }
        loop.stop()
    }

    func error(_ what: String, code: Int32) -> LogError {
        KafkaErrors(brokers: address, problem: problem.withLock { $0 }).error(what, code: code)
    }
}
