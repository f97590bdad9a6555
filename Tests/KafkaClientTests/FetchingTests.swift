import CLinux
import EventLoop
import Simulation
import TestSupport
import Testing

@testable import KafkaClient
@testable import KafkaFrames

/// What is read through any weather is what the logs have, each record once, in order.
@Suite struct FetchingTests {
    /// Makes batches of numbered records, of transactions too, and remembers which count.
    private final class Writer {
        let brokers: SimulatedBrokers
        /// What readers may see of each partition, by offset.
        var visible: [SimulatedBrokers.Place: [(offset: Int64, number: UInt32)]] = [:]
        private var number: UInt32 = 0
        private var encoder = RecordBatchEncoder()

        init(_ brokers: SimulatedBrokers) { self.brokers = brokers }

        func append(_ place: SimulatedBrokers.Place) {
            guard let log = brokers.logs[place] else { return }
            let kind = brokers.int(0...9)
            // A transaction, then the marker of its end.
            let isAborted = kind == 0
            let producer: Int64 = kind <= 1 ? 77 : 5
            encoder.begin()
            let count = brokers.int(1...8)
            if isAborted {
                let transaction = KafkaAbortedTransaction(producerID: producer, firstOffset: log.end)
                log.aborted.append((transaction, log.end + Int64(count)))
            }
            for index in 0..<count {
                number += 1
                if !isAborted { visible[place, default: []].append((log.end + Int64(index), number)) }
                let value =
                    withUnsafeBytes(of: number) { Array($0) } + [UInt8](repeating: 1, count: brokers.int(0...400))
                value.withUnsafeBytes { encoder.add(key: UnsafeRawBufferPointer(rebasing: $0[..<2]), value: $0) }
            }
            log.append(batch(producer, attributes: kind <= 1 ? 0x10 : 0), count: Int64(count))
            guard kind <= 1 else { return }
            encoder.begin()
            let empty = UnsafeRawBufferPointer(start: nil, count: 0)
            encoder.add(key: empty, value: empty)
            log.append(batch(producer, attributes: 0x30), count: 1)
        }

        private func batch(_ producer: Int64, attributes: UInt8) -> [UInt8] {
            let buffer = KafkaBuffer()
            encoder.end(
                into: buffer, timestampMs: 1000, producer: KafkaProducerID(id: producer, epoch: 0), sequence: 0)
            var bytes = [UInt8](buffer.bytes)
            bytes[22] |= attributes
            let crc = bytes.withUnsafeBytes { clinux_crc32c(0, $0.baseAddress! + 21, $0.count - 21) }
            withUnsafeBytes(of: crc.bigEndian) { bytes.replaceSubrange(17..<21, with: $0) }
            return bytes
        }
    }

    /// What one reader was given.
    private final class Reader {
        var seen: [(offset: Int64, number: UInt32)] = []
        var errors: [KafkaError] = []
        var next: Int64
        var end: Int64 = -1
        var stream: KafkaFetcher.Stream?

        init(from offset: Int64) { next = offset }

        func take(_ fetched: KafkaFetcher.Fetched) {
            guard fetched.error == .none else { return errors.append(fetched.error) }
            let first = next
            var filter = KafkaTransactionFilter(fetched.aborted)
            var rest = fetched.records
            do {
                while let batch = try RecordBatch.next(of: &rest) {
                    try batch.check()
                    guard filter.takes(batch) else { continue }
                    try KafkaRecord.read(batch, scratch: KafkaBuffer()) { record in
                        if record.offset >= first {
                            seen.append((record.offset, record.value.loadUnaligned(as: UInt32.self)))
                        }
                        return true
                    }
                }
            } catch {
                Issue.record("\(error)")
            }
            #expect(rest.isEmpty && fetched.next >= next)
            next = fetched.next
            end = fetched.end
        }
    }

    private static func client(_ brokers: SimulatedBrokers) -> KafkaBrokers {
        var options = KafkaClientOptions()
        options.clientID = "test"
        options.handshakeMilliseconds = 2000
        return KafkaBrokers(
            brokers.nodes.map(SimulatedBrokers.address), options: options, transport: brokers, loop: brokers.loop)
    }

    private static func fetcher(
        _ brokers: SimulatedBrokers, intervalMs: Int = 0
    ) -> (KafkaFetcher, any LoopTimer) {
        var limits = KafkaFetcher.Limits()
        limits.intervalMs = intervalMs...intervalMs
        let fetcher = KafkaFetcher(client(brokers), limits: limits)
        return (fetcher, brokers.loop.repeatTimer(everyMilliseconds: 50) { fetcher.tick() })
    }

