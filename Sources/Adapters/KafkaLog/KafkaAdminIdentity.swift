import EventLog

extension KafkaAdmin {
    /// The id of the log that these topics are: what ``KafkaLog/identity`` has, and tokens carry.
    public func logID() throws(LogError) -> UInt64 { try cluster.id() }
}
