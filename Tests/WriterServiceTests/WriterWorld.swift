import EventLog
import MarketModel
import MarketProto
import Protobuf
import Repair
import SegmentLog
import Simulation
import TickCodec
import TickStore
import WriterService

/// A log on a disk that loses power, a store that loses what it had not synced, and a feed whose every twentieth record
/// is garbage. Everything happens on the test's thread, so a seed makes one history.
final class WriterWorld {
    let disk: SimulatedDisk
    let time = VirtualTime()
    let store: SimulatedStore
    var random: SeededRandom
    private(set) var log: SegmentLog?
    private var sequences: [String: UInt64] = [:]
    private var epoch: UInt64 = 0
    private(set) var writerFailures = 0

    private static let symbols = ["AAPL", "MSFT", "BTCUSDT"]

    init(seed: UInt64) {
        disk = SimulatedDisk(seed: seed)
        store = SimulatedStore(syncEvery: Int(seed % 5))
        random = SeededRandom(seed: seed &* 7919)
    }

    func start() throws {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.segmentBytes = 64 << 10
        log = try SegmentLog(disk: disk, time: time, configuration: configuration)
        // A live feed after a start: a new epoch, sequences from 1.
        epoch += 1
        sequences = [:]
    }

    /// Appends a few records; errors are the crash's.
    func feed() throws {
        guard let log else { return }
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        for symbol in WriterWorld.symbols {
            let key = builder.register(BlockBuilder.Key(exchange: "SIM", symbol: symbol, feed: "test"))
            let encoder = TickEncoder(exchange: "SIM", symbol: symbol, feed: "test")
            for _ in 0..<Int.random(in: 0...20, using: &random) {
                let sequence = (sequences[symbol] ?? 0) + 1
                sequences[symbol] = sequence
                if random.once(in: 20) {
                    let garbage = (0..<30).map { _ in UInt8.random(in: 0...255, using: &random) | 0x80 }
                    garbage.withUnsafeBytes { builder.append(key: key, epoch: epoch, sequence: sequence, payload: $0) }
                    continue
                }
                time.advance(ns: 1000)
                var tick = Tick(
                    kind: .trade, receivedTimeNs: time.wallNs(), publishTimeNs: time.wallNs(), epoch: epoch,
                    sequence: sequence)
                tick.last = Int64.random(in: 1...1_000_000_000_000, using: &random)
                tick.lastSize = 100_000_000
                builder.append(key: key, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax) {
                    encoder.encode(tick, into: $0)
                }
            }
        }
        if !builder.isEmpty { try log.append([builder.build()], consumed: []) }
    }

    /// Lets the writer take everything that is durable.
    func write() {
        guard let log else { return }
        let writer = WriterService(log: log, store: store, time: time) { _ in }
        writer.stop()
        do { try writer.run() } catch { writerFailures += 1 }
    }

    func pump() { try? log?.pump() }

    /// The machine loses power now, or has already; what the store had not synced may go with it.
    func crash() {
        if !disk.isDown { disk.crashNow(.powerLoss) }
        log = nil
        disk.restart()
        store.powerLoss(seed: random.next())
    }

    /// Everything durable and written, then what differs.
    func differences() throws -> [String] {
        guard let log else { return ["no log"] }
        try log.sync()
        write()
        let result = try Verifier.compare(log: log, store: store)
        var found = VerifyText.table(result).filter { _ in !result.isClean }
        let letters = try deadLetters()
        let corrupt = result.lines.reduce(0) { $0 + $1.corrupt }
        if letters.count != Set(letters).count { found.append("a record was dead-lettered twice") }
        if letters.count < corrupt { found.append("\(corrupt) corrupt records, \(letters.count) letters") }
        return found
    }

    /// Source offsets of the dead letters, in order.
    func deadLetters() throws -> [UInt64] {
        guard let log else { return [] }
        return try DeadLetters.read(log).map(\.sourceOffset)
    }
}

/// What is in the dead-letter topic of the first partition.
enum DeadLetters {
    static func read(_ log: any EventLog) throws -> [Proto.DeadLetter] {
        let place = TopicPartition(Topic.ticksRaw.deadLetter, 0)
        var letters: [Proto.DeadLetter] = []
        var next = log.startOffset(place)
        while case .block(let block, let index) = try log.readBlocking(place, at: next, .durable) {
            for record in index..<block.recordCount {
                letters.append(try Proto.DeadLetter(decoding: block.payload(record)))
            }
            next = block.endOffset
        }
        return letters
    }
}
