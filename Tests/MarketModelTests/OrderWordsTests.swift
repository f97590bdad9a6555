import MarketModel
import Testing

struct OrderWordsTests {
    @Test func `The words of the wire, exactly`() throws {
        #expect(try OrderSide(word: "BUY") == .buy && OrderSide(word: "SELL") == .sell)
        #expect(OrderSide.allCases.map(\.rawValue) == ["BUY", "SELL"])
        #expect(OrderType.allCases.map(\.rawValue) == ["LIMIT", "MARKET", "STOP"])
        #expect(OrderStatus.allCases.map(\.rawValue) == ["NEW", "PARTIAL", "FILLED", "CANCELLED", "REJECTED"])
        #expect(TimeInForce.allCases.map(\.rawValue) == ["DAY", "GTC", "IOC", "FOK"])
        for status in OrderStatus.allCases { #expect(try OrderStatus(word: status.rawValue) == status) }
        for type in OrderType.allCases { #expect(try OrderType(word: type.rawValue) == type) }
    }

    // FOK with KELVIN SIGN is canonically equal to FOK.
    @Test(arguments: ["", "buy", "BUY ", " BUY", "BUYS", "BU", "SIDE_BUY", "1", "FO\u{212A}", "BUY\u{0}"])
    func `Anything else is refused with what is allowed`(word: String) {
        #expect(throws: OrderFieldError.word(field: "side", given: word, allowed: ["BUY", "SELL"])) {
            try OrderSide(word: word)
        }
        #expect(throws: OrderFieldError.self) { try TimeInForce(word: word) }
    }

    @Test func `An error names the field, the word and the words allowed, and repeats no more than a few characters`() {
        let error = #expect(throws: OrderFieldError.self) { try OrderType(word: "ICEBERG") }
        #expect(error?.description == "order_type is \"ICEBERG\"; allowed are LIMIT, MARKET, STOP")
        let long = #expect(throws: OrderFieldError.self) { try OrderType(word: String(repeating: "x", count: 1 << 20)) }
        #expect((long?.description.count ?? .max) < 100)
    }

    private func terms(
        _ type: String, limit: Int64, stop: Int64 = 0, quantity: Int64 = 1, force: String = "", side: String = "BUY"
    ) throws -> OrderTerms {
        try OrderTerms(
            side: side, quantityMicros: quantity, limitPriceMicros: limit, orderType: type, timeInForce: force,
            stopPriceMicros: stop)
    }

    @Test func `A limit price of 0 is valid for MARKET and STOP only`() throws {
        #expect(try terms("MARKET", limit: 0).type == .market)
        #expect(try terms("STOP", limit: 0, stop: 5).stopPriceMicros == 5)
        #expect(try terms("STOP", limit: 7, stop: 5).limitPriceMicros == 7)
        #expect(try terms("LIMIT", limit: 1).timeInForce == .day)
        #expect(try terms("LIMIT", limit: 1, force: "IOC").timeInForce == .immediateOrCancel)
        let zero = #expect(throws: OrderFieldError.self) { try terms("LIMIT", limit: 0) }
        #expect(zero?.description == "limit_price_micros is 0; it may be 0 for MARKET and STOP only")
    }

    @Test func `Numbers out of range are refused by their field`() {
        func field(_ body: () throws -> OrderTerms) -> String? {
            do {
                _ = try body()
                return nil
            } catch OrderFieldError.number(let field, _, _) { return field } catch { return "\(error)" }
        }
        #expect(field { try terms("MARKET", limit: -1) } == "limit_price_micros")
        #expect(field { try terms("LIMIT", limit: .min) } == "limit_price_micros")
        #expect(field { try terms("LIMIT", limit: 1, quantity: 0) } == "quantity_micros")
        #expect(field { try terms("LIMIT", limit: 1, quantity: -5) } == "quantity_micros")
        #expect(field { try terms("STOP", limit: 1) } == "stop_price_micros")
        #expect(field { try terms("STOP", limit: 1, stop: -1) } == "stop_price_micros")
        #expect(field { try terms("LIMIT", limit: 1, stop: 1) } == "stop_price_micros")
    }
}
