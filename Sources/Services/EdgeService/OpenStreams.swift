/// The streams of a loop, and what they hold as seen by who looks at a few at a time: at thousands of streams that
/// are at rest, looking at all of them over and over was what they cost. Confined to its loop.
struct OpenStreams {
    private(set) var all: [any EdgeStream] = []
    private var places: [ObjectIdentifier: Int] = [:]
    /// Those before it were looked at in this round.
    private var next = 0
    private var round = EdgeUsage()

    var count: Int { all.count }
    var isEmpty: Bool { all.isEmpty }

    func contains(_ stream: some EdgeStream) -> Bool { places[ObjectIdentifier(stream)] != nil }

    mutating func add(_ stream: some EdgeStream) {
        places[ObjectIdentifier(stream)] = all.count
        all.append(stream)
    }

    mutating func remove(_ stream: some EdgeStream) {
        guard var place = places.removeValue(forKey: ObjectIdentifier(stream)) else { return }
        // The gap is filled by one of its own side, so that the round leaves nobody out.
        if place < next {
            next -= 1
            move(next, to: place)
            place = next
        }
        move(all.count - 1, to: place)
        all.removeLast()
    }

    private mutating func move(_ from: Int, to place: Int) {
        guard from != place else { return }
        all[place] = all[from]
        places[ObjectIdentifier(all[place])] = place
    }

    /// What all hold now.
    var usage: EdgeUsage {
        var usage = EdgeUsage()
        for stream in all { usage.add(stream.usage) }
        return usage
    }

    /// Looks at so many more. What all held, each when it was looked at, once the round is complete; then another
    /// begins.
    mutating func look(atMost count: Int) -> EdgeUsage? {
        let end = min(next + count, all.count)
        for stream in all[next..<end] { round.add(stream.usage) }
        next = end
        guard next == all.count else { return nil }
        var usage = round
        // Without those that ended during the round.
        usage.streams = all.count
        round = EdgeUsage()
        next = 0
        return usage
    }
}
