import BookView
import EventLog
import MarketModel
import TickCodec
import TickStore

/// An instrument's book as it was at a time: a whole book, and the records of `books.deltas` behind it up to then.
///
/// The log is read from a little before the time on, and from further back until a whole book is found. Where the log
/// has no more what lies between a stored book and the time, the stored one is the answer, and says so.
public struct PastBook {
    /// What was found.
    public struct Found: Sendable {
        public let instrument: Instrument
        public let feed: String
        public let epoch: UInt64
        public let sequence: UInt64
        /// Of the last change in it: the venue's time, or the receive time where the venue gives none. Nanoseconds
        /// since the epoch.
        public let changedNs: Int64
        /// Best first.
        public let bids: [PriceLevel]
        public let asks: [PriceLevel]
        /// Whether every change up to the time is in it. If not, the log has no more what came after `changedNs`.
        public let isComplete: Bool
    }

    /// Why there is none.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// How far before the time the log is read first, and then, before all of it is.
    private static let lookbacksNs: [Int64] = [600_000_000_000, 7_200_000_000_000]
    /// Records of a live feed are filed at most a day from when they were appended; clocks may be set by an hour.
    private static let lateNs: Int64 = 90_000_000_000_000

    private let log: any EventLog
    /// The newest whole book that a store has of an instrument at or before a time.
    private let stored: (Instrument, Int64) throws -> StoredBook?

    public init(_ log: any EventLog, stored: @escaping (Instrument, Int64) throws -> StoredBook? = { _, _ in nil }) {
        self.log = log
        self.stored = stored
    }

    /// The book of a symbol at a time. Without an exchange, of the one that lists it. Throws ``Failure`` where there is
    /// none, and what log and store throw.
    public func find(_ symbol: String, exchange: String?, at timeNs: Int64) throws -> Found {
        let instrument = try instrument(symbol, exchange, timeNs)
        let place = TopicPartition(
            .booksDeltas,
            log.partition(of: .booksDeltas, exchange: instrument.exchange, symbol: instrument.symbol))
        let seed = try stored(instrument, timeNs)
        let stretch = try stretch(place)
        var staleNs: Int64?
        for start in try starts(stretch, timeNs) {
            var lines = Lines(instrument, timeNs, seed)
            try read(stretch, from: start.offset, &lines, until: timeNs)
            if let line = lines.newest(since: start.fromNs) { return line }
            staleNs = staleNs ?? lines.staleNs
        }
        if let staleNs, staleNs > seed?.timeNs ?? .min {
            throw Failure(
                description:
                    "\(instrument) had no book at \(CivilTime.text(ns: timeNs)): its feed did not vouch for it "
                    + "since \(CivilTime.text(ns: staleNs))")
        }
        if let seed { return PastBook.found(instrument, seed) }
        throw Failure(description: missing(instrument, timeNs, stretch))
    }

    private func missing(_ instrument: Instrument, _ timeNs: Int64, _ stretch: Stretch) -> String {
        var text = "no book of \(instrument) at \(CivilTime.text(ns: timeNs)): "
        guard let oldestNs = stretch.oldestNs else { return text + "books.deltas is empty" }
        text += "books.deltas, whose oldest record was appended at \(CivilTime.text(ns: oldestNs)), has no whole book "
        return text + "of it up to then; `--store cassandra` has one an hour of older times"
    }

    // MARK: The log

    /// What a partition has now.
    private struct Stretch {
        let place: TopicPartition
        let offsets: Range<UInt64>
        /// When the oldest record was appended; nil where there is none.
        let oldestNs: Int64?
    }

    private func stretch(_ place: TopicPartition) throws -> Stretch {
        let start = try log.offset(of: .earliest, in: place)
        let end = max(start, try log.offset(of: .latest, in: place))
        var oldestNs: Int64?
        if start < end, case .block(let block, _) = try log.readBlocking(place, at: start, .written) {
            oldestNs = block.appendTimeNs
        }
        return Stretch(place: place, offsets: start..<end, oldestNs: oldestNs)
    }

    /// Where reading begins, one after the other, and since when everything is read then.
    private func starts(_ stretch: Stretch, _ timeNs: Int64) throws -> [(offset: UInt64, fromNs: Int64)] {
        var starts: [(offset: UInt64, fromNs: Int64)] = []
        for lookback in PastBook.lookbacksNs {
            let fromNs = timeNs.subtractingReportingOverflow(lookback)
            guard !fromNs.overflow else { break }
            let offset = try log.offset(of: .time(fromNs.partialValue), in: stretch.place)
            guard offset > stretch.offsets.lowerBound else { break }
            starts.append((min(offset, stretch.offsets.upperBound), fromNs.partialValue))
        }
        let isWhole = stretch.offsets.lowerBound == 0
        return starts + [(stretch.offsets.lowerBound, isWhole ? .min : stretch.oldestNs ?? .max)]
    }

    private func read(
        _ stretch: Stretch, from start: UInt64, _ lines: inout Lines, until timeNs: Int64
    ) throws {
        var next = start
        while next < stretch.offsets.upperBound {
            switch try log.readBlocking(stretch.place, at: next, .written) {
            case .block(let block, let index):
                // When records are appended says nothing of their times where a recording is played.
                if block.appendTimeNs > timeNs, lines.arePast { return }
                for record in index..<block.recordCount { try lines.take(block, record) }
                next = max(block.endOffset, next + 1)
            case .atEnd, .onDisk: return
            case .expired(let oldest): next = max(oldest, next + 1)
            case .damaged(let after, _):
                // The records' sequences say what is missing.
                next = max(after, next + 1)
            }
        }
    }

