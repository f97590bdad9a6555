import Glibc
import MarketModel
import TestSupport
import Testing

@testable import TickCodec

/// Bytes that no encoder wrote: refused with the place, never read past, never a trap.
struct HostileInputTests {
    /// Pages without access on both sides of some bytes: a read or write outside them ends the process.
    final class GuardedPage {
        private let map: UnsafeMutableRawPointer
        private let page = Int(getpagesize())

        init() {
            map = mmap(nil, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            mprotect(map, page, PROT_NONE)
            mprotect(map + 2 * page, page, PROT_NONE)
        }

        deinit { munmap(map, 3 * page) }

        /// The last, or the first, `count` bytes of the page.
        func end(_ count: Int) -> UnsafeMutableRawBufferPointer {
            UnsafeMutableRawBufferPointer(start: map + 2 * page - count, count: count)
        }
        func start(_ count: Int) -> UnsafeMutableRawBufferPointer {
            UnsafeMutableRawBufferPointer(start: map + page, count: count)
        }
    }

    /// What a reader makes of bytes that touch forbidden memory at their end and, copied, at their start.
    private func read(_ bytes: [UInt8], _ page: GuardedPage) -> Result<String, TickCodecError> {
        var results: [Result<String, TickCodecError>] = []
        for place in [page.end(bytes.count), page.start(bytes.count)] {
            place.copyBytes(from: bytes)
            do throws(TickCodecError) {
                let reader = try TickReader(UnsafeRawBufferPointer(place))
                _ = reader.tick()
                _ = (reader.conflation.count, reader.exact.count, reader.filingTimeNs)
                try? reader.check()
                results.append(.success(line(reader)))
            } catch { results.append(.failure(error)) }
        }
        #expect(results[0] == results[1])
        return results[0]
    }

    /// An unknown field in front keeps the reader off its fast path: both ways must agree.
    private func agree(_ bytes: [UInt8], _ page: GuardedPage) {
        let unknown: [UInt8] = [0xa0, 0x06, 0x00]
        switch (read(bytes, page), read(unknown + bytes, page)) {
        case (.success(let a), .success(let b)): #expect(a == b, "\(bytes)")
        case (.failure(let a), .failure(let b)):
            #expect(a.problem == b.problem && a.field == b.field && a.offset + 3 == b.offset, "\(bytes)")
        default: Issue.record("the fast and the general path differ: \(bytes)")
        }
    }

    @Test func `A tick cut at any byte is refused, but between two fields`() {
        var random = SeededRandom(seed: 21)
        let page = GuardedPage()
        for _ in 0..<(Checkout.isSoak ? 5000 : 200) {
            let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: random.name())
            let bytes = encoded(random.tick(), encoder)
            let ends = Set(fieldEnds(bytes))
            for count in 0...bytes.count {
                let prefix = Array(bytes[..<count])
                agree(prefix, page)
                switch read(prefix, page) {
                case .success: #expect(ends.contains(count))
                case .failure(let error): #expect(!ends.contains(count) && error.problem == .truncated)
                }
            }
        }
    }

