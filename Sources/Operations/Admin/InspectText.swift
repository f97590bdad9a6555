import TickStore

/// What `tapedeck inspect` prints.
public enum InspectText {
    /// One file of the log.
    public struct Segment: Sendable {
        public let file: String
        public let bytes: UInt64
        public let fromNs: Int64?
        public let toNs: Int64?
        public let places: [(place: String, from: UInt64, to: UInt64)]
        public let damage: [String]

        public init(
            file: String, bytes: UInt64, fromNs: Int64?, toNs: Int64?,
            places: [(place: String, from: UInt64, to: UInt64)],
            damage: [String]
        ) {
            self.file = file
            self.bytes = bytes
            self.fromNs = fromNs
            self.toNs = toNs
            self.places = places
            self.damage = damage
        }
    }

    /// One file of the log, as a line or as JSON.
    public static func segment(_ segment: Segment, json: Bool) -> String {
        if json {
            let places = segment.places.map { "\"\($0.place)\":[\($0.from),\($0.to)]" }.joined(separator: ",")
            return "{\"file\":\"\(segment.file)\",\"bytes\":\(segment.bytes),\"from_ns\":\(segment.fromNs ?? 0),"
                + "\"to_ns\":\(segment.toNs ?? 0),\"offsets\":{\(places)},\"damaged\":\(segment.damage.count)}"
        }
        let places = segment.places.map { "\($0.place) \($0.from)-\($0.to)" }.joined(separator: ", ")
        let line = "  \(segment.file)  \(segment.bytes >> 10) KiB  \(places)"
        return ([line] + segment.damage.map { "    damaged: \($0)" }).joined(separator: "\n")
    }

    /// The store, as a line or as JSON.
    public static func store(_ statistics: StoreStatistics, json: Bool) -> String {
        let rows = statistics.rowCount.map(String.init)
        if json {
            return
                "{\"instruments\":\(statistics.instrumentCount),\"rows\":\(rows ?? "null"),"
                + "\"bytes\":\(statistics.diskBytes)}"
        }
        // A store that does not count its rows has them counted by who reads them all.
        return "store  \(statistics.instrumentCount) instruments, \(rows.map { "\($0) rows, " } ?? "")"
            + "\(statistics.diskBytes >> 10) KiB\(rows == nil ? "; `tapedeck verify` counts the rows" : "")"
    }
}
