import EventLog
import EventLoop
import Simulation
import Synchronization

/// A log as two loops see it, of which the second can be kept from seeing what is new.
final class EventLoopsApart: Sendable {
    let group: EventLoopGroup
    let log: InterposedLog
    private let isHeld: Flag

    private final class Flag: Sendable { let isSet = Atomic<Bool>(false) }

    init(log: any EventLog) {
        let (group, isHeld) = (EventLoopGroup(count: 2), Flag())
        self.group = group
        self.isHeld = isHeld
        self.log = InterposedLog(
            log,
            read: { _, _ in
                isHeld.isSet.load(ordering: .sequentiallyConsistent) && group.loops[1].isCurrent ? .atEnd : nil
            })
    }

    var isSecondHeld: Bool {
        get { isHeld.isSet.load(ordering: .sequentiallyConsistent) }
        set { isHeld.isSet.store(newValue, ordering: .sequentiallyConsistent) }
    }
}
