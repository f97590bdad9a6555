import EventLoop
import HTTP2
import Synchronization

/// What a server refused or ended because of a limit, since its start.
public struct GRPCServerCounters: Hashable, Sendable {
    /// Calls that began; of those, what is open now.
    public var calls = 0
    public var openCalls = 0
    /// Bytes of requests and responses that are held now.
    public var heldBytes = 0
    /// Connections refused because of the number of all, and of those from one address.
    public var connectionsRefused = 0
    public var connectionsRefusedPerAddress = 0
    /// Calls failed because of the memory that all hold.
    public var callsOutOfMemory = 0
    /// Connections open now.
    public var connections = 0
    /// Connections ended for what their peer did, since the start.
    public var faults: [HTTP2PeerFault: Int] = [:]

    public init() {}
}

/// What the loops of a server share. From any thread.
final class ServerShared: Sendable {
    let heldBytes = Atomic<Int>(0)
    let errorCount = Atomic<UInt64>(0)
    let callsOutOfMemory = Atomic<Int>(0)
    private let connections = Mutex(Connections())
    private let loops = Mutex<[LoopTally]>([])

    private struct Connections {
        var count = 0
        var perAddress: [String: Int] = [:]
        var refused = 0
        var refusedPerAddress = 0
        var faults: [HTTP2PeerFault: Int] = [:]
    }

    /// The counts of one more loop.
    func makeTally() -> LoopTally {
        let tally = LoopTally()
        loops.withLock { $0.append(tally) }
        return tally
    }

    /// The same for nobody else within the server's life; those of neighbouring seeds are far apart.
    func nextErrorID(seed: UInt64) -> String {
        let number = errorCount.add(1, ordering: .relaxed).newValue
        var start = SplitMix64(seed: seed)
        var random = SplitMix64(seed: start.next() &+ number)
        return String(random.next(), radix: 16)
    }

    /// Counts a connection in; a text why not where a limit is reached.
    func admit(_ address: String, _ limits: GRPCServerConfiguration) -> String? {
        connections.withLock { state in
            guard state.count < limits.connectionsMax else {
                state.refused += 1
                return "too_many_connections"
            }
            guard state.perAddress[address, default: 0] < limits.connectionsPerAddressMax else {
                state.refusedPerAddress += 1
                return "too_many_connections_of_one_address"
            }
            state.count += 1
            state.perAddress[address, default: 0] += 1
            return nil
        }
    }

    func leave(_ address: String, _ fault: HTTP2PeerFault?) {
        connections.withLock { state in
            state.count -= 1
            if let fault { state.faults[fault, default: 0] += 1 }
            let left = state.perAddress[address, default: 1] - 1
            state.perAddress[address] = left > 0 ? left : nil
        }
    }

    func fill(_ counters: inout GRPCServerCounters) {
        counters.heldBytes = heldBytes.load(ordering: .relaxed)
        counters.callsOutOfMemory = callsOutOfMemory.load(ordering: .relaxed)
        connections.withLock { state in
            counters.connections = state.count
            counters.connectionsRefused = state.refused
            counters.connectionsRefusedPerAddress = state.refusedPerAddress
            counters.faults = state.faults
        }
        for tally in loops.withLock({ $0 }) {
            counters.calls += tally.calls.load(ordering: .relaxed)
            counters.openCalls += tally.openCalls.load(ordering: .relaxed)
        }
    }
}

/// Calls of one loop: counted there, without a bus or a lock, and read from anywhere.
final class LoopTally: Sendable {
    let calls = Atomic<Int>(0)
    let openCalls = Atomic<Int>(0)

    /// On the loop. Returns the call's number, from 1.
    func began() -> UInt64 {
        let count = calls.load(ordering: .relaxed) + 1
        calls.store(count, ordering: .relaxed)
        openCalls.store(openCalls.load(ordering: .relaxed) + 1, ordering: .relaxed)
        return UInt64(count)
    }

    /// On the loop.
    func ended() { openCalls.store(openCalls.load(ordering: .relaxed) - 1, ordering: .relaxed) }
}

/// What the calls of one loop share. Confined to it.
final class ServerContext {
    let loop: any Loop
    let table: GRPCServiceTable
    /// The table's: a look at the table itself would count a reference to each of its parts.
    let paths: PathIndex
    let configuration: GRPCServerConfiguration
    let interceptors: InterceptorRow
    let calls = ServerCalls()
    let deadlines: DeadlineQueue
    let output = HTTP2Output()
    let compressors = Compressors()
    let metadata = MetadataMaker()
    let request = RequestSlot()
    let shared: ServerShared
    let tally: LoopTally

    init(
        loop: any Loop, table: GRPCServiceTable, configuration: GRPCServerConfiguration, shared: ServerShared
    ) {
        self.loop = loop
        self.table = table
        paths = table.paths
        self.configuration = configuration
        self.shared = shared
        tally = shared.makeTally()
        interceptors = InterceptorRow(configuration.interceptors(loop), calls)
        deadlines = DeadlineQueue(loop: loop)
    }
}

/// The request of a call that has one and waits for its end, which mostly comes with it: one at a time is kept here and
/// not in memory of its own. Confined to the loop.
final class RequestSlot {
    static let bytesMax = 4096
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: RequestSlot.bytesMax, alignment: 8)
    @exclusivity(unchecked) private var count = 0
    /// Whose it is. A call takes itself out when it is over.
    @exclusivity(unchecked) private var owner: Unmanaged<ServerCall>?
    @exclusivity(unchecked) private var isLent = false

    deinit { buffer.deallocate() }

    func isOf(_ call: ServerCall) -> Bool { owner?.toOpaque() == Unmanaged.passUnretained(call).toOpaque() }

    /// Keeps a request; false where it is too long. Another call's request moves to that call.
    func put(_ message: UnsafeRawBufferPointer, of call: ServerCall) -> Bool {
        guard !isLent, message.count <= RequestSlot.bytesMax else { return false }
        if let owner { owner._withUnsafeGuaranteedRef { $0.request = Array(bytes) } }
        owner = Unmanaged.passUnretained(call)
        count = message.count
        buffer.copyMemory(from: message)
        return true
    }

    private var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[..<count]) }

    /// Calls `body` with the request, which nobody has then any more.
    func take(_ body: (UnsafeRawBufferPointer) -> Void) {
        owner = nil
        isLent = true
        body(bytes)
        isLent = false
    }

    func drop() { owner = nil }
}
