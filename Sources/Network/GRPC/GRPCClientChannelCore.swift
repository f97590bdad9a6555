import EventLoop
import HTTP2

/// The inside of a channel: resolver, balancer and connections, and the calls that wait for them. Confined to its loop.
final class GRPCChannelCore {
    /// Where a call goes, with the connection itself.
    enum Pick {
        case connection(GRPCClientConnection)
        case wait
        case fail(GRPCStatus)
    }

    /// A subchannel's machine and what it drives.
    private final class Runner {
        let address: GRPCAddress
        var machine: GRPCSubchannel
        var connection: GRPCClientConnection?
        var health: GRPCHealthWatch?
        /// Of the attempt to connect, or of the wait for the next.
        var timer: (any LoopTimer)?

        init(_ address: GRPCAddress, _ machine: GRPCSubchannel) {
            self.address = address
            self.machine = machine
        }
    }

    let loop: any Loop
    private(set) var options: GRPCChannelOptions
    var throttle: GRPCRetryThrottle
    var random: SplitMix64
    /// For all calls of the channel.
    let compressors = Compressors()
    private let target: GRPCTarget
    private var balancer: any GRPCBalancer
    private var runners: [Int: Runner] = [:]
    /// Connections that take no more calls and still have some.
    private var draining: [ObjectIdentifier: GRPCClientConnection] = [:]
    private var calls: [ObjectIdentifier: ChannelCall] = [:]
    private var waiting: [Attempt] = []
    private var pauses: [ObjectIdentifier: (GRPCChannel.Pause, any LoopTimer)] = [:]
    private var isRetryScheduled = false
    private var schedule: GRPCResolutionSchedule
    private var resolutionTimer: (any LoopTimer)?
    private var resolutionFailure: GRPCStatus?
    private var hasAddresses = false
    private var isStarted = false
    private(set) var isClosed = false

    init(_ target: GRPCTarget, options: GRPCChannelOptions, loop: any Loop) {
        self.target = target
        self.options = options
        self.loop = loop
        throttle = options.retryThrottle
        var random = SplitMix64(seed: options.seed)
        switch options.balancing {
        case .pickFirst: balancer = GRPCPickFirst()
        case .roundRobin: balancer = GRPCRoundRobin(start: Int(random.next() >> 33))
        }
        self.random = random
        schedule = GRPCResolutionSchedule(
            pauseMilliseconds: options.resolutionPauseMilliseconds,
            intervalMilliseconds: options.resolutionIntervalMilliseconds, backoff: options.backoff)
    }

    // MARK: Calls

    /// Begins a call; the owner is told of its end in any case.
    func call(path: String, options: GRPCCallOptions, owner: any GRPCCallOwner) -> ChannelCall {
        let call = ChannelCall(self, path: path, options: options, owner: owner)
        calls[ObjectIdentifier(call)] = call
        startIfNeeded()
        call.start()
        return call
    }

    func ended(_ call: ChannelCall) { calls[ObjectIdentifier(call)] = nil }

    /// Where the next call goes.
    func pick() -> Pick {
        guard hasAddresses else { return resolutionFailure.map { .fail($0) } ?? .wait }
        let (pick, actions) = balancer.pick()
        perform(actions)
        switch pick {
        case .subchannel(let id):
            guard let connection = runners[id]?.connection, connection.isUsable else { return .wait }
            return .connection(connection)
        case .wait: return .wait
        case .fail(let status): return .fail(status)
        }
    }

    func wait(_ attempt: Attempt) { waiting.append(attempt) }

    func forget(_ attempt: Attempt) { waiting.removeAll { $0 === attempt } }

    /// Lets those that wait try again, at the end of the turn.
    private func retryWaiting() {
        guard !isRetryScheduled, !waiting.isEmpty else { return }
        isRetryScheduled = true
        loop.afterTurn { [weak self] in
            guard let self else { return }
            isRetryScheduled = false
            let attempts = waiting
            waiting = []
            for attempt in attempts { attempt.pickAgain() }
        }
    }

