import EventLog
import Synchronization
import TimeSource

extension KafkaLog {
    // MARK: The newest records

    public func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace? {
        if let tip, configuration.followed.contains(topic) {
            return tip.lastPlace(
                topic, feed: feed, exchange: exchange, symbol: symbol, count: partitionCount(topic))
        }
        return lastPlaces(topic).first { $0.feed == feed && $0.exchange == exchange && $0.symbol == symbol }
    }

    public func lastPlaces(_ topic: Topic) -> [LastPlace] {
        if let tip, configuration.followed.contains(topic) { return KafkaLog.sorted(tip.lastPlaces(topic)) }
        if let known = state.withLock({ $0.lastPlaces[topic] }) { return known }
        let found = KafkaLog.sorted(readLastPlaces(topic))
        state.withLock { $0.lastPlaces[topic] = found }
        return found
    }

    private static func sorted(_ places: [LastPlace]) -> [LastPlace] {
        places.sorted { ($0.exchange, $0.symbol, $0.feed) < ($1.exchange, $1.symbol, $1.feed) }
    }

    /// Reads the ends of a topic's partitions once. What cannot be read is reported, and counts as not there.
    private func readLastPlaces(_ topic: Topic) -> [LastPlace] {
        let places = (0..<partitionCount(topic)).map { TopicPartition(topic, UInt16($0)) }
        guard !places.isEmpty else { return [] }
        do throws(LogError) {
            let starts = try cluster.offsets(places, at: KafkaCluster.earliest)
            let ends = try cluster.offsets(places, at: KafkaCluster.latest)
            let tail = try TipReader(
                configuration, KafkaLog.backlog(places, starts, ends, configuration), time: time, report: notify)
            defer { tail.stop() }
            let untilNs = time.monotonicNs() + configuration.requestTimeoutNs
            if !tail.waitUntilCaughtUp(untilNs: untilNs, time: time) {
                report("the newest records of \(topic) could not all be read in time")
            }
            return tail.lastPlaces(topic)
        } catch {
            report("the newest records of \(topic) cannot be read: \(error.message)")
            return []
        }
    }

    // MARK: Groups

    public func join(group: String, _ topic: Topic) throws(LogError) -> any GroupMembership {
        let made = try KafkaMembership(group, topic, log: self)
        state.withLock { $0.memberships.append(made) }
        return made
    }

    func left(_ membership: KafkaMembership) {
        state.withLock { $0.memberships.removeAll { $0 === membership } }
    }

    public func committedOffset(group: String, _ place: TopicPartition) throws(LogError) -> UInt64? {
        try asking(group) { handle throws(LogError) in try cluster.committed(handle, [place])[place] }
    }

    public func fence() throws(LogError) { try transactions().fence() }

    public func commit(_ offsets: [GroupOffset]) throws(LogError) {
        for group in Set(offsets.map(\.group)) {
            try asking(group) { handle throws(LogError) in
                try cluster.commit(handle, offsets.filter { $0.group == group })
            }
        }
    }

    /// Calls `body` with a client that speaks for a group without being a member of it.
    private func asking<R>(_ group: String, _ body: (KafkaHandle) throws(LogError) -> R) throws(LogError) -> R {
        let handle = try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.groups[group] {
                state.groups[group]?.users += 1
                return known.handle
            }
            let made = try KafkaHandle(
                .consumer, configuration,
                ConsumerSettings.common + [("group.id", configuration.name(ofGroup: group))], report: notify)
            state.groups[group] = GroupClient(handle: made)
            return made
        }
        defer {
            state.withLock { state in
                state.groups[group]?.users -= 1
                state.groups[group]?.usedNs = time.monotonicNs()
            }
        }
        return try body(handle)
    }

    /// A client costs processor time though nobody asks: those that were not asked for a while go.
    func dropIdleGroups(_ nowNs: Int64) {
        let idle = state.withLock { state in
            let idle = state.groups.filter { $0.value.users == 0 && nowNs - $0.value.usedNs > KafkaLog.groupIdleNs }
            for group in idle.keys { state.groups[group] = nil }
            return idle
        }
        for group in idle.values { group.handle.destroy() }
    }

    private static let groupIdleNs: Int64 = 5_000_000_000
}

/// A client that speaks for a group, and who is asking by it.
struct GroupClient {
    let handle: KafkaHandle
    var users = 1
    var usedNs: Int64 = 0
}
