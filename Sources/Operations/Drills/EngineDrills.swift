/// What happens to engines under a platform. Their hooks are commands of whoever runs them.
struct EngineDrills {
    private let cluster: DrilledCluster

    init(_ cluster: DrilledCluster) { self.cluster = cluster }

    private static let acknowledged = "kafka_produce_records_total"

    /// A broker killed, started again, and one that stands still.
    func broker() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.waitForRows(writer)
        let hooks = cluster.setup.hooks
        for round in 1...cluster.setup.rounds {
            try cluster.run(hooks.kill)
            cluster.progress("round \(round): killed; the feed took \(try stall(seconds: 3)) s to go on")
            try cluster.run(hooks.start)
            cluster.progress("round \(round): started again; stored after \(try stored()) s")
            guard hooks.pause != nil else {
                cluster.progress("round \(round): no --engine-pause, so none stood still")
                continue
            }
            try cluster.run(hooks.pause)
            cluster.progress(
                "round \(round): one stands still for \(cluster.setup.awaySeconds) s; the feed took "
                    + "\(try stall(seconds: cluster.setup.awaySeconds)) s to go on")
            try cluster.run(hooks.resume)
            cluster.progress("round \(round): resumed; stored after \(try stored()) s")
        }
        try waitForSpill()
        try cluster.finish()
    }

    /// The longest time, in seconds, in which the brokers acknowledged nothing of the feed: from now on, for some
    /// seconds and until something is acknowledged.
    private func stall(seconds: Int) throws -> Double {
        let fromNs = Drill.monotonicNs()
        var last = cluster.feed?.read()[EngineDrills.acknowledged] ?? 0
        var sinceNs = fromNs
        var longestNs: Int64 = 0
        while true {
            Drill.pause(milliseconds: 50)
            let nowNs = Drill.monotonicNs()
            let records = cluster.feed?.read()[EngineDrills.acknowledged] ?? last
            longestNs = max(longestNs, nowNs - sinceNs)
            if records > last {
                last = records
                sinceNs = nowNs
                if nowNs - fromNs > Int64(seconds) * 1_000_000_000 { break }
            }
            // What is down by intent may hold all of it; more than two minutes past that are too long.
            guard nowNs - fromNs < Int64(seconds + 120) * 1_000_000_000 else {
                throw DrillError("the brokers acknowledge nothing of the feed for \(seconds + 120) s")
            }
        }
        let longest = Double(longestNs) / 1e9
        cluster.result.recoverySeconds = max(cluster.result.recoverySeconds, longest)
        return (longest * 10).rounded() / 10
    }

    private func stored() throws -> Double {
        let seconds = try cluster.waitUntilStored()
        return (seconds * 10).rounded() / 10
    }

    private func waitForSpill() throws {
        try cluster.wait("the feed does not drain its spill", seconds: 120) {
            guard let figures = cluster.feed?.read() else { return true }
            func records(_ what: String) -> Double { figures["tapedeck_spill_records_total{what=\"\(what)\"}"] ?? 0 }
            return !figures.isEmpty && records("spilled") <= records("drained")
        }
    }

    /// The only node away for a while: the writer waits, holds what fits, and goes on.
    func store() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.waitForRows(writer)
        let fromNs = Drill.wallNs()
        for round in 1...cluster.setup.rounds {
            try cluster.run(cluster.setup.hooks.kill)
            cluster.progress("round \(round): the store is away for \(cluster.setup.awaySeconds) s")
            try away(writer)
            try cluster.run(cluster.setup.hooks.start)
            let startedNs = Drill.monotonicNs()
            let before = cluster.rows(writer) ?? 0
            try cluster.waitForRows(writer, after: before, seconds: 120)
            let seconds = try cluster.waitUntilStored()
            let whole = Double(Drill.monotonicNs() - startedNs) / 1e9
            cluster.result.recoverySeconds = max(cluster.result.recoverySeconds, whole)
            cluster.progress(
                "round \(round): the store is back; the log of then is stored after \((seconds * 10).rounded() / 10) s")
        }
        // The same writer all the time: killed now, so that the offsets can be held against what there is.
        try writer.kill()
        cluster.forget(writer)
        try cluster.checkOffsets(since: fromNs - 30_000_000_000)
        try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.finish()
    }

    private func away(_ writer: StartedService) throws {
        for _ in 0..<cluster.setup.awaySeconds * 4 {
            Drill.pause(milliseconds: 250)
            guard writer.isRunning else {
                throw DrillError("the writer ended; its messages are in \(writer.messages)")
            }
            _ = cluster.rows(writer)
        }
    }

    /// One node of several killed: rows go on, and what was written is read at LOCAL_QUORUM from the others.
    func node() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer", ["--instance", "drill-writer"])
        try cluster.waitForRows(writer)
        for round in 1...cluster.setup.rounds {
            let fromNs = Drill.wallNs()
            let killedNs = Drill.monotonicNs()
            let before = cluster.rows(writer) ?? 0
            try cluster.run(cluster.setup.hooks.kill)
            try cluster.waitForRows(writer, after: before, seconds: 60)
            try cluster.waitUntilStored()
            cluster.result.recoverySeconds = max(
                cluster.result.recoverySeconds, Double(Drill.monotonicNs() - killedNs) / 1e9)
            try away(writer)
            try writer.kill()
            cluster.forget(writer)
            try cluster.checkOffsets(since: fromNs - 30_000_000_000)
            cluster.progress("round \(round): without the node every row is read")
            let again = try cluster.startWriter("writer", ["--instance", "drill-writer"])
            try cluster.waitForRows(again)
            try cluster.run(cluster.setup.hooks.start)
            cluster.progress("round \(round): the node is back")
            guard round < cluster.setup.rounds else { break }
            try cluster.waitUntilStored()
            try again.stop()
            cluster.forget(again)
        }
        try cluster.finish()
    }
}
