import Foundation
import TestSupport
import Testing

/// What a page in a browser finds at a running platform.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct WebOriginTests {
    /// Status and headers of an answer, in lower case.
    private func curl(_ platform: BinaryTests.Platform, _ arguments: [String]) async throws -> String {
        let url = "http://\(platform.address)/financial.marketdata.v1.MarketDataService/GetQuote"
        let ended = try await BinaryTests.runApart(
            "/usr/bin/curl",
            ["-sS", "--max-time", "20", "--http2-prior-knowledge", "-D", "-", "-o", "/dev/null"] + arguments + [url])
        #expect(ended.status == 0, "\(ended.errors)")
        return ended.output.lowercased()
    }

    @Test func `Pages of the origins that are named may call, others are told so`() async throws {
        let folder = try TemporaryFolder()
        let platform = try BinaryTests.Platform(
            folder.path + "/data",
            ["--web-origin", "https://desk.example", "--web-origin", "http://localhost:8080"])
        let preflight = ["-X", "OPTIONS", "-H", "access-control-request-headers: content-type,x-grpc-web"]
        for origin in ["https://desk.example", "http://localhost:8080"] {
            let allowed = try await curl(platform, preflight + ["-H", "origin: \(origin)"])
            #expect(allowed.hasPrefix("http/2 204"), "\(allowed)")
            #expect(allowed.contains("access-control-allow-origin: \(origin)\r\n"), "\(allowed)")
            let call = try await curl(
                platform,
                [
                    "-X", "POST", "-H", "content-type: application/grpc-web+proto", "-H", "origin: \(origin)",
                    "--data-binary", "",
                ])
            #expect(call.hasPrefix("http/2 200") && call.contains("access-control-allow-origin: \(origin)\r\n"))
        }
        let refused = try await curl(platform, preflight + ["-H", "origin: https://other.example"])
        #expect(refused.hasPrefix("http/2 403") && !refused.contains("access-control-allow-origin"), "\(refused)")
        #expect(platform.stop() == 0)
        let closed = try BinaryTests.Platform(folder.path + "/data")
        let unnamed = try await curl(closed, preflight + ["-H", "origin: https://desk.example"])
        #expect(unnamed.hasPrefix("http/2 403"), "\(unnamed)")
        #expect(closed.stop() == 0)
    }
}
