import GRPC
import HTTP2
import Testing

/// The published keepalive and limits, and what docs/GRPC.md and docs/CLIENTS.md say of the rest.
struct DefaultsTests {
    @Test func `A server has the published times and limits`() {
        let configuration = GRPCServerConfiguration()
        let http2 = configuration.http2
        #expect(http2.idleMilliseconds == 5 * 60_000)
        #expect(http2.ageMilliseconds == 30 * 60_000)
        #expect(http2.graceMilliseconds == 10_000)
        #expect(http2.keepaliveMilliseconds == 60_000)
        #expect(http2.keepaliveTimeoutMilliseconds == 20_000)
        // Without streams too.
        #expect(http2.keepaliveWithoutStreams)
        #expect(http2.pingGapMillisecondsMin == 30_000)
        #expect(configuration.messageBytesMax == 16 << 20)
    }

    @Test func `A server has the limits of docs/GRPC.md`() {
        let configuration = GRPCServerConfiguration()
        let http2 = configuration.http2
        #expect(http2.headerListBytesMax == 64 << 10 && http2.streamsMax == 1000)
        #expect(http2.streamWindowBytes == 1 << 20 && http2.pingStrikesMax == 3)
        #expect(http2.resetsMax == 1000 && http2.resetsPerSecond == 100)
        #expect(http2.acksWaitingMax == 1000 && http2.continuationsMax == 8 && http2.emptyFramesMax == 10_000)
        #expect(configuration.heldBytesMax == 512 << 20 && configuration.queuedBytesMax == 64 << 10)
        #expect(configuration.compressedBytesMin == 256 && configuration.webOrigins.isEmpty)
        #expect(configuration.connectionsMax == 100_000 && configuration.connectionsPerAddressMax == 25_000)
    }

    @Test func `A client has the published retries, keepalive and limits`() {
        let options = GRPCChannelOptions()
        #expect(options.connection.http2.keepaliveMilliseconds == 60_000)
        #expect(options.connection.http2.keepaliveTimeoutMilliseconds == 20_000)
        // A server may hold pings without calls against it.
        #expect(!options.connection.http2.keepaliveWithoutStreams)
        #expect(options.connection.messageBytesMax == 16 << 20)
        let retry = GRPCRetryPolicy()
        #expect(retry.attemptsMax == 4 && retry.backoff.initialMilliseconds == 100)
        #expect(retry.backoff.maxMilliseconds == 1000 && retry.backoff.multiplierPercent == 200)
        #expect(retry.codes == [.unavailable] && retry.pushbackCodes == [.resourceExhausted])
        #expect(options.retryThrottle == GRPCRetryThrottle(tokensMax: 10, ratioThousandths: 100))
        #expect(options.backoff.initialMilliseconds == 1000 && options.backoff.multiplierPercent == 160)
        #expect(options.backoff.maxMilliseconds == 120_000 && options.balancing == .roundRobin)
        #expect(options.resolutionIntervalMilliseconds == 30_000 && options.resolutionPauseMilliseconds == 30_000)
        #expect(options.readBytesMax == 256 << 10 && options.retryBytesMax == 256 << 10)
        // A single call is neither repeated nor given a time without being told.
        #expect(options.calls.retry == nil && options.calls.hedging == nil && options.calls.compression == nil)
        #expect(options.calls.timeoutMilliseconds == nil && !options.calls.waitsForReady)
    }
}
