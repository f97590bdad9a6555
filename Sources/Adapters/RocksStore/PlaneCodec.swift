import CZstd
import TickCodec

/// Packs the body of a merged block: frames of one length differ in few bytes, so each such shape is a template and,
/// for every position that varies, a plane of bytes (each less the one before), and the planes go through zstd.
///
///     plain length (4), then by zstd:
///       flags (1): bit 0 keys are derived; shape count (1)
///       per shape: frame length (4), rows (4), template, bitmap of varying positions
///       shape of each row (1 each), where there is more than one
///       12 planes of key bytes, where keys are not derived
///       per shape: its planes, one byte per row of the shape
///
/// Keys are derived when every row's filing time, epoch and sequence can be read from its own bytes, as those of one
/// feed and epoch can: checked when packing, so that unpacking gives the same.
final class PlaneCodec {
    static let shapesMax = 64
    /// Rows of blocks too small for planes to pay.
    static let rowsMin = 8

    private let plain = Scratch()
    private let compressor = ZSTD_createCCtx()
    private let decompressor = ZSTD_createDCtx()
    private var shapes: [Shape] = []
    private var shapeOfRow: [UInt8] = []
    private var starts: [Int32] = []
    private var shapeOfLength: [Int32: UInt8] = [:]

    private struct Shape {
        var length: Int
        var rows: [Int32] = []
        var template = 0
        var varying: [Int32] = []
    }

    deinit {
        ZSTD_freeCCtx(compressor)
        ZSTD_freeDCtx(decompressor)
    }

    // MARK: Packing

    /// Packs into `out`, after `position`; returns the length, or nil where planes do not pay.
    func pack(
        keys: UnsafeRawBufferPointer, frames: UnsafeRawBufferPointer, rowCount: Int, areDerived: Bool, level: Int32,
        into out: Scratch, at position: Int
    ) -> Int? {
        guard rowCount >= Self.rowsMin, findShapes(frames, rowCount) else { return nil }
        let bound = 2 + shapes.reduce(0) { $0 + 9 + $1.length * 2 } + rowCount + keys.count + frames.count
        let length = writePlain(plain.reserve(bound), keys, frames, areDerived)
        let packedBound = ZSTD_compressBound(length)
        let target = out.reserve(position + 4 + packedBound)
        let packed = ZSTD_compressCCtx(
            compressor, target.baseAddress! + position + 4, packedBound, plain.bytes.baseAddress!, length, level)
        guard ZSTD_isError(packed) == 0, packed < keys.count + frames.count else { return nil }
        RowBlock.storeLE(UInt32(length), target.baseAddress!, position)
        return 4 + packed
    }

