import Foundation
import MarketProto
import Synchronization
import TapedeckClient
import TestSupport
import Testing

@testable import tapedeck

struct RestartPolicyTests {
    private let killed = ProcessEnd.killed(signal: 9)

    @Test func `What exits by itself has said why, and is not tried again`() {
        for status in [0, 1, 2] as [Int32] {
            var policy = RestartPolicy()
            let decision = policy.ended(.exited(status), livedMilliseconds: 5, isStopping: false, isRestarting: false)
            #expect(decision == .end(status: status))
        }
    }

    @Test func `What is killed is started again, later each time, and anew once it has lived a while`() {
        var policy = RestartPolicy()
        func crash(lived: Int) -> RestartPolicy.Decision {
            policy.ended(killed, livedMilliseconds: lived, isStopping: false, isRestarting: false)
        }
        var waits: [RestartPolicy.Decision] = []
        for _ in 0..<RestartPolicy.crashesMax { waits.append(crash(lived: 59_999)) }
        #expect(
            waits
                == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
                .map { .start(afterMilliseconds: $0) })
        #expect(crash(lived: 60_000) == .start(afterMilliseconds: 100))
        for _ in 1..<RestartPolicy.crashesMax { _ = crash(lived: 0) }
        #expect(crash(lived: 0) == .giveUp)
        #expect(policy.crashes == 2 * RestartPolicy.crashesMax + 1 && policy.restarts == 0)
    }

    @Test func `A planned restart follows at once, unless it is to stop, or the platform fails meanwhile`() {
        var policy = RestartPolicy()
        func end(_ end: ProcessEnd, stopping: Bool = false) -> RestartPolicy.Decision {
            policy.ended(end, livedMilliseconds: 5, isStopping: stopping, isRestarting: true)
        }
        #expect(end(.exited(0)) == .start(afterMilliseconds: 0))
        #expect(end(.exited(0), stopping: true) == .end(status: 0))
        #expect(end(.exited(1)) == .end(status: 1))
        #expect(end(killed) == .start(afterMilliseconds: 100))
        #expect(end(killed, stopping: true) == .end(status: 1))
        #expect(policy.restarts == 1 && policy.crashes == 1)
    }

    @Test func `What the parent hands over is read as it was written, and nothing else is`() {
        let given = Supervision(parent: 17, crashes: 2, restarts: 3, clients: 4, metrics: 5)
        #expect(Supervision(given.text) == given)
        for text in ["", "1", "1:2:3:4", "1:2:3:4:5:6", "1:2:3:4:x", "1:2:3:4:99999999999"] {
            #expect(Supervision(text) == nil, "\(text)")
        }
    }
}

