"""Reads everything for two seconds with grpcio and checks that no sequence is missing: `client.py HOST:PORT`."""
import sys
import grpc
from schema import market_data_pb2, market_data_pb2_grpc

stub = market_data_pb2_grpc.MarketDataServiceStub(grpc.insecure_channel(sys.argv[1]))
quote = stub.GetQuote(market_data_pb2.QuoteRequest(symbol="AAPL", exchange="SIMX"))
assert quote.latest.bid_micros > 0 and quote.latest.HasField("event_time")
last, count = {}, 0
try:
    for update in stub.StreamPrices(market_data_pb2.PriceSubscription(), timeout=2):
        key = (update.feed_handler_id, update.epoch, update.exchange, update.symbol)
        assert key not in last or update.sequence == last[key] + 1, f"{key}: {update.sequence} after {last[key]}"
        last[key] = update.sequence
        count += 1
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert count > 1000 and len(last) == 40, (count, len(last))
try:
    stub.GetQuote(market_data_pb2.QuoteRequest(symbol="NONE"))
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
order = market_data_pb2.OrderRequest(order_id="1", symbol="AAPL", side="BUY", order_type="MARKET", quantity_micros=1000000)
summary = stub.SubmitOrders(iter([order, market_data_pb2.OrderRequest(order_id="2")]))
assert (summary.accepted, summary.rejected) == (1, 1), summary
print("no gaps in", count)
