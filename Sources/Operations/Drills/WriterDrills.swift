import Glibc

/// What happens to writers in the life of a platform: killed, rolled, more and fewer of them.
struct WriterDrills {
    private let cluster: DrilledCluster

    init(_ cluster: DrilledCluster) { self.cluster = cluster }

    private func recovered(since fromNs: Int64) {
        let seconds = Double(Drill.monotonicNs() - fromNs) / 1e9
        cluster.result.recoverySeconds = max(cluster.result.recoverySeconds, seconds)
    }

    // A fixed name, so that its partitions do not wait for the death of the one before.
    private static let fixedName = ["--instance", "drill-writer"]

    /// kill -9 at random moments; after each, what is not stored may not be behind the offsets.
    func kill() throws {
        try cluster.startFeed()
        var fromNs = Drill.wallNs()
        for round in 1...cluster.setup.rounds {
            let startedNs = Drill.monotonicNs()
            let writer = try cluster.startWriter("writer", WriterDrills.fixedName)
            try cluster.waitForRows(writer)
            if round > 1 { recovered(since: startedNs) }
            cluster.pause(milliseconds: 100...1500)
            _ = cluster.rows(writer)
            try writer.kill()
            cluster.forget(writer)
            // Rows that were written again are those of a second before the kill before.
            try cluster.checkOffsets(since: fromNs - 30_000_000_000)
            fromNs = Drill.wallNs()
            cluster.progress("kill \(round) of \(cluster.setup.rounds): \(cluster.result.problems.count) problems")
        }
        let startedNs = Drill.monotonicNs()
        let writer = try cluster.startWriter("writer", WriterDrills.fixedName)
        try cluster.waitForRows(writer)
        recovered(since: startedNs)
        try cluster.finish()
    }

    /// Three writers with fixed names; each is ended in order and started again, while the feed goes on.
    func roll() throws {
        try cluster.startFeed()
        let names = ["writer-1", "writer-2", "writer-3"]
        var writers = try names.map { try cluster.startWriter($0, ["--instance", "drill-" + $0]) }
        for writer in writers { try cluster.waitForRows(writer) }
        for round in 1...cluster.setup.rounds {
            for (index, name) in names.enumerated() {
                let fromNs = Drill.monotonicNs()
                try writers[index].stop()
                cluster.forget(writers[index])
                writers[index] = try cluster.startWriter(name, ["--instance", "drill-" + name])
                try cluster.waitForRows(writers[index])
                recovered(since: fromNs)
                cluster.pause(milliseconds: 100...800)
            }
            cluster.progress("round \(round) of \(cluster.setup.rounds): each of three started again")
        }
        try cluster.finish()
    }

    /// One, then four, then two; each of the four stores rows of partitions that another had.
    func scale() throws {
        guard cluster.places.count >= 4 else {
            throw DrillError("writer-scale needs 4 partitions, for 4 writers: --partitions 8")
        }
        try cluster.startFeed()
        let first = try cluster.startWriter("writer-1")
        try cluster.waitForRows(first)
        var writers = [first]
        for round in 1...cluster.setup.rounds {
            let fromNs = Drill.monotonicNs()
            for number in writers.count + 1...4 { writers.append(try cluster.startWriter("writer-\(number)-\(round)")) }
            for writer in writers.dropFirst(round == 1 ? 1 : 2) { try cluster.waitForRows(writer) }
            recovered(since: fromNs)
            cluster.progress("round \(round): four write")
            cluster.pause(milliseconds: 300...1500)
            let goneNs = Drill.monotonicNs()
            for writer in writers.suffix(2) {
                try writer.stop()
                cluster.forget(writer)
            }
            writers.removeLast(2)
            let before = writers.map { cluster.rows($0) ?? 0 }
            for (writer, rows) in zip(writers, before) { try cluster.waitForRows(writer, after: rows) }
            try cluster.waitUntilStored()
            recovered(since: goneNs)
            cluster.progress("round \(round): two have it all again")
        }
        try cluster.finish()
    }
}
