import EventLog
import FileDisk
import Foundation
import SegmentLog
import Simulation

/// A directory that is removed with the test.
final class TemporaryDirectory {
    let path: String
    init() {
        path = NSTemporaryDirectory() + "tapedeck-log-" + UUID().uuidString
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

let ticks0 = TopicPartition(.ticksRaw, 0)
let orders0 = TopicPartition(.ordersCommands, 0)

/// A block of records `symbol:sequence`, with sequences that count up.
func makeBlock(
    _ place: TopicPartition, symbol: String = "AAPL", feed: String = "sim", epoch: UInt64 = 1, from: UInt64, count: Int,
    padding: Int = 0
) -> Block {
    let builder = BlockBuilder(place)
    let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: feed))
    for sequence in from..<(from + UInt64(count)) {
        let text = Array("\(symbol):\(sequence)".utf8) + [UInt8](repeating: 0x2e, count: padding)
        text.withUnsafeBytes { builder.append(key: key, epoch: epoch, sequence: sequence, payload: $0) }
    }
    return builder.build()
}

func openLog(_ directory: String, _ change: (inout SegmentLog.Configuration) -> Void = { _ in }) throws -> SegmentLog {
    var configuration = SegmentLog.Configuration()
    configuration.diskSharePercent = 100
    configuration.freeBytesMin = 0
    change(&configuration)
    return try SegmentLog(
        disk: try FileDisk(directory: directory), time: RealTime(), configuration: configuration)
}

/// Every record from `offset` to the visible end, as text, through files and memory alike.
func readAll(_ log: any EventLog, _ place: TopicPartition, from offset: UInt64 = 0, _ visibility: Visibility = .durable)
    throws -> [String]
{
    var texts: [String] = []
    var offset = offset
    while true {
        switch try log.readBlocking(place, at: offset, visibility) {
        case .block(let block, let index):
            for record in index..<block.recordCount {
                texts.append(String(decoding: block.payload(record).prefix { $0 != 0x2e }, as: UTF8.self))
            }
            offset = block.endOffset
        case .atEnd: return texts
        case .onDisk: throw Unexpected(what: "onDisk from readBlocking")
        case .expired(let oldest): throw Unexpected(what: "expired, oldest \(oldest)")
        case .damaged(let next, let reason): throw Unexpected(what: "damaged to \(next): \(reason)")
        }
    }
}

struct Unexpected: Error { let what: String }
