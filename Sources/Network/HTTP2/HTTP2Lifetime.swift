/// When a connection's peer is asked whether it lives, when the connection is drained, and when it is closed. Pure: it
/// is told the time in milliseconds and answers what to do.
struct HTTP2Lifetime {
    /// What is due.
    enum Action: Hashable {
        /// Ask the peer for a sign of life.
        case ping
        /// Take no more streams, let the open ones end.
        case drain(String)
        case close(String)
    }

    private let settings: HTTP2Settings
    private var lastReceived: UInt64
    private var pingSent: UInt64?
    private var idleSince: UInt64?
    private let born: UInt64
    private var drainStarted: UInt64?
    private var peerLeft: UInt64?
    /// What a peer that said it goes has for closing the connection itself, in milliseconds.
    private static let leaveMilliseconds = 500

    init(_ settings: HTTP2Settings, now: UInt64) {
        self.settings = settings
        lastReceived = now
        idleSince = now
        born = now
    }

    /// Any bytes are a sign of life.
    mutating func received(now: UInt64) {
        lastReceived = now
        pingSent = nil
    }

    mutating func streamsChanged(open: Int, now: UInt64) {
        if open > 0 { idleSince = nil } else if idleSince == nil { idleSince = now }
    }

    /// The connection is drained for another reason; the grace time runs from now, if `hasGrace`.
    mutating func startedDraining(now: UInt64, hasGrace: Bool) {
        if drainStarted == nil { drainStarted = hasGrace ? now : .max }
    }

    /// The peer goes, and no stream is open any more.
    mutating func peerLeaves(now: UInt64) { if peerLeft == nil { peerLeft = now } }

    private static func after(_ start: UInt64, _ milliseconds: Int) -> UInt64 {
        start.addingReportingOverflow(UInt64(max(0, milliseconds))).overflow
            ? .max : start + UInt64(max(0, milliseconds))
    }

    private var pingAt: UInt64? {
        guard settings.keepaliveMilliseconds > 0, pingSent == nil else { return nil }
        guard settings.keepaliveWithoutStreams || idleSince == nil else { return nil }
        return HTTP2Lifetime.after(lastReceived, settings.keepaliveMilliseconds)
    }

    private var deadAt: UInt64? { pingSent.map { HTTP2Lifetime.after($0, settings.keepaliveTimeoutMilliseconds) } }

    /// The answer to a ping is overdue.
    func isSilent(now: UInt64) -> Bool { deadAt.map { $0 <= now } ?? false }

    private var idleEnd: UInt64? {
        guard settings.idleMilliseconds > 0, drainStarted == nil, let idleSince else { return nil }
        return HTTP2Lifetime.after(idleSince, settings.idleMilliseconds)
    }

    private var ageEnd: UInt64? {
        guard settings.ageMilliseconds > 0, drainStarted == nil else { return nil }
        return HTTP2Lifetime.after(born, settings.ageMilliseconds)
    }

    private var graceEnd: UInt64? { drainStarted.map { HTTP2Lifetime.after($0, settings.graceMilliseconds) } }

    private var leaveEnd: UInt64? { peerLeft.map { HTTP2Lifetime.after($0, HTTP2Lifetime.leaveMilliseconds) } }

    /// When to check next; nil: only after something happened.
    var nextCheck: UInt64? { [pingAt, deadAt, idleEnd, ageEnd, graceEnd, leaveEnd].compactMap { $0 }.min() }

    /// What is due now, one thing at a time.
    mutating func check(now: UInt64) -> Action? {
        if let deadAt, deadAt <= now {
            return .close("no sign of life for \(settings.keepaliveTimeoutMilliseconds) ms after a ping")
        }
        if let leaveEnd, leaveEnd <= now { return .close("the peer closed it") }
        if let graceEnd, graceEnd <= now { return .close("the grace time is over") }
        if let idleEnd, idleEnd <= now {
            drainStarted = now
            return .drain("idle")
        }
        if let ageEnd, ageEnd <= now {
            drainStarted = now
            return .drain("max_age")
        }
        if let pingAt, pingAt <= now {
            pingSent = now
            return .ping
        }
        return nil
    }
}

/// Whether a peer pings too often, by gRPC's rule: a ping that comes before the gap is over is a strike, and what is
/// sent to the peer (headers or data, which a peer may measure by pings) wipes its strikes off.
struct HTTP2PingRule {
    private let gapMilliseconds: UInt64
    private let strikesMax: Int
    private var strikes = 0
    private var last: UInt64?

    init(gapMilliseconds: Int, strikesMax: Int) {
        self.gapMilliseconds = UInt64(max(0, gapMilliseconds))
        self.strikesMax = strikesMax
    }

    mutating func sentSomething() {
        strikes = 0
        last = nil
    }

    /// A ping came; whether it is one too many.
    mutating func received(now: UInt64) -> Bool {
        defer { last = now }
        guard let last, now - min(now, last) < gapMilliseconds else { return false }
        strikes += 1
        return strikes >= strikesMax
    }
}

/// How many frames that ask for nothing (empty DATA, WINDOW_UPDATE, PRIORITY, unknown types) a peer may send: some at
/// once, more for each stream it opens and each DATA frame it is sent.
struct HTTP2FrameBudget {
    private let framesMax: Int
    private var left: Int
    private static let perUsefulFrame = 10

    init(framesMax: Int) {
        self.framesMax = framesMax
        left = framesMax
    }

    mutating func usefulFrame() { left = min(framesMax, left + HTTP2FrameBudget.perUsefulFrame) }

    /// A frame that asks for nothing came; false when it is one too many.
    mutating func takeFrame() -> Bool {
        left -= 1
        return left >= 0
    }
}
