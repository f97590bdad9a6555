/// A server's address: a numeric host, or a name where nobody resolved it.
public struct GRPCAddress: Hashable, Sendable, CustomStringConvertible {
    public let host: String
    public let port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// Whether what is sent there stays on this machine. No name does but `localhost`: what begins with numbers may
    /// still be one.
    public var isThisMachine: Bool {
        let isNumeric = host.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == 0x2e }
        return host == "localhost" || host == "::1" || host.hasPrefix("127.") && isNumeric
    }
}

/// How calls are spread over a target's addresses.
public enum GRPCBalancing: String, Hashable, Sendable {
    /// The first address that can be connected takes all calls.
    case pickFirst = "pick_first"
    /// A connection to each address, and calls in turn.
    case roundRobin = "round_robin"
}

/// What a balancer wants done.
enum GRPCBalancerAction: Equatable {
    case create(Int, GRPCAddress)
    case connect(Int)
    case remove(Int)
    /// Ask the resolver again.
    case resolve
}

/// Where a call goes.
enum GRPCPick: Hashable {
    case subchannel(Int)
    /// Wait until something changes.
    case wait
    /// Nothing works; calls that wait until ready wait.
    case fail(GRPCStatus)
}

/// A load balancing policy as a state machine over subchannels, which it names by numbers of its own. Pure.
protocol GRPCBalancer {
    /// The target's addresses, in the resolver's order.
    mutating func update(_ addresses: [GRPCAddress]) -> [GRPCBalancerAction]
    /// A subchannel's state changed.
    mutating func subchannel(_ id: Int, became state: GRPCConnectivity) -> [GRPCBalancerAction]
    /// Where the next call goes.
    mutating func pick() -> (GRPCPick, [GRPCBalancerAction])
}

/// Connects to the addresses in turn until one is there, and stays with it.
struct GRPCPickFirst: GRPCBalancer {
    private var addresses: [GRPCAddress] = []
    private var subchannels: [(id: Int, address: GRPCAddress, state: GRPCConnectivity)] = []
    private var nextID = 0
    private var selected: Int?
    /// Position of the address that is tried; nil when none is.
    private var trying: Int?
    /// All failed, the last one so; stays until one is ready.
    private var failure: GRPCStatus?

    mutating func update(_ new: [GRPCAddress]) -> [GRPCBalancerAction] {
        guard new != addresses else { return [] }
        addresses = new
        if let selected, let kept = subchannels.first(where: { $0.id == selected }), new.contains(kept.address) {
            return []
        }
        let isWanted = trying != nil || failure != nil || selected != nil
        selected = nil
        return replaceAll() + (isWanted ? start() : [])
    }

    /// Fresh subchannels for all addresses.
    private mutating func replaceAll() -> [GRPCBalancerAction] {
        var actions: [GRPCBalancerAction] = subchannels.map { .remove($0.id) }
        subchannels = []
        trying = nil
        for address in addresses {
            subchannels.append((nextID, address, .idle))
            actions.append(.create(nextID, address))
            nextID += 1
        }
        return actions
    }

    private mutating func start() -> [GRPCBalancerAction] {
        guard let first = subchannels.first else { return [.resolve] }
        trying = 0
        return [.connect(first.id)]
    }

    mutating func subchannel(_ id: Int, became state: GRPCConnectivity) -> [GRPCBalancerAction] {
        guard let index = subchannels.firstIndex(where: { $0.id == id }) else { return [] }
        subchannels[index].state = state
        switch state {
        case .connecting: return []
        case .ready: return select(index)
        case .idle:
            if selected == id {
                selected = nil
                return replaceAll() + [.resolve]
            }
            // Its wait is over: while everything fails, each is tried again when it may be.
            return failure != nil ? [.connect(id)] : []
        case .transientFailure(let status):
            if selected == id { return [] }
            return tryNext(after: index, status)
        }
    }

    private mutating func select(_ index: Int) -> [GRPCBalancerAction] {
        let chosen = subchannels[index]
        selected = chosen.id
        trying = nil
        failure = nil
        let others = subchannels.filter { $0.id != chosen.id }
        subchannels = [chosen]
        return others.map { .remove($0.id) }
    }

    private mutating func tryNext(after index: Int, _ status: GRPCStatus) -> [GRPCBalancerAction] {
        guard let trying, trying == index else {
            if failure != nil { failure = status }
            return []
        }
        if index + 1 < subchannels.count {
            self.trying = index + 1
            return [.connect(subchannels[index + 1].id)]
        }
        self.trying = nil
        failure = status
        return [.resolve] + subchannels.filter { $0.state == .idle }.map { .connect($0.id) }
    }

    mutating func pick() -> (GRPCPick, [GRPCBalancerAction]) {
        if let selected, let chosen = subchannels.first(where: { $0.id == selected }) {
            if case .transientFailure(let status) = chosen.state { return (.fail(status), []) }
            return (.subchannel(selected), [])
        }
        if let failure { return (.fail(failure), []) }
        return (.wait, trying == nil ? start() : [])
    }
}

/// Keeps a connection to every address and gives each call to the next that is ready.
struct GRPCRoundRobin: GRPCBalancer {
    private struct Entry {
        let id: Int
        let address: GRPCAddress
        var state = GRPCConnectivity.idle
        /// Failed and not ready since: trying again does not make calls wait for it.
        var failure: GRPCStatus?
    }

    private var entries: [Entry] = []
    private var ready: [Int] = []
    private var next: Int
    private var nextID = 0

    /// `start` decides who gets the first call, so that many clients do not all begin with the same server.
    init(start: Int) { next = start & 0xffff }

    mutating func update(_ addresses: [GRPCAddress]) -> [GRPCBalancerAction] {
        var actions: [GRPCBalancerAction] = []
        let wanted = Set(addresses)
        for entry in entries where !wanted.contains(entry.address) { actions.append(.remove(entry.id)) }
        entries.removeAll { !wanted.contains($0.address) }
        var known = Set(entries.map(\.address))
        for address in addresses where known.insert(address).inserted {
            entries.append(Entry(id: nextID, address: address))
            actions += [.create(nextID, address), .connect(nextID)]
            nextID += 1
        }
        updateReady()
        return actions
    }

    mutating func subchannel(_ id: Int, became state: GRPCConnectivity) -> [GRPCBalancerAction] {
        guard let index = entries.firstIndex(where: { $0.id == id }) else { return [] }
        let wasReady = entries[index].state == .ready
        entries[index].state = state
        var actions: [GRPCBalancerAction] = []
        switch state {
        case .ready: entries[index].failure = nil
        case .connecting: break
        case .idle: actions = (wasReady ? [.resolve] : []) + [.connect(id)]
        case .transientFailure(let status):
            entries[index].failure = status
            actions = [.resolve]
        }
        updateReady()
        return actions
    }

    private mutating func updateReady() { ready = entries.filter { $0.state == .ready }.map(\.id) }

    mutating func pick() -> (GRPCPick, [GRPCBalancerAction]) {
        if !ready.isEmpty {
            next = (next + 1) & 0xffff_ffff
            return (.subchannel(ready[next % ready.count]), [])
        }
        if entries.contains(where: { $0.failure == nil }) { return (.wait, []) }
        if let failure = entries.last?.failure { return (.fail(failure), []) }
        return (.wait, [])
    }
}
