import Disk
import Synchronization

/// A disk in memory that loses power, and a machine whose processes are killed, by seed.
///
/// What was written is in the page cache until it is synced. A power loss keeps of the unsynced writes what the seed
/// decides: none, all, some, in any order, torn at sectors or bytes. Creations, removals and renames are kept up to
/// some point of their order. A failed sync leaves the bytes readable but forgets that they are to be stored, as Linux
/// does. A killed process loses nothing but the rest of the write it was in.
public final class SimulatedDisk: Disk {
    public enum Crash: Sendable { case powerLoss, kill }

    private struct Change {
        var offset: Int
        /// nil is a truncation to `offset`.
        var bytes: [UInt8]?
    }

    private final class Contents {
        var current: [UInt8] = []
        var durable: [UInt8] = []
        var pending: [Change] = []
    }

    private enum NameChange {
        case set(String, Int)
        case remove(String)
        case rename(String, to: String)
    }

    private struct State {
        var random: SeededRandom
        var files: [Int: Contents] = [:]
        var names: [String: Int] = [:]
        var durableNames: [String: Int] = [:]
        var pendingNames: [NameChange] = []
        var fileCount = 0
        var boot = 1
        /// Raised by every crash: files opened before it are dead.
        var process = 1
        var isDown = false
        var operationCount = 0
        var crash: (kind: Crash, atOperation: Int)?
        var failSyncAtOperation: Int?
        var capacityBytes = Int.max
    }

    private let state: Mutex<State>

    public init(seed: UInt64) { state = Mutex(State(random: SeededRandom(seed: seed))) }

    // MARK: Faults

    /// Writes, syncs and changes of names so far.
    public var operationCount: Int { state.withLock { $0.operationCount } }
    /// Whether a planned crash has happened; every call fails until ``restart()``.
    public var isDown: Bool { state.withLock { $0.isDown } }

    /// Crashes during the `n`-th operation from now, 1 is the next.
    public func crash(_ kind: Crash, atOperation n: Int) { state.withLock { $0.crash = (kind, $0.operationCount + n) } }

    public func crashNow(_ kind: Crash) { state.withLock { SimulatedDisk.crash(&$0, kind) } }

    /// The first sync at or after the `n`-th operation from now fails.
    public func failSync(atOperation n: Int) { state.withLock { $0.failSyncAtOperation = $0.operationCount + n } }

    /// Bytes that all files together may have.
    public func setCapacity(bytes: Int) { state.withLock { $0.capacityBytes = bytes } }

    /// The machine or process runs again, with what the crash left.
    public func restart() {
        state.withLock {
            $0.isDown = false
            $0.crash = nil
            $0.failSyncAtOperation = nil
        }
    }

    /// Changes bytes of a file as a failing medium does, durably.
    public func corrupt(_ path: String, _ change: (inout [UInt8]) -> Void) {
        state.withLock {
            guard let number = $0.names[path], let file = $0.files[number] else { return }
            change(&file.current)
            file.durable = file.current
            file.pending = []
        }
    }

    public func bytes(of path: String) -> [UInt8] {
        state.withLock { state in state.names[path].flatMap { state.files[$0]?.current } ?? [] }
    }

    private static func crash(_ state: inout State, _ kind: Crash) {
        state.isDown = true
        state.process += 1
        state.crash = nil
        guard kind == .powerLoss else { return }
        state.boot += 1
        let kept = Int.random(in: 0...state.pendingNames.count, using: &state.random)
        for change in state.pendingNames[..<kept] { apply(change, &state.durableNames) }
        state.pendingNames = []
        state.names = state.durableNames
        for number in state.files.keys.sorted() {
            guard let file = state.files[number] else { continue }
            lose(file, &state.random)
        }
        let alive = Set(state.names.values)
        state.files = state.files.filter { alive.contains($0.key) }
    }

    /// Leaves of a file what survives the power loss.
    private static func lose(_ file: Contents, _ random: inout SeededRandom) {
        var pending = file.pending
        file.pending = []
        switch Int.random(in: 0..<6, using: &random) {
        case 0: pending = []
        case 1: break
        case 2: pending = Array(pending.prefix(Int.random(in: 0...pending.count, using: &random)))
        case 3: pending.shuffle(using: &random)
        default: pending.removeAll { _ in Bool.random(using: &random) }
        }
        for change in pending {
            guard let bytes = change.bytes, Int.random(in: 0..<3, using: &random) == 0 else {
                apply(change, &file.durable)
                continue
            }
            tear(change.offset, bytes, &file.durable, &random)
        }
        file.current = file.durable
    }

