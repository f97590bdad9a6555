import EventLog
import EventLoop
import TickCodec

/// Says when an update of a stream of prices brings a resume token, and makes it one that does. For readers who asked:
/// whoever is cut off without trailers then goes on from a moment ago, not from the beginning. Confined to its loop.
final class TokenTimer {
    /// The next update may bring a token; the first one does.
    private(set) var isDue = true
    /// The update that brought the last token, without it, as a frame.
    private var frame: [UInt8] = []
    private var token: ResumeToken?
    private let loop: any Loop
    private let milliseconds: Int
    private var timer: (any LoopTimer)?

    init(loop: any Loop, everyMilliseconds milliseconds: Int) {
        self.loop = loop
        self.milliseconds = milliseconds
    }

    /// `wake` is called whenever a token is due.
    func start(_ wake: @escaping () -> Void) {
        timer = loop.repeatTimer(everyMilliseconds: milliseconds) { [weak self] in
            self?.isDue = true
            wake()
        }
    }

    func stop() {
        timer?.cancel()
        timer = nil
    }

    /// What is to be appended to an update that has just been queued; everything up to it is before the token.
    func mark(_ update: UnsafeRawBufferPointer, _ token: ResumeToken) -> [UInt8] {
        isDue = false
        frame = Array(update)
        self.token = token
        return TickCodec.resumeTokenField(token.encoded())
    }

    /// For a stream that has nothing else to send: an update that was sent before, with a token. nil where there is
    /// none, or where the reader has this token.
    func again(_ token: ResumeToken) -> [UInt8]? {
        guard !frame.isEmpty else { return nil }
        isDue = false
        guard token != self.token else { return nil }
        self.token = token
        let field = TickCodec.resumeTokenField(token.encoded())
        var marked = frame + field
        marked.withUnsafeMutableBytes { Frame.lengthen($0, by: field.count) }
        return marked
    }
}
