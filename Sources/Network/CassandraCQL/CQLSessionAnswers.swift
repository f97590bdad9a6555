import CQLFrames
import EventLoop

// MARK: Answers

extension CQLSessionCore {
    func happened(_ connection: CQLConnection, _ event: CQLConnection.Event) {
        switch event {
        case .answered(let call, let answer):
            answered(connection, call, answer)
            drainQueue()
        case .late(let call): late(call)
        case .event(let event): heard(event)
        case .room: drainQueue()
        case .ready, .ended: break
        }
    }

    private func heard(_ event: CQLEvent) {
        switch event {
        case .topology: control.refreshLater()
        case .status(let status, let endpoint):
            let host = CQLTopologyReader.host(endpoint.address)
            if status == .up {
                let address = CQLAddress(host: host, port: endpoint.port)
                pools.first { $0.node.address == address && isUsed($0) }?.hurry()
            }
            control.refreshLater()
        case .schema(let change):
            report(.schema(change))
            if change.target == .keyspace { control.refreshLater() }
        }
    }

    private func answered(_ connection: CQLConnection, _ call: CQLCall, _ answer: CQLAnswer) {
        guard !call.isDone else { return }
        if !answer.warnings.isEmpty { warn(answer.warnings, connection) }
        switch answer.response {
        case .error(let error): failed(connection, call, error)
        case .result(.rows(let rows)):
            if let statement = call.prepared, rows.metadata.newMetadataID != nil { statement.update(rows.metadata) }
            var answer = answer
            answer.response = .result(.rows(rows.described(by: call.shape?.columns)))
            call.finish(.success(answer))
        default: call.finish(.success(answer))
        }
    }

    private func warn(_ warnings: [String], _ connection: CQLConnection) {
        counters.warnings += UInt64(warnings.count)
        let node = pool(of: connection)?.node
        for warning in warnings { report(.warning(warning, node)) }
    }

    private func failed(_ connection: CQLConnection, _ call: CQLCall, _ error: CQLServerError) {
        if case .unprepared(let id) = error.detail { return prepareAgain(connection, call, id, error) }
        let isIdempotent = call.options.isIdempotent
        call.lastError = CQLRequestError(
            .server, "\(error)", server: error, mayHaveBeenDone: CQLRetry.mayHaveBeenDone(error))
        let decision = CQLRetry.decision(error, isIdempotent: isIdempotent, retries: call.retries)
        // Another attempt may still be answered.
        guard call.attempts == 0 else { return }
        guard decision != .giveUp, !isClosed, call.deadlineMilliseconds > loop.nowMilliseconds else {
            return giveUp(call)
        }
        call.retries += 1
        counters.retries += 1
        if decision == .sameNode, connection.send(call) { return }
        dispatch(call)
    }

    private func giveUp(_ call: CQLCall) {
        fail(call, call.lastError ?? CQLRequestError(.noNode, "no node can be asked"))
    }

    /// An attempt's connection ended before the answer.
    func lost(_ call: CQLCall, _ error: CQLConnectionError) {
        guard !call.isDone else { return }
        call.lastError = CQLRequestError(
            .connectionLost, "the connection ended before the answer: \(error)", mayHaveBeenDone: true)
        guard call.attempts == 0 else { return }
        guard !isClosed, call.options.isIdempotent, call.retries < CQLRetry.retriesMax,
            call.deadlineMilliseconds > loop.nowMilliseconds
        else { return giveUp(call) }
        call.retries += 1
        counters.retries += 1
        // The node may be back before others are found.
        call.tried.removeAll()
        dispatch(call)
    }

    /// A node that has forgotten a statement, or never had it, is given it, and asked again.
    private func prepareAgain(_ connection: CQLConnection, _ call: CQLCall, _ id: [UInt8], _ error: CQLServerError) {
        guard let statement = prepared[id], call.preparations < 3 else {
            return fail(call, CQLRequestError(.server, "\(error)", server: error))
        }
        call.preparations += 1
        let key = Preparing(connection: ObjectIdentifier(connection), id: id)
        guard preparing[key] == nil else {
            preparing[key]?.append(call)
            return
        }
        preparing[key] = [call]
        counters.preparations += 1
        let confined = LoopConfined(self)
        let place = LoopConfined(connection)
        let request = CQLCall(.prepare(statement.text, keyspace: nil), version) { outcome in
            confined.value.preparedAgain(place.value, key, statement, outcome)
        }
        request.deadlineMilliseconds = call.deadlineMilliseconds
        guard connection.send(request) else {
            return request.finish(.failure(CQLRequestError(.overloaded, "there is no room to prepare")))
        }
    }

    private func preparedAgain(
        _ connection: CQLConnection, _ key: Preparing, _ statement: CQLPrepared, _ outcome: CQLCall.Outcome
    ) {
        let calls = preparing.removeValue(forKey: key) ?? []
        switch outcome {
        case .success(let answer):
            guard case .result(.prepared(let result)) = answer.response, result.id == statement.id else {
                let error = CQLRequestError(.answer, "the statement has another id after it was prepared again")
                for call in calls { fail(call, error) }
                return
            }
            // A table that was altered is one reason to forget: its rows may be others now.
            statement.update(result)
            for call in calls where !call.isDone { if !connection.send(call) { dispatch(call) } }
        case .failure(let error):
            for call in calls { fail(call, error) }
        }
    }

    /// Remembers a statement, so that nodes can be given it again.
    public func remember(_ statement: CQLPrepared) -> CQLPrepared {
        if let known = prepared[statement.id] { return known }
        prepared[statement.id] = statement
        return statement
    }
}
