import Glibc

// What libFuzzer, which brings `main`, calls. The target is chosen by TAPEDECK_FUZZ_TARGET; `list` prints the names and
// the longest inputs.

private let chosen: FuzzTarget = {
    let name = getenv("TAPEDECK_FUZZ_TARGET").map { String(cString: $0) } ?? ""
    if let target = FuzzTarget.all.first(where: { $0.name == name }) { return target }
    standardError("TAPEDECK_FUZZ_TARGET is one of:\n")
    for target in FuzzTarget.all { print(target.name, target.lengthMax) }
    exit(name == "list" ? 0 : 2)
}()

/// Writes the target's seeds to the folder TAPEDECK_FUZZ_SEEDS, which is then among libFuzzer's corpora.
@_cdecl("LLVMFuzzerInitialize")
func initialize(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>>>
) -> CInt {
    let target = chosen
    guard let folder = getenv("TAPEDECK_FUZZ_SEEDS").map({ String(cString: $0) }) else { return 0 }
    for (index, seed) in target.seeds().enumerated() {
        guard let file = fopen("\(folder)/seed-\(index)", "wb") else {
            standardError("cannot write to \(folder)\n")
            exit(2)
        }
        fwrite(seed, 1, seed.count, file)
        fclose(file)
    }
    return 0
}

/// Runs one input.
@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    chosen.run(UnsafeRawBufferPointer(start: bytes, count: count))
    return 0
}
