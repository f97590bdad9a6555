"""Trades with a running edge through Python's grpcio: `orders.py PROTO-FOLDER ADDRESS SCENARIO`.

Asks for quotes on standard output (`quote BID BIDSIZE ASK ASKSIZE`, whole units) and waits for a line on standard input. Ends
with `done`; any other end is a failure.
"""
import os, queue, sys, tempfile, threading

import grpc
import grpc_tools
from grpc_tools import protoc

out = tempfile.mkdtemp()
include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
folder = "financial/marketdata/v1/"
assert protoc.main(["protoc", "-I" + sys.argv[1], "-I" + include, "--python_out=" + out, "--grpc_python_out=" + out,
                    folder + "market_data.proto", folder + "order_service.proto"]) == 0
sys.path.insert(0, out)
from financial.marketdata.v1 import market_data_pb2 as pb, market_data_pb2_grpc as rpc, order_service_pb2_grpc as order_rpc

channel = grpc.insecure_channel(sys.argv[2])
market, orders = rpc.MarketDataServiceStub(channel), order_rpc.OrderServiceStub(channel)
TIMEOUT = 30


def quote(bid, bid_size, ask, ask_size):
    """Publishes a quote and returns when the edge has it."""
    print("quote", bid, bid_size, ask, ask_size, flush=True)
    assert sys.stdin.readline() == "ok\n"
    while True:
        try:
            latest = market.GetQuote(pb.QuoteRequest(symbol="AAPL"), timeout=TIMEOUT).latest
            if (latest.bid_micros, latest.bid_size_micros, latest.ask_micros, latest.ask_size_micros) == tuple(
                    value * 1000000 for value in (bid, bid_size, ask, ask_size)):
                return
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error


def order(id, side="BUY", type="LIMIT", quantity=10, limit=0, **more):
    return pb.OrderRequest(order_id=id, symbol="AAPL", side=side, order_type=type, quantity_micros=quantity * 1000000,
                           limit_price_micros=limit * 1000000, account=more.pop("account", "A"), **more)


class Live:
    """A LiveTrading stream: what came, in order."""

    def __init__(self):
        self.requests = queue.Queue()
        self.call = market.LiveTrading(iter(self.requests.get, None), timeout=TIMEOUT)

    def send(self, **payload):
        self.requests.put(pb.TradingMessage(**payload))

    def next(self):
        message = next(self.call)
        if message.HasField("execution"):
            e = message.execution
            return f"{e.order_id} {e.fill_quantity_micros // 1000000}@{e.fill_price_micros // 1000000}"
        s = message.status
        return f"{s.order_id} {s.status} {s.remaining_quantity_micros // 1000000} {s.reason_code}".strip()

    def expect(self, *expected):
        got = [self.next() for _ in expected]
        assert got == list(expected), got

    def end(self):
        """How the stream ends: status and reason."""
        try:
            for message in self.call:
                pass
            return grpc.StatusCode.OK, None
        except grpc.RpcError as error:
            return error.code(), dict(error.trailing_metadata()).get("tapedeck-end-reason")


def unary():
    quote(99, 50, 100, 4)
    request = order("u1", limit=101, idempotency_key="k1", exchange="SIMX")
    first = orders.SubmitOrder(request, timeout=TIMEOUT)
    assert first.accepted and first.status.status == "PARTIAL" and first.status.remaining_quantity_micros == 6000000, first
    quote(99, 50, 100, 40)
    assert orders.SubmitOrder(request, timeout=TIMEOUT) == first
    for change, code in [
        (dict(side="buy"), "INVALID_SIDE"), (dict(order_type="limit"), "INVALID_ORDER_TYPE"),
        (dict(quantity_micros=0), "INVALID_QUANTITY"), (dict(limit_price_micros=0), "INVALID_LIMIT_PRICE"),
        (dict(symbol="NONE"), "UNKNOWN_SYMBOL"), (dict(order_id="u1"), "DUPLICATE_ORDER_ID"),
        (dict(symbol="BTC"), "UNKNOWN_SYMBOL"), (dict(time_in_force="GTX"), "INVALID_TIME_IN_FORCE"),
        (dict(order_id=""), "INVALID_ORDER_ID"), (dict(stop_price_micros=5), "INVALID_STOP_PRICE"),
    ]:
        wrong = order("u2", limit=101)
        for name, value in change.items():
            setattr(wrong, name, value)
        result = orders.SubmitOrder(wrong, timeout=TIMEOUT)
        assert not result.accepted and result.rejection_code == code and result.rejection_reason, (change, result)
        assert result.status.status == "REJECTED"
    filled = orders.SubmitOrder(order("u3", "SELL", "MARKET"), timeout=TIMEOUT)
    assert filled.status.status == "FILLED" and filled.status.exchange == "SIMX", filled


