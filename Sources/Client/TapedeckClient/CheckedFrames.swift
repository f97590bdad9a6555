import GRPC
import TickCodec

/// What is new in frames that arrived: which updates came before, what is missing between them, and the newest token
/// among them.
struct CheckedFrames {
    /// nil where all of them came before.
    let batch: TickBatch?
    /// In the order of the frames.
    let gaps: [SequenceGap]
    let token: [UInt8]?

    /// Takes whole frames of `PriceUpdate`s, as they came. Refuses what is none.
    init(_ frames: [UInt8], _ tracker: inout SequenceTracker) throws(TickCodecError) {
        var repeats: [Int] = []
        var gaps: [SequenceGap] = []
        var position = 0
        var token: [UInt8]?
        let problem = frames.withUnsafeBytes { bytes -> TickCodecError? in
            var reader = TickReader()
            for message in MessageSequence(frames: bytes) {
                do throws(TickCodecError) {
                    try reader.read(message)
                } catch {
                    return error
                }
                switch tracker.check(reader) {
                case .new: break
                case .old: repeats.append(position)
                case .gap(let range): gaps.append(CheckedFrames.gap(reader, range))
                }
                if !reader.resumeToken.isEmpty { token = Array(reader.resumeToken) }
                position += 1
            }
            return nil
        }
        if let problem { throw problem }
        let count = position - repeats.count
        batch = count > 0 ? TickBatch(frames: frames, repeats: repeats, count: count) : nil
        self.gaps = gaps
        self.token = token
    }

    private static func gap(_ reader: TickReader, _ range: ClosedRange<UInt64>) -> SequenceGap {
        SequenceGap(
            exchange: String(decoding: reader.exchange, as: UTF8.self),
            symbol: String(decoding: reader.symbol, as: UTF8.self), feed: String(decoding: reader.feed, as: UTF8.self),
            epoch: reader.epoch, sequences: range)
    }
}