    @Test func `Mutated ticks never trap, and both ways of reading agree on them`() {
        let seed: UInt64 = Checkout.isSoak ? .random(in: 0...UInt64.max) : 22
        print("mutation seed \(seed)")
        var random = SeededRandom(seed: seed)
        let page = GuardedPage()
        let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: "binance")
        for _ in 0..<(Checkout.isSoak ? 3_000_000 : 30_000) {
            var bytes = encoded(random.tick(), encoder)
            for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<6, using: &random) {
                case 0: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 1: bytes[place] = UInt8(truncatingIfNeeded: random.next())
                case 2: bytes.remove(at: place)
                case 3: bytes.insert([0x80, 0xff, 0x00, 0x0b, 0x0c].randomElement(using: &random)!, at: place)
                case 4: bytes.removeSubrange(place...)
                default: bytes += bytes[place...]
                }
            }
            agree(bytes, page)
        }
    }

    @Test func `Random bytes never trap`() {
        var random = SeededRandom(seed: 23)
        let page = GuardedPage()
        for _ in 0..<(Checkout.isSoak ? 3_000_000 : 30_000) {
            agree(
                (0..<Int.random(in: 0...40, using: &random)).map { _ in UInt8(truncatingIfNeeded: random.next()) }, page
            )
        }
    }

    @Test func `Each kind of bad input is refused by its name and place`() {
        let page = GuardedPage()
        func expect(_ bytes: [UInt8], _ problem: TickCodecError.Problem, field: Int, offset: Int) {
            #expect(read(bytes, page) == .failure(TickCodecError(problem, field: field, offset: offset)))
        }
        let tenBytes = [UInt8](repeating: 0xff, count: 9)
        expect([0x18] + tenBytes + [0x02], .varintTooLong, field: 3, offset: 0)
        expect([0x18] + tenBytes + [0x81, 0x00], .varintTooLong, field: 3, offset: 0)
        expect([0x18] + tenBytes, .truncated, field: 3, offset: 0)
        expect([0x50, 0x01, 0x1a, 0x00], .wireType, field: 3, offset: 2)
        expect([0x08, 0x00], .wireType, field: 1, offset: 0)
        expect([0x3d, 0, 0, 0, 0], .wireType, field: 7, offset: 0)
        expect([0x3a, 0x02, 0x0a, 0x00], .wireType, field: 7, offset: 0)
        expect([0x3a, 0x02, 0x08, 0x80], .truncated, field: 7, offset: 0)
        expect([0xff, 0x01], .wireType, field: 31, offset: 0)
        expect([0x00, 0x00], .fieldNumber, field: 0, offset: 0)
        expect([0xf8, 0xff, 0xff, 0xff, 0x10, 0x00], .fieldNumber, field: 0, offset: 0)
        expect([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x41], .truncated, field: 1, offset: 0)
        expect([0x0a] + tenBytes + [0x01], .truncated, field: 1, offset: 0)
        expect([0xa4, 0x06], .group, field: 100, offset: 0)
        expect([0xa3, 0x06, 0xac, 0x06], .group, field: 100, offset: 0)
        expect([0xa3, 0x06], .truncated, field: 100, offset: 0)
        let groups = [[UInt8]](repeating: [0xa3, 0x06], count: 100_000).flatMap { $0 }
        if case .failure(let error) = [groups].map({ bytes in
            bytes.withUnsafeBytes { buffer -> Result<Void, TickCodecError> in
                do throws(TickCodecError) {
                    _ = try TickReader(buffer)
                    return .success(())
                } catch { return .failure(error) }
            }
        })[0] {
            #expect(error.problem == .group)
        } else {
            Issue.record("groups nested without end were accepted")
        }
        // Padded varints are legal.
        #expect(read([0x18, 0x85, 0x80, 0x80, 0x80, 0x00], page) == .success("3=5"))
    }

    /// Templates are copied by 16 bytes: one that ends within such a block is read past its memory.
    @Test func `The encoder's templates are whole blocks, whatever the names`() {
        for length in 0...70 {
            let name = String(repeating: "N", count: length)
            for encoder in [
                TickEncoder(exchange: name, symbol: "S", feed: "f"), TickEncoder(exchange: "", symbol: "", feed: name),
            ] {
                #expect(encoder.templates.count % 16 == 0 && encoder.feedStart % 16 == 0, "\(length) bytes of name")
                #expect(encoder.feedStart >= 16 && encoder.templates.count >= encoder.feedStart + 16)
            }
        }
    }

    @Test func `The encoder stays inside its buffer`() {
        var random = SeededRandom(seed: 24)
        let page = GuardedPage()
        for _ in 0..<5000 {
            let encoder = TickEncoder(exchange: random.name(), symbol: random.name(), feed: random.name())
            let tick = random.tick()
            let high = page.end(encoder.lengthMax)
            let length = encoder.encode(tick, into: high)
            let bytes = Array(high[..<length])
            #expect(encoder.encode(tick, into: page.start(encoder.lengthMax)) == length)
            #expect(Array(page.start(length)) == bytes)
        }
        // All fields at their longest, without a name.
        let encoder = TickEncoder(exchange: "", symbol: "", feed: "")
        var tick = Tick(
            kind: .correction, receivedTimeNs: .min + 1, publishTimeNs: .min + 1, epoch: .max, sequence: .max)
        (tick.bid, tick.ask, tick.last) = (-1, -1, -1)
        (tick.bidSize, tick.askSize, tick.lastSize) = (-1, -1, -1)
        (tick.eventTimeNs, tick.venueSequence, tick.tradeID) = (.max, .max, .max)
        (tick.state, tick.aggressorSide) = (.stale, .sell)
        #expect(encoder.encode(tick, into: page.end(encoder.lengthMax)) <= encoder.lengthMax - 16)
    }
}