    private static func tear(_ offset: Int, _ bytes: [UInt8], _ durable: inout [UInt8], _ random: inout SeededRandom) {
        if Bool.random(using: &random) {
            let count = Int.random(in: 0...bytes.count, using: &random)
            apply(Change(offset: offset, bytes: Array(bytes[..<count])), &durable)
            return
        }
        var start = 0
        while start < bytes.count {
            let end = min((offset + start) / 512 * 512 + 512 - offset, bytes.count)
            if Bool.random(using: &random) {
                apply(Change(offset: offset + start, bytes: Array(bytes[start..<end])), &durable)
            }
            start = end
        }
    }

    private static func apply(_ change: Change, _ contents: inout [UInt8]) {
        guard let bytes = change.bytes else {
            if contents.count > change.offset { contents.removeLast(contents.count - change.offset) }
            while contents.count < change.offset { contents.append(0) }
            return
        }
        if bytes.isEmpty { return }
        if contents.count < change.offset {
            contents.append(contentsOf: [UInt8](repeating: 0, count: change.offset - contents.count))
        }
        let over = min(contents.count - change.offset, bytes.count)
        contents.replaceSubrange(change.offset..<(change.offset + over), with: bytes[..<over])
        contents.append(contentsOf: bytes[over...])
    }

    private static func apply(_ change: NameChange, _ names: inout [String: Int]) {
        switch change {
        case .set(let name, let number): names[name] = number
        case .remove(let name): names[name] = nil
        case .rename(let name, let to): names[to] = names.removeValue(forKey: name)
        }
    }

    /// Counts an operation; true when the planned crash is now. Throws when the machine is down.
    private static func begin(_ state: inout State, _ operation: String, _ path: String) throws(DiskError) -> Crash? {
        try requireUp(state, operation, path)
        state.operationCount += 1
        if let crash = state.crash, state.operationCount >= crash.atOperation { return crash.kind }
        return nil
    }

    private static func requireUp(_ state: State, _ operation: String, _ path: String) throws(DiskError) {
        if state.isDown { throw DiskError(kind: .io, operation: operation, path: path, detail: "the machine is down") }
    }

    private static func change(_ state: inout State, _ operation: String, _ changes: [NameChange], _ path: String)
        throws(DiskError)
    {
        let crash = try begin(&state, operation, path)
        for change in changes {
            apply(change, &state.names)
            state.pendingNames.append(change)
        }
        guard let crash else { return }
        SimulatedDisk.crash(&state, crash)
        try requireUp(state, operation, path)
    }

    private func locked<R>(_ body: (inout sending State) throws(DiskError) -> sending R) throws(DiskError) -> R {
        try state.withLock(body)
    }

    // MARK: Disk

    public func list(_ directory: String) throws(DiskError) -> [String] {
        try locked { state throws(DiskError) in
            try SimulatedDisk.requireUp(state, "list", directory)
            return state.names.keys.sorted()
        }
    }

    public func open(_ path: String, create: Bool) throws(DiskError) -> any DiskFile {
        let (number, process) = try locked { state throws(DiskError) in
            try SimulatedDisk.requireUp(state, "open", path)
            if let number = state.names[path] { return (number, state.process) }
            guard create else {
                throw DiskError(kind: .notFound, operation: "open", path: path, detail: "no such file")
            }
            state.fileCount += 1
            let number = state.fileCount
            state.files[number] = Contents()
            try SimulatedDisk.change(&state, "open", [.set(path, number)], path)
            return (number, state.process)
        }
        return File(disk: self, number: number, process: process, path: path)
    }

    public func exists(_ path: String) throws(DiskError) -> Bool {
        try locked { state throws(DiskError) in
            try SimulatedDisk.requireUp(state, "stat", path)
            return state.names[path] != nil
        }
    }

    public func remove(_ path: String) throws(DiskError) {
        try locked { state throws(DiskError) in
            guard state.names[path] != nil else {
                throw DiskError(kind: .notFound, operation: "remove", path: path, detail: "no such file")
            }
            try SimulatedDisk.change(&state, "remove", [.remove(path)], path)
        }
    }

    public func rename(_ from: String, to: String) throws(DiskError) {
        try locked { state throws(DiskError) in
            guard state.names[from] != nil else {
                throw DiskError(kind: .notFound, operation: "rename", path: from, detail: "no such file")
            }
            try SimulatedDisk.change(&state, "rename", [.rename(from, to: to)], from)
        }
    }

