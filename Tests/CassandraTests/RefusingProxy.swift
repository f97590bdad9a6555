import CQLFrames
import EventLog
import EventLoop
import MarketModel
import Simulation
import Synchronization
import TestSupport
import TickCodec
import TickStore

/// Passes frames of protocol v4 between a store and a node, answers batches that name an instrument with an error, and
/// holds back what is said to be.
final class RefusingProxy: Sendable {
    /// On the proxy's loop, but for the counter.
    fileprivate final class State: Sendable {
        nonisolated(unsafe) var refused: [UInt8]?
        nonisolated(unsafe) var held: (opcode: CQLOpcode, text: [UInt8])?
        nonisolated(unsafe) var waiting: [(server: Socket, bytes: [UInt8])] = []
        let made = Atomic<Int>(0)
    }

    private let proxy: ConnectionProxy
    private let state = State()
    var port: Int { proxy.port }

    init(to port: Int) throws {
        proxy = try ConnectionProxy(to: port) { [state] in RefusingPair($0, $1, state) }
    }

    var made: Int { state.made.load(ordering: .relaxed) }

    /// Batches with this text in them are refused from now on; nil: none.
    func refuse(_ text: String?) {
        proxy.execute { [state] in state.refused = text.map { Array($0.utf8) } }
    }

    /// Requests of this kind with this text in them wait from now on; nil: those that waited go on, and none waits.
    func hold(_ held: (opcode: CQLOpcode, text: String)?) {
        proxy.execute { [state] in
            state.held = held.map { ($0.opcode, Array($0.text.utf8)) }
            guard held == nil else { return }
            for (server, bytes) in state.waiting { server.write(bytes) }
            state.waiting = []
        }
    }

    func stop() { proxy.stop() }
}

private final class RefusingPair: ProxiedConnection {
    private let state: RefusingProxy.State
    private let frames = ProxiedFrames()

    init(_ client: Socket, _ server: Socket, _ state: RefusingProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard !isFromServer else { return client.write(bytes) }
        frames.read(bytes) { opcode, frame in
            if let held = state.held, opcode == held.opcode, frame.firstRange(of: held.text) != nil {
                state.waiting.append((server, frame))
                return
            }
            guard opcode == .batch, let refused = state.refused, frame.firstRange(of: refused) != nil else {
                return server.write(frame)
            }
            state.made.add(1, ordering: .relaxed)
            // Overloaded.
            client.write(ProxiedFrames.error(0x1001, "not this one", to: frame))
        }
    }
}

/// Trades of one instrument at one partition of the log, some of them long ago.
func placeRows(_ place: TopicPartition, from: UInt64, count: Int, nowNs: Int64) -> TickRows {
    let symbol = "SYM\(place.partition)"
    let builder = BlockBuilder(place)
    let key = builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: symbol, feed: "main"))
    let encoder = TickEncoder(exchange: "XNAS", symbol: symbol, feed: "main")
    var result = TickRows()
    for index in 0..<count {
        let sequence = from + UInt64(index) + 1
        var tick = Tick(
            kind: .trade, receivedTimeNs: nowNs + Int64(sequence), publishTimeNs: nowNs, epoch: 1,
            sequence: sequence)
        tick.last = 1_000_000_000
        tick.lastSize = 100_000_000
        builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
            encoder.encode(tick, into: $0)
        }
        result.rows.append(
            TickRows.Row(
                block: 0, record: Int32(index), filingTimeNs: tick.receivedTimeNs, tradePrice: tick.last,
                tradeSize: 100_000_000))
    }
    let block = builder.build()
    block.stamp(firstOffset: from, appendTimeNs: nowNs) { _ in Block.noOffset }
    result.blocks = [block]
    return result
}
