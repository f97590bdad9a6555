import Glibc

/// Counts heap objects of the Swift runtime (classes, arrays, strings, boxes), by the hook it keeps for profilers.
///
/// Not counted: memory that C code or `allocate` takes. Not for use while other threads run.
enum Allocations {
    private typealias Allocate = @convention(c) (UnsafeRawPointer?, Int, Int) -> UnsafeMutableRawPointer?

    nonisolated(unsafe) private static var count = 0
    nonisolated(unsafe) private static var original: Allocate?

    /// How many objects `body` allocates; nil where the runtime's hook is not exported (a static binary).
    static func count(_ body: () -> Void) -> Int? {
        guard let hook = dlsym(nil, "_swift_allocObject"),
            let isOn = dlsym(nil, "_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly")
        else { return nil }
        let place = hook.assumingMemoryBound(to: Allocate.self)
        let flag = isOn.assumingMemoryBound(to: Bool.self)
        original = place.pointee
        count = 0
        place.pointee = { metadata, size, alignmentMask in
            Allocations.count += 1
            return Allocations.original?(metadata, size, alignmentMask)
        }
        flag.pointee = true
        body()
        flag.pointee = false
        if let original { place.pointee = original }
        return count
    }
}