def batch():
    quote(99, 50, 100, 50)
    requests = [order(f"b{n}", limit=100, quantity=1) for n in range(2000)]
    requests[7].side = "HOLD"
    requests[9].symbol = "NONE"
    summary = market.SubmitOrders(iter(requests), timeout=TIMEOUT)
    assert (summary.accepted, summary.rejected) == (1998, 2), (summary.accepted, summary.rejected)
    assert [r.order_id for r in summary.results] == [r.order_id for r in requests]
    assert [r.rejection_code for r in summary.results if not r.accepted] == ["INVALID_SIDE", "UNKNOWN_SYMBOL"]
    assert len(summary.rejection_reasons) == 2 and summary.rejection_reasons[0].startswith("INVALID_SIDE: side is")
    # 50 were displayed.
    assert [r.status.status for r in summary.results].count("FILLED") == 50
    raw = channel.stream_unary("/financial.marketdata.v1.MarketDataService/SubmitOrders", lambda bytes: bytes,
                               pb.OrderBatchSummary.FromString)
    summary = raw(iter([b"\xff\xff", order("c1", limit=1).SerializeToString(), b""]), timeout=TIMEOUT)
    assert [r.rejection_code for r in summary.results] == ["INVALID_MESSAGE", "", "INVALID_ORDER_ID"], summary
    empty = market.SubmitOrders(iter([]), timeout=TIMEOUT)
    assert (empty.accepted, empty.rejected, len(empty.results)) == (0, 0, 0)


def live():
    quote(99, 50, 105, 50)
    stream, other = Live(), Live()
    other.send(cancel=pb.OrderCancelRequest(order_id="none", account="A"))
    other.expect("none REJECTED 0 UNKNOWN_ORDER")
    stream.send(new_order=order("l1", limit=101))
    stream.expect("l1 NEW 10")
    quote(99, 50, 101, 4)
    stream.expect("l1 4@101", "l1 PARTIAL 6")
    stream.send(cancel=pb.OrderCancelRequest(order_id="l1", account="A", reason="enough"))
    stream.expect("l1 CANCELLED 6 CANCELLED_BY_CLIENT")
    stream.send(cancel=pb.OrderCancelRequest(order_id="l1", account="A"))
    stream.expect("l1 CANCELLED 6 CANCEL_TOO_LATE")
    stream.send(new_order=order("l2", side="UP"))
    stream.expect("l2 REJECTED 10 INVALID_SIDE")
    stream.send(new_order=order("l3", "SELL", "STOP", stop_price_micros=98000000))
    stream.expect("l3 NEW 10")
    quote(97, 50, 101, 4)
    stream.expect("l3 10@97", "l3 FILLED 0")
    # Whoever named the account hears the same, but for what was answered to the other alone.
    other.expect("l1 NEW 10", "l1 4@101", "l1 PARTIAL 6", "l1 CANCELLED 6 CANCELLED_BY_CLIENT", "l3 NEW 10", "l3 10@97",
                 "l3 FILLED 0")
    # An order of another way in is heard too.
    assert orders.SubmitOrder(order("l4", limit=1), timeout=TIMEOUT).accepted
    stream.expect("l4 NEW 10")
    other.send(status=pb.OrderStatusUpdate(order_id="x"))
    other.expect("l4 NEW 10")
    assert other.end() == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")
    # The client closes its side: what it sent is answered, then the stream ends.
    stream.send(cancel=pb.OrderCancelRequest(order_id="l4", account="A"))
    stream.requests.put(None)
    stream.expect("l4 CANCELLED 10 CANCELLED_BY_CLIENT")
    assert stream.end() == (grpc.StatusCode.OK, None)
    garbage = channel.stream_stream("/financial.marketdata.v1.MarketDataService/LiveTrading", lambda bytes: bytes,
                                    lambda bytes: bytes)
    for bytes in [b"", b"\x0a\xff", b"\x1a\x00"]:
        try:
            list(garbage(iter([bytes]), timeout=TIMEOUT))
            assert False, "garbage was taken"
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error