    @Test func `Readers from anywhere see each record once, in order, whatever happens to sessions and leaders`() {
        for seed in UInt64(0)..<(Checkout.isSoak ? 10_000 : 300) {
            let loop = SimulatedLoop()
            let brokers = SimulatedBrokers(loop, seed: seed, topics: ["a": 3, "b": 2])
            brokers.weather.cut = brokers.int(0...50)
            brokers.weather.silent = brokers.int(0...1) * 10
            brokers.weather.errors = brokers.int(0...20)
            brokers.weather.cutOff = brokers.int(0...1) * 5
            brokers.weather.changed = brokers.int(0...1) * 5
            brokers.weather.forgets = brokers.int(0...1) * 20
            brokers.weather.throttled = brokers.int(0...1) * 20
            brokers.weather.delayMillisecondsMax = brokers.int(0...30)
            brokers.weather.isTiny = brokers.happens(50)
            let writer = Writer(brokers)
            let places = brokers.logs.keys.sorted { ($0.topic, $0.partition) < ($1.topic, $1.partition) }
            for place in places { for _ in 0..<brokers.int(0...20) { writer.append(place) } }
            let (fetcher, timer) = Self.fetcher(brokers)
            var readers: [SimulatedBrokers.Place: (first: Int64, reader: Reader)] = [:]
            func begin(_ place: SimulatedBrokers.Place) {
                if let old = readers[place]?.reader.stream { fetcher.remove(old) }
                let first = Int64(brokers.int(0...Int(brokers.logs[place]?.end ?? 0)))
                let reader = Reader(from: first)
                reader.stream = fetcher.add(topic: place.topic, partition: place.partition, at: first) {
                    reader.take($0)
                }
                readers[place] = (first, reader)
            }
            for place in places { begin(place) }
            for _ in 0..<80 {
                let place = places[brokers.int(0...4)]
                switch brokers.int(0...9) {
                case 0: brokers.move(place)
                case 1: begin(place)
                case 2:
                    if let stream = readers[place]?.reader.stream {
                        stream.isWanted.toggle()
                        fetcher.resume()
                    }
                case 3 where brokers.happens(30):
                    let node = brokers.nodes[brokers.int(0...2)]
                    brokers.crash(node)
                    brokers.isDown.remove(node)
                default: writer.append(place)
                }
                // Now and then long enough for partitions to become quiet.
                let end = loop.nowMilliseconds + UInt64(brokers.int(0...(brokers.happens(5) ? 3000 : 60)))
                _ = loop.run(until: { loop.nowMilliseconds >= end })
            }
            brokers.weather = SimulatedBrokers.Weather()
            for (_, reader) in readers.values { reader.stream?.isWanted = true }
            fetcher.resume()
            let isDone = {
                readers.allSatisfy { place, now in
                    now.reader.next == brokers.logs[place]?.end && now.reader.end == now.reader.next
                }
            }
            #expect(loop.run(until: isDone, turnsMax: 300_000), "seed \(seed)")
            for (place, now) in readers {
                let wanted = (writer.visible[place] ?? []).filter { $0.offset >= now.first }
                #expect(now.reader.seen.map(\.offset) == wanted.map(\.offset), "seed \(seed), \(place)")
                #expect(now.reader.seen.map(\.number) == wanted.map(\.number), "seed \(seed), \(place)")
                #expect(now.reader.errors.isEmpty, "seed \(seed), \(place)")
            }
            timer.cancel()
            fetcher.close()
            let end = loop.nowMilliseconds + 3000
            _ = loop.run(until: { loop.nowMilliseconds >= end })
            #expect(loop.openTimers == 0, "seed \(seed)")
        }
    }

    @Test(arguments: SimulatedBrokers.Fault.allCases)
    func `An answer that was changed on its way costs its connection, and no record`(_ fault: SimulatedBrokers.Fault) {
        for seed in UInt64(0)..<10 {
            let loop = SimulatedLoop()
            let brokers = SimulatedBrokers(loop, seed: seed, topics: ["a": 2])
            for log in brokers.logs.values { log.leader = 1 }
            let writer = Writer(brokers)
            let places = [0, 1].map { SimulatedBrokers.Place(topic: "a", partition: $0) }
            let client = Self.client(brokers)
            let fetcher = KafkaFetcher(client, limits: KafkaFetcher.Limits())
            let timer = loop.repeatTimer(everyMilliseconds: 50) { fetcher.tick() }
            var kinds: Set<KafkaFailure.Kind> = []
            let watch = loop.repeatTimer(everyMilliseconds: 1) {
                if let now = client.problem { kinds.insert(now.kind) }
            }
            let readers = places.map { place in
                let reader = Reader(from: 0)
                _ = fetcher.add(topic: "a", partition: place.partition, at: 0) { reader.take($0) }
                return reader
            }
            let hasAll = { zip(places, readers).allSatisfy { $1.next == brokers.logs[$0]?.end } }
            #expect(loop.run(until: hasAll))
            let connections = brokers.connections
            brokers.fault = (fault, 1)
            for place in places { for _ in 0..<6 { writer.append(place) } }
            let isDone = { !kinds.isEmpty && brokers.connections > connections && hasAll() }
            #expect(loop.run(until: isDone, turnsMax: 300_000), "seed \(seed)")
            // Of a length that is too large nobody knows before the answer does not come.
            let mayBeSilent = fault == .flippedLength || fault == .hugeLength
            let known: Set<KafkaFailure.Kind> = mayBeSilent ? [.protocol, .silent] : [.protocol]
            #expect(kinds.isSubset(of: known), "seed \(seed): \(kinds)")
            for (place, reader) in zip(places, readers) {
                let visible = writer.visible[place] ?? []
                #expect(reader.seen.map(\.offset) == visible.map(\.offset), "seed \(seed), \(place)")
                #expect(reader.seen.map(\.number) == visible.map(\.number), "seed \(seed), \(place)")
            }
            #expect(brokers.faults == 1)
            watch.cancel()
            timer.cancel()
            fetcher.close()
        }
    }

