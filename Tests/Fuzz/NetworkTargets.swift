import EventLog

@testable import EdgeService
@testable import GRPC

extension FuzzTarget {
    /// The first byte seeds the cuts. Bytes make the same messages however they are cut.
    static let grpcFraming = FuzzTarget(
        name: "grpcframing", lengthMax: 2048,
        seeds: {
            func frame(_ count: Int) -> [UInt8] {
                [UInt8](repeating: 0x61, count: count).withUnsafeBytes { MessageFrame.make($0) }
            }
            return [
                [7] + frame(0), [1] + frame(3) + frame(0) + frame(300), [200] + frame(1) + [1, 0, 0, 0, 1, 0],
                [3] + frame(9) + [0, 0xff, 0xff, 0xff, 0xff], [9] + frame(20).dropLast(3), [0, 0, 0, 0],
            ]
        },
        run: { bytes in
            guard let seed = bytes.first else { return }
            let stream = bytes.dropping(1)
            let whole = read(stream, pieces: { $0 })
            var state = UInt32(seed) &* 2_654_435_761 | 1
            let cut = read(stream) { left in
                state = state &* 1_664_525 &+ 1_013_904_223
                return min(left, Int(state >> 24) % (1 + Int(seed) % 23) + (state >> 20 & 3 == 0 ? 0 : 1))
            }
            require(whole.problem == cut.problem, "\(whole.problem ?? "read") and cut \(cut.problem ?? "read")")
            if whole.problem == nil {
                require(whole.messages == cut.messages, "other messages when cut")
                require(whole.isEmpty == cut.isEmpty, "left over when cut")
            } else {
                require(cut.messages.starts(with: whole.messages), "other messages when cut")
            }
        })

    private static func read(
        _ stream: UnsafeRawBufferPointer, pieces: (Int) -> Int
    ) -> (messages: [[UInt8]], problem: String?, isEmpty: Bool) {
        var reader = MessageReader(lengthMax: 1024)
        var messages: [[UInt8]] = []
        var position = 0
        while position < stream.count {
            let end = position + pieces(stream.count - position)
            // A piece of its own memory: reading past it is found.
            let piece = Array(stream[position..<end])
            do throws(MessageReader.Problem) {
                try piece.withUnsafeBytes { piece in
                    Result { () throws(MessageReader.Problem) in
                        try reader.read(piece) { frames in
                            var length = 0
                            for message in MessageSequence(frames: frames) {
                                messages.append(Array(message))
                                length += MessageReader.prefixLength + message.count
                            }
                            require(length == frames.count, "frames that are not whole")
                        }
                    }
                }.get()
            } catch {
                return (messages, "\(error.status)", false)
            }
            position = end
        }
        return (messages, nil, reader.isEmpty)
    }
}

extension FuzzTarget {
    /// What headers carry: percent-encoding, base64 and timeouts, read and written back.
    static let grpcText = FuzzTarget(
        name: "grpctext", lengthMax: 128,
        seeds: {
            ["100%25 caf%C3%A9", "%", "%2", "%zz", "AAECAwQ", "AAECAw==", "10S", "99999999H", "1m", "0n", "é\u{1}\n"]
                .map { Array($0.utf8) }
        },
        run: { bytes in
            let text = String(decoding: bytes, as: UTF8.self)
            let encoded = PercentCoding.encode(text)
            require(encoded.utf8.allSatisfy { 0x20...0x7e ~= $0 }, "not fit for a header: \(encoded)")
            require(
                PercentCoding.decode(encoded).utf8.elementsEqual(text.utf8),
                "\(text) became \(PercentCoding.decode(encoded))")
            _ = PercentCoding.decode(text)

            require(Base64.decode(Base64.encode(Array(bytes)).utf8) == Array(bytes), "base64 of \(Array(bytes))")
            if let decoded = Base64.decode(text.utf8) {
                require(Base64.decode(Base64.encode(decoded).utf8) == decoded, "base64 \(text)")
            }

            if let milliseconds = Timeout.milliseconds(bytes) {
                require(milliseconds >= 0, "a timeout of \(milliseconds)")
                guard
                    let again = Array(Timeout.text(milliseconds: milliseconds).utf8).withUnsafeBytes({
                        Timeout.milliseconds($0)
                    })
                else {
                    return require(false, "\(milliseconds) ms cannot be written")
                }
                // Beyond 27 hours seconds are sent, beyond three years the most that fits.
                require(again <= max(milliseconds, 1) && again >= min(milliseconds - 999, 99_999_999_000), "\(again)")
            }
        })

    /// A token that is accepted is byte for byte what is made of it again; with its checksum put right, too.
    static let resumeToken = FuzzTarget(
        name: "resumetoken", lengthMax: 256,
        seeds: {
            [
                ResumeToken(logID: 7, generation: 2, offsets: []),
                ResumeToken(logID: .max, generation: .max, offsets: [(0, 12), (1, .max)]),
            ].map { $0.encoded() } + [[]]
        },
        run: { bytes in
            check(Array(bytes))
            guard bytes.count >= 4 else { return }
            withCopy(Array(bytes)) { copy in
                let body = UnsafeRawBufferPointer(rebasing: copy[..<(copy.count - 4)])
                copy.setLE(Checksum.crc32c(body), at: copy.count - 4)
                check(Array(copy))
            }
        })

    private static func check(_ bytes: [UInt8]) {
        guard let token = try? ResumeToken(decoding: bytes) else { return }
        require(token.encoded() == bytes, "\(bytes) became \(token.encoded())")
    }
}
