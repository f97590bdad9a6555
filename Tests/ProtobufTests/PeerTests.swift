import Foundation
import Protobuf
import TestSupport
import Testing

/// Held against Google's protobuf for Python and protoc, both ways.
@Suite(.enabled(if: Checkout.hasPython, "no .venv"))
struct PeerTests {
    private static let script = Checkout.path + "/Tests/ProtobufTests/Fixtures/peer.py"

    private func run(_ mode: String, _ folder: String, count: Int, seed: Int) throws -> String {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.python)
        process.arguments = [PeerTests.script, mode, folder, "\(count)", "\(seed)"]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return process.terminationStatus == 0 ? "" : text
    }

    @Test(arguments: [1, 2])
    func `Random messages of every field kind are the same to Python, protoc and us`(_ seed: Int) throws {
        let folder = NSTemporaryDirectory() + "tapedeck-peer-\(seed)-\(ProcessInfo.processInfo.processIdentifier)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let count = Checkout.isSoak ? 50_000 : 1000
        #expect(try run("make", folder, count: count, seed: seed) == "")
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder + "/python.bin")))
        var ours: [UInt8] = []
        var json = ""
        var position = 0
        while position < bytes.count {
            let length = bytes[position..<(position + 4)].reversed().reduce(0) { $0 << 8 | Int($1) }
            let message = try TestProto.EveryField(
                decoding: Array(bytes[(position + 4)..<(position + 4 + length)]))
            let encoded = message.encodedBytes()
            // A buffer of just that size holds it, and none that is smaller.
            for room in [0, encoded.count / 2, encoded.count - 1, encoded.count] where room >= 0 {
                let fits = [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
                    count = message.encode(into: UnsafeMutableRawBufferPointer(buffer)) ?? 0
                }
                #expect(fits == (room == encoded.count ? encoded : []))
            }
            #expect(try TestProto.EveryField(decoding: encoded).encodedBytes() == encoded)
            withUnsafeBytes(of: UInt32(encoded.count).littleEndian) { ours += $0 }
            ours += encoded
            json += message.json() + "\n"
            position += 4 + length
        }
        try Data(ours).write(to: URL(fileURLWithPath: folder + "/swift.bin"))
        try Data(json.utf8).write(to: URL(fileURLWithPath: folder + "/swift.json"))
        let complaint = try run("check", folder, count: count, seed: seed)
        #expect(complaint.isEmpty, "\(complaint)")
    }
}
