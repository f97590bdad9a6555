/// A `tapedeck up` that was started as a process of its own, for drills and benches.
public final class StartedPlatform: @unchecked Sendable {
    public let address: String
    /// Where its metrics are.
    public let metrics: String
    public let pid: Int32
    /// From the start of the process to its line that it serves.
    public let readySeconds: Double
    let process: ChildProcess

    /// Starts it on a data directory, at a port of the system's choice, and waits until it serves. Its messages go to
    /// `drill.log` there. Throws ``DrillError``.
    public init(program: String, directory: String, arguments: [String]) throws(DrillError) {
        let started = Drill.monotonicNs()
        process = try ChildProcess(
            program,
            [
                "up", "--no-supervisor", "--data", directory, "--listen", "127.0.0.1:0", "--metrics-listen",
                "127.0.0.1:0",
            ] + arguments,
            errorsTo: directory + "/drill.log")
        pid = process.pid
        while let line = process.readLine(timeoutMilliseconds: 30_000) {
            guard let address = ReadyLine.address(line), let metrics = ReadyLine.metrics(line) else { continue }
            self.address = address
            self.metrics = metrics
            readySeconds = Double(Drill.monotonicNs() - started) / 1e9
            return
        }
        throw DrillError("the platform did not start; its messages are in \(directory)/drill.log")
    }

    /// Ends it, by SIGKILL or with everything in order, and waits. The exit status, nil where it did not end in 30 s.
    @discardableResult
    public func stop(kill: Bool) -> Int32? {
        process.signal(kill ? 9 : 15)
        return process.wait(timeoutMilliseconds: 30_000)
    }
}
