import EventLog

extension KafkaProducer {
    /// What a caller waits for: all records of one append. Guarded by the producer's monitor.
    final class Ticket {
        var blocksLeft: Int
        var failure: LogError?

        init(_ blocks: Int) { blocksLeft = blocks }
    }

    /// A block on its way. The producer's thread alone changes it once it is handed over.
    final class Flight {
        let block: Block
        let ticket: Ticket
        let startedNs: Int64
        /// In the order of appends.
        var number: UInt64 = 0
        /// Records that are neither acknowledged nor given up.
        var left: Int
        private(set) var failed = 0
        /// Some of those that failed went out, and no broker said what became of them.
        var mayBeStored = false
        /// The protocol's word for why.
        private(set) var failureCode: Int16 = 0
        private(set) var firstFailed: Int?
        private(set) var lastFailed = 0

        init(_ block: Block, _ ticket: Ticket, _ startedNs: Int64) {
            self.block = block
            self.ticket = ticket
            self.startedNs = startedNs
            left = block.recordCount
        }

        /// One of its records is given up.
        func fail(_ record: Int, _ code: Int16) {
            failed += 1
            failureCode = code
            firstFailed = min(firstFailed ?? record, record)
            lastFailed = max(lastFailed, record)
        }
    }
}
