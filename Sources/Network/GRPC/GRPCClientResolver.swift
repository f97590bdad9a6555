import DNSCodec
import EventLoop

/// Resolves names: as the system does, or by asking the name server that a target names.
///
/// All addresses, IPv4 and IPv6, in an order that does not change from one time to the next: of the system's answers
/// the family that it prefers first, of a name server's IPv4 first; ascending in each. Numeric addresses are taken as
/// they are. Needs an ``EventLoop``.
public struct GRPCSystemResolver: GRPCResolver {
    /// How name servers are asked.
    public var nameServer = GRPCNameServerOptions()

    public init() {}

    public func resolve(
        _ name: GRPCAddress, server: GRPCAddress?, loop: any Loop,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void
    ) {
        if SocketAddress(numericHost: name.host, port: name.port) != nil { return done(.success([name])) }
        guard let loop = loop as? EventLoop else {
            return done(.failure(GRPCStatus(.unavailable, "cannot resolve \(name.host) on this kind of loop")))
        }
        if let server {
            return GRPCNameServerLookup.start(name, server, loop, nameServer, done)
        }
        loop.lookUp(host: name.host, port: name.port) { result in
            switch result {
            case .success(let addresses):
                done(.success(addresses.map { GRPCAddress(host: $0.numericHost, port: name.port) }))
            case .failure(let error):
                let advice = "check the name and the system's name servers, or name addresses: ipv4:ADDRESS:PORT,…"
                done(.failure(GRPCStatus(.unavailable, "\(error); \(advice)")))
            }
        }
    }
}

/// How a name server is asked.
public struct GRPCNameServerOptions: Hashable, Sendable {
    /// Until the first question is asked again; each wait is twice as long as the one before.
    public var firstWaitMilliseconds = 1000
    /// Questions by UDP before it is given up.
    public var attemptsMax = 3
    /// For an answer by TCP, which follows one that did not fit.
    public var streamMilliseconds = 5000

    public init() {}
}

/// One question to a name server as a state machine: datagrams, several times, then a stream where the answer did not
/// fit. Pure; whoever performs the actions gives each attempt an id that is hard to guess, and a port of its own.
struct GRPCNameQuery {
    enum Action: Equatable {
        /// From a new socket; `timedOut` or `failed` follow when no answer comes in time.
        case sendDatagram([UInt8], withinMilliseconds: Int)
        /// The same over TCP.
        case sendStream([UInt8], withinMilliseconds: Int)
        case wait
        case finish(Result<[[UInt8]], GRPCStatus>)
    }

    private let question: DNSQuestion
    private let server: GRPCAddress
    private let options: GRPCNameServerOptions
    private var id: UInt16 = 0
    private var attempts = 0
    private var isStream = false
    private var received: [UInt8] = []

    init(_ question: DNSQuestion, server: GRPCAddress, options: GRPCNameServerOptions) {
        self.question = question
        self.server = server
        self.options = options
    }

    mutating func start(id: UInt16) -> Action {
        self.id = id
        attempts += 1
        let wait = options.firstWaitMilliseconds << min(attempts - 1, 10)
        return .sendDatagram(question.message(id: id), withinMilliseconds: wait)
    }

    /// Anything else than an answer to this very question is passed over.
    mutating func received(datagram: UnsafeRawBufferPointer, nextID: UInt16) -> Action {
        guard !isStream else { return .wait }
        return take(datagram, nextID)
    }

    /// Bytes of the stream: a message behind its length.
    mutating func received(stream bytes: UnsafeRawBufferPointer) -> Action {
        guard isStream else { return .wait }
        received += bytes
        guard received.count >= 2 else { return .wait }
        let length = Int(received[0]) << 8 | Int(received[1])
        guard received.count >= 2 + length else { return .wait }
        let action = received.withUnsafeBytes { take(UnsafeRawBufferPointer(rebasing: $0[2..<(2 + length)]), 0) }
        guard action == .wait else { return action }
        return fail("answers another question than was asked")
    }

    private mutating func take(_ message: UnsafeRawBufferPointer, _ nextID: UInt16) -> Action {
        let reply: DNSReply
        do throws(DNSMalformed) {
            reply = try question.reply(message, id: id)
        } catch {
            return fail("sent an answer for \(question.name) that is none: \(error)")
        }
        switch reply {
        case .notOurs: return .wait
        case .addresses(let addresses): return .finish(.success(addresses))
        case .noSuchName:
            return fail("knows no \(question.name); a name is looked up as it stands, without a search list")
        case .refused(let code): return fail("answered \(GRPCNameQuery.text(code)) for \(question.name)")
        case .truncated:
            guard !isStream else { return fail("sent an answer that is cut off") }
            isStream = true
            id = nextID
            let message = question.message(id: id)
            let framed = [UInt8(message.count >> 8), UInt8(message.count & 255)] + message
            return .sendStream(framed, withinMilliseconds: options.streamMilliseconds)
        }
    }

    mutating func timedOut(nextID: UInt16) -> Action { failed("no answer in time", nextID: nextID) }

    /// The socket failed.
    mutating func failed(_ why: String, nextID: UInt16) -> Action {
        if !isStream, attempts < options.attemptsMax { return start(id: nextID) }
        let way = isStream ? "TCP" : "UDP"
        return fail("gives no answer (\(why)); check that it is one, and that its \(way) port can be reached")
    }

    private func fail(_ what: String) -> Action {
        .finish(.failure(GRPCStatus(.unavailable, "the name server \(server) \(what)")))
    }

    private static func text(_ code: UInt8) -> String {
        switch code {
        case 1: "FORMERR"
        case 2: "SERVFAIL"
        case 4: "NOTIMP"
        case 5: "REFUSED"
        default: "with the code \(code)"
        }
    }
}