/// The parent process of `tapedeck up`, under load.
@Suite(.serialized, .timeLimit(.minutes(3)))
struct SupervisorTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private var data: String { folder.path + "/data" }
    private var log: String { get throws { try String(contentsOfFile: folder.path + "/log", encoding: .utf8) } }

    private func platform(_ arguments: [String] = []) throws -> BinaryTests.Platform {
        try BinaryTests.Platform(data, ["--rate", "2000"] + arguments, errors: folder.path + "/log")
    }

    /// The process that a platform's parent keeps; nil between two.
    static func child(of parent: Int32) -> Int32? {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        for pid in names.compactMap({ Int32($0) }) {
            guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8),
                let end = text.lastIndex(of: ")")
            else { continue }
            let fields = text[text.index(after: end)...].split(separator: " ")
            if fields.count > 1, fields[0] != "Z", Int32(fields[1]) == parent { return pid }
        }
        return nil
    }

    /// Waits until another process than `child` is kept; which one.
    static func successor(of child: Int32, _ parent: Int32) async throws -> Int32 {
        await until { SupervisorTests.child(of: parent).map { $0 != child } ?? false }
        let next = try #require(SupervisorTests.child(of: parent))
        #expect(next != child)
        return next
    }

    /// Reads everything, whatever happens to the server, and keeps what it was given.
    private final class Reader: Sendable {
        struct Line: Hashable, Sendable {
            let feed: String
            let epoch: UInt64
            let exchange: String
            let symbol: String
        }

        let received = Mutex<[Line: [UInt64]]>([:])
        let gaps = Atomic<Int>(0)
        let resumed = Atomic<Int>(0)
        private let interrupted = Atomic<Int>(0)
        let count = Atomic<Int>(0)
        private let client: TapedeckClient
        private let task = Mutex<Task<Void, Never>?>(nil)

        init(_ address: String) throws {
            client = try TapedeckClient(address)
            task.withLock { $0 = Task { await self.run() } }
        }

        private func run() async {
            do {
                for try await event in client.prices() {
                    switch event {
                    case .ticks(let batch): take(batch)
                    case .gap: gaps.add(1, ordering: .relaxed)
                    case .resumed: resumed.add(1, ordering: .relaxed)
                    case .interrupted: interrupted.add(1, ordering: .relaxed)
                    }
                }
            } catch {}
        }

        private func take(_ batch: TickBatch) {
            let updates = batch.updates
            received.withLock { received in
                for update in updates {
                    let line = Line(
                        feed: update.feedHandlerId, epoch: update.epoch, exchange: update.exchange,
                        symbol: update.symbol)
                    received[line, default: []].append(update.sequence)
                }
            }
            count.add(updates.count, ordering: .relaxed)
        }

        /// Waits until so many more were received.
        func goesOn(_ more: Int = 500) async {
            let before = count.load(ordering: .relaxed)
            await until { count.load(ordering: .relaxed) >= before + more }
            #expect(count.load(ordering: .relaxed) >= before + more)
        }

        /// Stops once the stream has ended and everything that came was read; `ending` ends it.
        func stop(_ ending: () -> Void) async {
            let before = interrupted.load(ordering: .relaxed)
            ending()
            await until { interrupted.load(ordering: .relaxed) > before }
            let task = task.withLock { $0 }
            task?.cancel()
            await task?.value
            client.close()
        }
    }

    /// Connects again and again, and waits each time for the server's first bytes.
    private final class Callers: Sendable {
        struct Counts: Sendable {
            /// The server has answered.
            var served = 0
            /// Nobody listened.
            var refused = 0
            /// The connection ended before the server said anything.
            var cut = 0
        }

        let counts = Mutex(Counts())
        private let isStopping = Atomic<Bool>(false)
        private let running = Atomic<Int>(0)

        init(_ address: String, threads: Int) throws {
            let port = UInt16(address.split(separator: ":").last ?? "") ?? 0
            running.store(threads, ordering: .relaxed)
            for _ in 0..<threads {
                Thread.detachNewThread { [self] in
                    while !isStopping.load(ordering: .relaxed) {
                        call(port)
                        poll(nil, 0, 2)
                    }
                    running.subtract(1, ordering: .relaxed)
                }
            }
        }

        private func call(_ port: UInt16) {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(descriptor) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = in_port_t(port.bigEndian)
            address.sin_addr.s_addr = inet_addr("127.0.0.1")
            let connected = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            guard connected == 0 else { return counts.withLock { $0.refused += 1 } }
            let hello = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
            _ = send(descriptor, hello, hello.count, Int32(MSG_NOSIGNAL))
            var timeout = timeval(tv_sec: 60, tv_usec: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
            var buffer = [UInt8](repeating: 0, count: 4096)
            let isServed = recv(descriptor, &buffer, buffer.count, 0) > 0
            counts.withLock { counts in
                if isServed { counts.served += 1 } else { counts.cut += 1 }
            }
        }

        func stop() async -> Counts {
            isStopping.store(true, ordering: .relaxed)
            await until { running.load(ordering: .relaxed) == 0 }
            return counts.withLock { $0 }
        }
    }

    /// Everything in the log came exactly once, from where the reader began.
    private func check(_ reader: Reader) async throws {
        struct Record: Decodable {
            struct Value: Decodable { let feedHandlerId, epoch, exchange, symbol, sequence: String }
            let value: Value
        }
        let dump = try await BinaryTests.runApart(["dump", "--json", "--data", data])
        #expect(dump.status == 0, "\(dump.errors)")
        var last: [Reader.Line: UInt64] = [:]
        for text in dump.output.split(separator: "\n") {
            let value = try JSONDecoder().decode(Record.self, from: Data(text.utf8)).value
            let line = Reader.Line(
                feed: value.feedHandlerId, epoch: try #require(UInt64(value.epoch)), exchange: value.exchange,
                symbol: value.symbol)
            let sequence: UInt64 = try #require(UInt64(value.sequence))
            last[line] = sequence
        }
        let received = reader.received.withLock { $0 }
        let first = try #require(received.keys.map(\.epoch).min())
        var epochs: Set<UInt64> = []
        for (line, end) in last where line.epoch >= first {
            epochs.insert(line.epoch)
            let got = received[line] ?? []
            let begin = line.epoch == first ? got.first ?? 0 : 1
            #expect(got == Array(begin...max(begin, end)), "\(line): \(got.count) of \(begin)...\(end)")
        }
        #expect(epochs.count > 1)
        #expect(reader.gaps.load(ordering: .relaxed) == 0)
    }

    @Test func `A platform that is killed under load comes again: nobody is refused, nothing is lost or comes twice`()
        async throws
    {
        let platform = try platform()
        let parent = platform.process.processIdentifier
        let reader = try Reader(platform.address)
        await reader.goesOn()
        let callers = try Callers(platform.address, threads: 4)
        // Fewer than what the parent gives up at.
        let kills = Checkout.isSoak ? RestartPolicy.crashesMax - 2 : 2
        for _ in 0..<kills {
            let child = try #require(SupervisorTests.child(of: parent))
            kill(child, SIGKILL)
            _ = try await SupervisorTests.successor(of: child, parent)
            await reader.goesOn()
        }
        let counts = await callers.stop()
        #expect(counts.refused == 0 && counts.served > 50, "\(counts)")
        let metrics = try await BinaryTests.runApart(
            "/usr/bin/curl", ["-sS", "--max-time", "20", "http://\(platform.metrics)/metrics"]
        ).output
        #expect(metrics.contains("\ntapedeck_restarts_total{reason=\"crash\"} \(kills)\n"))
        await reader.stop { #expect(platform.stop() == 0) }
        #expect(reader.resumed.load(ordering: .relaxed) >= kills)
        try await check(reader)
        let lines = try log
        #expect(lines.components(separatedBy: "was ended by signal 9").count == kills + 1, "\(lines)")
    }

    @Test func `A planned restart under load drains, cuts nobody off, and goes on with a new process`() async throws {
        let platform = try platform()
        let parent = platform.process.processIdentifier
        let reader = try Reader(platform.address)
        await reader.goesOn()
        let callers = try Callers(platform.address, threads: 4)
        for _ in 0..<(Checkout.isSoak ? 30 : 1) {
            let before = try #require(SupervisorTests.child(of: parent))
            let asked = try await BinaryTests.runApart(["restart", "--json", "--data", data])
            let after = try #require(SupervisorTests.child(of: parent))
            #expect(asked.status == 0 && asked.output == "{\"before\":\(before),\"after\":\(after)}\n", "\(asked)")
            #expect(before != after)
            await reader.goesOn()
            kill(parent, SIGUSR2)
            _ = try await SupervisorTests.successor(of: after, parent)
            await reader.goesOn()
        }
        let counts = await callers.stop()
        #expect(counts.refused == 0 && counts.cut == 0 && counts.served > 50, "\(counts)")
        await reader.stop { #expect(platform.stop() == 0) }
        try await check(reader)
    }

    @Test func `What would not come up is not restarted; what runs goes on`() async throws {
        let file = folder.path + "/tapedeck.yaml"
        func configure(_ text: String) throws { try text.write(toFile: file, atomically: true, encoding: .utf8) }
        try configure("drain-seconds: 5\n")
        let platform = try platform(["--config", file])
        let parent = platform.process.processIdentifier
        let child = try #require(SupervisorTests.child(of: parent))
        for wrong in ["drain-seconds: soon\n", "access: /no/such/file\n", "tls-cert: /no/such.pem\ntls-key: /no.key\n"]
        {
            try configure(wrong)
            let refused = try await BinaryTests.runApart(["restart", "--data", data])
            #expect(refused.status == 1 && refused.errors.contains("not restarted"), "\(refused)")
        }
        kill(parent, SIGUSR2)
        try await until { try log.contains("error up: not restarted") }
        #expect(SupervisorTests.child(of: parent) == child)
        try configure("drain-seconds: 6\n")
        let asked = try await BinaryTests.runApart(["restart", "--data", data])
        #expect(asked.status == 0 && asked.output.contains("restarted: process \(child) is now"), "\(asked)")
        #expect(platform.stop() == 0)
    }

    @Test func `A trap is written down and mended like any crash`() async throws {
        let platform = try platform()
        let parent = platform.process.processIdentifier
        let child = try #require(SupervisorTests.child(of: parent))
        // The first signal is met by who writes the backtrace; a trap would meet itself again once that is done.
        kill(child, SIGILL)
        try await until { try log.contains("Backtrace took") }
        await until {
            kill(child, SIGILL)
            return SupervisorTests.child(of: parent) != child
        }
        _ = try await SupervisorTests.successor(of: child, parent)
        let lines = try log
        #expect(lines.contains("(process \(child)) was ended by signal 4 (Illegal instruction); it is started again"))
        #expect(lines.contains("Program crashed: Illegal instruction"), "\(lines)")
        var quote = try await BinaryTests.runApart(["quote", "AAPL", "--server", platform.address])
        while quote.errors.contains("NOT_FOUND") {
            quote = try await BinaryTests.runApart(["quote", "AAPL", "--server", platform.address])
        }
        #expect(quote.status == 0, "\(quote.errors)")
        #expect(platform.stop() == 0)
    }

    @Test func `A parent that is killed takes the platform with it; without a parent there is nothing to restart`()
        async throws
    {
        let platform = try platform()
        let child = try #require(SupervisorTests.child(of: platform.process.processIdentifier))
        kill(platform.process.processIdentifier, SIGKILL)
        await until { kill(child, 0) != 0 }
        #expect(kill(child, 0) != 0)
        let alone = try self.platform(["--no-supervisor"])
        #expect(SupervisorTests.child(of: alone.process.processIdentifier) == nil)
        let refused = try await BinaryTests.runApart(["restart", "--data", data])
        #expect(refused.status == 1 && refused.errors.contains("--no-supervisor"), "\(refused.errors)")
        #expect(alone.stop() == 0)
    }
}
