import EventLoop
import Glibc
import Observability

/// Where `tapedeck up` is reached: by clients, and by those who watch it.
struct PlatformSockets {
    let clients: ListeningSocket
    let metrics: ListeningSocket

    /// Binds both. A default port of metrics that is taken, as by another platform on this machine, is no reason not to
    /// start: the system chooses one. An address that was asked for is.
    ///
    /// What a service manager has bound already is taken as it is.
    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) throws {
        let activation = try SocketActivation(ConfigurationEnvironment.read(), process: getpid())
        for case let (socket?, what) in [(activation?.clients, "clients"), (activation?.metrics, "metrics")] {
            diagnostics.log(.info, "up", "\(what) come by \(Address(socket)), which the service manager has bound")
        }
        clients = try activation?.clients ?? PlatformSockets.clients(options)
        metrics = try activation?.metrics ?? PlatformSockets.metrics(options, diagnostics)
    }

    private static func clients(_ options: ResolvedOptions) throws -> ListeningSocket {
        do {
            return try bind(options.address(.listen))
        } catch {
            throw refused(error, "--listen")
        }
    }

    private static func refused(_ error: AddressError, _ option: String) -> CommandError {
        CommandError("\(error); end what has the address, or choose another with \(option)")
    }

    /// The one for those who watch alone.
    static func metrics(_ options: ResolvedOptions, _ diagnostics: Diagnostics) throws -> ListeningSocket {
        let address = options.address(.metricsListen)
        do {
            return try bind(address)
        } catch {
            guard options.source(.metricsListen) == .defaultValue else { throw refused(error, "--metrics-listen") }
            let socket = try bind(Address(host: address.host, port: 0))
            diagnostics.log(.warning, "metrics", "\(error); serving metrics on \(socket.host):\(socket.port) instead")
            return socket
        }
    }

    /// Those that the parent process has bound.
    init(_ options: ResolvedOptions, _ supervision: Supervision) throws {
        clients = try ListeningSocket(inherited: supervision.clients, host: options.address(.listen).host)
        metrics = try ListeningSocket(inherited: supervision.metrics, host: options.address(.metricsListen).host)
    }

    private static func bind(_ address: Address) throws(AddressError) -> ListeningSocket {
        try ListeningSocket(host: address.host, port: Int(address.port))
    }
}

extension Address {
    init(_ socket: ListeningSocket) { self.init(host: socket.host, port: UInt16(socket.port)) }
}
