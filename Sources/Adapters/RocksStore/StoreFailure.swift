import TickStore

/// What RocksDB's messages mean to the store's callers.
enum StoreFailure {
    static func opening(_ directory: String, _ message: String) -> StoreError {
        let lower = message.lowercased()
        if lower.contains("lock") && (lower.contains("unavailable") || lower.contains("hold by current")) {
            return StoreError(
                .locked, "\(directory): another process has this store open; stop it, or choose another data directory")
        }
        return of(directory, message)
    }

    static func of(_ directory: String, _ message: String) -> StoreError {
        let lower = message.lowercased()
        if lower.contains("no space left") || lower.contains("disk quota") || lower.contains("file too large") {
            return StoreError(
                .diskFull, "\(directory): the disk is full (\(message)); free space, and the write is tried again",
                retryable: true)
        }
        if ["read-only", "permission denied", "operation not permitted"].contains(where: lower.contains) {
            return StoreError(
                .readOnly, "\(directory): cannot be written (\(message)); check its owner and mode, and the mount")
        }
        if lower.contains("corruption") || lower.contains("checksum") {
            return StoreError(
                .damaged,
                "\(directory): \(message); restore the backup, or move the store away and refill it from the log")
        }
        return StoreError(.io, "\(directory): \(message)")
    }

    static func damaged(_ directory: String, _ what: String) -> StoreError {
        StoreError(
            .damaged, "\(directory): \(what); restore the backup, or move the store away and refill it from the log")
    }
}
