import Foundation

/// A folder with an authority and certificates that it signs, made by `openssl` as an operator makes them.
public final class CertificateFolder {
    public static let openssl = "/usr/bin/openssl"
    public static var isPossible: Bool { FileManager.default.isExecutableFile(atPath: openssl) }

    private let folder: TemporaryFolder

    /// Makes the authorities `authority` and `stranger`.
    public init() throws {
        folder = try TemporaryFolder()
        for name in ["authority", "stranger"] {
            try openssl(
                ["req", "-x509", "-days", "2", "-subj", "/CN=\(name)"] + newKey(name) + [
                    "-out", file(name), "-addext", "basicConstraints=critical,CA:TRUE",
                ])
        }
    }

    /// The certificate of a name, or the file of an authority.
    public func file(_ name: String) -> String { folder.path + "/" + name + ".pem" }

    public func key(_ name: String) -> String { folder.path + "/" + name + ".key" }

    public var path: String { folder.path }

    /// Makes a certificate and its key. `names` are alternative names as openssl writes them; with negative `days` it
    /// is over.
    public func issue(_ name: String, _ names: String, days: Int = 2, by authority: String = "authority") throws {
        let request = folder.path + "/" + name + ".csr"
        let extensions = try folder.write(
            name + ".ext", Array("subjectAltName=\(names)\nbasicConstraints=CA:FALSE\n".utf8))
        try openssl(["req", "-subj", "/CN=\(name)"] + newKey(name) + ["-out", request])
        try openssl([
            "x509", "-req", "-in", request, "-CA", file(authority), "-CAkey", key(authority), "-CAcreateserial",
            "-days", "\(days)", "-extfile", extensions, "-out", file(name),
        ])
    }

    private func newKey(_ name: String) -> [String] {
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key(name)]
    }

    private struct Failure: Error {
        let arguments: [String]
        let text: String
    }

    private func openssl(_ arguments: [String]) throws {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: CertificateFolder.openssl)
        process.arguments = arguments
        let output = Pipe()
        process.standardError = output
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure(arguments: arguments, text: text) }
    }
}
