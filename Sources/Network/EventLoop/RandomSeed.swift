/// A seed from the system's randomness, for what must differ between processes: jitter, and where a round begins.
public enum RandomSeed {
    /// Another one with each call. From any thread.
    public static func make() -> UInt64 {
        var system = SystemRandomNumberGenerator()
        return system.next()
    }
}
