import MarketModel
import Testing

struct DecimalTextTests {
    @Test func `Decimal text becomes its mantissa`() throws {
        #expect(try DecimalText.mantissa("61837.63000000", scale: 9) == 61_837_630_000_000)
    }
}
