import Foundation

/// A program of `../shared/tools` that serves until it is let go of.
public final class ToolServer: Sendable {
    /// The port it was given.
    public let port: Int
    private let process: ChildProcess

    private init(_ process: ChildProcess, port: Int) {
        self.process = process
        self.port = port
    }

    deinit { stop() }

    /// Ends it, whatever it does with signals. At the end of its use: what nobody mentions any more is gone.
    public func stop() { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    /// Starts it on a free port, which `arguments` gets, and returns once it accepts connections there.
    public static func start(_ tool: String, _ arguments: @escaping @Sendable (Int) -> [String]) async throws
        -> ToolServer
    {
        try await start(prepare: { try Tools.install(tool) }, arguments)
    }

    /// The same with Python and a script.
    public static func python(_ arguments: @escaping @Sendable (Int) -> [String]) async throws -> ToolServer {
        try await start(prepare: { Checkout.python }, arguments)
    }

    /// On a thread of its own: those of async tests are as many as there are cores.
    private static func start(
        prepare: @escaping @Sendable () throws -> String, _ arguments: @escaping @Sendable (Int) -> [String]
    ) async throws -> ToolServer {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try startBlocking(prepare(), arguments) }) }
        }
    }

    private static func startBlocking(_ program: String, _ arguments: (Int) -> [String]) throws -> ToolServer {
        let port = try freePort()
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments(port)
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        let server = ToolServer(process, port: port)
        for _ in 0..<1000 {
            if accepts(port) { return server }
            poll(nil, 0, 20)
        }
        throw CocoaError(.executableLoad)
    }

    private static func address(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = UInt16(port).bigEndian
        return address
    }

    /// A port that nobody has, below those that the system gives to outgoing connections: it can be listened on now,
    /// and again after a server on it ended, whatever other tests connect to meanwhile.
    public static func freePort() throws -> Int {
        for port in (20_000..<32_000).shuffled().prefix(1000) {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(descriptor) }
            var address = address(port)
            let isBound = withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
                }
            }
            if isBound { return port }
        }
        throw CocoaError(.featureUnsupported)
    }

    private static func accepts(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = address(port)
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}
