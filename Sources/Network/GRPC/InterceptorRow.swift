/// The interceptors of a loop, called without a counted reference to each.
final class InterceptorRow {
    /// Its functions are none of their callers' code: with themselves for granted, they count no references.
    private final class Place {
        let interceptor: any ServerInterceptor
        let hears: CallEvents

        init(_ interceptor: any ServerInterceptor) {
            self.interceptor = interceptor
            hears = interceptor.hears
        }

        @inline(never)
        func begin(_ call: ServerCall) -> GRPCStatus? { interceptor.begin(call) }
        @inline(never)
        func received(_ call: ServerCall, messages: Int, bytes: Int) {
            interceptor.received(call, messages: messages, bytes: bytes)
        }
        @inline(never)
        func sent(_ call: ServerCall, messages: Int, bytes: Int) {
            interceptor.sent(call, messages: messages, bytes: bytes)
        }
        @inline(never)
        func ended(_ call: ServerCall, _ status: GRPCStatus) { interceptor.ended(call, status) }
    }

    let count: Int
    /// Whether one wants to hear what is sent.
    let hearSent: Bool
    private let places: UnsafeMutablePointer<Unmanaged<Place>>

    init(_ interceptors: [any ServerInterceptor], _ calls: ServerCalls) {
        count = interceptors.count
        hearSent = interceptors.contains { $0.hears.contains(.sent) }
        places = .allocate(capacity: max(1, interceptors.count))
        for (index, interceptor) in interceptors.enumerated() {
            (places + index).initialize(to: .passRetained(Place(interceptor)))
            interceptor.watch(calls)
        }
    }

    deinit {
        for index in 0..<count { places[index].release() }
        places.deallocate()
    }

    func begin(_ index: Int, _ call: ServerCall) -> GRPCStatus? {
        places[index]._withUnsafeGuaranteedRef { $0.begin(call) }
    }

    func received(_ call: ServerCall, messages: Int, bytes: Int) {
        let event: CallEvents = call.isStream ? .receivedOnStreams : .receivedOnOthers
        for index in 0..<call.interceptorsBegun {
            places[index]._withUnsafeGuaranteedRef {
                if $0.hears.contains(event) { $0.received(call, messages: messages, bytes: bytes) }
            }
        }
    }

    func sent(_ call: ServerCall, messages: Int, bytes: Int) {
        for index in 0..<call.interceptorsBegun {
            places[index]._withUnsafeGuaranteedRef {
                if $0.hears.contains(.sent) { $0.sent(call, messages: messages, bytes: bytes) }
            }
        }
    }

    func ended(_ index: Int, _ call: ServerCall, _ status: GRPCStatus) {
        let event: CallEvents = call.isStream ? .endedStreams : .endedOthers
        places[index]._withUnsafeGuaranteedRef { if $0.hears.contains(event) { $0.ended(call, status) } }
    }
}
