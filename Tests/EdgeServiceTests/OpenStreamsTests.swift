import Simulation
import Testing

@testable import EdgeService

/// What is known of the streams of a loop by looking at a few of them at a time.
struct OpenStreamsTests {
    private final class Stream: EdgeStream {
        let bytes: Int
        var lookCount = 0

        init(bytes: Int) { self.bytes = bytes }

        func end() {}
        func stop() {}
        var usage: StreamUsage {
            lookCount += 1
            return StreamUsage(heldBytes: bytes)
        }
    }

    @Test func `A look at all of them is what they hold`() {
        var streams = OpenStreams()
        #expect(streams.look(atMost: 4) == EdgeUsage())
        let made = (1...4).map { Stream(bytes: $0) }
        for stream in made { streams.add(stream) }
        let usage = streams.look(atMost: 4)
        #expect(usage?.streams == 4 && usage?.heldBytes == 10 && usage?.heldBytesMax == 4)
        #expect(usage == streams.usage)
        streams.remove(made[3])
        streams.remove(made[3])
        #expect(!streams.contains(made[3]) && streams.contains(made[0]))
        #expect(streams.look(atMost: 2) == nil)
        let rest = streams.look(atMost: 2)
        #expect(rest?.streams == 3 && rest?.heldBytes == 6 && rest?.heldBytesMax == 3)
    }

    @Test(arguments: 0..<50 as Range<UInt64>)
    func `Streams that stay are looked at once in each round, whichever come and go`(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var streams = OpenStreams()
        let staying = (0..<20).map { _ in Stream(bytes: 1) }
        var others: [Stream] = []
        for stream in staying { streams.add(stream) }
        var rounds = 0
        for _ in 0..<500 {
            switch Int.random(in: 0..<3, using: &random) {
            case 0:
                others.append(Stream(bytes: 0))
                streams.add(others[others.count - 1])
            case 1 where !others.isEmpty:
                streams.remove(others.remove(at: Int.random(in: others.indices, using: &random)))
            default:
                guard let usage = streams.look(atMost: Int.random(in: 0..<8, using: &random)) else { continue }
                rounds += 1
                #expect(usage.streams == 20 + others.count && usage.heldBytes == 20)
                #expect(staying.allSatisfy { $0.lookCount == rounds })
            }
        }
        #expect(rounds > 10)
    }
}
