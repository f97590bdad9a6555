import CassandraCQL
import CassandraStore
import EdgeService
import EventLog
import EventLoop
import FeedService
import FileDisk
import Foundation
import GRPC
import KafkaLog
import KafkaTestSupport
import MarketModel
import MarketProto
import Protobuf
import RocksStore
import SegmentLog
import Simulation
import Synchronization
import TapedeckClient
import TestSupport
import Testing
import TickCodec
import TickStore
import WriterService

extension ClusterTests {
    /// The same services on both modes, each whole: SegmentLog and RocksStore, Kafka and Cassandra. What the contract
    /// fixes is equal byte for byte: what a stream brings of each instrument, rows, last ticks, days, quotes, statuses,
    /// and what TickWriterService does.
    @Suite(.serialized, .timeLimit(.minutes(4)))
    struct ModeParityTests {
        /// A log and a store, and the services on them.
        private struct Mode {
            let name: String
            let log: any EventLog
            let store: any TickStore

            /// Plays a recording into the log and files it in the store.
            func play() throws -> UInt64 {
                let feed = FeedService(
                    log: log, time: RealTime(),
                    source: .recording(
                        path: SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz"), speed: .maximum)
                ) { _, _ in }
                try feed.run()
                try log.sync()
                let writer = WriterService(log: log, store: store, time: RealTime()) { _ in }
                let ended = Mutex<Result<Void, any Error>?>(nil)
                Thread.detachNewThread {
                    let result = Result { try writer.run() }
                    ended.withLock { $0 = result }
                }
                #expect(holds(within: 60) { writer.counters.rows >= feed.counters.ticks })
                writer.stop()
                #expect(holds(within: 30) { ended.withLock { $0 != nil } })
                try ended.withLock { $0 }?.get()
                return feed.counters.ticks
            }

            func rows() throws -> [Instrument: [UInt8]] {
                var rows: [Instrument: [UInt8]] = [:]
                let direct = try Instrument(exchange: "XNAS", symbol: "DIRECT")
                for instrument in try store.instruments() + [direct] {
                    try store.scan(instrument, from: .min, to: .max) { batch in
                        rows[instrument, default: []] += Array(batch.frames)
                        return true
                    }
                }
                return rows
            }
        }

        /// Everything that a stream of everything brings, by instrument.
        private final class Stream: GRPCCallOwner, Sendable {
            private let state = Mutex<(updates: [String: [UInt8]], count: UInt64, ended: GRPCStatus?)>(([:], 0, nil))

            init(_ channel: GRPCChannel) {
                var subscription = Proto.PriceSubscription()
                subscription.skipSnapshot = true
                let request = subscription.encodedBytes()
                channel.call(path: Proto.MarketDataService.streamPrices.path, owner: self) { call in
                    call.send(request)
                    call.halfClose()
                }
            }

            func received(metadata: GRPCMetadata) {}

            func received(frames: UnsafeRawBufferPointer) {
                nonisolated(unsafe) let frames = frames
                state.withLock { state in
                    for update in MessageSequence(frames: frames) {
                        guard let reader = try? TickReader(update), !reader.symbol.isEmpty else { continue }
                        let name =
                            "\(String(decoding: reader.exchange, as: UTF8.self))|"
                            + String(decoding: reader.symbol, as: UTF8.self)
                        state.updates[name, default: []] += Array(update)
                        state.count += 1
                    }
                }
            }

            func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { state.withLock { $0.ended = status } }

            var count: UInt64 { state.withLock { $0.count } }
            var updates: [String: [UInt8]] { state.withLock { $0.updates } }
            var status: GRPCStatus? { state.withLock { $0.ended } }
        }

        /// Plays the recording while an edge streams it.
        private static func play(_ mode: Mode) throws -> [String: [UInt8]] {
            let edge = try EdgeService(
                log: mode.log, store: mode.store, time: RealTime(), loops: EventLoopGroup(count: 1))
            let port = try edge.listen(host: "127.0.0.1", port: 0).port
            let loop = EventLoop(name: "parity")
            defer { loop.stop() }
            let channel = try GRPCChannel(target: "127.0.0.1:\(port)", loop: loop)
            defer { channel.close() }
            let stream = Stream(channel)
            // What comes before the stream is there is not for it.
            #expect(holds { edge.slowestLagBytes() != nil })
            let count = try mode.play()
            #expect(count > 30_000)
            #expect(holds(within: 30) { stream.count >= count }, "\(mode.name): \(stream.count) of \(count)")
            #expect(stream.count == count && stream.status == nil, "\(mode.name)")
            edge.stop(withinMilliseconds: 1000)
            return stream.updates
        }

        /// What a call came to: its answer's bytes, or its status.
        private enum Outcome: Hashable {
            case answer([UInt8])
            case status(GRPCStatus)
        }

        private static func outcome(_ call: () async throws -> some ProtoMessage) async -> Outcome {
            do {
                return .answer(try await call().encodedBytes())
            } catch let status as GRPCStatus {
                return .status(status)
            } catch {
                return .status(GRPCStatus(.unknown, "\(error)"))
            }
        }

