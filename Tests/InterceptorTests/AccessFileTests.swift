import Testing

@testable import AccessControl

struct AccessFileTests {
    private func hex(_ bytes: [UInt8]) -> String { String(decoding: Hex.digits(bytes), as: UTF8.self) }

    @Test func `SHA-256 and HMAC give what FIPS 180-4 and RFC 4231 say`() {
        #expect(
            hex(SHA256.hash("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(hex(SHA256.hash("".utf8)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(
            hex(SHA256.hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8))
                == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        #expect(
            hex(SHA256.hash([UInt8](repeating: UInt8(ascii: "a"), count: 1_000_000)))
                == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
        #expect(
            hex(SHA256.hmac(key: [UInt8](repeating: 0x0b, count: 20), Array("Hi There".utf8)))
                == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
        #expect(
            hex(
                SHA256.hmac(
                    key: [UInt8](repeating: 0xaa, count: 131),
                    Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8)))
                == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
    }

    private static let token = AccessToken(name: "alice", random: [UInt8](1...32))!
    private static let salt = [UInt8](100..<116)

    @Test func `A token is proved by its line and by nothing else`() throws {
        let token = AccessFileTests.token
        let proof = token.proof(salt: AccessFileTests.salt)
        #expect(token.text.hasPrefix("tapedeck.alice.0102030405"))
        #expect(TokenProof(text: proof.description) == proof)
        let read = try #require(AccessToken(text: token.text))
        #expect(proof.verifies(read))
        #expect(!proof.description.contains("0102030405"))
        var changed = Array(token.text)
        changed[changed.count - 1] = changed[changed.count - 1] == "0" ? "1" : "0"
        let other = try #require(AccessToken(text: String(changed)))
        #expect(!proof.verifies(other))
        for bad in [
            "", "tapedeck", "tapedeck.alice.", "tapedeck..\(String(repeating: "0", count: 64))", token.text + "0",
            String(token.text.dropLast()), "x" + token.text, token.text.replacing("alice", with: "al ice"),
        ] {
            #expect(AccessToken(text: bad) == nil, "\(bad)")
        }
        for bad in ["", "a.b", "é", "a b", String(repeating: "a", count: 65)] {
            #expect(AccessToken(name: bad, random: [UInt8](1...32)) == nil)
        }
        #expect(AccessToken(name: "a", random: [UInt8](1...31)) == nil)
    }

    private func parse(_ text: String) throws(AccessFileError) -> [AccessFile.Entry] {
        try AccessFile(parsing: Array(text.utf8), limits: CallerLimits(callsPerSecond: 7)).entries
    }

    @Test func `A line says who, and what is allowed`() throws {
        let proof = AccessFileTests.token.proof(salt: AccessFileTests.salt)
        let entries = try parse(
            """
            # the desk
            alice \(proof) methods=/a.B/*,/c.D/E symbols=BINANCE|*,SIMX|AAPL,SIMX|MS* accounts=A1,B* calls=3 \
            streams=2 messages=9

            spiffe://desk/pricer\tcertificate methods=* symbols=*   # all of it
            * certificate methods=/a.B/Get
            anonymous anonymous
            """)
        try #require(entries.count == 4)
        let alice = entries[0]
        #expect(alice.proof == .token(proof) && alice.name == "alice")
        #expect(alice.limits == CallerLimits(callsPerSecond: 3, streams: 2, messagesPerSecond: 9))
        let methods = alice.permissions.methods
        #expect(methods.matches("/a.B/Any") && methods.matches("/c.D/E") && !methods.matches("/c.D/EF"))
        let symbols = alice.permissions.symbols
        for (exchange, symbol, isAllowed) in [
            ("BINANCE", "X", true), ("SIMX", "AAPL", true), ("SIMX", "MSFT", true), ("SIMX", "AAP", false),
            ("SIMY", "AAPL", false), ("BINANC", "X", false), ("", "", false),
        ] {
            #expect(symbols.matches(exchange: exchange, symbol: symbol) == isAllowed, "\(exchange) \(symbol)")
        }
        let accounts = alice.permissions.accounts
        #expect(accounts.matches("A1") && accounts.matches("B77") && !accounts.matches("A11"))
        #expect(entries[1].permissions.symbols.matchesAll && entries[1].limits.callsPerSecond == 7)
        #expect(entries[2].name == "*" && entries[2].proof == .certificate)
        #expect(!entries[3].permissions.methods.matches("/a.B/Get"))
    }

