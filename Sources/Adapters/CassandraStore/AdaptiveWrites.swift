/// How many batches are on their way at once, and how many rows one has at most: additive increase, multiplicative
/// decrease. Pure.
///
/// An answer within the target lets one more batch go for each `inFlightMax` such answers, where the bound was reached.
/// An answer past the target takes a quarter of the batches; a node that says that it has too much, or does not answer,
/// takes a quarter of the batches and half of the rows of one. Either is done at most once in a target's time, so that
/// what was sent before is not counted again.
struct AdaptiveWrites: Equatable, Sendable {
    static let inFlightBounds = 8...512
    static let rowsMin = 25

    let targetMilliseconds: UInt64
    private let rowsBound: Int
    private(set) var inFlightMax = 64
    private(set) var rowsMax: Int
    private var inTime = 0
    private var cutAtMilliseconds: UInt64?

    init(targetMilliseconds: UInt64, rowsMax: Int) {
        self.targetMilliseconds = targetMilliseconds
        rowsBound = rowsMax
        self.rowsMax = rowsMax
    }

    /// A batch was written. `isFull`: no more could have been on their way.
    mutating func answered(after milliseconds: UInt64, at now: UInt64, isFull: Bool) {
        guard milliseconds <= targetMilliseconds else { return cut(at: now, rows: false) }
        inTime += 1
        guard inTime >= inFlightMax else { return }
        inTime = 0
        if isFull { inFlightMax = min(inFlightMax + 1, AdaptiveWrites.inFlightBounds.upperBound) }
        rowsMax = min(rowsMax + AdaptiveWrites.rowsMin, rowsBound)
    }

    /// The node has too much to do, or did not answer.
    mutating func refused(at now: UInt64) { cut(at: now, rows: true) }

    private mutating func cut(at now: UInt64, rows: Bool) {
        if let last = cutAtMilliseconds, now &- last < targetMilliseconds { return }
        cutAtMilliseconds = now
        inTime = 0
        inFlightMax = max(inFlightMax * 3 / 4, AdaptiveWrites.inFlightBounds.lowerBound)
        if rows { rowsMax = max(rowsMax / 2, min(AdaptiveWrites.rowsMin, rowsBound)) }
    }
}
