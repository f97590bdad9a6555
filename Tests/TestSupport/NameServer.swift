import Foundation
import Synchronization

/// A small name server on 127.0.0.1, by UDP and TCP, that a test decides about. Writes its messages byte by byte, with
/// nothing of the code under test.
public final class NameServer: Sendable {
    /// What it does with a question.
    public struct Behaviour: Sendable {
        /// Numeric addresses of any name but those of `aliases`.
        public var addresses: [String] = []
        /// Names that stand for others, in the answer that asks for the first.
        public var aliases: [(name: String, target: String)] = []
        /// Questions by UDP that are not answered.
        public var silent = 0
        /// Answers by UDP have no room for the addresses.
        public var isTruncated = false
        /// Before each answer come others: of another id, to another question, and a question.
        public var isForged = false
        /// The last address claims to be longer than the message.
        public var isMalformed = false
        public var code: UInt8 = 0

        public init() {}
    }

    public let port: Int
    private let udp: Int32
    private let tcp: Int32
    private let behaviour: Mutex<Behaviour>
    private let isStopped = Atomic<Bool>(false)
    private let counts = Mutex((udp: 0, tcp: 0))

    /// Questions so far.
    public var questions: (udp: Int, tcp: Int) { counts.withLock { $0 } }

    public init(_ behaviour: Behaviour) throws {
        self.behaviour = Mutex(behaviour)
        (udp, tcp, port) = try NameServer.bound()
        Thread.detachNewThread { [self] in run() }
    }

    public convenience init(_ addresses: [String]) throws {
        var behaviour = Behaviour()
        behaviour.addresses = addresses
        try self.init(behaviour)
    }

    public func set(_ addresses: [String]) { behaviour.withLock { $0.addresses = addresses } }

    public func stop() { isStopped.store(true, ordering: .relaxed) }

    /// Both kinds of sockets on one port.
    private static func bound() throws -> (Int32, Int32, Int) {
        for _ in 0..<50 {
            let udp = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            let tcp = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let isBound = withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                    bind(udp, address, length) == 0 && getsockname(udp, address, &length) == 0
                        && bind(tcp, address, length) == 0 && listen(tcp, 16) == 0
                }
            }
            if isBound { return (udp, tcp, Int(UInt16(bigEndian: address.sin_port))) }
            close(udp)
            close(tcp)
        }
        throw CocoaError(.featureUnsupported)
    }

    private func run() {
        while !isStopped.load(ordering: .relaxed) {
            var polled = [
                pollfd(fd: udp, events: Int16(POLLIN), revents: 0), pollfd(fd: tcp, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&polled, 2, 50) > 0 else { continue }
            if polled[0].revents != 0 { serveDatagram() }
            if polled[1].revents != 0 { serveConnection() }
        }
        close(udp)
        close(tcp)
    }

    private func serveDatagram() {
        var buffer = [UInt8](repeating: 0, count: 2048)
        var from = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutablePointer(to: &from) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                let count = recvfrom(udp, &buffer, buffer.count, 0, address, &length)
                guard count > 12 else { return }
                counts.withLock { $0.udp += 1 }
                for answer in answers(Array(buffer[..<count]), isStream: false) {
                    sendto(udp, answer, answer.count, 0, address, length)
                }
            }
        }
    }

    private func serveConnection() {
        let connection = accept(tcp, nil, nil)
        guard connection >= 0 else { return }
        defer { close(connection) }
        var limit = timeval(tv_sec: 2, tv_usec: 0)
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var message: [UInt8] = []
        var byte: UInt8 = 0
        while message.count < 2 || message.count - 2 < Int(message[0]) << 8 | Int(message[1]) {
            guard recv(connection, &byte, 1, 0) == 1 else { return }
            message.append(byte)
        }
        counts.withLock { $0.tcp += 1 }
        for answer in answers(Array(message[2...]), isStream: true) {
            // In two pieces, so that a reader has to wait for the second.
            let framed = [UInt8(answer.count >> 8), UInt8(answer.count & 255)] + answer
            send(connection, framed, 1, 0)
            framed.withUnsafeBytes { _ = send(connection, $0.baseAddress! + 1, $0.count - 1, 0) }
        }
    }

    private func answers(_ query: [UInt8], isStream: Bool) -> [[UInt8]] {
        let now = behaviour.withLock { behaviour -> Behaviour? in
            if !isStream, behaviour.silent > 0 {
                behaviour.silent -= 1
                return nil
            }
            return behaviour
        }
        guard let now else { return [] }
        var answer = NameServer.answer(query, now, isTruncated: now.isTruncated && !isStream)
        if now.isMalformed { answer[answer.count - 5] = 200 }
        guard now.isForged, !isStream else { return [answer] }
        var forged = Behaviour()
        forged.addresses = ["192.0.2.66"]
        var otherID = NameServer.answer(query, forged, isTruncated: false)
        otherID[0] ^= 0x55
        var otherName = NameServer.answer(query, forged, isTruncated: false)
        otherName[13] ^= 1
        var question = NameServer.answer(query, forged, isTruncated: false)
        question[2] &= 0x7f
        return [otherID, otherName, question, [], [0, 1, 2], answer]
    }

    private static func answer(_ query: [UInt8], _ behaviour: Behaviour, isTruncated: Bool) -> [UInt8] {
        var end = 12
        while query[end] != 0 { end += 1 + Int(query[end]) }
        let question = query[12..<(end + 5)]
        let type = Int(query[end + 1]) << 8 | Int(query[end + 2])
        var records: [[UInt8]] = []
        var owner: [UInt8] = [0xc0, 12]
        if !isTruncated, behaviour.code == 0 {
            for alias in behaviour.aliases {
                let target = name(alias.target)
                records.append(name(alias.name) + [0, 5, 0, 1, 0, 0, 0, 60, 0, UInt8(target.count)] + target)
                owner = target
            }
            for text in behaviour.addresses {
                let isV6 = text.contains(":")
                guard type == (isV6 ? 28 : 1) else { continue }
                var bytes = [UInt8](repeating: 0, count: isV6 ? 16 : 4)
                inet_pton(isV6 ? AF_INET6 : AF_INET, text, &bytes)
                records.append(owner + [0, UInt8(type), 0, 1, 0, 0, 0, 60, 0, UInt8(bytes.count)] + bytes)
            }
        }
        let flags: [UInt8] = [isTruncated ? 0x83 : 0x81, 0x80 | behaviour.code]
        let counts: [UInt8] = [0, 1, UInt8(records.count >> 8), UInt8(records.count & 255), 0, 0, 0, 0]
        return query[..<2] + flags + counts + question + records.joined()
    }

    private static func name(_ text: String) -> [UInt8] {
        text.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
    }
}
