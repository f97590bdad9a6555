/// Settings of librdkafka's clients that ask questions or are members of groups: they read a record at most.
enum ConsumerSettings {
    /// Offsets are never chosen by the library: a missing one is somebody's decision.
    static let common: [(String, String)] = [
        ("enable.auto.commit", "false"), ("enable.auto.offset.store", "false"), ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"), ("enable.partition.eof", "true"), ("fetch.wait.max.ms", "100"),
    ]
}
