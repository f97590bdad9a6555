import HTTP2

/// gRPC-Web of one call (grpc/grpc, doc/PROTOCOL-WEB.md): the same frames, the trailers as a last one, and all of it in
/// base64 where the browser asks for text. Confined to the call's loop.
final class WebFraming {
    let isText: Bool
    let contentType: String
    /// The page's origin, where it may call.
    private let origin: String?
    /// The trailers' frame was queued.
    var hasTrailers = false
    private var text: [UInt8] = []
    private var textPosition = 0
    private var decoder = Base64Decoder()

    /// nil for a content type that is not gRPC-Web's.
    init?(_ contentType: UnsafeRawBufferPointer, origin: UnsafeRawBufferPointer, origins: [String]) {
        let type = RequestHead.string(contentType)
        guard type.hasPrefix("application/grpc-web") else { return nil }
        let rest = type.dropFirst("application/grpc-web".count)
        isText = rest.hasPrefix("-text")
        let suffix = isText ? rest.dropFirst("-text".count) : rest
        let format = suffix.prefix { $0 != ";" }
        guard format.isEmpty || format == "+proto" else { return nil }
        self.contentType = isText ? "application/grpc-web-text+proto" : "application/grpc-web+proto"
        let name = RequestHead.string(origin)
        self.origin = WebFraming.isAllowed(name, origins) ? name : nil
    }

    private static func isAllowed(_ origin: String, _ origins: [String]) -> Bool {
        !origin.isEmpty && (origins.contains(origin) || origins.contains("*"))
    }

    /// What lets a page of another origin read the response.
    func crossOriginHeaders(exposing metadata: GRPCMetadata) -> [HTTP2Header] {
        guard let origin else { return [] }
        var names = ["grpc-status", "grpc-message", "grpc-status-details-bin"]
        names += metadata.entries.map(\.name)
        return [
            HTTP2Header("access-control-allow-origin", origin), HTTP2Header("vary", "origin"),
            HTTP2Header("access-control-expose-headers", names.joined(separator: ",")),
        ]
    }

    /// The answer to a browser that asks whether a page may call.
    static func preflight(_ head: RequestHead, _ origins: [String]) -> [HTTP2Header] {
        let origin = RequestHead.string(head.origin)
        guard isAllowed(origin, origins) else { return [HTTP2Header(":status", "403"), HTTP2Header("vary", "origin")] }
        return [
            HTTP2Header(":status", "204"), HTTP2Header("access-control-allow-origin", origin),
            HTTP2Header("access-control-allow-methods", "POST"),
            HTTP2Header("access-control-allow-headers", RequestHead.string(head.requestedHeaders)),
            HTTP2Header("access-control-max-age", "86400"), HTTP2Header("vary", "origin"),
        ]
    }

    /// The frame that carries trailers: flag 0x80, then lines as HTTP/1.1 writes them.
    static func trailerFrame(_ trailers: [HTTP2Header]) -> [UInt8] {
        let text = trailers.map { "\($0.name): \($0.value)\r\n" }.joined()
        var frame = MessageFrame.make(Array(text.utf8))
        frame[0] = 0x80
        return frame
    }

    // MARK: Text

    /// Copies encoded bytes that wait.
    func readText(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let count = min(buffer.count, text.count - textPosition)
        guard count > 0 else { return 0 }
        buffer.copyBytes(from: text[textPosition..<(textPosition + count)])
        textPosition += count
        return count
    }

    /// Encodes what `read` gives. Each piece is whole and padded, so that it can be shown as soon as it is there.
    func encodeText(_ read: (UnsafeMutableRawBufferPointer) -> FrameRead) -> FrameRead {
        withUnsafeTemporaryAllocation(byteCount: 12 << 10, alignment: 8) { piece in
            let result = read(piece)
            switch result {
            case .bytes(let count), .frames(let count, _):
                text = Array(Base64.encode(piece[..<count], isPadded: true).utf8)
                textPosition = 0
            case .wait, .end: break
            }
            return result
        }
    }

    /// Bytes of a request that came as text; nil where it is none.
    func decodeText(_ bytes: UnsafeRawBufferPointer) -> [UInt8]? { decoder.decode(bytes) }
}
