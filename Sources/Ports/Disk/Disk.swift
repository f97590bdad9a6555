/// Files as the log needs them. Real ones are in FileDisk; the simulation's lose power at every write and sync.
///
/// Paths are relative to the directory the disk was opened on, with `/` between parts. All calls block; they are made
/// from service and reader threads, never from an event loop. Safe to call from any thread.
public protocol Disk: AnyObject, Sendable {
    /// Names in a directory, sorted. An absent directory has none.
    func list(_ directory: String) throws(DiskError) -> [String]
    /// Opens a file; `create` makes it (and its directory) when absent.
    func open(_ path: String, create: Bool) throws(DiskError) -> any DiskFile
    func exists(_ path: String) throws(DiskError) -> Bool
    func remove(_ path: String) throws(DiskError)
    /// Replaces `to` atomically. Durable after ``syncDirectory(_:)``.
    func rename(_ from: String, to: String) throws(DiskError)
    /// Makes creations, removals and renames in a directory durable.
    func syncDirectory(_ directory: String) throws(DiskError)
    /// Bytes that can still be written, and the size of the file system.
    func space() throws(DiskError) -> (freeBytes: UInt64, totalBytes: UInt64)
    /// Identifies this boot of the machine; nil where the system does not tell.
    func bootID() -> String?
    /// Gives the directory back, so that another may open it for writing. Files that are open can still be read.
    func close()
}

/// One open file. Reads and writes are positioned, so several threads may use it at once.
public protocol DiskFile: AnyObject, Sendable {
    func size() throws(DiskError) -> UInt64
    /// Fills as much of the buffer as the file has from `offset`; returns the bytes read, 0 at the end.
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskError) -> Int
    /// Writes all bytes, in order, starting at `offset`; grows the file when needed.
    func write(at offset: UInt64, _ buffers: [UnsafeRawBufferPointer]) throws(DiskError)
    /// Everything written before is durable when this returns. After an error nothing may be assumed about unsynced
    /// bytes.
    func sync() throws(DiskError)
    func truncate(to size: UInt64) throws(DiskError)
    func close()
}

/// A failed file operation.
public struct DiskError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What the caller can do about it depends on this alone.
    public enum Kind: Sendable, Hashable {
        case notFound, full, readOnly, locked, io
    }

    public let kind: Kind
    /// What was attempted: "open", "write", "sync" …
    public let operation: String
    public let path: String
    /// The system's error number, 0 where there is none.
    public let errno: Int32
    public let detail: String

    public init(kind: Kind, operation: String, path: String, errno: Int32 = 0, detail: String) {
        self.kind = kind
        self.operation = operation
        self.path = path
        self.errno = errno
        self.detail = detail
    }

    public var description: String { "\(operation) \(path): \(detail)" }
}
