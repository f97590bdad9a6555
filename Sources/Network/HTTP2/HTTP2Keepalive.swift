import CNGHTTP2
import EventLoop

/// The one deadline of a connection: the next thing that its lifetime asks for.
final class LifetimeDeadline: Deadline {
    /// Until the connection is closed.
    var connection: HTTP2Connection?

    override func passed() { connection?.checkLifetime() }
}

// MARK: Pings, idle time and age

extension HTTP2Connection {
    /// First bytes of the pings that are sent, to tell their answers apart.
    private static let keepalivePing: UInt8 = 1
    private static let drainPing: UInt8 = 2

    /// Server: takes no new streams from now on; the open ones go on. The peer is told first that the end comes, and
    /// after an answer, which shows that it knows, which stream was the last: none that it began before is refused.
    public func startDraining() { startDraining(reason: "shutdown", hasGrace: false) }

    private func startDraining(reason: String, hasGrace: Bool) {
        guard !isClosed, !isDraining else { return }
        isDraining = true
        lifetime.startedDraining(now: transport.loop.nowMilliseconds, hasGrace: hasGrace)
        if isServer {
            nghttp2_submit_shutdown_notice(session)
            ping(HTTP2Connection.drainPing)
            streams.forEach { $0.connectionIsEnding() }
        } else {
            goAway(0, reason)
        }
        scheduleFlush()
    }

    private func ping(_ kind: UInt8) {
        let data: [UInt8] = [kind, 0, 0, 0, 0, 0, 0, 0]
        nghttp2_submit_ping(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), data)
        scheduleFlush()
    }

    /// Has the lifetime checked when the next thing may be due. What moves it later is found out then.
    func scheduleLifetimeCheck() {
        guard !isClosed, let next = lifetime.nextCheck, next != .max else { return }
        if lifetimeDeadline.isWaiting, lifetimeDeadline.milliseconds <= next { return }
        deadlines.set(lifetimeDeadline, at: next)
    }

    func checkLifetime() {
        let now = transport.loop.nowMilliseconds
        while !isClosed, let action = lifetime.check(now: now) {
            switch action {
            case .ping: ping(HTTP2Connection.keepalivePing)
            case .drain(let reason): startDraining(reason: reason, hasGrace: true)
            case .close(let reason):
                if lifetime.isSilent(now: now) { note(.silent) }
                close(reason: reason)
            }
        }
        scheduleLifetimeCheck()
    }

    func receivedPong(_ kind: UInt8) {
        if kind == HTTP2Connection.drainPing, isDraining { goAway() }
    }

    func receivedPing() {
        guard isServer, settings.pingGapMillisecondsMin > 0,
            pingRule.received(now: transport.loop.nowMilliseconds)
        else { return }
        note(.tooManyPings)
        goAway(HTTP2ErrorCode.enhanceYourCalm, "too_many_pings")
        close(reason: "the peer pings too often")
    }
}
