import MarketModel
import TickStore

/// One repair: compares, lists and counts, asks, puts right, and compares again.
public struct RepairRun {
    /// What came of it.
    public struct Outcome: Sendable {
        /// As it was.
        public var before: AuditResult
        /// As it is; nil where nothing was done.
        public var after: AuditResult?
        public var repaired = TapeAudit.Repaired()
        public var rounds = 0
        /// With which write times the last round wrote.
        public var stamp = RepairStamp(generation: 0)

        /// Minutes of filing time that were compared.
        public var tapeMinutes: Double {
            guard let times = before.timesNs else { return 0 }
            let (span, overflow) = times.upperBound.subtractingReportingOverflow(times.lowerBound)
            return overflow ? 0 : Double(span) / 60e9
        }
    }

    /// Rounds at most: the first as the design has it, the second with write times past now, against deletions that are
    /// younger than the rows.
    private static let roundsMax = 2

    private let audit: TapeAudit
    private let wallNs: () -> Int64

    /// `wallNs` reads the clock.
    public init(_ audit: TapeAudit, wallNs: @escaping () -> Int64) {
        self.audit = audit
        self.wallNs = wallNs
    }

    /// `difference` is told of every row before `isWanted` is asked; without it nothing is changed.
    public func run(
        difference: @escaping (AuditDifference) -> Void = { _ in },
        isWanted: (AuditResult) -> Bool
    ) throws -> Outcome {
        var wrong: [StoredBucket: Set<TickRowIdentity>] = [:]
        var wrongCount = 0
        let before = try audit.compare(
            TapeAudit.Listener(difference: { found in
                difference(found)
                guard found.kind == .wrongKey else { return }
                wrongCount += 1
                if wrongCount <= TapeAudit.wrongRowsMax { wrong[found.bucket, default: []].insert(found.key) }
            }))
        var outcome = Outcome(before: before)
        guard !before.total.isEqual else { return outcome }
        guard wrongCount <= TapeAudit.wrongRowsMax else {
            throw RepairError(
                "\(wrongCount) rows are under wrong keys, more than \(TapeAudit.wrongRowsMax): repair a shorter range")
        }
        guard isWanted(before) else { return outcome }
        var last = before
        while !last.total.isEqual, outcome.rounds < RepairRun.roundsMax {
            outcome.stamp = RepairStamp(
                generation: max(0, (last.leadMicroseconds.map { $0 == .max ? $0 : $0 + 1 }) ?? 0),
                floorMicroseconds: outcome.rounds == 0 ? .min : floorDivide(wallNs(), by: 1000))
            let repaired = try audit.repair(last.differing, deleting: wrong, outcome.stamp)
            outcome.repaired.written += repaired.written
            outcome.repaired.removed += repaired.removed
            outcome.rounds += 1
            last = try audit.compare()
            outcome.after = last
        }
        return outcome
    }
}

/// Why a repair did not go on.
public struct RepairError: Error, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