def slow():
    """The server's bound for what waits is less than any status here."""
    quote(99, 50, 105, 50)
    stream = Live()
    for number in range(500):
        stream.send(new_order=order(f"s{number}", limit=50))
    assert stream.end() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")
    # The orders that were taken stand, and others are not touched.
    assert not orders.SubmitOrder(order("s0", limit=50), timeout=TIMEOUT).accepted


def many():
    """Streams on several connections beside each other, while quotes change."""
    quote(99, 50, 101, 50)
    failures = []

    def trade(number):
        try:
            own = grpc.insecure_channel(sys.argv[2], options=[("grpc.use_local_subchannel_pool", 1)])
            requests = queue.Queue()
            call = rpc.MarketDataServiceStub(own).LiveTrading(iter(requests.get, None), timeout=TIMEOUT)
            total, told, done = 300, {}, 0
            for index in range(total):
                requests.put(pb.TradingMessage(new_order=order(
                    f"m{index}", ["BUY", "SELL"][index % 2], quantity=1 + index % 7, limit=100 + index % 3,
                    account=f"T{number}", time_in_force=["GTC", "IOC", "FOK"][index % 5 % 3])))
            for index in range(total):
                requests.put(pb.TradingMessage(cancel=pb.OrderCancelRequest(order_id=f"m{index}", account=f"T{number}")))
            while done < total:
                message = next(call)
                if message.HasField("execution"):
                    execution = message.execution
                    assert execution.account == f"T{number}"
                    state = told[execution.order_id]
                    state["executed"] += execution.fill_quantity_micros
                    assert execution.leaves_quantity_micros == state["quantity"] - state["executed"]
                    continue
                status = message.status
                if status.reason_code == "CANCEL_TOO_LATE":
                    continue
                if status.status == "NEW":
                    assert status.order_id not in told
                    told[status.order_id] = {"quantity": status.remaining_quantity_micros, "executed": 0, "status": "NEW"}
                    continue
                state = told[status.order_id]
                assert state["status"] in ("NEW", "PARTIAL"), (state, status)
                assert status.status in ("PARTIAL", "FILLED", "CANCELLED")
                assert state["executed"] + status.remaining_quantity_micros == state["quantity"], (state, status)
                state["status"] = status.status
                done += status.status != "PARTIAL"
            requests.put(None)
            assert len(told) == total
            own.close()
        except BaseException as failure:
            failures.append((number, failure))

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(40):
        print("quote", 98 + number % 4, 20, 99 + number % 4, 20, flush=True)
        assert sys.stdin.readline() == "ok\n"
    for thread in threads:
        thread.join()
    assert not failures, failures


def refused():
    try:
        orders.SubmitOrder(order("r1", limit=1), timeout=TIMEOUT)
        assert False
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "simulated venue" in error.details(), error
    for call in [lambda: market.SubmitOrders(iter([order("r1")]), timeout=TIMEOUT),
                 lambda: list(market.LiveTrading(iter([pb.TradingMessage(new_order=order("r1"))]), timeout=TIMEOUT))]:
        try:
            call()
            assert False
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error


globals()[sys.argv[3]]()
print("done", flush=True)
# Streams that are left open are the library's threads, which the interpreter's own end may wait for without end.
os._exit(0)