    /// The instrument, by the tracks of the log where no exchange is named.
    private func instrument(_ symbol: String, _ exchange: String?, _ timeNs: Int64) throws -> Instrument {
        if let exchange { return try Instrument(exchange: exchange, symbol: symbol) }
        let stretches = try (0..<log.partitionCount(.booksDeltas)).map {
            try stretch(TopicPartition(.booksDeltas, UInt16(clamping: $0)))
        }
        let starts = try stretches.map { try self.starts($0, timeNs) }
        for round in 0..<(starts.map(\.count).max() ?? 0) {
            var names: Set<String> = []
            for (stretch, starts) in zip(stretches, starts) where round < starts.count {
                try collect(symbol, stretch, from: starts[round].offset, timeNs, &names)
            }
            if names.count == 1, let name = names.first { return try Instrument(exchange: name, symbol: symbol) }
            guard names.isEmpty else {
                throw Failure(
                    description: "\(names.sorted().joined(separator: ", ")) have books of \(symbol); choose one with "
                        + "--exchange")
            }
        }
        throw Failure(
            description: "books.deltas has no book of \(symbol) up to \(CivilTime.text(ns: timeNs)); with --exchange, "
                + "`--store cassandra` is asked too")
    }

    private func collect(
        _ symbol: String, _ stretch: Stretch, from start: UInt64, _ timeNs: Int64, _ names: inout Set<String>
    ) throws {
        var next = start
        while next < stretch.offsets.upperBound {
            switch try log.readBlocking(stretch.place, at: next, .written) {
            case .block(let block, _):
                let (lateNs, overflow) = timeNs.addingReportingOverflow(PastBook.lateNs)
                if !names.isEmpty, !overflow, block.appendTimeNs > lateNs { return }
                for track in 0..<block.trackCount where block.symbolBytes(track: track).elementsEqual(symbol.utf8) {
                    names.insert(block.exchange(track: track))
                }
                next = max(block.endOffset, next + 1)
            case .atEnd, .onDisk: return
            case .expired(let oldest): next = max(oldest, next + 1)
            case .damaged(let after, _): next = max(after, next + 1)
            }
        }
    }

    private static func found(_ instrument: Instrument, _ book: StoredBook) -> Found {
        Found(
            instrument: instrument, feed: book.feed, epoch: book.epoch, sequence: book.sequence,
            changedNs: book.timeNs, bids: book.bids, asks: book.asks, isComplete: false)
    }

    // MARK: Its feeds

    /// The books of an instrument's feeds, up to a time.
    private struct Lines {
        private struct Line {
            var book = BookReplica()
            var changedNs = Int64.min
            /// Where the book began that the store had; nil once a record of the log followed it, or none did before.
            var seedNs: Int64?
            /// A record past the time was seen.
            var isPast = false
        }

        private let instrument: Instrument
        private let timeNs: Int64
        private var lines: [String: Line] = [:]
        private var record = BookRecord()

        init(_ instrument: Instrument, _ timeNs: Int64, _ seed: StoredBook?) {
            self.instrument = instrument
            self.timeNs = timeNs
            guard let seed else { return }
            var line = Line(changedNs: seed.timeNs, seedNs: seed.timeNs)
            _ = line.book.apply(seed.record)
            lines[seed.feed] = line
        }

        /// Whether every feed that was seen has gone past the time, and one had a book.
        var arePast: Bool {
            lines.values.allSatisfy(\.isPast)
                && lines.values.contains { $0.book.state == .live && $0.seedNs == nil }
        }

        /// Since when the newest of them has no book, where its feed said so.
        var staleNs: Int64? {
            let newest = lines.values.max { $0.changedNs < $1.changedNs }
            return newest.flatMap { $0.book.state == .stale ? $0.changedNs : nil }
        }

        mutating func take(_ block: Block, _ index: Int) throws {
            let track = block.track(of: index)
            guard block.symbolBytes(track: track).elementsEqual(instrument.symbol.utf8),
                block.exchangeBytes(track: track).elementsEqual(instrument.exchange.utf8)
            else { return }
            let feed = block.feed(track: track)
            var line = lines[feed] ?? Line()
            guard !line.isPast else { return }
            do {
                try record.decode(block.payload(index))
            } catch {
                // No record of a book: its dead letter says so. A change that is missing is seen by its sequence.
                return
            }
            let head = record.head
            let changedNs = FilingTime.of(eventTimeNs: head.eventTimeNs, receivedTimeNs: head.receivedTimeNs).ns
            if changedNs > timeNs {
                line.isPast = true
                // Nothing lies between.
                if head.epoch == line.book.epoch, head.sequence == line.book.sequence &+ 1 { line.seedNs = nil }
            } else if line.book.apply(record) != .ignored {
                line.changedNs = changedNs
                line.seedNs = nil
            }
            lines[feed] = line
        }

        /// The book that changed last, where everything up to the time is in it. `fromNs`: since when all records of
        /// the log were read.
        func newest(since fromNs: Int64) -> Found? {
            let known = lines.filter { _, line in
                guard line.book.state == .live else { return false }
                guard let seedNs = line.seedNs else { return true }
                // Nothing followed it: is everything read that could have?
                let (coveredNs, overflow) = fromNs.addingReportingOverflow(PastBook.lateNs)
                return !line.isPast && !overflow && coveredNs <= seedNs
            }
            let newest = known.max { ($0.value.changedNs, $0.key) < ($1.value.changedNs, $1.key) }
            guard let (feed, line) = newest else { return nil }
            return Found(
                instrument: instrument, feed: feed, epoch: line.book.epoch, sequence: line.book.sequence,
                changedNs: line.changedNs, bids: line.book.bids(BookReplica.depthMax),
                asks: line.book.asks(BookReplica.depthMax), isComplete: true)
        }
    }
}
