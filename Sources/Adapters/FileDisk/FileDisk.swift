import CLinux
import Disk
import Glibc

/// Files of one directory of the machine, for the segment log: real I/O behind the Disk port. The App opens it and
/// hands it to SegmentLog; tests use it on a temporary directory.
///
/// Paths cannot leave the directory. Safe to use from any thread.
public final class FileDisk: Disk, @unchecked Sendable {
    /// What other processes may do with the directory meanwhile.
    public enum Access: Sendable {
        /// This process alone writes; a second one is refused with `.locked`.
        case exclusive
        /// Reads only, takes no lock and makes no file: for looking at a log that may be running.
        case readOnly
    }

    public let directory: String
    public let access: Access
    private let root: Int32
    private let lockFile: Int32

    /// Opens a directory; with `.exclusive` it is made when absent, and locked until this disk is gone.
    ///
    /// Throws `.locked` when another process has it, `.readOnly` when it cannot be written to, `.notFound`.
    public init(directory: String, access: Access = .exclusive) throws(DiskError) {
        self.directory = directory
        self.access = access
        if access == .exclusive { try FileDisk.makeDirectories(directory) }
        root = clinux_openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY, 0)
        guard root >= 0 else { throw FileDisk.failure(-root, "open", directory) }
        guard access == .exclusive else {
            lockFile = -1
            return
        }
        lockFile = clinux_openat(root, "LOCK", O_RDWR | O_CREAT, 0o644)
        guard lockFile >= 0 else {
            let error = -lockFile
            Glibc.close(root)
            throw FileDisk.failure(error, "lock", directory)
        }
        let locked = clinux_lock(lockFile)
        guard locked == 0 else {
            Glibc.close(lockFile)
            Glibc.close(root)
            guard -locked == EWOULDBLOCK else { throw FileDisk.failure(-locked, "lock", directory) }
            throw DiskError(
                kind: .locked, operation: "lock", path: directory, errno: -locked,
                detail: "another process has this directory open; stop it, or use another directory (--data DIR)")
        }
    }

    deinit {
        if lockFile >= 0 { Glibc.close(lockFile) }
        Glibc.close(root)
    }

    public func list(_ directory: String) throws(DiskError) -> [String] {
        let path = directory.isEmpty ? "." : try checked(directory, "list")
        let descriptor = clinux_openat(root, path, O_RDONLY | O_DIRECTORY, 0)
        if descriptor == -ENOENT { return [] }
        guard descriptor >= 0 else { throw FileDisk.failure(-descriptor, "list", full(directory)) }
        guard let stream = fdopendir(descriptor) else {
            Glibc.close(descriptor)
            throw FileDisk.failure(errno, "list", full(directory))
        }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix(while: { $0 != 0 }), as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    public func open(_ path: String, create: Bool) throws(DiskError) -> any DiskFile {
        let name = try checked(path, "open")
        if create {
            try requireWriting("open", path)
            if let slash = name.lastIndex(of: "/") {
                try FileDisk.makeDirectories(full(String(name[..<slash])))
            }
        }
        let flags = access == .readOnly ? O_RDONLY : create ? O_RDWR | O_CREAT : O_RDWR
        let descriptor = clinux_openat(root, name, flags, 0o644)
        guard descriptor >= 0 else { throw FileDisk.failure(-descriptor, "open", full(path)) }
        return RealFile(descriptor: descriptor, path: full(path))
    }

    public func exists(_ path: String) throws(DiskError) -> Bool {
        let name = try checked(path, "stat")
        if faccessat(root, name, F_OK, 0) == 0 { return true }
        guard errno == ENOENT else { throw FileDisk.failure(errno, "stat", full(path)) }
        return false
    }

    public func remove(_ path: String) throws(DiskError) {
        try requireWriting("remove", path)
        let name = try checked(path, "remove")
        guard unlinkat(root, name, 0) == 0 else { throw FileDisk.failure(errno, "remove", full(path)) }
    }

    public func rename(_ from: String, to: String) throws(DiskError) {
        try requireWriting("rename", from)
        let source = try checked(from, "rename")
        let target = try checked(to, "rename")
        guard renameat(root, source, root, target) == 0 else { throw FileDisk.failure(errno, "rename", full(from)) }
    }

    public func syncDirectory(_ directory: String) throws(DiskError) {
        let path = directory.isEmpty ? "." : try checked(directory, "sync")
        let descriptor = clinux_openat(root, path, O_RDONLY | O_DIRECTORY, 0)
        guard descriptor >= 0 else { throw FileDisk.failure(-descriptor, "sync", full(directory)) }
        let result = clinux_fsync(descriptor)
        Glibc.close(descriptor)
        guard result == 0 else { throw FileDisk.failure(-result, "sync", full(directory)) }
    }

    public func space() throws(DiskError) -> (freeBytes: UInt64, totalBytes: UInt64) {
        var numbers = statvfs()
        guard fstatvfs(root, &numbers) == 0 else { throw FileDisk.failure(errno, "statvfs", directory) }
        let unit = UInt64(numbers.f_frsize)
        return (UInt64(numbers.f_bavail) * unit, UInt64(numbers.f_blocks) * unit)
    }

    public func bootID() -> String? {
        let descriptor = clinux_openat(AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0)
        guard descriptor >= 0 else { return nil }
        defer { Glibc.close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = bytes.withUnsafeMutableBytes { clinux_pread(descriptor, $0.baseAddress, $0.count, 0) }
        guard count > 0 else { return nil }
        return String(decoding: bytes.prefix(Int(count)).prefix(while: { $0 > 0x20 }), as: UTF8.self)
    }

    public func close() {
        if lockFile >= 0 { _ = clinux_unlock(lockFile) }
    }

    private func full(_ path: String) -> String { path.isEmpty ? directory : directory + "/" + path }

    private func requireWriting(_ operation: String, _ path: String) throws(DiskError) {
        guard access == .exclusive else {
            throw DiskError(
                kind: .readOnly, operation: operation, path: full(path), errno: EROFS, detail: "opened for reading only"
            )
        }
    }

    private func checked(_ path: String, _ operation: String) throws(DiskError) -> String {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard !path.isEmpty, !path.utf8.contains(0), !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." })
        else {
            throw DiskError(
                kind: .notFound, operation: operation, path: path, errno: EINVAL,
                detail: "not a path inside the directory \(directory)")
        }
        return path
    }

    private static func makeDirectories(_ path: String) throws(DiskError) {
        var end = path.startIndex
        while end < path.endIndex {
            end = path[path.index(after: end)...].firstIndex(of: "/") ?? path.endIndex
            let part = String(path[..<end])
            guard mkdir(part, 0o755) == 0 || errno == EEXIST || errno == EISDIR else {
                // A parent that exists may sit on a read-only file system; only the last part must be there.
                let error = errno
                var status = stat()
                if stat(part, &status) == 0 { continue }
                throw failure(error, "make directory", part)
            }
        }
    }

    static func failure(_ number: Int32, _ operation: String, _ path: String) -> DiskError {
        let kind: DiskError.Kind =
            switch number {
            case ENOENT, ENOTDIR: .notFound
            case ENOSPC, EDQUOT: .full
            case EROFS, EACCES, EPERM: .readOnly
            case EWOULDBLOCK: .locked
            default: .io
            }
        return DiskError(
            kind: kind, operation: operation, path: path, errno: number, detail: String(cString: strerror(number)))
    }
}

/// An open file of the machine.
final class RealFile: DiskFile, @unchecked Sendable {
    /// The kernel takes at most this many buffers in one vectored write.
    private static let vectorCountMax = 1024

    private let descriptor: Int32
    private let path: String

    init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit { Glibc.close(descriptor) }

    func size() throws(DiskError) -> UInt64 {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw FileDisk.failure(errno, "stat", path) }
        return UInt64(status.st_size)
    }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskError) -> Int {
        var done = 0
        while done < buffer.count, let base = buffer.baseAddress {
            let position = Int64(clamping: offset) &+ Int64(done)
            let count = clinux_pread(descriptor, base + done, buffer.count - done, position)
            guard count >= 0 else { throw FileDisk.failure(Int32(-count), "read", path) }
            if count == 0 { break }
            done += Int(count)
        }
        return done
    }

    func write(at offset: UInt64, _ buffers: [UnsafeRawBufferPointer]) throws(DiskError) {
        var vectors = buffers.compactMap { buffer -> iovec? in
            guard buffer.count > 0, let base = buffer.baseAddress else { return nil }
            return iovec(iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: buffer.count)
        }
        var position = offset
        var first = 0
        while first < vectors.count {
            let count = min(vectors.count - first, RealFile.vectorCountMax)
            let written = vectors.withUnsafeBufferPointer {
                clinux_pwritev(descriptor, $0.baseAddress! + first, Int32(count), Int64(clamping: position))
            }
            guard written > 0 else { throw FileDisk.failure(written == 0 ? EIO : Int32(-written), "write", path) }
            position += UInt64(written)
            var left = Int(written)
            while first < vectors.count, left >= vectors[first].iov_len {
                left -= vectors[first].iov_len
                first += 1
            }
            if left > 0 {
                vectors[first].iov_base += left
                vectors[first].iov_len -= left
            }
        }
    }

    func sync() throws(DiskError) {
        let result = clinux_fdatasync(descriptor)
        guard result == 0 else { throw FileDisk.failure(-result, "sync", path) }
    }

    func truncate(to size: UInt64) throws(DiskError) {
        let result = clinux_ftruncate(descriptor, Int64(clamping: size))
        guard result == 0 else { throw FileDisk.failure(-result, "truncate", path) }
    }

    /// The descriptor is closed when the last user lets go, so that a reader on another thread never meets a reused
    /// number.
    func close() {}
}
