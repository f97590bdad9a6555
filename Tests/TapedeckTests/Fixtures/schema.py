"""Python's classes for the schema, made from proto/ into a folder of their own."""
import os, sys, tempfile
from grpc_tools import protoc
import grpc_tools

proto = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "proto")
folder = tempfile.mkdtemp()
include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
assert protoc.main(["", "-I" + proto, "-I" + include, "--python_out=" + folder, "--grpc_python_out=" + folder,
                    "financial/marketdata/v1/market_data.proto"]) == 0
sys.path.insert(0, folder)
from financial.marketdata.v1 import market_data_pb2, market_data_pb2_grpc
