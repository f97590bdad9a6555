import HTTP2
import Simulation
import Testing

@testable import GRPC

/// Connections of a server in virtual time, and when each was told that its age is over.
private final class AgeingWorld {
    let loop = SimulatedLoop()
    private let server: GRPCLoopServer
    private let random = SimulatedStream.SharedRandom(seed: 1)
    private var clients: [Client] = []

    private final class Client: HTTP2ConnectionOwner {
        let loop: SimulatedLoop
        let begun: UInt64
        private(set) var age: Int?
        private(set) var isClosed = false
        var connection: HTTP2Connection?

        init(_ loop: SimulatedLoop) {
            self.loop = loop
            begun = loop.nowMilliseconds
        }

        func receivedGoAway(_ connection: HTTP2Connection, code: UInt32, text: String) {
            if age == nil { age = Int(loop.nowMilliseconds - begun) }
        }

        func closed(_ connection: HTTP2Connection, reason: String) {
            isClosed = true
            self.connection = nil
        }
    }

    init(seed: UInt64, ageMilliseconds: Int) {
        var configuration = GRPCServerConfiguration()
        configuration.seed = seed
        configuration.http2.ageMilliseconds = ageMilliseconds
        configuration.http2.idleMilliseconds = 0
        configuration.http2.keepaliveMilliseconds = 0
        server = GRPCLoopServer(loop: loop, table: GRPCServiceTable(), configuration: configuration)
    }

    /// How old so many connections become that begin together.
    func ages(_ count: Int) -> [Int] {
        var link = SimulatedLink()
        link.delayMillisecondsMax = 0
        clients = (0..<count).map { _ in
            let ends = SimulatedStream.pair(loop, link, random)
            server.accept(ends.server)
            let client = Client(loop)
            client.connection = HTTP2Connection(
                transport: ends.client, isServer: false, settings: HTTP2Settings(), owner: client)
            return client
        }
        #expect(loop.run { clients.allSatisfy(\.isClosed) })
        return clients.compactMap(\.age)
    }
}

/// The age of connections, ± 10 %.
struct AgeTests {
    @Test(arguments: [1, 2, 3] as [UInt64])
    func `Connections that begin together end over a fifth of their age, as often early as late`(_ seed: UInt64) {
        let age = 1_800_000
        let ages = AgeingWorld(seed: seed, ageMilliseconds: age).ages(500)
        #expect(ages.count == 500)
        #expect(ages.allSatisfy { (age * 9 / 10...age * 11 / 10).contains($0) }, "\(ages.min() ?? 0)")
        // Of ten equal parts each has its share.
        var parts = [Int](repeating: 0, count: 10)
        for found in ages { parts[min(9, (found - age * 9 / 10) * 10 / (age / 5))] += 1 }
        #expect(parts.allSatisfy { (25...85).contains($0) }, "\(parts)")
    }

    @Test func `The seed decides, and every loop of a server has its own`() {
        func ages(_ seed: UInt64) -> [Int] { AgeingWorld(seed: seed, ageMilliseconds: 1_800_000).ages(20) }
        #expect(ages(7) == ages(7))
        #expect(ages(7) != ages(8))
    }

    @Test(arguments: [(9, 9...9), (10, 9...11), (100, 90...110)] as [(Int, ClosedRange<Int>)])
    func `The shortest ages have no jitter, or that of a millisecond`(_ age: Int, _ range: ClosedRange<Int>) {
        let ages = AgeingWorld(seed: 5, ageMilliseconds: age).ages(200)
        #expect(ages.count == 200 && Set(ages) == Set(range))
    }
}
