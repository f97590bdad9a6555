import Testing

@testable import EventLoop

/// Addresses as numbers, and the order in which names have them.
struct NameLookupTests {
    private static func addresses(_ texts: [String]) -> [SocketAddress] {
        texts.compactMap { SocketAddress(numericHost: $0, port: 80) }
    }

    @Test func `A name's addresses come in one order: the first one's family, ascending, none twice`() {
        let mixed = ["::2", "10.0.0.10", "10.0.0.2", "::1", "10.0.0.2", "9.255.0.1"]
        let ordered = SocketAddress.ordered(Self.addresses(mixed)).map(\.numericHost)
        #expect(ordered == ["::1", "::2", "9.255.0.1", "10.0.0.2", "10.0.0.10"])
        let other = SocketAddress.ordered(Self.addresses(mixed.reversed())).map(\.numericHost)
        #expect(other == ["9.255.0.1", "10.0.0.2", "10.0.0.10", "::1", "::2"])
        #expect(SocketAddress.ordered([]).isEmpty)
    }

    @Test func `Numbers are read and written, and names are none`() {
        for (text, bytes) in [
            ("127.0.0.1", [127, 0, 0, 1]), ("::1", [UInt8](repeating: 0, count: 15) + [1]),
            ("2001:db8::ff", [0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [255]),
        ] as [(String, [UInt8])] {
            let address = SocketAddress(numericHost: text, port: 7)
            #expect(address?.bytes == bytes && address?.isIPv6 == (bytes.count == 16))
            #expect(SocketAddress(bytes: bytes, port: 7)?.numericHost == text)
        }
        for text in ["localhost", "", "1.2.3.4.5", "::g", "127.0.0.1 "] {
            #expect(SocketAddress(numericHost: text, port: 7) == nil, "\(text)")
        }
        #expect(SocketAddress(numericHost: "127.0.0.1", port: 70_000) == nil)
        #expect(SocketAddress(bytes: [1, 2, 3], port: 7) == nil)
    }
}