    /// Ends all calls and connections. Nothing begins afterwards.
    func close() {
        isClosed = true
        for call in Array(calls.values) { call.end(GRPCChannel.closedStatus) }
        resolutionTimer?.cancel()
        for (pause, timer) in pauses.values {
            timer.cancel()
            pause.end()
        }
        pauses = [:]
        for id in Array(runners.keys) { perform([.remove(id)]) }
        for connection in Array(draining.values) { connection.close() }
        waiting = []
    }

    /// Ends a task's wait after the time, or when the channel closes.
    func pause(_ pause: GRPCChannel.Pause, _ milliseconds: Int) {
        guard !isClosed else { return pause.end() }
        let key = ObjectIdentifier(pause)
        let timer = loop.timer(afterMilliseconds: milliseconds) { [weak self] in
            self?.pauses[key] = nil
            pause.end()
        }
        pauses[key] = (pause, timer)
    }

    // MARK: Names

    private func startIfNeeded() {
        guard !isStarted else { return }
        isStarted = true
        switch target.kind {
        case .addresses(let addresses): update(addresses)
        case .name: resolve()
        }
    }

    private func resolve() {
        guard case .name = target.kind, !isClosed else { return }
        perform(schedule.wanted(nowMilliseconds: loop.nowMilliseconds))
    }

    private func perform(_ action: GRPCResolutionSchedule.Action) {
        switch action {
        case .none: break
        case .wait(let milliseconds):
            resolutionTimer?.cancel()
            resolutionTimer = loop.timer(afterMilliseconds: milliseconds) { [weak self] in
                guard let self else { return }
                perform(schedule.due(nowMilliseconds: loop.nowMilliseconds))
            }
        case .resolve:
            guard case .name(let name, let server) = target.kind else { return }
            options.resolver.resolve(name, server: server, loop: loop) { [weak self] in self?.resolved($0) }
        }
    }

    private func resolved(_ result: Result<[GRPCAddress], GRPCStatus>) {
        guard !isClosed else { return }
        var isSuccess = false
        switch result {
        case .success(let addresses):
            isSuccess = !addresses.isEmpty
            if isSuccess { update(addresses) } else { fail(GRPCStatus(.unavailable, "the name has no addresses")) }
        case .failure(let status): fail(status)
        }
        perform(schedule.ended(isSuccess: isSuccess, nowMilliseconds: loop.nowMilliseconds, using: &random))
    }

    /// Addresses found earlier stay in use.
    private func fail(_ status: GRPCStatus) {
        resolutionFailure = status
        retryWaiting()
    }

    private func update(_ addresses: [GRPCAddress]) {
        hasAddresses = true
        resolutionFailure = nil
        perform(balancer.update(addresses))
        retryWaiting()
    }

    // MARK: Subchannels

    private func perform(_ actions: [GRPCBalancerAction]) {
        for action in actions {
            switch action {
            case .create(let id, let address):
                let machine = GRPCSubchannel(backoff: options.backoff, checksHealth: options.healthService != nil)
                runners[id] = Runner(address, machine)
            case .connect(let id): handle(.wanted, id)
            case .remove(let id):
                handle(.removed, id)
                runners.removeValue(forKey: id)?.timer?.cancel()
            case .resolve: resolve()
            }
        }
    }

    private func handle(_ event: GRPCSubchannel.Event, _ id: Int) {
        guard let runner = runners[id] else { return }
        let actions = runner.machine.handle(event, nowMilliseconds: loop.nowMilliseconds, using: &random)
        for action in actions {
            switch action {
            case .connect(let attempt, let milliseconds): connect(runner, id, attempt, milliseconds)
            case .wait(let milliseconds):
                runner.timer?.cancel()
                runner.timer = loop.timer(afterMilliseconds: milliseconds) { [weak self] in self?.handle(.waited, id) }
            case .report(let state):
                perform(balancer.subchannel(id, became: state))
                retryWaiting()
            case .close: release(runner)
            }
        }
    }

