import Glibc

/// Tells one content of a file from the next, without reading it.
struct FileVersion: Hashable {
    private let inode: UInt
    private let bytes: Int
    private let seconds: Int
    private let nanoseconds: Int

    /// nil where there is no such file.
    init?(_ path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        inode = UInt(status.st_ino)
        bytes = Int(status.st_size)
        seconds = status.st_mtim.tv_sec
        nanoseconds = status.st_mtim.tv_nsec
    }
}

/// Files that belong together and are replaced one after the other: they count as changed once two looks found the
/// same.
struct FileWatch {
    private let paths: [String]
    private var taken: [FileVersion?]
    private var seen: [FileVersion?]

    /// What is there now counts as known.
    init(_ paths: [String]) {
        self.paths = paths
        taken = paths.map { FileVersion($0) }
        seen = taken
    }

    /// Whether there is something new to read, which counts as known from now on.
    mutating func look() -> Bool {
        let found = paths.map { FileVersion($0) }
        defer { seen = found }
        guard found != taken, found == seen else { return false }
        taken = found
        return true
    }
}
