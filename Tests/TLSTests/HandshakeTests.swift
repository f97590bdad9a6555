import COpenSSL
import EventLoop
import Foundation
import Testing

@testable import TLS

struct HandshakeTests {
    @Test(arguments: [TLSVersion.tls12, .tls13])
    func `Each version is spoken where it is the only one, and bytes pass`(_ version: TLSVersion) throws {
        var configuration = TLSPair.clientConfiguration()
        configuration.versions = version...version
        let pair = try TLSPair(client: configuration)
        pair.client.write(Array("hello".utf8))
        pair.run()
        #expect(pair.server.version == version && pair.client.version == version)
        #expect(pair.client.applicationProtocol == "h2" && pair.server.applicationProtocol == "h2")
        #expect(pair.serverOwner.bytes == Array("hello".utf8))
        #expect(pair.serverContext.counters == pair.clientContext.counters)
        #expect(pair.serverContext.counters.handshakes == 1 && pair.serverContext.counters.refused.isEmpty)
        #expect(pair.server.peerCertificate == nil)
    }

    @Test func `The newest version both speak is taken; without one in common the handshake is refused`() throws {
        let pair = try TLSPair()
        pair.run()
        #expect(pair.client.version == .tls13)
        var old = TLSPair.clientConfiguration()
        old.versions = .tls12 ... .tls12
        var new = TLSPair.serverConfiguration()
        new.versions = .tls13 ... .tls13
        let apart = try TLSPair(server: new, client: old)
        apart.run()
        #expect(apart.clientOwner.end.contains("protocol version"), "\(apart.clientOwner.end)")
        #expect(apart.serverContext.counters.refused == [.other: 1])
        apart.expectBothEnded()
    }

    @Test(arguments: [TLSVersion.tls12, .tls13])
    func `A client's names are known to the server, and the server's to the client`(_ version: TLSVersion) throws {
        var configuration = TLSPair.clientConfiguration(TLSPair.clientIdentity)
        configuration.versions = version...version
        let pair = try TLSPair(
            server: TLSPair.serverConfiguration(TLSPair.serverIdentity, .required), client: configuration)
        pair.run()
        #expect(
            pair.server.peerCertificate
                == PeerCertificate(uris: ["spiffe://test/alice"], dnsNames: ["alice.test"], commonName: "alice"))
        #expect(pair.client.peerCertificate?.dnsNames == ["localhost"])
    }

    @Test func `An optional certificate may be absent, and a bad one is refused all the same`() throws {
        let optional = TLSPair.serverConfiguration(TLSPair.serverIdentity, .optional)
        let without = try TLSPair(server: optional)
        without.run()
        #expect(without.server.version != nil && without.server.peerCertificate == nil)
        let with = try TLSPair(server: optional, client: TLSPair.clientConfiguration(TLSPair.clientIdentity))
        with.run()
        #expect(with.server.peerCertificate?.commonName == "alice")
        let bad = try TLSPair(
            server: optional, client: TLSPair.clientConfiguration(TestAuthority.other.client("mallory")))
        bad.run()
        #expect(bad.serverContext.counters.refused == [.unknownAuthority: 1])
        bad.expectBothEnded()
    }

    @Test(
        arguments: [TLSVersion.tls12, .tls13],
        [TLSRefusal.expired, .unknownAuthority, .noCertificate])
    func `A client with a bad certificate is refused, told why, and counted`(
        _ version: TLSVersion, _ refusal: TLSRefusal
    ) throws {
        let identity: TestAuthority.Identity? =
            switch refusal {
            case .expired:
                TestAuthority.trusted.client("late") {
                    $0.validFrom = -7200
                    $0.validTo = -3600
                }
            case .unknownAuthority: TestAuthority.other.client("alice")
            default: nil
            }
        var configuration = TLSPair.clientConfiguration(identity)
        configuration.versions = version...version
        let pair = try TLSPair(
            server: TLSPair.serverConfiguration(TLSPair.serverIdentity, .required), client: configuration)
        pair.client.write([1, 2, 3])
        pair.run()
        #expect(pair.serverContext.counters.refused == [refusal: 1])
        #expect(pair.serverContext.counters.lastRefused[refusal]?.peer == pair.serverPipe.peerAddress)
        #expect(pair.serverContext.counters.handshakes == 0)
        let (server, client) =
            switch refusal {
            case .expired: ("certificate has expired", "certificate expired")
            case .unknownAuthority: ("unable to get local issuer certificate", "unknown ca")
            default: ("the peer has no certificate", version == .tls13 ? "certificate required" : "handshake failure")
            }
        #expect(pair.serverOwner.end.contains(server), "\(pair.serverOwner.end)")
        #expect(pair.clientOwner.end.contains(client), "\(pair.clientOwner.end)")
        #expect(pair.serverOwner.bytes.isEmpty)
        pair.expectBothEnded()
    }

    @Test func `A client leaves a server that is expired, of another authority, or another host`() throws {
        let expired = TestAuthority.trusted.server {
            $0.validFrom = -7200
            $0.validTo = -3600
        }
        let foreign = TestAuthority.other.server()
        let otherHost = TestAuthority.trusted.server {
            $0.dnsNames = [Array("other.invalid".utf8)]
            $0.addresses = []
        }
        for (identity, why, refusal) in [
            (expired, "certificate has expired", TLSRefusal.expired),
            (foreign, "unable to get local issuer certificate", .unknownAuthority),
            (otherHost, "ostname mismatch", .other),
        ] {
            let pair = try TLSPair(server: TLSPair.serverConfiguration(identity))
            pair.client.write([1])
            pair.run()
            #expect(pair.clientOwner.end.contains(why), "\(pair.clientOwner.end)")
            #expect(pair.clientContext.counters.refused == [refusal: 1])
            #expect(pair.serverOwner.bytes.isEmpty)
            pair.expectBothEnded()
        }
    }

    @Test func `A numeric address is compared as one, and no name with a NUL, a space or nothing is taken`() throws {
        let loop = StepLoop(seed: 1)
        let server = try TLSServerContext(TLSPair.serverConfiguration())
        for (name, isGood) in [("127.0.0.1", true), ("::1", true), ("127.0.0.2", false), ("localhos", false)] {
            var configuration = TLSPair.clientConfiguration()
            configuration.serverName = name
            let pair = try TLSPair(loop, server, TLSClientContext(configuration))
            pair.run()
            #expect((pair.client.version != nil) == isGood, "\(name)")
        }
        for name in ["", "localhost\0.evil", "a b", "é.test", String(repeating: "a", count: 254)] {
            var configuration = TLSPair.clientConfiguration()
            configuration.serverName = name
            #expect(throws: TLSError.self) { try TLSClientContext(configuration) }
            let context = try TLSClientContext(TLSPair.clientConfiguration())
            let (one, _) = loop.pair()
            #expect(throws: TLSError.self) { try context.wrap(one, serverName: name) }
        }
    }

    @Test(arguments: [TLSVersion.tls12, .tls13])
    func `A client that offers no h2, or nothing, is refused; a server that takes nothing is left`(
        _ version: TLSVersion
    ) throws {
        for offer in [["http/1.1"], []] {
            var configuration = TLSPair.clientConfiguration()
            configuration.applicationProtocols = offer
            configuration.versions = version...version
            let pair = try TLSPair(client: configuration)
            pair.run()
            #expect(pair.clientOwner.end.contains("no application protocol"), "\(pair.clientOwner.end)")
            #expect(pair.serverContext.counters.refused == [.other: 1])
            pair.expectBothEnded()
        }
        var silent = TLSPair.serverConfiguration()
        silent.applicationProtocols = []
        let pair = try TLSPair(server: silent)
        pair.run()
        #expect(pair.clientOwner.end.contains("the peer speaks none of h2"), "\(pair.clientOwner.end)")
        pair.expectBothEnded()
    }

    @Test func `The server's order of protocols decides`() throws {
        var server = TLSPair.serverConfiguration()
        server.applicationProtocols = ["h2", "http/1.1"]
        var client = TLSPair.clientConfiguration()
        client.applicationProtocols = ["http/1.1", "h2"]
        let pair = try TLSPair(server: server, client: client)
        pair.run()
        #expect(pair.client.applicationProtocol == "h2")
        client.applicationProtocols = ["http/1.1"]
        let one = try TLSPair(server: server, client: client)
        one.run()
        #expect(one.server.applicationProtocol == "http/1.1")
    }

    @Test func `A silent peer is left when the time for the handshake is over`() throws {
        let loop = StepLoop(seed: 1)
        let context = try TLSServerContext(TLSPair.serverConfiguration())
        let (far, near) = loop.pair()
        let stream = context.wrap(near)
        let owner = Recorder()
        stream.owner = owner
        far.write([22, 3, 1])
        loop.advance(milliseconds: 9_999)
        #expect(owner.ends.isEmpty)
        loop.advance(milliseconds: 1)
        #expect(owner.end.contains("longer than 10000 ms"), "\(owner.end)")
        #expect(context.counters.refused == [.abandoned: 1])
        #expect(near.isClosed)
    }

    @Test func `A peer that leaves in the middle of the handshake has abandoned it`() throws {
        let pair = try TLSPair()
        pair.serverPipe.tamper = { _ in [] }
        pair.run()
        pair.clientPipe.close()
        pair.run()
        #expect(pair.serverContext.counters.refused == [.abandoned: 1])
        #expect(pair.serverOwner.end.contains("the peer left before the TLS handshake was done"))
        pair.expectBothEnded()
    }
}