    /// Lets go of a connection: at once without calls, else when they have ended.
    private func release(_ runner: Runner) {
        runner.timer?.cancel()
        runner.health?.stop()
        runner.health = nil
        guard let connection = runner.connection else { return }
        runner.connection = nil
        draining[ObjectIdentifier(connection)] = connection
        if isClosed { connection.close() } else { connection.closeWhenIdle() }
    }

    private func connect(_ runner: Runner, _ id: Int, _ attempt: Int, _ milliseconds: Int) {
        let address = runner.address
        runner.timer?.cancel()
        runner.timer = loop.timer(afterMilliseconds: milliseconds) { [weak self, weak runner] in
            runner?.connection?.close(reason: "no connection within \(milliseconds) ms")
            self?.failed(id, attempt, "no connection to \(address) within \(milliseconds) ms")
        }
        options.transport.connect(address, loop: loop) { [weak self, weak runner] result in
            switch result {
            case .failure(let error): self?.failed(id, attempt, "cannot connect to \(address): \(error)")
            case .success(let stream):
                guard let self, let runner, runners[id] === runner, runner.machine.attempt == attempt,
                    runner.machine.state == .connecting
                else { return stream.close() }
                open(stream, runner, id, attempt)
            }
        }
    }

    private func failed(_ id: Int, _ attempt: Int, _ text: String) {
        guard let runner = runners[id], runner.machine.attempt == attempt, runner.machine.state == .connecting else {
            return
        }
        runner.timer?.cancel()
        handle(.failed(attempt: attempt, GRPCStatus(.unavailable, text)), id)
    }

    private func open(_ stream: any ByteStream, _ runner: Runner, _ id: Int, _ attempt: Int) {
        let secured = options.secure?(stream, target.serverName) ?? stream
        let address = runner.address
        runner.connection = GRPCClientConnection(
            over: secured, authority: target.authority, isSecure: options.secure != nil, options: options.connection,
            compressors: compressors
        ) { [weak self, weak runner] event in
            guard let self else { return }
            switch event {
            case .ready:
                guard let runner else { return }
                runner.timer?.cancel()
                handle(.connected(attempt: attempt), id)
                startHealthWatch(runner, id, attempt)
            case .goAway(let isTooManyPings):
                if isTooManyPings { pingLess() }
                receivedGoAway(runner, id, attempt)
            case .closed(let reason):
                if let runner, runner.machine.attempt == attempt { forget(runner) }
                draining = draining.filter { !$0.value.isClosed }
                failed(id, attempt, "cannot connect to \(address): \(reason)")
                handle(.lost(attempt: attempt), id)
            }
        }
    }

    private func forget(_ runner: Runner) {
        runner.health?.stop()
        runner.health = nil
        runner.connection = nil
    }

    /// Later connections wait twice as long (https://github.com/grpc/proposal/blob/master/A8-client-side-keepalive.md).
    private func pingLess() {
        let now = options.connection.http2.keepaliveMilliseconds
        options.connection.http2.keepaliveMilliseconds = min(now * 2, 1 << 30)
    }

    private func receivedGoAway(_ runner: Runner?, _ id: Int, _ attempt: Int) {
        guard let runner, runner.machine.attempt == attempt else { return }
        if let connection = runner.connection { draining[ObjectIdentifier(connection)] = connection }
        forget(runner)
        failed(id, attempt, "\(runner.address) takes no calls")
        handle(.lost(attempt: attempt), id)
    }

    private func startHealthWatch(_ runner: Runner, _ id: Int, _ attempt: Int) {
        guard let service = options.healthService, let connection = runner.connection else { return }
        runner.health = GRPCHealthWatch(connection, service: service, backoff: options.backoff, seed: random.next()) {
            [weak self] isServing in self?.handle(.health(attempt: attempt, isServing: isServing), id)
        }
    }
}
