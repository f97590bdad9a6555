import GRPC

/// Hands a call's messages to its stream. The stream belongs to whoever keeps the call.
final class SubscribeSink: RequestSink {
    private weak var stream: SubscribeStream?

    init(_ stream: SubscribeStream) { self.stream = stream }

    func received(message: UnsafeRawBufferPointer, _ call: ServerCall) { stream?.received(message) }

    func receivedEnd(_ call: ServerCall) { stream?.receivedEnd() }
}
