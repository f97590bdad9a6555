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
        try admin().committed(configuration.name(ofGroup: group), place)
    }

    public func fence() throws(LogError) { try transactions().fence() }

    public func commit(_ offsets: [GroupOffset]) throws(LogError) {
        for (group, offsets) in Dictionary(grouping: offsets, by: \.group) {
            let places = Dictionary(offsets.map { ($0.place, $0.offset) }) { $1 }
            try admin().reset(configuration.name(ofGroup: group), to: places)
        }
    }

    private func admin() throws(LogError) -> KafkaAdmin {
        if state.withLock({ $0.isClosed }) { throw LogError(.closed, "the log is closed") }
        return KafkaAdmin(configuration, by: reader, report: notify)
    }
}