    @Test(arguments: [
        ("alice", "line 1: a line is NAME PROOF"), ("\n\nalice secret methods=*", "line 3: the proof is"),
        ("bob anonymous", "callers that prove nothing"), ("a certificate x=1", "`x` is none of"),
        ("a certificate methods", "no NAME=VALUE"), ("a certificate methods=* methods=*", "there twice"),
        ("a certificate methods=Get", "is no method"), ("a certificate methods=/a*/b", "at the end only"),
        ("a certificate symbols=AAPL", "no EXCHANGE|SYMBOL"), ("a certificate symbols=A|B|C", "no EXCHANGE|SYMBOL"),
        ("a certificate symbols=A|*B", "no EXCHANGE|SYMBOL"), ("a certificate calls=-1", "a number from 0"),
        ("a certificate calls=99999999999999999999", "a number from 0"),
        ("a certificate\na certificate", "line 2: a is there twice"), ("a hmac-sha256:00:11", "the proof is"),
        ("é certificate\nx hmac-sha256:ZZ:00", "line 2: the proof is"),
    ])
    func `What is wrong is told with its line`(_ text: String, _ expected: String) {
        do {
            _ = try parse(text)
            Issue.record("accepted: \(text)")
        } catch {
            #expect(error.description.contains(expected), "\(error)")
        }
    }

    @Test func `Damaged files are refused or read, and never trap`() {
        let proof = AccessFileTests.token.proof(salt: AccessFileTests.salt)
        let good = Array("alice \(proof) methods=/a.B/* symbols=X|*,Y|Z* accounts=* calls=5\n* certificate\n".utf8)
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        for _ in 0..<5000 {
            var bytes = good
            for _ in 0..<3 {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                bytes[Int(state >> 33) % bytes.count] = UInt8(truncatingIfNeeded: state >> 24)
            }
            _ = try? AccessFile(parsing: bytes)
        }
        #expect(throws: AccessFileError.self) { try AccessFile(parsing: [0xff, 0xfe]) }
    }

    @Test func `A bucket gives its rate after a burst of a second, and says when there is more`() {
        let bucket = RateBucket(perSecond: 10)
        let start: UInt64 = 5_000_000
        #expect((0..<10).allSatisfy { _ in bucket.take(nowMilliseconds: start) == nil })
        #expect(bucket.take(nowMilliseconds: start) == 101)
        #expect(bucket.take(nowMilliseconds: start + 99) != nil)
        #expect(bucket.take(nowMilliseconds: start + 101) == nil)
        var taken = 0
        for now in start + 1000..<(start + 11_000) where bucket.take(nowMilliseconds: now) == nil { taken += 1 }
        #expect((100...110).contains(taken), "\(taken)")
        // A clock that stands or steps back gives nothing extra, and never traps.
        #expect(bucket.take(nowMilliseconds: 0) != nil)
        _ = bucket.take(nowMilliseconds: .max)
    }

    @Test func `A charge is taken always, and its debt is waited for`() {
        let bucket = RateBucket(perSecond: 1000)
        #expect(bucket.charge(1000, nowMilliseconds: 1_000_000) == nil)
        #expect(bucket.charge(500, nowMilliseconds: 1_000_000) == 501)
        #expect(bucket.charge(1, nowMilliseconds: 1_000_501) == nil)
        #expect(bucket.charge(.max, nowMilliseconds: 1_000_501) != nil)
        #expect(bucket.charge(-1, nowMilliseconds: 1_000_501) != nil)
    }

    @Test func `Threads together get no more than the rate`() async {
        let bucket = RateBucket(perSecond: 1000)
        let taken = await withTaskGroup(of: Int.self) { group in
            for _ in 0..<4 {
                group.addTask { (0..<2000).count { _ in bucket.take(nowMilliseconds: 1_000_000) == nil } }
            }
            return await group.reduce(0, +)
        }
        #expect(taken == 1000)
    }
}