    private func findShapes(_ frames: UnsafeRawBufferPointer, _ rowCount: Int) -> Bool {
        shapes.removeAll(keepingCapacity: true)
        shapeOfLength.removeAll(keepingCapacity: true)
        shapeOfRow.removeAll(keepingCapacity: true)
        var start = 0
        for _ in 0..<rowCount {
            let length = 5 + Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: start + 1, as: UInt32.self)))
            let shape: UInt8
            if let known = shapeOfLength[Int32(length)] {
                shape = known
            } else {
                guard shapes.count < Self.shapesMax else { return false }
                shape = UInt8(shapes.count)
                shapeOfLength[Int32(length)] = shape
                shapes.append(Shape(length: length, template: start))
            }
            shapeOfRow.append(shape)
            shapes[Int(shape)].rows.append(Int32(start))
            start += length
        }
        for index in shapes.indices { shapes[index].varying = varying(shapes[index], frames.baseAddress!) }
        return true
    }

    private func varying(_ shape: Shape, _ frames: UnsafeRawPointer) -> [Int32] {
        var differs = [UInt8](repeating: 0, count: shape.length)
        differs.withUnsafeMutableBufferPointer { differs in
            let template = (frames + shape.template).assumingMemoryBound(to: UInt8.self)
            for start in shape.rows {
                let row = (frames + Int(start)).assumingMemoryBound(to: UInt8.self)
                for position in 0..<shape.length { differs[position] |= template[position] ^ row[position] }
            }
        }
        return differs.indices.filter { differs[$0] != 0 }.map { Int32($0) }
    }

    private func writePlain(
        _ out: UnsafeMutableRawBufferPointer, _ keys: UnsafeRawBufferPointer, _ frames: UnsafeRawBufferPointer,
        _ areDerived: Bool
    ) -> Int {
        let base = out.baseAddress!
        var at = 2
        base.storeBytes(of: areDerived ? 1 : 0, toByteOffset: 0, as: UInt8.self)
        base.storeBytes(of: UInt8(shapes.count), toByteOffset: 1, as: UInt8.self)
        for shape in shapes {
            RowBlock.storeLE(UInt32(shape.length), base, at)
            RowBlock.storeLE(UInt32(shape.rows.count), base, at + 4)
            at += 8
            (base + at).copyMemory(from: frames.baseAddress! + shape.template, byteCount: shape.length)
            at += shape.length
            let bitmapLength = (shape.length + 7) / 8
            for index in 0..<bitmapLength { base.storeBytes(of: 0, toByteOffset: at + index, as: UInt8.self) }
            for position in shape.varying {
                let place = at + Int(position) / 8
                base.storeBytes(
                    of: base.load(fromByteOffset: place, as: UInt8.self) | 1 << UInt8(position & 7),
                    toByteOffset: place,
                    as: UInt8.self)
            }
            at += bitmapLength
        }
        if shapes.count > 1 {
            shapeOfRow.withUnsafeBytes { (base + at).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            at += shapeOfRow.count
        }
        if !areDerived {
            for plane in 0..<RowBlock.keyLength {
                var last: UInt8 = 0
                for row in 0..<shapeOfRow.count {
                    let byte = keys[row * RowBlock.keyLength + plane]
                    base.storeBytes(of: byte &- last, toByteOffset: at, as: UInt8.self)
                    last = byte
                    at += 1
                }
            }
        }
        for shape in shapes {
            shape.rows.withUnsafeBufferPointer { rows in
                for position in shape.varying {
                    let column = (frames.baseAddress! + Int(position)).assumingMemoryBound(to: UInt8.self)
                    let plane = (base + at).assumingMemoryBound(to: UInt8.self)
                    var last: UInt8 = 0
                    for index in 0..<rows.count {
                        let byte = column[Int(rows[index])]
                        plane[index] = byte &- last
                        last = byte
                    }
                    at += rows.count
                }
            }
        }
        return at
    }

    // MARK: Unpacking

    /// Unpacks into keys and valid frames of exactly these lengths; any bytes may be given. Returns whether keys are
    /// derived (and `keys` untouched), or nil where the bytes are damaged.
    func unpack(
        _ packed: UnsafeRawBufferPointer, keys: UnsafeMutableRawBufferPointer, frames: UnsafeMutableRawBufferPointer,
        rowCount: Int
    ) -> Bool? {
        guard packed.count > 4 else { return nil }
        let length = Int(RowBlock.loadLE(packed, 0) as UInt32)
        let bound = 2 + Self.shapesMax * 9 + 3 * frames.count + rowCount + keys.count
        guard length >= 2, length <= bound else { return nil }
        let buffer = plain.reserve(length)
        guard
            ZSTD_decompressDCtx(
                decompressor, buffer.baseAddress!, length, packed.baseAddress! + 4, packed.count - 4) == length
        else { return nil }
        let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<length])
        let areDerived = bytes[0] & 1 != 0
        var at = 2
        guard readShapes(bytes, Int(bytes[1]), &at, rowCount, frames.count) else { return nil }
        guard placeRows(bytes, &at, rowCount, frames.count) else { return nil }
        if !areDerived {
            guard length - at >= keys.count else { return nil }
            for plane in 0..<RowBlock.keyLength {
                var last: UInt8 = 0
                for row in 0..<rowCount {
                    last = last &+ bytes[at]
                    keys[row * RowBlock.keyLength + plane] = last
                    at += 1
                }
            }
        }
        guard length - at == shapes.reduce(0, { $0 + $1.varying.count * $1.rows.count }) else { return nil }
        let base = frames.baseAddress!
        for shape in shapes {
            shape.rows.withUnsafeBufferPointer { rows in
                let template = bytes.baseAddress! + shape.template
                for start in rows { (base + Int(start)).copyMemory(from: template, byteCount: shape.length) }
                for position in shape.varying {
                    let column = (base + Int(position)).assumingMemoryBound(to: UInt8.self)
                    let plane = (bytes.baseAddress! + at).assumingMemoryBound(to: UInt8.self)
                    var last: UInt8 = 0
                    for index in 0..<rows.count {
                        last = last &+ plane[index]
                        column[Int(rows[index])] = last
                    }
                    at += rows.count
                }
            }
        }
        return areDerived
    }

    /// Reads lengths, templates and bitmaps; their rows must make up the block exactly.
    private func readShapes(
        _ bytes: UnsafeRawBufferPointer, _ count: Int, _ at: inout Int, _ rowCount: Int, _ framesLength: Int
    ) -> Bool {
        shapes.removeAll(keepingCapacity: true)
        guard count >= 1, count <= Self.shapesMax else { return false }
        var rowsLeft = rowCount
        var bytesLeft = framesLength
        for _ in 0..<count {
            guard bytes.count - at >= 8 else { return false }
            let length = Int(RowBlock.loadLE(bytes, at) as UInt32)
            let rows = Int(RowBlock.loadLE(bytes, at + 4) as UInt32)
            at += 8
            let bitmapLength = (length + 7) / 8
            guard length >= RowBlock.framePrefixLength, rows >= 1, rows <= rowsLeft, length <= bytesLeft / rows,
                bytes.count - at >= length + bitmapLength
            else { return false }
            rowsLeft -= rows
            bytesLeft -= rows * length
            var shape = Shape(length: length, template: at)
            shape.rows.reserveCapacity(rows)
            at += length
            for position in 0..<length where bytes[at + position / 8] & 1 << UInt8(position & 7) != 0 {
                shape.varying.append(Int32(position))
            }
            at += bitmapLength
            guard isFrame(bytes, shape) else { return false }
            shapes.append(shape)
        }
        return rowsLeft == 0 && bytesLeft == 0
    }

    /// Whether every row of a shape begins with the prefix of a frame of its length: then no row need be looked at for
    /// it.
    private func isFrame(_ bytes: UnsafeRawBufferPointer, _ shape: Shape) -> Bool {
        let length = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: shape.template + 1, as: UInt32.self))
        return bytes[shape.template] == 0 && Int(length) == shape.length - RowBlock.framePrefixLength
            && (shape.varying.first ?? .max) >= RowBlock.framePrefixLength
    }

    /// Finds where each row begins.
    private func placeRows(
        _ bytes: UnsafeRawBufferPointer, _ at: inout Int, _ rowCount: Int, _ framesLength: Int
    ) -> Bool {
        if shapes.count == 1 {
            let length = shapes[0].length
            for row in 0..<rowCount { shapes[0].rows.append(Int32(row * length)) }
            return true
        }
        guard bytes.count - at >= rowCount else { return false }
        var start = 0
        for row in 0..<rowCount {
            let shape = Int(bytes[at + row])
            guard shape < shapes.count, framesLength - start >= shapes[shape].length else { return false }
            shapes[shape].rows.append(Int32(start))
            start += shapes[shape].length
        }
        at += rowCount
        return start == framesLength
    }

    /// Whether every row's key can be read from its frame, for rows of one feed and this epoch.
    static func areKeysDerived(
        _ keys: UnsafeRawBufferPointer, _ frames: UnsafeRawBufferPointer, _ rowCount: Int, _ tracks: [RowBlock.Track],
        _ hour: Int32
    ) -> Bool {
        guard let first = tracks.first, tracks.allSatisfy({ $0.feed == first.feed && $0.epoch == first.epoch }) else {
            return false
        }
        var start = 0
        for row in 0..<rowCount {
            let packed: UInt64 = RowBlock.loadLE(keys, row * RowBlock.keyLength)
            let delta: UInt32 = RowBlock.loadLE(keys, row * RowBlock.keyLength + 8)
            let length = Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: start + 1, as: UInt32.self)))
            let payload = UnsafeRawBufferPointer(rebasing: frames[(start + 5)..<(start + 5 + length)])
            guard let reader = try? TickReader(payload), reader.epoch == first.epoch,
                reader.sequence == tracks[Int(packed >> 48)].baseSequence &+ UInt64(delta),
                reader.filingTimeNs == Hour.time(hour, packed & 0xffff_ffff_ffff)
            else { return false }
            start += 5 + length
        }
        return true
    }
}
