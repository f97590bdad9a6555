/// The open streams of a connection by their numbers: open addressing, as numbers of one side rise by two. Those that
/// share a run of places lie in the order of their homes, so that what has its home is moved by nothing before it. It
/// holds a reference to each.
struct HTTP2StreamTable<Stream: AnyObject>: ~Copyable {
    private struct Slot {
        /// 0 where there is none.
        var id: Int32
        var stream: Unmanaged<Stream>?
    }

    private var slots = HTTP2StreamTable.allocate(16)
    /// Number of slots, a power of two, less one.
    private var mask = 15
    private(set) var count = 0

    init() {}

    deinit {
        for place in 0...mask { slots[place].stream?.release() }
        slots.deallocate()
    }

    private static func allocate(_ capacity: Int) -> UnsafeMutablePointer<Slot> {
        let slots = UnsafeMutablePointer<Slot>.allocate(capacity: capacity)
        slots.initialize(repeating: Slot(id: 0, stream: nil), count: capacity)
        return slots
    }

    var isEmpty: Bool { count == 0 }

    /// In the order of their numbers.
    var inOrder: [Stream] {
        (0...mask).compactMap { slots[$0].stream != nil ? slots[$0] : nil }.sorted { $0.id < $1.id }
            .compactMap { $0.stream?.takeUnretainedValue() }
    }

    /// In no order; the table stays as it is meanwhile.
    func forEach(_ body: (Stream) -> Void) {
        for place in 0...mask { if let stream = slots[place].stream { body(stream.takeUnretainedValue()) } }
    }

    @inline(__always)
    private func home(_ id: Int32) -> Int { Int(id >> 1) & mask }

    /// Where a number is; nil where it is not.
    @inline(__always)
    private func place(_ id: Int32) -> Int? {
        var place = home(id)
        while slots[place].id != 0 {
            if slots[place].id == id { return place }
            place = (place + 1) & mask
        }
        return nil
    }

    /// The stream of a number, without a reference counted for it: valid until it is removed.
    @inline(__always)
    func find(_ id: Int32) -> Unmanaged<Stream>? { place(id).flatMap { slots[$0].stream } }

    /// Adds a stream whose number is not there yet.
    mutating func insert(_ stream: Stream, _ id: Int32) {
        precondition(id > 0)
        if (count + 1) * 2 > mask + 1 { grow() }
        put(Unmanaged.passRetained(stream), id)
        count += 1
    }

    /// Who is nearer to its home makes room.
    private func put(_ stream: Unmanaged<Stream>, _ id: Int32) {
        var moving = Slot(id: id, stream: stream)
        var place = home(id)
        var distance = 0
        while slots[place].id != 0 {
            let found = (place &- home(slots[place].id)) & mask
            if found < distance {
                swap(&moving, &slots[place])
                distance = found
            }
            place = (place + 1) & mask
            distance += 1
        }
        slots[place] = moving
    }

    private mutating func grow() {
        let old = slots
        let oldMask = mask
        mask = mask * 2 + 1
        slots = HTTP2StreamTable.allocate(mask + 1)
        for place in 0...oldMask { if let stream = old[place].stream { put(stream, old[place].id) } }
        old.deallocate()
    }

    mutating func remove(_ id: Int32) -> Stream? {
        guard var gap = place(id) else { return nil }
        let removed = slots[gap].stream
        count -= 1
        // Those behind that were pushed on move up, so that no search ends at the gap.
        while true {
            let next = (gap + 1) & mask
            guard slots[next].id != 0, home(slots[next].id) != next else { break }
            slots[gap] = slots[next]
            gap = next
        }
        slots[gap] = Slot(id: 0, stream: nil)
        return removed?.takeRetainedValue()
    }

    mutating func removeAll() { self = HTTP2StreamTable() }
}
