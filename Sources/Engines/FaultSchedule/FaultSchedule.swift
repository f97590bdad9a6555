// What goes wrong, where and how often, decided by a seed: for the edge that users test their clients with. EdgeService
// asks it about each message of a stream and does what it says.

/// A fault of one message, or of the stream or connection that it is on.
public enum Fault: String, CaseIterable, Sendable, Hashable {
    /// The message is left out.
    case drop
    /// It comes twice.
    case duplicate
    /// It comes after the one behind it.
    case reorder
    /// Its best bid is above its best ask.
    case crossed
    /// It is larger than any client takes.
    case oversize
    /// Nothing comes for a while, before it.
    case stall
    /// The stream is reset before it.
    case reset
    /// The connection ends with GOAWAY before it, and so do some that come after.
    case goAway = "goaway"
}

/// How often each fault happens.
public struct FaultRates: Sendable, Hashable {
    /// Of a million messages.
    public static let scale: UInt64 = 1_000_000

    private var values: [Int]

    /// None at all.
    public init() { values = Fault.allCases.map { _ in 0 } }

    /// Rare enough that a client which does nothing about them gets along for a while.
    public static let gentle: FaultRates = {
        var rates = FaultRates()
        rates[.drop] = 500
        rates[.duplicate] = 500
        rates[.reorder] = 500
        rates[.crossed] = 200
        rates[.oversize] = 1
        rates[.stall] = 20
        rates[.reset] = 5
        rates[.goAway] = 3
        return rates
    }()

    /// Faults in a million messages; what is outside 0 to a million is taken as the nearest of both.
    public subscript(fault: Fault) -> Int {
        get { values[FaultRates.place(fault)] }
        set { values[FaultRates.place(fault)] = min(max(newValue, 0), Int(FaultRates.scale)) }
    }

    static func place(_ fault: Fault) -> Int {
        switch fault {
        case .drop: 0
        case .duplicate: 1
        case .reorder: 2
        case .crossed: 3
        case .oversize: 4
        case .stall: 5
        case .reset: 6
        case .goAway: 7
        }
    }
}

/// One fault of the schedule.
public struct ScheduledFault: Sendable, Hashable {
    /// Streams are counted from 1 in the order in which they are opened, messages of a stream from 1.
    public let stream: UInt64
    public let message: UInt64
    public let fault: Fault

    public init(stream: UInt64, message: UInt64, fault: Fault) {
        self.stream = stream
        self.message = message
        self.fault = fault
    }

    /// One line of JSON.
    public var json: String { "{\"stream\":\(stream),\"message\":\(message),\"fault\":\"\(fault.rawValue)\"}" }
}

/// Decides about every message of every stream by seed, stream and message alone: neither time nor what happened
/// before changes it.
public struct FaultSchedule: Sendable, Hashable {
    public let seed: UInt64
    public let rates: FaultRates

    public init(seed: UInt64, rates: FaultRates) {
        self.seed = seed
        self.rates = rates
    }

    /// What goes wrong with a message; at most one thing. Each fault is drawn for itself; where several come together,
    /// the one that ``Fault`` lists last counts, so that rare and hard ones are not hidden.
    public func fault(stream: UInt64, message: UInt64) -> Fault? {
        var state = FaultSchedule.mix(seed ^ FaultSchedule.mix(stream ^ FaultSchedule.mix(message)))
        var found: Fault?
        for fault in Fault.allCases {
            state = FaultSchedule.mix(state)
            if state % FaultRates.scale < UInt64(rates[fault]) { found = fault }
        }
        return found
    }

    /// All faults of the first messages of a stream, in order.
    public func faults(stream: UInt64, messages: UInt64) -> [ScheduledFault] {
        var faults: [ScheduledFault] = []
        var message: UInt64 = 1
        while message <= messages {
            if let fault = fault(stream: stream, message: message) {
                faults.append(ScheduledFault(stream: stream, message: message, fault: fault))
            }
            message += 1
        }
        return faults
    }

    /// SplitMix64's step and finish (Steele, Lea, Flood 2014).
    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value &+ 0x9e37_79b9_7f4a_7c15
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
