import EventLoop
import Protobuf

/// Watches whether a server says that it serves (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), on
/// the connection that is to be used. Confined to its loop.
final class GRPCHealthWatch: GRPCCallOwner {
    private weak var connection: GRPCClientConnection?
    private let service: String
    private let backoff: GRPCBackoff
    private var random: SplitMix64
    private let tell: (Bool) -> Void
    private var call: ClientCall?
    private var failures = 0
    private var timer: (any LoopTimer)?
    private var isStopped = false

    /// `tell` is called with each answer, and with false while there is none.
    init(
        _ connection: GRPCClientConnection, service: String, backoff: GRPCBackoff, seed: UInt64,
        _ tell: @escaping (Bool) -> Void
    ) {
        self.connection = connection
        self.service = service
        self.backoff = backoff
        self.tell = tell
        random = SplitMix64(seed: seed)
        start()
    }

    private func start() {
        guard !isStopped, let connection else { return }
        var request = GRPCHealthProto.HealthCheckRequest()
        request.service = service
        call = connection.call(
            path: GRPCHealthProto.Health.watch.path, request: request.encodedBytes(), owner: self)
    }

    func stop() {
        isStopped = true
        timer?.cancel()
        call?.cancel()
        call = nil
    }

    func received(metadata: GRPCMetadata) {}

    func received(frames: UnsafeRawBufferPointer) {
        failures = 0
        for message in MessageSequence(frames: frames) {
            let response = try? GRPCHealthProto.HealthCheckResponse(decoding: message)
            if !isStopped { tell(response?.status == .serving) }
        }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        call = nil
        guard !isStopped else { return }
        // Who has no health service cannot say otherwise.
        if status.code == .unimplemented { return tell(true) }
        tell(false)
        failures += 1
        let wait = backoff.milliseconds(afterFailures: failures, using: &random)
        timer = connection?.loop.timer(afterMilliseconds: wait) { [weak self] in self?.start() }
    }
}
