/// The open streams of a connection by their numbers: open addressing, as numbers of one side rise by two.
struct HTTP2StreamTable<Stream: AnyObject> {
    /// 0 where there is none.
    private var ids: [Int32] = Array(repeating: 0, count: 16)
    private var slots: [Stream?] = Array(repeating: nil, count: 16)
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }

    /// In the order of their numbers.
    var inOrder: [Stream] {
        zip(ids, slots).sorted { $0.0 < $1.0 }.compactMap { $0.1 }
    }

    @inline(__always)
    private func home(_ id: Int32) -> Int { Int(id >> 1) & (ids.count - 1) }

    /// Where a number is; nil where it is not.
    @inline(__always)
    private func place(_ id: Int32) -> Int? {
        var place = home(id)
        while ids[place] != 0 {
            if ids[place] == id { return place }
            place = (place + 1) & (ids.count - 1)
        }
        return nil
    }

    subscript(id: Int32) -> Stream? { place(id).flatMap { slots[$0] } }

    /// Adds a stream whose number is not there yet.
    mutating func insert(_ stream: Stream, _ id: Int32) {
        precondition(id > 0)
        if (count + 1) * 2 > ids.count { grow() }
        var place = home(id)
        while ids[place] != 0 { place = (place + 1) & (ids.count - 1) }
        ids[place] = id
        slots[place] = stream
        count += 1
    }

    private mutating func grow() {
        let old = zip(ids, slots)
        let doubled = ids.count * 2
        ids = Array(repeating: 0, count: doubled)
        slots = Array(repeating: nil, count: doubled)
        count = 0
        for (id, stream) in old { if let stream { insert(stream, id) } }
    }

    mutating func remove(_ id: Int32) -> Stream? {
        guard var gap = place(id) else { return nil }
        let removed = slots[gap]
        count -= 1
        // Those behind that were pushed on move up, so that no search ends at the gap.
        var next = gap
        while true {
            next = (next + 1) & (ids.count - 1)
            guard ids[next] != 0 else { break }
            let distance = (next &- home(ids[next])) & (ids.count - 1)
            guard distance >= (next &- gap) & (ids.count - 1) else { continue }
            ids[gap] = ids[next]
            slots[gap] = slots[next]
            gap = next
        }
        ids[gap] = 0
        slots[gap] = nil
        return removed
    }

    mutating func removeAll() { self = HTTP2StreamTable() }
}
