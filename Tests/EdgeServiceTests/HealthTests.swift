import EdgeService
import GRPC
import MarketProto
import Protobuf
import Simulation
import TapedeckClient
import Testing

/// What `grpc.health.v1` says of each service.
@Suite(.timeLimit(.minutes(1)))
struct HealthTests {
    /// `HealthCheckResponse.status`: 1 serves, 2 does not.
    private func status(_ world: EdgeWorld, _ service: String) async throws -> UInt8? {
        let channel = try GRPCChannel(target: "127.0.0.1:\(world.port)")
        defer { channel.close() }
        let name = Array(service.utf8)
        let answer = await channel.unary(
            path: "/grpc.health.v1.Health/Check", request: [0x0a, UInt8(name.count)] + name)
        #expect(answer.status.isOK, "\(service): \(answer.status)")
        return answer.message?.last
    }

    @Test(arguments: [true, false])
    func `The service of orders serves only where there is a venue for them`(_ takesOrders: Bool) async throws {
        let world = try EdgeWorld(orders: takesOrders ? OrderVenue(feed: "test", time: RealTime()) : nil)
        let (market, orders) = (Proto.MarketDataService.protoName, Proto.OrderService.protoName)
        for service in ["", market, orders] { #expect(try await status(world, service) == 2, "\(service)") }
        world.edge.setServing(true)
        for service in ["", market] { #expect(try await status(world, service) == 1, "\(service)") }
        #expect(try await status(world, orders) == (takesOrders ? 1 : 2))
        world.edge.setServing(false)
        for service in ["", market, orders] { #expect(try await status(world, service) == 2, "\(service)") }
    }
}
