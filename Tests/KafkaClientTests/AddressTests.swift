import Testing

@testable import KafkaClient

@Suite struct AddressTests {
    @Test func `Addresses are read as users write them`() {
        #expect(
            KafkaAddress.list("a:9093, b,[::1]:9094,SASL_SSL://c.d:1") == [
                KafkaAddress(host: "a", port: 9093), KafkaAddress(host: "b", port: 9092),
                KafkaAddress(host: "::1", port: 9094), KafkaAddress(host: "c.d", port: 1),
            ])
        #expect(KafkaAddress.list("").isEmpty && KafkaAddress.list("a:x").isEmpty)
        #expect("\(KafkaAddress(host: "::1", port: 2))" == "[::1]:2")
    }

    /// The exchange of RFC 7677, section 3.
    @Test func `SCRAM-SHA-256 is that of the RFC's example`() throws {
        var exchange = SCRAMExchange(.sha256, user: "user", password: "pencil", nonce: "rOprNGfwEbeRWgbNEkqO")
        #expect(exchange.first == Array("n,,n=user,r=rOprNGfwEbeRWgbNEkqO".utf8))
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        let final = try exchange.final(answering: Array("r=\(nonce),s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".utf8))
        #expect(final == Array("c=biws,r=\(nonce),p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".utf8))
        try exchange.check(Array("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".utf8))
        for answer in ["v=AAAA", "e=invalid-proof", "", "v="] {
            #expect(throws: KafkaFailure.self) { try exchange.check(Array(answer.utf8)) }
        }
    }

    @Test func `A server that answers another nonce, or nonsense, is refused`() {
        for answer in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "", "r=abcd,s=,i=1",
            "r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0", "r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999",
            "r=abcd,s=not base 64,i=10",
        ] {
            var exchange = SCRAMExchange(.sha512, user: "u=,", password: "p", nonce: "abc")
            #expect(exchange.first == Array("n,,n=u=3D=2C,r=abc".utf8))
            #expect(throws: KafkaFailure.self, "\(answer)") { _ = try exchange.final(answering: Array(answer.utf8)) }
        }
    }
}
