"""Quotes and prices by mutual TLS: `secure_client.py HOST:PORT FOLDER`, with the certificates of the folder."""
import sys
import grpc
from schema import market_data_pb2, market_data_pb2_grpc

address, folder = sys.argv[1:3]


def read(name):
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


def market(authority, identity=None):
    files = (read(identity + ".key"), read(identity + ".pem")) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(read(authority + ".pem"), *files)
    return market_data_pb2_grpc.MarketDataServiceStub(grpc.secure_channel(address, credentials))


def refused(stub, symbol="AAPL"):
    try:
        stub.GetQuote(market_data_pb2.QuoteRequest(symbol=symbol), timeout=10)
    except grpc.RpcError as error:
        return error.code().name
    return "served"


desk = market("authority", "desk")
assert desk.GetQuote(market_data_pb2.QuoteRequest(symbol="AAPL"), timeout=10).latest.bid_micros > 0
last, count = {}, 0
stream = desk.StreamPrices(market_data_pb2.PriceSubscription(symbols=["AAPL"]), timeout=60)
for update in stream:
    key = (update.feed_handler_id, update.epoch, update.exchange, update.symbol)
    assert key not in last or update.sequence == last[key] + 1, f"{key}: {update.sequence} after {last[key]}"
    last[key] = update.sequence
    count += 1
    if count == 200:
        break
stream.cancel()
# What its certificate may not see, by its line in the access file.
assert refused(desk, "MSFT") == "PERMISSION_DENIED"
assert refused(market("authority", "unlisted")) == "PERMISSION_DENIED"
for authority, identity in [("authority", None), ("authority", "late"), ("authority", "mallory"), ("stranger", "desk")]:
    assert refused(market(authority, identity)) == "UNAVAILABLE", (authority, identity)
print("mutual TLS:", count)
