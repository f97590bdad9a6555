import EventLoop
import TestSupport
import Testing

@testable import TLS

struct StreamTests {
    private static func pattern(_ count: Int, _ salt: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 31) ^ ($0 >> 8) ^ salt) }
    }

    @Test func `What is written arrives, wherever the pieces are cut, however the reader pauses`() throws {
        for seed in 1...UInt64(Checkout.isSoak ? 400 : 24) {
            var numbers = SeededNumbers(seed: seed)
            let pieceMax = [1, 2, 7, 300, 5000, 1 << 20][Int(seed) % 6]
            let size = pieceMax < 10 ? 20_000 : 400_000
            let pair = try TLSPair(
                seed: seed, pieceMax: pieceMax, roomMax: Int.random(in: 1...100_000, using: &numbers))
            let ways: [(TLSStream, TLSStream, Recorder, [UInt8])] = [
                (pair.client, pair.server, pair.serverOwner, StreamTests.pattern(size, 1)),
                (pair.server, pair.client, pair.clientOwner, StreamTests.pattern(size / 2, 2)),
            ]
            var sent = [0, 0]
            while true {
                for (index, way) in ways.enumerated() {
                    if sent[index] < way.3.count, way.0.waitingBytes < 100_000 {
                        let count = min(
                            Int.random(in: 1...(Bool.random(using: &numbers) ? 100 : 70_000), using: &numbers),
                            way.3.count - sent[index])
                        way.0.write(Array(way.3[sent[index]..<(sent[index] + count)]))
                        sent[index] += count
                    }
                    switch Int.random(in: 0..<6, using: &numbers) {
                    case 0: way.1.stopReading()
                    case 1, 2, 3: way.1.startReading()
                    default: break
                    }
                }
                let moved = pair.loop.step()
                let isAllSent = ways.indices.allSatisfy { sent[$0] == ways[$0].3.count }
                if isAllSent, !moved { break }
            }
            for way in ways { way.1.startReading() }
            pair.run()
            for way in ways {
                #expect(way.2.bytes == way.3, "seed \(seed)")
                #expect(way.0.waitingBytes == 0 && way.2.ends.isEmpty)
            }
            pair.client.close()
            pair.run()
            #expect(pair.clientOwner.end == "in order" && pair.serverOwner.end == "in order", "seed \(seed)")
            pair.expectBothEnded()
        }
    }

    @Test func `Small writes of a turn become one record, large ones full records`() throws {
        let pair = try TLSPair()
        pair.run()
        var wire = 0
        pair.clientPipe.tamper = {
            wire += $0.count
            return $0
        }
        for index in 0..<100 { pair.client.write([UInt8](repeating: UInt8(index), count: 10)) }
        pair.run()
        #expect(pair.serverOwner.bytes.count == 1000)
        #expect(wire < 1000 + 30, "\(wire) bytes for 1000")
        wire = 0
        pair.client.write([UInt8](repeating: 7, count: 10 * 16_384))
        pair.run()
        #expect(wire == 10 * (16_384 + 22), "\(wire)")
    }

    @Test func `Drained follows a write once, when everything was handed on`() throws {
        let pair = try TLSPair(roomMax: 1000)
        pair.client.write([UInt8](repeating: 1, count: 100_000))
        #expect(pair.client.waitingBytes >= 100_000)
        pair.serverOwner.onBytes = { bytes in
            if pair.serverOwner.bytes.count < 100_000 { #expect(pair.client.waitingBytes > 0 || bytes.count > 0) }
            pair.serverOwner.bytes += bytes
        }
        pair.clientOwner.onDrained = { #expect(pair.client.waitingBytes == 0) }
        pair.run()
        #expect(pair.serverOwner.bytes.count == 100_000)
        #expect(pair.clientOwner.drainedCount == 1)
        pair.run()
        #expect(pair.clientOwner.drainedCount == 1)
    }

    @Test func `A reader that stops stops its peer`() throws {
        let pair = try TLSPair(roomMax: 50_000)
        pair.run()
        pair.serverOwner.onBytes = { bytes in
            pair.serverOwner.bytes += bytes
            pair.server.stopReading()
        }
        pair.client.write([UInt8](repeating: 3, count: 1 << 20))
        pair.run()
        let first = pair.serverOwner.bytes.count
        #expect(first > 0 && first <= 16_384)
        #expect(pair.client.waitingBytes > 900_000)
        var rounds = 0
        while pair.serverOwner.bytes.count < 1 << 20, rounds < 1000 {
            pair.server.startReading()
            pair.run()
            rounds += 1
        }
        #expect(pair.serverOwner.bytes.count == 1 << 20)
    }

    @Test func `Too many bytes before the handshake end the stream`() throws {
        let pair = try TLSPair()
        pair.client.write([UInt8](repeating: 0, count: 1 << 20))
        #expect(!pair.client.isClosed)
        pair.client.write([0])
        #expect(pair.client.isClosed)
        pair.run()
        #expect(pair.clientOwner.end.contains("before the TLS handshake"))
        pair.expectBothEnded()
    }

    @Test func `A close hands on what was written before, and is told once`() throws {
        let pair = try TLSPair(pieceMax: 700, roomMax: 2000)
        pair.run()
        pair.client.write([UInt8](repeating: 5, count: 30_000))
        pair.client.close()
        pair.client.close(StreamError("again"))
        pair.client.write([1])
        pair.run()
        #expect(pair.serverOwner.bytes.count == 30_000)
        #expect(pair.serverOwner.end == "in order")
        #expect(pair.clientOwner.end == "in order")
        pair.expectBothEnded()
    }

    @Test func `An owner may close from within what it is told`() throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            let pair = try TLSPair(seed: seed, pieceMax: 4000)
            pair.serverOwner.onBytes = { _ in pair.server.close(StreamError("enough")) }
            pair.clientOwner.onDrained = { pair.client.write([UInt8](repeating: 1, count: 50_000)) }
            pair.client.write([1])
            pair.run()
            #expect(pair.serverOwner.end == "enough")
            pair.expectBothEnded()
        }
    }

    @Test func `An end without TLS's own end is an error: bytes may be missing`() throws {
        let pair = try TLSPair()
        pair.client.write([UInt8](repeating: 1, count: 1000))
        pair.run()
        pair.serverPipe.cut()
        pair.run()
        #expect(pair.serverOwner.end.contains("bytes may be missing"), "\(pair.serverOwner.end)")
        pair.expectBothEnded()
    }

    @Test func `Nothing is left alive after the end`() throws {
        weak var server: TLSStream?
        weak var client: TLSStream?
        do {
            let pair = try TLSPair()
            pair.client.write([1])
            pair.run()
            (server, client) = (pair.server, pair.client)
            pair.client.close()
            pair.expectBothEnded()
        }
        #expect(server == nil && client == nil)
    }

    @Test func `Garbage, changed and cut records end the stream and never the process`() throws {
        let text = StreamTests.pattern(20_000, 3)
        for seed in 1...UInt64(Checkout.isSoak ? 20_000 : 400) {
            var numbers = SeededNumbers(seed: seed)
            let pair = try TLSPair(seed: seed, pieceMax: 3000)
            let pipe = Bool.random(using: &numbers) ? pair.clientPipe : pair.serverPipe
            var passed = Int.random(in: 0...6000, using: &numbers)
            pipe.tamper = { bytes in
                passed -= bytes.count
                guard passed < 0, !bytes.isEmpty else { return bytes }
                passed = Int.random(in: 0...3000, using: &numbers)
                var changed = bytes
                switch Int.random(in: 0..<4, using: &numbers) {
                case 0:
                    let place = Int.random(in: bytes.indices, using: &numbers)
                    changed[place] ^= UInt8.random(in: 1...255, using: &numbers)
                case 1: changed.removeLast(Int.random(in: 1...bytes.count, using: &numbers))
                case 2: changed += (0..<40).map { _ in UInt8.random(in: 0...255, using: &numbers) }
                default: changed = bytes.map { _ in UInt8.random(in: 0...255, using: &numbers) }
                }
                return changed
            }
            pair.client.write(text)
            pair.server.write(text)
            pair.run()
            // What arrived is a beginning of what was sent, changed nowhere.
            for owner in [pair.clientOwner, pair.serverOwner] {
                #expect(owner.bytes == Array(text.prefix(owner.bytes.count)), "seed \(seed)")
            }
            pair.client.close()
            pair.server.close()
            pair.expectBothEnded()
        }
    }
}
