import CNGHTTP2
import Glibc

/// Where nghttp2's sessions of one loop get their memory: blocks of a few sizes that are used again. A request takes
/// and gives back some ten of them, and the C library's allocator, which serves all threads, is several times as slow.
///
/// Blocks go back to the C library when more are free than a busy loop has use for. Confined to the loop, as its
/// sessions are; it lives as long as the last of them.
public final class HTTP2Memory {
    /// A block begins with its class; what nghttp2 gets is behind that, aligned as by `malloc`.
    private static let prefixBytes = 16
    /// Sizes with the prefix: 64, 128, 256, 512 and 1024 bytes. Larger ones go to the C library.
    private static let classCount = 5
    private static let smallestShift = 6
    private static let largeClass = classCount
    private static let shortBytesMax = (1 << (smallestShift + classCount - 1)) - prefixBytes
    /// Free blocks kept of each class. None under a sanitizer, which sees a use after the end only of what was freed.
    #if TAPEDECK_FUZZ
        private static let keptMax: Int32 = 0
    #else
        private static let keptMax: Int32 = 4096
    #endif

    /// The head of a list of free blocks, linked through their first bytes, and its length.
    private struct FreeList {
        var first: UnsafeMutableRawPointer?
        var count: Int32 = 0
    }

    private let lists = UnsafeMutablePointer<FreeList>.allocate(capacity: HTTP2Memory.classCount)
    let functions = UnsafeMutablePointer<nghttp2_mem>.allocate(capacity: 1)

    init() {
        lists.initialize(repeating: FreeList(), count: HTTP2Memory.classCount)
        functions.initialize(
            to: nghttp2_mem(
                mem_user_data: UnsafeMutableRawPointer(lists),
                malloc: { size, lists in HTTP2Memory.take(size, lists!) },
                free: { block, lists in HTTP2Memory.giveBack(block, lists!) },
                calloc: { count, size, lists in HTTP2Memory.takeZeroed(count, size, lists!) },
                realloc: { block, size, lists in HTTP2Memory.resize(block, size, lists!) }))
    }

    deinit {
        for index in 0..<HTTP2Memory.classCount {
            while let block = lists[index].first {
                lists[index].first = block.load(as: UnsafeMutableRawPointer?.self)
                free(block)
            }
        }
        lists.deallocate()
        functions.deallocate()
    }

    /// Memory for so many bytes, to be given back by ``giveBack(_:)``; nil where that is more than a block of these.
    public func takeShort(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        guard byteCount <= HTTP2Memory.shortBytesMax else { return nil }
        return HTTP2Memory.take(byteCount, UnsafeMutableRawPointer(lists))
    }

    /// Takes back what ``takeShort(_:)`` gave.
    public func giveBack(_ bytes: UnsafeMutableRawPointer) {
        HTTP2Memory.giveBack(bytes, UnsafeMutableRawPointer(lists))
    }

    /// The class whose blocks hold `size` bytes.
    @inline(__always)
    private static func sizeClass(_ size: Int) -> Int {
        if size > shortBytesMax { return largeClass }
        let bits = Int.bitWidth - (size + prefixBytes - 1).leadingZeroBitCount
        return max(0, bits - smallestShift)
    }

    private static func take(_ size: Int, _ lists: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer? {
        let sizeClass = sizeClass(size)
        var block: UnsafeMutableRawPointer?
        if sizeClass < classCount {
            let list = lists.assumingMemoryBound(to: FreeList.self) + sizeClass
            if let first = list.pointee.first {
                list.pointee.first = first.load(as: UnsafeMutableRawPointer?.self)
                list.pointee.count -= 1
                block = first
            } else {
                block = malloc(1 << (smallestShift + sizeClass))
            }
        } else if size <= Int.max - prefixBytes {
            block = malloc(size + prefixBytes)
        }
        guard let block else { return nil }
        block.storeBytes(of: UInt64(sizeClass), as: UInt64.self)
        return block + prefixBytes
    }

    private static func giveBack(_ bytes: UnsafeMutableRawPointer?, _ lists: UnsafeMutableRawPointer) {
        guard let bytes else { return }
        let block = bytes - prefixBytes
        let sizeClass = Int(block.load(as: UInt64.self))
        guard sizeClass < classCount else { return free(block) }
        let list = lists.assumingMemoryBound(to: FreeList.self) + sizeClass
        guard list.pointee.count < keptMax else { return free(block) }
        block.storeBytes(of: list.pointee.first, as: UnsafeMutableRawPointer?.self)
        list.pointee.first = block
        list.pointee.count += 1
    }

    private static func takeZeroed(
        _ count: Int, _ size: Int, _ lists: UnsafeMutableRawPointer
    ) -> UnsafeMutableRawPointer? {
        let (bytes, isTooMany) = count.multipliedReportingOverflow(by: size)
        guard !isTooMany, let taken = take(bytes, lists) else { return nil }
        memset(taken, 0, bytes)
        return taken
    }

    private static func resize(
        _ bytes: UnsafeMutableRawPointer?, _ size: Int, _ lists: UnsafeMutableRawPointer
    ) -> UnsafeMutableRawPointer? {
        guard let bytes else { return take(size, lists) }
        let block = bytes - prefixBytes
        let old = Int(block.load(as: UInt64.self))
        if old < classCount {
            let room = (1 << (smallestShift + old)) - prefixBytes
            if size <= room { return bytes }
            guard let new = take(size, lists) else { return nil }
            new.copyMemory(from: bytes, byteCount: room)
            giveBack(bytes, lists)
            return new
        }
        guard size <= Int.max - prefixBytes, let moved = realloc(block, size + prefixBytes) else { return nil }
        return moved + prefixBytes
    }
}
