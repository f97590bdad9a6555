// Coverage-guided fuzzing (libFuzzer and AddressSanitizer) of every parser: `make fuzz`, or `scripts/fuzz TARGET`.
//
// A new parser gets a target: a `FuzzTarget` in the file of its layer, and its place in `FuzzTarget.all`.

import Glibc

/// One parser, and what must hold for any bytes given to it.
struct FuzzTarget: Sendable {
    /// As it is chosen on the command line.
    let name: String
    /// The longest input tried, bytes: as short as all that the parser tells apart allows, since long ones cost time.
    let lengthMax: Int
    /// Inputs to start from: what the encoders make, and real messages where ../shared is there.
    let seeds: @Sendable () -> [[UInt8]]
    /// Takes any bytes. Does not return where a property does not hold (``require(_:_:)``).
    let run: @Sendable (UnsafeRawBufferPointer) -> Void

    static let all: [FuzzTarget] = [
        // Wire
        .protobuf, .tick, .decimal, .dns, .http1Response, .cqlBody, .cqlFraming, .cqlValue, .cqlType, .kafkaAnswer,
        .kafkaRecords,
        .binance, .kraken, .coinbase,
        // Ports and adapters
        .block, .segment, .recovery, .rowBlock, .storeRecord,
        // Network
        .http2Server, .http2Client, .tlsRecords, .grpcFraming, .grpcMetadata, .grpcWeb, .grpcCompression, .grpcText,
        .resumeToken,
        // Client
        .subscribeFrames,
        // App
        .config,
    ]
}

/// Ends the process, which libFuzzer reports as a crash with its input, where a property does not hold.
func require(_ condition: Bool, _ what: @autoclosure () -> String, line: Int = #line, file: String = #fileID) {
    if condition { return }
    standardError("\(file):\(line): property does not hold: \(what())\n")
    abort()
}

func standardError(_ text: String) {
    let bytes = Array(text.utf8)
    _ = Glibc.write(2, bytes, bytes.count)
}

/// A copy that lies in memory of its own, so that AddressSanitizer sees a read past it.
func withCopy<Result>(_ bytes: [UInt8], _ body: (UnsafeMutableRawBufferPointer) -> Result) -> Result {
    let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 16)
    defer { copy.deallocate() }
    copy.copyBytes(from: bytes)
    return body(copy)
}

extension UnsafeMutableRawBufferPointer {
    func setLE<T: FixedWidthInteger>(_ value: T, at position: Int) {
        storeBytes(of: value.littleEndian, toByteOffset: position, as: T.self)
    }
}

extension UnsafeRawBufferPointer {
    func le<T: FixedWidthInteger>(_ position: Int, _: T.Type = T.self) -> T {
        T(littleEndian: loadUnaligned(fromByteOffset: position, as: T.self))
    }

    func dropping(_ count: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: self[Swift.min(count, self.count)...])
    }
}
