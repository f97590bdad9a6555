import CMallocCount

/// Counts what a piece of code allocates, on the calling thread.
///
/// The first count changes the process for good: every call of `malloc` and its kin takes an instruction or two more,
/// in all loaded libraries. To be made before other threads are started; a bench does so before it measures.
public enum Allocations {
    /// Calls of `malloc`, `calloc`, `realloc` and the aligned ones on this thread while `body` ran. Nil where the
    /// system is none on which they can be counted (anything but Linux on x86-64 or AArch64).
    public static func count(_ body: () -> Void) -> Int? {
        guard malloc_count_start() == 0 else { return nil }
        let before = malloc_count_now()
        body()
        return Int(malloc_count_now() - before)
    }
}
