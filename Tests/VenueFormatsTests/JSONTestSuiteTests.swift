import Foundation
import MarketModel
import TestSupport
import Testing
import VenueFormats

/// JSONTestSuite (nst): files that every parser must take, must refuse, or may do either with.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct JSONTestSuiteTests {
    private func files() throws -> [(name: String, bytes: [UInt8])] {
        let folder = try TemporaryFolder()
        _ = try SharedData.output(
            "/bin/tar",
            ["-xzf", SharedData.path("data/json/JSONTestSuite_test_parsing.tar.gz"), "-C", folder.path])
        return try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map { name in
            (name, [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder.path + "/" + name))))
        }
    }

    @Test func `Every y_ parses, every n_ is refused, and no i_ traps, in any format`() throws {
        let files = try files()
        #expect(files.count { $0.name.hasPrefix("y_") } == 95)
        #expect(files.count { $0.name.hasPrefix("n_") } == 188)
        #expect(files.count { $0.name.hasPrefix("i_") } == 35)
        let parser = JSONParser()
        for (name, bytes) in files {
            var refusal: FormatError?
            do throws(FormatError) {
                let result: Result<Void, FormatError> = bytes.withUnsafeBytes { buffer in
                    do throws(FormatError) {
                        _ = VenueFormat.detect(try parser.parse(buffer))
                        return .success(())
                    } catch {
                        return .failure(error)
                    }
                }
                try result.get()
            } catch {
                refusal = error
            }
            if name.hasPrefix("y_") { #expect(refusal == nil, "\(name)") }
            if name.hasPrefix("n_") { #expect(refusal?.kind == .json, "\(name) was taken") }
            for format in VenueFormat.allCases {
                let messages = (try? FormatReading(format: format).read(bytes, symbol: "X")) ?? []
                #expect(messages.isEmpty, "\(name) is no message of a venue")
            }
        }
    }

    @Test func `A parser is as good after a refusal as before`() throws {
        let reading = FormatReading(format: .binance)
        let ticker = #"{"u":7,"s":"X","b":"1","B":"2","a":"3","A":"4"}"#
        let expected = try reading.read(ticker)
        for (_, bytes) in try files() {
            _ = try? reading.read(bytes)
            #expect(try reading.read(ticker) == expected)
        }
    }
}
