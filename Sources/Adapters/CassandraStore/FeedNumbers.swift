import CQLFrames
import TickStore

/// Numbers of feeds, which all processes share.
enum FeedNumbers {
    /// The feed of what is written past the log has its number everywhere.
    static let direct = Array("direct".utf8)
    static let directNumber: UInt16 = 1

    static func all(_ session: BlockingSession, _ keyspace: String) throws(StoreError) -> [([UInt8], UInt16)] {
        let rows = try session.query(
            "SELECT number, name FROM \(keyspace).feeds WHERE scope = 'ticks'", [], .localQuorum)
        return rows.compactMap { row in
            guard let number = row[0].integer.flatMap({ UInt16(exactly: $0) }), let name = row[1].string else {
                return nil
            }
            return (Array(name.utf8), number)
        }
    }

    /// A feed's number: the one it has, or the next that nobody has, agreed on by a lightweight transaction.
    static func number(
        of name: [UInt8], _ session: BlockingSession, _ keyspace: String
    ) throws(StoreError) -> UInt16 {
        for _ in 0..<100 {
            let known = try all(session, keyspace)
            if let number = known.first(where: { $0.0 == name })?.1 { return number }
            let next = (known.map(\.1).max() ?? 1) + 1
            guard next < UInt16.max else { break }
            let text = String(decoding: name, as: UTF8.self)
            _ = try session.query(
                "INSERT INTO \(keyspace).feeds (scope, number, name) VALUES ('ticks', ?, ?) IF NOT EXISTS",
                [(.int(Int32(next)), .int), (.text(text), .text)], .localQuorum)
        }
        throw StoreError(.io, "no number for feed \(String(decoding: name, as: UTF8.self)) in keyspace \(keyspace)")
    }
}