    public func syncDirectory(_ directory: String) throws(DiskError) {
        try locked { state throws(DiskError) in
            if let crash = try SimulatedDisk.begin(&state, "sync", directory) {
                SimulatedDisk.crash(&state, crash)
                try SimulatedDisk.requireUp(state, "sync", directory)
            }
            for change in state.pendingNames { SimulatedDisk.apply(change, &state.durableNames) }
            state.pendingNames = []
        }
    }

    public func space() throws(DiskError) -> (freeBytes: UInt64, totalBytes: UInt64) {
        try locked { state throws(DiskError) in
            try SimulatedDisk.requireUp(state, "statvfs", "")
            let used = SimulatedDisk.used(state)
            return (UInt64(max(state.capacityBytes - used, 0)), UInt64(state.capacityBytes))
        }
    }

    public func bootID() -> String? { state.withLock { "boot-\($0.boot)" } }

    public func close() {}

    private static func used(_ state: State) -> Int {
        state.names.values.reduce(0) { $0 + (state.files[$1]?.current.count ?? 0) }
    }

    // MARK: Files

    private final class File: DiskFile {
        let disk: SimulatedDisk
        let number: Int
        let process: Int
        let path: String

        init(disk: SimulatedDisk, number: Int, process: Int, path: String) {
            self.disk = disk
            self.number = number
            self.process = process
            self.path = path
        }

        func size() throws(DiskError) -> UInt64 {
            try disk.locked { state throws(DiskError) in UInt64(try contents(state, "stat").current.count) }
        }

        func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskError) -> Int {
            nonisolated(unsafe) let buffer = buffer
            return try disk.locked { state throws(DiskError) in
                let bytes = try contents(state, "read").current
                guard offset < UInt64(bytes.count) else { return 0 }
                let count = min(buffer.count, bytes.count - Int(offset))
                buffer.copyBytes(from: bytes[Int(offset)..<(Int(offset) + count)])
                return count
            }
        }

        func write(at offset: UInt64, _ buffers: [UnsafeRawBufferPointer]) throws(DiskError) {
            let bytes = buffers.flatMap { Array($0) }
            try disk.locked { state throws(DiskError) in
                let file = try contents(state, "write")
                let crash = try SimulatedDisk.begin(&state, "write", path)
                var written = bytes
                if crash == .kill { written = Array(bytes[..<Int.random(in: 0...bytes.count, using: &state.random)]) }
                let grows = max(Int(offset) + bytes.count - file.current.count, 0)
                let room = max(state.capacityBytes - SimulatedDisk.used(state), 0)
                if grows > room { written = Array(bytes[..<max(bytes.count - (grows - room), 0)]) }
                let change = Change(offset: Int(offset), bytes: written)
                SimulatedDisk.apply(change, &file.current)
                file.pending.append(change)
                if let crash {
                    SimulatedDisk.crash(&state, crash)
                    try SimulatedDisk.requireUp(state, "write", path)
                }
                if grows > room { throw DiskError(kind: .full, operation: "write", path: path, detail: "no space") }
            }
        }

        func sync() throws(DiskError) {
            try disk.locked { state throws(DiskError) in
                let file = try contents(state, "sync")
                if let crash = try SimulatedDisk.begin(&state, "sync", path) {
                    SimulatedDisk.crash(&state, crash)
                    try SimulatedDisk.requireUp(state, "sync", path)
                }
                if let at = state.failSyncAtOperation, state.operationCount >= at {
                    state.failSyncAtOperation = nil
                    file.pending = []
                    throw DiskError(kind: .io, operation: "sync", path: path, errno: 5, detail: "input/output error")
                }
                for change in file.pending { SimulatedDisk.apply(change, &file.durable) }
                file.pending = []
            }
        }

        func truncate(to size: UInt64) throws(DiskError) {
            try disk.locked { state throws(DiskError) in
                let file = try contents(state, "truncate")
                if Int(size) == file.current.count { return }
                let crash = try SimulatedDisk.begin(&state, "truncate", path)
                let change = Change(offset: Int(size), bytes: nil)
                SimulatedDisk.apply(change, &file.current)
                file.pending.append(change)
                if let crash {
                    SimulatedDisk.crash(&state, crash)
                    try SimulatedDisk.requireUp(state, "truncate", path)
                }
            }
        }

        func close() {}

        private func contents(_ state: State, _ operation: String) throws(DiskError) -> Contents {
            guard !state.isDown, process == state.process, let file = state.files[number] else {
                throw DiskError(kind: .io, operation: operation, path: path, detail: "the machine is down")
            }
            return file
        }
    }
}