    /// Damage at the broker: the reader says so, and the connection is left for it once.
    @Test func `A batch that comes damaged again and again is its reader's to refuse, and other partitions go on`()
        throws
    {
        let loop = SimulatedLoop()
        let brokers = SimulatedBrokers(loop, seed: 3, topics: ["a": 2])
        for log in brokers.logs.values { log.leader = 1 }
        let writer = Writer(brokers)
        let places = [0, 1].map { SimulatedBrokers.Place(topic: "a", partition: $0) }
        for place in places { for _ in 0..<5 { writer.append(place) } }
        let (fetcher, timer) = Self.fetcher(brokers)
        let log = try #require(brokers.logs[places[0]])
        log.batches[2].bytes[30] ^= 4
        var refused = 0
        var streams: [KafkaFetcher.Stream] = []
        func read() {
            streams.append(
                fetcher.add(topic: "a", partition: 0, at: 0) { fetched in
                    var rest = fetched.records
                    do {
                        while let batch = try RecordBatch.next(of: &rest) { try batch.check() }
                    } catch {
                        refused += 1
                    }
                })
        }
        read()
        let fine = Reader(from: 0)
        _ = fetcher.add(topic: "a", partition: 1, at: 0) { fine.take($0) }
        #expect(loop.run(until: { refused == 1 && fine.next == brokers.logs[places[1]]?.end }))
        let connections = brokers.connections
        for round in 2...4 {
            fetcher.remove(streams[round - 2])
            read()
            writer.append(places[1])
            #expect(loop.run(until: { refused == round && fine.next == brokers.logs[places[1]]?.end }))
        }
        #expect(brokers.connections == connections)
        timer.cancel()
        fetcher.close()
    }

    @Test func `An offset that is not there is told once, and the others go on`() {
        let loop = SimulatedLoop()
        let brokers = SimulatedBrokers(loop, seed: 1, topics: ["a": 2])
        for log in brokers.logs.values { log.leader = 1 }
        let writer = Writer(brokers)
        let places = [0, 1].map { SimulatedBrokers.Place(topic: "a", partition: $0) }
        for place in places { for _ in 0..<5 { writer.append(place) } }
        let (fetcher, timer) = Self.fetcher(brokers)
        let lost = Reader(from: 1000)
        let fine = Reader(from: 0)
        _ = fetcher.add(topic: "a", partition: 0, at: 1000) { lost.take($0) }
        _ = fetcher.add(topic: "a", partition: 1, at: 0) { fine.take($0) }
        writer.append(places[1])
        #expect(loop.run(until: { fine.next == brokers.logs[places[1]]?.end && !lost.errors.isEmpty }))
        let end = loop.nowMilliseconds + 5000
        _ = loop.run(until: { loop.nowMilliseconds >= end })
        #expect(lost.errors == [.offsetOutOfRange] && lost.seen.isEmpty)
        timer.cancel()
        fetcher.close()
    }

