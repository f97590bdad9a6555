import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import Synchronization
import Testing
import TickStore
import WriterService

/// A writer on a thread of its own.
final class RunningWriter: Sendable {
    let log: KafkaLog
    let writer: WriterService
    private let ended = Mutex<Result<Void, any Error>?>(nil)

    init(
        _ tape: Tape, _ store: any TickStore, _ configuration: WriterConfiguration = WriterConfiguration(),
        changing change: (inout KafkaConfiguration) -> Void = { _ in }
    ) throws {
        log = try tape.open(changing: change)
        writer = WriterService(log: log, store: store, time: RealTime(), configuration: configuration) { _ in }
        Thread.detachNewThread { [self] in
            let result = Result { try writer.run() }
            ended.withLock { $0 = result }
        }
    }

    var failure: String? {
        if case .failure(let error)? = ended.withLock({ $0 }) { return "\(error)" }
        return nil
    }

    var isDone: Bool { ended.withLock { $0 != nil } }

    func stop() throws {
        writer.stop()
        #expect(holds { isDone })
        try log.close()
    }
}