struct PeerNameTests {
    private func refusal(_ change: (inout TestAuthority.Subject) -> Void) throws -> (String, TLSPair) {
        let pair = try TLSPair(
            server: TLSPair.serverConfiguration(TLSPair.serverIdentity, .required),
            client: TLSPair.clientConfiguration(TestAuthority.trusted.client("eve", change)))
        pair.run()
        return (pair.serverOwner.end, pair)
    }

    @Test func `A NUL inside a name, and a name that is no UTF-8, make a certificate unusable`() throws {
        #expect(try refusal { $0.uris = [Array("spiffe://test/admin\0.evil".utf8)] }.0.contains("NUL"))
        #expect(try refusal { $0.dnsNames = [Array("admin.test\0.evil".utf8)] }.0.contains("NUL"))
        #expect(try refusal { $0.commonName = "admin\0evil" }.0.contains("NUL"))
        #expect(try refusal { $0.uris = [[0x73, 0xff, 0xfe]] }.0.contains("UTF-8"))
        #expect(try refusal { $0.dnsNames = [[0xc0, 0x80]] }.0.contains("UTF-8"))
    }

    @Test func `All names are there, in order; a certificate without any has none`() throws {
        let many = try refusal {
            $0.uris = ["spiffe://a/b", "urn:x"].map { Array($0.utf8) }
            $0.dnsNames = ["one.test", "two.test"].map { Array($0.utf8) }
            $0.commonName = "Zoë"
        }.1
        #expect(
            many.server.peerCertificate
                == PeerCertificate(
                    uris: ["spiffe://a/b", "urn:x"], dnsNames: ["one.test", "two.test"], commonName: "Zoë"))
        let none = try refusal {
            $0.uris = []
            $0.dnsNames = []
            $0.commonName = ""
        }.1
        #expect(none.server.peerCertificate == PeerCertificate(uris: [], dnsNames: [], commonName: ""))
    }
}
