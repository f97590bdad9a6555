import EventLog

/// Decides, on the thread that appended, which loops have to read it at once. What no stream of a loop wants is put
/// off: a wake-up costs more than a hundred records that nobody asked for.
///
/// A block is in the log before this is asked, and a loop says what it wants before it reads the log: whichever is
/// first, the loop reads the block.
struct TapeWaking: Sendable {
    /// Loops after these are woken for everything.
    private static let loopsMax = 64

    private let loops: [TapeInterest]

    init(_ loops: [TapeInterest]) { self.loops = loops }

    /// These became visible; nil: something did.
    func appended(_ blocks: [Block]?) {
        guard let blocks else { return loops.forEach { $0.wake() } }
        // One bit for each loop that is still to be decided on, and that wants some symbols.
        var asked: UInt64 = 0
        var idle: UInt64 = 0
        for (number, loop) in loops.enumerated() {
            if number >= TapeWaking.loopsMax || loop.wantsEverything {
                loop.wake()
            } else if loop.wantsNothing {
                idle |= 1 << UInt64(number)
            } else {
                asked |= 1 << UInt64(number)
            }
        }
        let bytes = blocks.reduce(0) { $0 + $1.recordsLength + TapeInterest.blockBytes }
        for block in blocks where asked != 0 { wake(for: block, &asked) }
        forEach(idle | asked) { if $0.putOff(bytes: bytes) { $0.wake() } }
    }

    private func wake(for block: Block, _ asked: inout UInt64) {
        for track in 0..<block.trackCount where asked != 0 {
            let bit = TapeInterest.bit(block.symbolBytes(track: track))
            var rest = asked
            while rest != 0 {
                let number = rest.trailingZeroBitCount
                rest &= rest - 1
                let loop = loops[number]
                guard bit.map(loop.wants(bit:)) ?? true else { continue }
                loop.wake()
                asked &= ~(1 << UInt64(number))
            }
        }
    }

    private func forEach(_ numbers: UInt64, _ body: (TapeInterest) -> Void) {
        var rest = numbers
        while rest != 0 {
            body(loops[rest.trailingZeroBitCount])
            rest &= rest - 1
        }
    }
}
