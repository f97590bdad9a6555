import Simulation
import Testing

@testable import EdgeService

struct PendingBytesTests {
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `Bytes come out as they went in, and hold no more memory than is said`(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var pending = PendingBytes()
        let waitingMax = Int.random(in: 1000...2_000_000, using: &random)
        var put: UInt64 = 0
        var taken: UInt64 = 0
        var isRight = true
        var buffer = [UInt8](repeating: 0, count: 20_000)
        for _ in 0..<3000 {
            let count = Int.random(in: 0...20_000, using: &random)
            if pending.count + count <= waitingMax, random.once(in: 2) || pending.count < waitingMax / 2 {
                let bytes = (0..<count).map { UInt8(truncatingIfNeeded: put &+ UInt64($0)) }
                bytes.withUnsafeBytes { pending.append($0) }
                put += UInt64(count)
            } else {
                let got = buffer.withUnsafeMutableBytes {
                    pending.take(into: UnsafeMutableRawBufferPointer(rebasing: $0[..<count]))
                }
                for index in 0..<got where buffer[index] != UInt8(truncatingIfNeeded: taken &+ UInt64(index)) {
                    isRight = false
                }
                taken += UInt64(got)
            }
            #expect(UInt64(pending.count) == put - taken)
            #expect(pending.heldBytes <= 3 * waitingMax + (256 << 10))
        }
        #expect(isRight && taken > 0, "seed \(seed)")
    }
}
