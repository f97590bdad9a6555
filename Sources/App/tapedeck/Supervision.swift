import CLinux
import Glibc

/// What a platform knows of the parent process that keeps it: handed over in the environment.
struct Supervision: Hashable {
    static let variable = "TAPEDECK_SUPERVISED"

    let parent: pid_t
    /// How often a platform under this parent has crashed, and was restarted as planned.
    let crashes: Int
    let restarts: Int
    /// Descriptors of the sockets that the parent has bound.
    let clients: Int32
    let metrics: Int32

    init(parent: pid_t, crashes: Int, restarts: Int, clients: Int32, metrics: Int32) {
        self.parent = parent
        self.crashes = crashes
        self.restarts = restarts
        self.clients = clients
        self.metrics = metrics
    }

    /// As ``text`` has it; nil for anything else.
    init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map { Int32($0) }
        guard parts.count == 5, let parent = parts[0], let crashes = parts[1], let restarts = parts[2],
            let clients = parts[3], let metrics = parts[4]
        else { return nil }
        self.init(
            parent: parent, crashes: Int(crashes), restarts: Int(restarts), clients: clients, metrics: metrics)
    }

    var text: String { "\(parent):\(crashes):\(restarts):\(clients):\(metrics)" }

    /// What this process is to be.
    enum Role {
        case parent
        /// Kept by a parent.
        case platform(Supervision)
        /// Reads its configuration and the files that it names, and ends: whether a restart would come up.
        case check
    }

    static let check = "check"

    /// Takes the variable out of the environment: it is nobody else's. Before there is a second thread.
    static func takeRole() -> Role {
        guard let value = getenv(variable) else { return .parent }
        let text = String(cString: value)
        unsetenv(variable)
        if text == check { return .check }
        guard let supervision = Supervision(text), supervision.parent == getppid() else { return .parent }
        return .platform(supervision)
    }

    /// This process does not outlive its parent: whoever kills the one means both. False where it is gone already.
    func endWithParent() -> Bool { clinux_end_with_parent(SIGKILL) == 0 && getppid() == parent }

    /// Asks the parent for a planned restart.
    func askForRestart() { kill(parent, SIGUSR2) }
}
