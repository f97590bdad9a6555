import EventLoop

/// Sockets that a service manager has bound for this process, in the way of systemd (sd_listen_fds(3)): from descriptor
/// 3 on, as many as `LISTEN_FDS` says, with the names of `LISTEN_FDNAMES`.
struct SocketActivation {
    static let firstDescriptor: Int32 = 3

    /// The one called `grpc`; where none has a name that is known, the first.
    let clients: ListeningSocket?
    /// The one called `metrics`; where none has a name that is known, the second.
    let metrics: ListeningSocket?

    /// Which of the descriptors is which.
    struct Plan: Equatable {
        var clients: Int32?
        var metrics: Int32?
    }

    /// nil where nothing was handed to this process. Throws where what was cannot be used.
    /// `first` is the first descriptor.
    init?(
        _ environment: [String: String], process: Int32, first: Int32 = firstDescriptor
    ) throws(CommandError) {
        guard let plan = try SocketActivation.plan(environment, process: process, first: first) else { return nil }
        do throws(AddressError) {
            clients = try SocketActivation.take(plan.clients)
            metrics = try SocketActivation.take(plan.metrics)
        } catch {
            throw CommandError("the sockets that the service manager hands over cannot be used: \(error)")
        }
    }

    private static func take(_ descriptor: Int32?) throws(AddressError) -> ListeningSocket? {
        guard let descriptor else { return nil }
        return try ListeningSocket(activated: descriptor)
    }

    static func plan(
        _ environment: [String: String], process: Int32, first: Int32 = firstDescriptor
    ) throws(CommandError) -> Plan? {
        guard let text = environment["LISTEN_FDS"], environment["LISTEN_PID"] == "\(process)" else { return nil }
        guard let count = Int32(text), count >= 0 else {
            throw CommandError("LISTEN_FDS is no number: \(text)")
        }
        guard count > 0 else { return nil }
        guard count <= 2 else {
            throw CommandError(
                "the service manager hands over \(count) sockets; at most two are used: "
                    + "one for clients, one for metrics"
            )
        }
        let names = (environment["LISTEN_FDNAMES"] ?? "").split(separator: ":", omittingEmptySubsequences: false)
        var plan = Plan()
        for (descriptor, name) in zip(first..<(first + count), names) {
            switch name {
            case "grpc" where plan.clients == nil: plan.clients = descriptor
            case "metrics" where plan.metrics == nil: plan.metrics = descriptor
            case "grpc", "metrics": throw CommandError("the service manager hands over two sockets named \(name)")
            default: break
            }
        }
        let named = [plan.clients, plan.metrics].compactMap { $0 }
        guard !named.isEmpty else {
            return Plan(clients: first, metrics: count > 1 ? first + 1 : nil)
        }
        guard named.count == Int(count) else {
            throw CommandError(
                "of the sockets that the service manager hands over, one is named grpc or metrics and one is not: "
                    + "name both (FileDescriptorName=), or none")
        }
        return plan
    }
}