        /// Quotes of all that may be asked, by the edge of a mode.
        private static func quotes(_ mode: Mode) async throws -> [Outcome] {
            let edge = try await apart {
                try EdgeService(
                    log: mode.log, store: mode.store, time: RealTime(), loops: EventLoopGroup(count: 1))
            }
            let port = try edge.listen(host: "127.0.0.1", port: 0).port
            let channel = try GRPCChannel(target: "127.0.0.1:\(port)")
            let client = Proto.MarketDataServiceClient(channel)
            var outcomes: [Outcome] = []
            for (exchange, symbol) in [
                ("BINANCE", "BTCUSDT"), ("", "BTCUSDT"), ("BINANCE", "NONE"), ("", "NONE"), ("XNAS", "DIRECT"),
                ("", ""),
            ] {
                var request = Proto.QuoteRequest()
                request.exchange = exchange
                request.symbol = symbol
                let asked = request
                outcomes.append(await outcome { try await client.getQuote(asked) })
            }
            channel.close()
            try await apart { edge.stop(withinMilliseconds: 1000) }
            return outcomes
        }

        /// What TickWriterService says to good and bad input, but for how long it took.
        private static func writes(_ mode: Mode) async throws -> [Outcome] {
            let writer = DirectWriter(
                store: mode.store, time: RealTime(), loops: EventLoopGroup(count: 1, name: "direct"))
            let socket = try ListeningSocket(host: "127.0.0.1", port: 0)
            writer.listen(on: socket)
            Thread.detachNewThread { try? writer.run() }
            let channel = try GRPCChannel(target: "127.0.0.1:\(socket.port)")
            let client = Proto.TickWriterServiceClient(channel)
            func tick(_ sequence: UInt64, symbol: String = "DIRECT") -> Proto.PriceUpdate {
                var update = Proto.PriceUpdate()
                update.exchange = "XNAS"
                update.symbol = symbol
                update.kind = .trade
                update.lastMicros = 5_000_000
                update.volume = 1
                update.sequence = sequence
                update.eventTime = Timestamp(ns: 1_764_115_200_000_000_000)
                return update
            }
            func call(_ update: Proto.PriceUpdate) async -> Outcome {
                await outcome {
                    var ack = try await client.writeTick(update)
                    ack.writeLatencyUs = 0
                    return ack
                }
            }
            var outcomes: [Outcome] = []
            for update in [tick(1), tick(1), tick(0), tick(0), tick(2), tick(1 << 40), tick(3, symbol: "A|B")] {
                outcomes.append(await call(update))
            }
            channel.close()
            try await apart { writer.stop(withinMilliseconds: 1000) }
            return outcomes
        }

        @Test func `Streams, rows, last ticks, days, quotes and statuses are the same on both modes`() async throws {
            let node = try await SharedCassandra.shared.node()
            let folder = try TemporaryFolder()
            let path = folder.path
            defer { withExtendedLifetime(folder) {} }
            let (modes, streams) = try await apart {
                var segments = SegmentLog.Configuration()
                segments.diskSharePercent = 100
                segments.freeBytesMin = 0
                let embedded = Mode(
                    name: "embedded",
                    log: try SegmentLog(
                        disk: try FileDisk(directory: path), time: RealTime(), configuration: segments),
                    store: try RocksStore(directory: path + "/store", time: RealTime()))
                let topics: [Topic] = [.ticksRaw, .booksDeltas, .ticksRaw.deadLetter]
                let tape = try Tape(topics, partitions: 4)
                let kafka = try tape.open(following: [.ticksRaw, .booksDeltas])
                var configuration = CassandraStoreConfiguration(
                    contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
                configuration.keyspace = "mode_parity"
                configuration.limits.openMilliseconds = 30_000
                _ = try SchemaTool(configuration, replication: nil).apply()
                let cluster = Mode(
                    name: "cluster", log: kafka, store: try CassandraStore(configuration, time: RealTime()))
                return ([embedded, cluster], [try Self.play(embedded), try Self.play(cluster)])
            }
            #expect(streams[0] == streams[1])
            let writes = [try await Self.writes(modes[0]), try await Self.writes(modes[1])]
            #expect(writes[0] == writes[1])
            #expect(writes[0].filter { if case .answer = $0 { true } else { false } }.count == 5)
            let quotes = [try await Self.quotes(modes[0]), try await Self.quotes(modes[1])]
            #expect(quotes[0] == quotes[1])
            #expect(quotes[0].filter { if case .answer = $0 { true } else { false } }.count == 2)
            try await apart {
                let rows = try modes[0].rows()
                #expect(rows.count >= 2 && rows.values.allSatisfy { !$0.isEmpty })
                #expect(try modes[1].rows() == rows)
                #expect(try modes[0].store.instruments() == modes[1].store.instruments())
                for instrument in rows.keys {
                    let latest = try modes.map { try $0.store.latest(instrument) }
                    #expect(latest[0]?.update == latest[1]?.update)
                    #expect(latest[0]?.day == latest[1]?.day)
                    #expect((latest[0] == nil) == (instrument.symbol == "DIRECT"))
                }
                for mode in modes {
                    try mode.log.close()
                    try mode.store.close()
                }
            }
        }
    }
}
