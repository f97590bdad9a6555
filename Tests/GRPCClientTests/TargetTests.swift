import HTTP2
import Simulation
import Testing

@testable import GRPC

/// What a client makes of texts and codes.
struct TargetTests {
    private static func a(_ host: String, _ port: Int) -> GRPCAddress { GRPCAddress(host: host, port: port) }

    @Test func `Targets of every form are read`() throws {
        let expected: [(String, GRPCTarget.Kind, String)] = [
            ("localhost:50051", .name(TargetTests.a("localhost", 50051), server: nil), "localhost:50051"),
            ("[::1]:5", .name(TargetTests.a("::1", 5), server: nil), "[::1]:5"),
            ("dns:edge:1", .name(TargetTests.a("edge", 1), server: nil), "edge:1"),
            ("dns:///edge.example:443", .name(TargetTests.a("edge.example", 443), server: nil), "edge.example:443"),
            (
                "dns://127.0.0.1:5353/edge:7",
                .name(TargetTests.a("edge", 7), server: TargetTests.a("127.0.0.1", 5353)),
                "edge:7"
            ),
            (
                "dns://[::1]/edge:7", .name(TargetTests.a("edge", 7), server: TargetTests.a("::1", 53)), "edge:7"
            ),
            (
                "ipv4:10.0.0.1:1,10.0.0.2:2", .addresses([TargetTests.a("10.0.0.1", 1), TargetTests.a("10.0.0.2", 2)]),
                "10.0.0.1:1"
            ),
            ("ipv6:[::1]:1,[::2]:2", .addresses([TargetTests.a("::1", 1), TargetTests.a("::2", 2)]), "[::1]:1"),
        ]
        for (text, kind, authority) in expected {
            let target = try GRPCTarget(text)
            #expect(target.kind == kind)
            #expect(target.authority == authority)
        }
    }

    @Test(arguments: [
        "", ":", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:+1", "host:1x", "::1:5", "dns://x",
        "dns://x/y", "dns:///", "dns:///a/b:1", "ipv4:", "ipv4:1.2.3.4", "ipv4:1.2.3.4:1,", "unix:/tmp/x", "a b:1",
        "http://host:1", "ipv4:host:1", "ipv4:[::1]:1", "ipv6:10.0.0.1:1", "dns://names.example:53/edge:1",
        "host:99999999999999999999",
    ])
    func `What is no target is refused with an explanation`(_ text: String) {
        #expect { try GRPCTarget(text) } throws: { error in
            (error as? GRPCStatus)?.code == .invalidArgument
        }
    }

    @Test func `HTTP statuses and resets become the codes of the specification`() {
        let http: [(String, GRPCStatus.Code)] = [
            ("400", .internalError), ("401", .unauthenticated), ("403", .permissionDenied), ("404", .unimplemented),
            ("429", .unavailable), ("502", .unavailable), ("503", .unavailable), ("504", .unavailable),
            ("200", .unknown), ("302", .unknown), ("500", .unknown), ("", .unknown),
        ]
        for (status, code) in http { #expect(GRPCClientStatus.of(httpStatus: status).code == code) }
        let resets: [(UInt32, GRPCStatus.Code)] = [
            (0, .internalError), (1, .internalError), (2, .internalError), (3, .internalError), (4, .internalError),
            (6, .internalError), (7, .unavailable), (8, .cancelled), (9, .internalError), (10, .internalError),
            (11, .resourceExhausted), (12, .permissionDenied), (HTTP2ErrorCode.connectionLost, .unavailable),
        ]
        for (reset, code) in resets { #expect(GRPCClientStatus.of(resetCode: reset).code == code) }
        for (text, code) in [("0", GRPCStatus.Code.ok), ("14", .unavailable), ("x", .unknown), ("-1", .unknown)] {
            var trailers = GRPCMetadata()
            trailers.add("grpc-status", text)
            #expect(GRPCClientStatus.of(trailers: trailers)?.code == code)
        }
        #expect(GRPCClientStatus.of(trailers: GRPCMetadata()) == nil)
    }

    @Test func `A name is resolved when asked for, not too often, and again after the interval`() {
        var random = SeededRandom(seed: 1)
        var backoff = GRPCBackoff()
        backoff.jitterPercent = 0
        var schedule = GRPCResolutionSchedule(pauseMilliseconds: 100, intervalMilliseconds: 1000, backoff: backoff)
        #expect(schedule.wanted(nowMilliseconds: 0) == .resolve)
        #expect(schedule.wanted(nowMilliseconds: 1) == .none)
        // It was asked for meanwhile: again after the pause.
        #expect(schedule.ended(isSuccess: true, nowMilliseconds: 10, using: &random) == .wait(milliseconds: 100))
        #expect(schedule.due(nowMilliseconds: 110) == .resolve)
        #expect(schedule.ended(isSuccess: true, nowMilliseconds: 120, using: &random) == .wait(milliseconds: 1000))
        #expect(schedule.wanted(nowMilliseconds: 150) == .wait(milliseconds: 70))
        #expect(schedule.wanted(nowMilliseconds: 160) == .none)
        #expect(schedule.due(nowMilliseconds: 200) == .wait(milliseconds: 20))
        #expect(schedule.due(nowMilliseconds: 220) == .resolve)
        // Failures wait longer each time.
        #expect(schedule.ended(isSuccess: false, nowMilliseconds: 300, using: &random) == .wait(milliseconds: 1000))
        #expect(schedule.due(nowMilliseconds: 1300) == .resolve)
        #expect(schedule.ended(isSuccess: false, nowMilliseconds: 1300, using: &random) == .wait(milliseconds: 1600))
    }
}
