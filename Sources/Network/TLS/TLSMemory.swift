import COpenSSL
import Glibc

/// What OpenSSL reads from and writes to in place of a socket: the bytes that just arrived, where they lie, and a
/// buffer that grows.
struct TLSMemory {
    private var input: UnsafeRawPointer?
    private(set) var inputCount = 0
    private var output: UnsafeMutableRawPointer?
    private(set) var outputCount = 0
    private var outputCapacity = 0

    /// The bytes must stay until ``endInput()``.
    mutating func setInput(_ bytes: UnsafeRawBufferPointer) {
        input = bytes.baseAddress
        inputCount = bytes.count
    }

    /// What OpenSSL left of the input, which is forgotten.
    mutating func endInput() -> UnsafeRawBufferPointer {
        let rest = UnsafeRawBufferPointer(start: input, count: inputCount)
        input = nil
        inputCount = 0
        return rest
    }

    var outputBytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: output, count: outputCount) }

    /// Forgets the output and gives its memory back.
    mutating func releaseOutput() {
        free(output)
        output = nil
        outputCount = 0
        outputCapacity = 0
    }

    fileprivate mutating func read(_ target: UnsafeMutableRawPointer, _ count: Int) -> Int {
        guard let input, inputCount > 0 else { return 0 }
        let taken = min(count, inputCount)
        target.copyMemory(from: input, byteCount: taken)
        self.input = input + taken
        inputCount -= taken
        return taken
    }

    /// Whether there was memory for it.
    fileprivate mutating func append(_ source: UnsafeRawPointer, _ count: Int) -> Bool {
        if count > outputCapacity - outputCount {
            let capacity = max(outputCount + count, outputCapacity * 2, 1 << 10)
            guard let larger = realloc(output, capacity) else { return false }
            output = larger
            outputCapacity = capacity
        }
        guard let output else { return false }
        (output + outputCount).copyMemory(from: source, byteCount: count)
        outputCount += count
        return true
    }

    /// OpenSSL's view of a memory, which must outlive it.
    static func makeBIO(_ memory: UnsafeMutablePointer<TLSMemory>) -> OpaquePointer? {
        guard let bio = BIO_new(method) else { return nil }
        BIO_set_data(bio, memory)
        BIO_set_init(bio, 1)
        return bio
    }

    private nonisolated(unsafe) static let method: OpaquePointer? = {
        let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "memory of a loop")
        BIO_meth_set_read_ex(method) { bio, target, count, taken in
            copenssl_clear_retry(bio)
            guard let target, let memory = TLSMemory.of(bio) else { return 0 }
            let read = memory.pointee.read(target, count)
            taken?.pointee = read
            if read == 0 { copenssl_retry_read(bio) }
            return read > 0 ? 1 : 0
        }
        BIO_meth_set_write_ex(method) { bio, source, count, written in
            copenssl_clear_retry(bio)
            guard let source, let memory = TLSMemory.of(bio), memory.pointee.append(source, count) else { return 0 }
            written?.pointee = count
            return 1
        }
        BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
        return method
    }()

    private static func of(_ bio: OpaquePointer?) -> UnsafeMutablePointer<TLSMemory>? {
        BIO_get_data(bio)?.assumingMemoryBound(to: TLSMemory.self)
    }
}
