import Foundation

/// The folder of recordings, vectors and tools beside the checkout, which tests read and the repository does not hold.
///
/// A test that needs it carries `.enabled(if: SharedData.isPresent, "../shared is absent")`; `make test` counts the
/// skipped.
public enum SharedData {
    public static let isPresent = FileManager.default.fileExists(atPath: root)

    /// Path of `../shared/<path>`.
    public static func path(_ path: String) -> String { root + "/" + path }

    private static let root = Checkout.path + "/../shared"
}

/// The checkout that the tests were built from.
public enum Checkout {
    public static let path: String = {
        var url = URL(fileURLWithPath: #filePath)
        while url.path != "/" {
            url.deleteLastPathComponent()
            let manifest = url.appendingPathComponent("Package.swift")
            if FileManager.default.fileExists(atPath: manifest.path) { return url.path }
        }
        return FileManager.default.currentDirectoryPath
    }()

    /// Python with the packages of Tests/requirements.txt; `make deps` makes it.
    public static let python = path + "/.venv/bin/python"
    public static let hasPython = FileManager.default.isExecutableFile(atPath: python)
    /// Long forms of fuzz tests, drills and simulations: `make soak`.
    public static let isSoak = ProcessInfo.processInfo.environment["TAPEDECK_SOAK"] == "1"
}