    @Test func `Who is behind does not wait between requests, who has all there was does`() {
        let loop = SimulatedLoop()
        let brokers = SimulatedBrokers(loop, seed: 1, topics: ["a": 2])
        for log in brokers.logs.values { log.leader = 1 }
        let writer = Writer(brokers)
        let places = [0, 1].map { SimulatedBrokers.Place(topic: "a", partition: $0) }
        let (fetcher, timer) = Self.fetcher(brokers, intervalMs: 100)
        let readers = places.map { place in
            let reader = Reader(from: 0)
            reader.stream = fetcher.add(topic: "a", partition: place.partition, at: 0) { reader.take($0) }
            return reader
        }
        let isDone = { zip(places, readers).allSatisfy { $1.next == brokers.logs[$0]?.end && $1.end == $1.next } }
        func requestsUntilDone() -> (requests: Int, milliseconds: UInt64) {
            let (before, start) = (brokers.requests[1] ?? 0, loop.nowMilliseconds)
            #expect(loop.run(until: isDone))
            return ((brokers.requests[1] ?? 0) - before, loop.nowMilliseconds - start)
        }
        for _ in 0..<200 { writer.append(places[0]) }
        let first = requestsUntilDone()
        #expect(first.requests >= 10 && first.milliseconds < 500, "\(first)")
        // One whose reader had to catch its breath is behind, too, whatever the others did meanwhile.
        readers[0].stream?.isWanted = false
        Self.wait(loop, 300)
        for _ in 0..<200 { writer.append(places[0]) }
        readers[0].stream?.isWanted = true
        fetcher.resume()
        let second = requestsUntilDone()
        #expect(second.requests >= 10 && second.milliseconds < 500, "\(second)")
        let before = brokers.requests[1] ?? 0
        for _ in 0..<100 {
            writer.append(places[1])
            Self.wait(loop, 10)
        }
        // Some are those of partitions where little comes, which a partition joins and leaves.
        let last = (brokers.requests[1] ?? 0) - before
        #expect((8...50).contains(last), "\(last) for 100 batches")
        timer.cancel()
        fetcher.close()
    }

    @Test(arguments: [false, true])
    func `At the end of quiet partitions brokers are asked twice a second, with a session or without`(
        _ hasNoSessions: Bool
    ) {
        let loop = SimulatedLoop()
        let brokers = SimulatedBrokers(loop, seed: 1, topics: ["a": 64])
        brokers.weather.forgets = hasNoSessions ? 100 : 0
        for log in brokers.logs.values { log.leader = 1 }
        let (fetcher, timer) = Self.fetcher(brokers)
        let readers = (0..<64).map { partition in
            let reader = Reader(from: 0)
            _ = fetcher.add(topic: "a", partition: Int32(partition), at: 0) { reader.take($0) }
            return reader
        }
        #expect(loop.run(until: { readers.allSatisfy { $0.end == 0 } }))
        Self.wait(loop, 2000)
        let before = brokers.requests[1] ?? 0
        Self.wait(loop, 10_000)
        #expect((16...20).contains((brokers.requests[1] ?? 0) - before))
        timer.cancel()
        fetcher.close()
    }

    private static func wait(_ loop: SimulatedLoop, _ milliseconds: UInt64) {
        let end = loop.nowMilliseconds + milliseconds
        _ = loop.run(until: { loop.nowMilliseconds >= end })
    }

    @Test
    func `What a busy partition makes the broker look at are not the quiet ones, and those are read all the same`() {
        let loop = SimulatedLoop()
        let brokers = SimulatedBrokers(loop, seed: 1, topics: ["a": 64])
        for log in brokers.logs.values { log.leader = 1 }
        let writer = Writer(brokers)
        let (fetcher, timer) = Self.fetcher(brokers)
        let readers = (0..<64).map { partition in
            let reader = Reader(from: 0)
            _ = fetcher.add(topic: "a", partition: Int32(partition), at: 0) { reader.take($0) }
            return reader
        }
        let places = (0..<64).map { SimulatedBrokers.Place(topic: "a", partition: Int32($0)) }
        func isRead(_ partition: Int) -> Bool { readers[partition].next == brokers.logs[places[partition]]?.end }
        func run(_ milliseconds: UInt64, _ busy: Range<Int>) {
            let end = loop.nowMilliseconds + milliseconds
            while loop.nowMilliseconds < end {
                for partition in busy { writer.append(places[partition]) }
                Self.wait(loop, 20)
            }
        }
        // Two for each request, and all others twice a second.
        func expectFew(_ milliseconds: UInt64, _ busy: Range<Int>) {
            brokers.lookedAt = 0
            let before = brokers.requests[1] ?? 0
            run(milliseconds, busy)
            let requests = (brokers.requests[1] ?? 0) - before
            #expect(requests > milliseconds / 100)
            let most = 2 * requests + 64 * Int(milliseconds / 500 + 2)
            #expect(brokers.lookedAt <= most, "\(brokers.lookedAt) in \(requests) requests")
        }
        run(3000, 0..<2)
        expectFew(2000, 0..<2)
        // A single record of a quiet one comes; one that goes on is with the busy ones soon.
        writer.append(places[9])
        Self.wait(loop, 700)
        #expect(isRead(9))
        run(2000, 8..<10)
        Self.wait(loop, 200)
        #expect((0..<64).allSatisfy(isRead))
        expectFew(1000, 8..<10)
        #expect(
            readers.allSatisfy { reader in
                zip(reader.seen, reader.seen.dropFirst()).allSatisfy { $0.number < $1.number }
            })
        timer.cancel()
        fetcher.close()
    }
}
