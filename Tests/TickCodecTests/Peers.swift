import Foundation
import TestSupport

/// Google's own encoders and decoders, run as processes on files of records: a length in 4 bytes, little endian, and
/// bytes.
enum Peers {
    static let protoc = ["/usr/bin/protoc", "/usr/local/bin/protoc", "/opt/homebrew/bin/protoc"]
        .first { FileManager.default.isExecutableFile(atPath: $0) }
    static let schema = "financial/marketdata/v1/market_data.proto"

    /// What `script` writes to standard output, given the input file as its first argument.
    static func python(_ script: String, input: [UInt8] = [], _ arguments: [String] = []) throws -> [UInt8] {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("tickcodec-\(UUID().uuidString)")
        try Data(input).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        return try run(Checkout.python, ["-c", prelude + script, Checkout.path + "/proto", file.path] + arguments, [])
    }

    static func run(_ path: String, _ arguments: [String], _ input: [UInt8]) throws -> [UInt8] {
        let folder = FileManager.default.temporaryDirectory
        let (source, sink) = (
            folder.appendingPathComponent(UUID().uuidString), folder.appendingPathComponent(UUID().uuidString)
        )
        try Data(input).write(to: source)
        try Data().write(to: sink)
        defer {
            try? FileManager.default.removeItem(at: source)
            try? FileManager.default.removeItem(at: sink)
        }
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardInput = try FileHandle(forReadingFrom: source)
        process.standardOutput = try FileHandle(forWritingTo: sink)
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw PeerFailed(path: path, status: process.terminationStatus) }
        return Array(try Data(contentsOf: sink))
    }

    struct PeerFailed: Error {
        let path: String
        let status: Int32
    }

    static func frame(_ record: [UInt8]) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: record.count >> (8 * $0)) } + record
    }

    static func records(_ bytes: [UInt8]) -> [[UInt8]] {
        var records: [[UInt8]] = []
        var place = 0
        while place + 4 <= bytes.count {
            let count = (0..<4).reduce(0) { $0 | Int(bytes[place + $1]) << (8 * $1) }
            records.append(Array(bytes[place + 4..<place + 4 + count]))
            place += 4 + count
        }
        return records
    }

    /// Loads the schema and prints messages as `line` in RandomTicks.swift does.
    private static let prelude = """
        import os, random, struct, sys, tempfile
        import grpc_tools
        from grpc_tools import protoc
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        proto, path = sys.argv[1], sys.argv[2]
        out = tempfile.NamedTemporaryFile(delete=False)
        include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
        assert protoc.main(["protoc", "-I" + proto, "-I" + include, "--include_imports",
                            "--descriptor_set_out=" + out.name, "financial/marketdata/v1/market_data.proto"]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(open(out.name, "rb").read())
        os.unlink(out.name)
        pool = descriptor_pool.DescriptorPool()
        for f in files.file:
            pool.Add(f)
        def message(name):
            return message_factory.GetMessageClass(pool.FindMessageTypeByName("financial.marketdata.v1." + name))
        PriceUpdate = message("PriceUpdate")
        def line(m):
            parts = []
            for f, v in sorted(m.ListFields(), key=lambda x: x[0].number):
                if f.number in (27, 28, 29): v = "1"
                elif f.message_type is not None: v = "%d.%d" % (v.seconds, v.nanos)
                elif isinstance(v, str): v = v.encode().hex()
                parts.append("%d=%s" % (f.number, v))
            return " ".join(parts)
        def records():
            data, place = open(path, "rb").read(), 0
            while place < len(data):
                n = struct.unpack_from("<I", data, place)[0]
                yield data[place + 4:place + 4 + n]
                place += 4 + n

        """
}
