// protoc's plugin for Swift: reads a CodeGeneratorRequest on standard input, writes a CodeGeneratorResponse.
//
//     protoc --plugin=protoc-gen-tapedeck=PATH --tapedeck_out=OUT --tapedeck_opt=namespace=Proto FILE...
//
// Options, separated by commas: namespace=NAME (the enum that holds the types, declared by the first file's companion
// Namespace.swift), runtime (the types are the runtime's own: no import of Protobuf).

import Glibc
import Protobuf

func readAll() -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while case let count = read(0, &chunk, chunk.count), count > 0 { bytes += chunk[..<count] }
    return bytes
}

/// A CodeGeneratorResponse (plugin.proto).
func response(_ files: [(name: String, text: String)], error: String?) -> [UInt8] {
    var out: [UInt8] = []
    func varint(_ value: Int) {
        var value = value
        while value >= 0x80 {
            out.append(UInt8(value & 0x7f) | 0x80)
            value >>= 7
        }
        out.append(UInt8(value))
    }
    func delimited(_ number: Int, _ bytes: [UInt8]) {
        varint(number << 3 | 2)
        varint(bytes.count)
        out += bytes
    }
    func field(_ number: Int, _ text: String) -> [UInt8] {
        let outer = out
        out = []
        delimited(number, Array(text.utf8))
        defer { out = outer }
        return out
    }
    if let error { delimited(1, Array(error.utf8)) }
    // supported_features: FEATURE_PROTO3_OPTIONAL
    varint(2 << 3)
    varint(1)
    for file in files { delimited(15, field(1, file.name) + field(15, file.text)) }
    return out
}

func generate() -> [UInt8] {
    do {
        let request = try GeneratorRequest(readAll())
        var namespace = "Proto"
        var isRuntime = false
        for option in request.parameter.split(separator: ",") {
            if option.hasPrefix("namespace=") {
                namespace = String(option.dropFirst("namespace=".count))
            } else if option == "runtime" {
                isRuntime = true
            } else {
                return response([], error: "unknown option \(option): namespace=NAME and runtime are known")
            }
        }
        let types = TypeTable(request, namespace: namespace)
        var files: [(name: String, text: String)] = []
        for file in request.files where request.filesToGenerate.contains(file.name) {
            let generator = FileGenerator(file, types, namespace: namespace, isRuntime: isRuntime)
            files.append((generator.outputName, generator.generate()))
        }
        return response(files, error: nil)
    } catch {
        return response([], error: "the request cannot be read: \(error)")
    }
}

let bytes = generate()
var written = 0
while written < bytes.count {
    let count = bytes.withUnsafeBytes { write(1, $0.baseAddress! + written, bytes.count - written) }
    if count <= 0 { exit(1) }
    written += count
}
