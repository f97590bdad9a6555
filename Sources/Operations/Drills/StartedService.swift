import EventLoop
import Glibc

/// A `tapedeck run SERVICE` that a drill started. Its messages go to a file of its name. Used by one thread.
final class StartedService {
    let name: String
    let messages: String
    /// Where it serves clients; empty for one that serves none.
    let address: String
    private let process: ChildProcess
    private let metrics: MetricsPage

    /// Starts it and waits until it works.
    init(
        _ name: String, program: String, directory: String, arguments: [String], on loop: EventLoop
    ) throws(DrillError) {
        self.name = name
        messages = directory + "/\(name).log"
        process = try ChildProcess(
            program, ["run"] + arguments + ["--metrics-listen", "127.0.0.1:0"], errorsTo: messages)
        while let line = process.readLine(timeoutMilliseconds: 60_000) {
            guard let page = ReadyLine.metrics(line) else { continue }
            address = ReadyLine.address(line) ?? ""
            metrics = try MetricsPage(page, on: loop)
            return
        }
        throw DrillError("\(name) did not start; its messages are in \(messages)")
    }

    /// Sums of its metrics by name; empty where it does not answer.
    func read() -> [String: Double] { metrics.read() }

    /// Whether its process is there.
    var isRunning: Bool { process.wait(timeoutMilliseconds: 0) == nil }

    /// SIGKILL. Throws where it had ended by itself.
    func kill() throws(DrillError) {
        process.signal(SIGKILL)
        guard let status = process.wait(timeoutMilliseconds: 30_000) else {
            throw DrillError("\(name) does not die")
        }
        guard status == 128 + SIGKILL else {
            throw DrillError("\(name) ended by itself with \(status); its messages are in \(messages)")
        }
    }

    /// Ends it in order. Throws where it does not, or fails.
    func stop(withinSeconds seconds: Int = 90) throws(DrillError) {
        process.signal(SIGTERM)
        guard let status = process.wait(timeoutMilliseconds: seconds * 1000) else {
            throw DrillError("\(name) did not stop in \(seconds) s; its messages are in \(messages)")
        }
        guard status == 0 else { throw DrillError("\(name) ended with \(status); its messages are in \(messages)") }
    }

    /// Its exit status once it has ended by itself.
    func waitForEnd(withinSeconds seconds: Int) -> Int32? { process.wait(timeoutMilliseconds: seconds * 1000) }
}

/// Commands of whoever runs the engines.
enum EngineCommand {
    /// Runs it by the shell. Throws where it fails, or takes more than five minutes.
    static func run(_ command: String, messages: String) throws(DrillError) {
        let process = try ChildProcess("/bin/sh", ["-c", "exec 1>&2; " + command], errorsTo: messages)
        guard let status = process.wait(timeoutMilliseconds: 300_000) else {
            throw DrillError("`\(command)` takes more than five minutes")
        }
        guard status == 0 else {
            throw DrillError("`\(command)` ended with \(status); its messages are in \(messages)")
        }
    }
}
