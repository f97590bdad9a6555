"""Google's protobuf as the other side: `peer.py make|check DIR COUNT SEED`.

make writes COUNT random messages of every_field.proto to DIR/python.bin, each behind its length (4 bytes, little endian), some
with their fields shuffled, packed lists unpacked, submessages split in two and unknown fields added.
check compares DIR/swift.bin (re-encoded by us) and DIR/swift.json (one per line) with them, and a few by protoc.
"""
import importlib, os, random, struct, subprocess, sys
from google.protobuf import json_format, text_format

mode, folder, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
here = os.path.dirname(os.path.abspath(__file__))
if mode == "make":
    from grpc_tools import protoc
    import grpc_tools
    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    assert protoc.main(["", "-I" + here, "-I" + include, "--python_out=" + folder, "every_field.proto"]) == 0
sys.path.insert(0, folder)
pb = importlib.import_module("every_field_pb2")
rnd = random.Random(seed)

EDGE = {
    "int32": [0, 1, -1, 127, 128, 2**31 - 1, -2**31], "sint32": [0, 1, -1, 2**31 - 1, -2**31], "sfixed32": [0, -1, 2**31 - 1, -2**31],
    "int64": [0, 1, -1, 2**63 - 1, -2**63], "sint64": [0, -1, 2**63 - 1, -2**63], "sfixed64": [0, 2**63 - 1, -2**63],
    "uint32": [0, 1, 2**32 - 1], "fixed32": [0, 2**32 - 1], "uint64": [0, 2**64 - 1, 2**35], "fixed64": [0, 2**64 - 1],
    "double": [0.0, -0.0, 1.5, -2.25e-300, 1.7976931348623157e308, float("inf"), float("-inf")],
    "float": [0.0, -0.0, 1.5, -3.25, float("inf")],
}
TYPES = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 13: "uint32", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64"}

def scalar(field):
    kind = field.type
    if kind in TYPES: return rnd.choice(EDGE[TYPES[kind]])
    if kind == 8: return rnd.random() < 0.5
    if kind == 9: return rnd.choice(["", "a", "Größe", "日本\n", "\U0001f600\"\\\x01", "x" * 200])
    if kind == 12: return rnd.choice([b"", b"\0\xff", bytes(range(256))])
    if kind == 14: return rnd.choice([0, 1, 2, -7, 99, -1])
    raise AssertionError(kind)

def fill(message, depth):
    if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        message.seconds, message.nanos = rnd.choice([0, -62135596800, 253402300799, 1723161254]), rnd.choice([0, 1, 999999999, 123000000])
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.Duration":
        message.seconds, message.nanos = rnd.choice([(0, 0), (-1, -500000000), (3, 1000), (315576000000, 0)])
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.FieldMask":
        message.paths.extend(rnd.choice([[], ["a_b", "c.d_e"]]))
        return
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        message.update(rnd.choice([{}, {"a": 1.5, "b": [True, None, "x", {"c": -2}]}]))
        return
    for field in message.DESCRIPTOR.fields:
        if rnd.random() < 0.6 or (field.message_type and depth == 0): continue
        is_map = field.message_type and field.message_type.GetOptions().map_entry
        if is_map:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(rnd.randrange(3)):
                entries = getattr(message, field.name)
                if value.message_type: fill(entries[scalar(key)], depth - 1)
                else: entries[scalar(key)] = scalar(value)
        elif field.is_repeated:
            entries = getattr(message, field.name)
            for _ in range(rnd.randrange(4)):
                if field.message_type: fill(entries.add(), depth - 1)
                else: entries.append(scalar(field))
        elif field.message_type:
            target = getattr(message, field.name)
            target.SetInParent()
            fill(target, depth - 1)
        else:
            setattr(message, field.name, scalar(field))

def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7f | 0x80]); value >>= 7
    return out + bytes([value])

def fields(data):
    """(tag, bytes of the whole field) in order."""
    position, out = 0, []
    def read():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]; position += 1
            value |= (byte & 0x7f) << shift; shift += 7
            if byte < 0x80: return value
    while position < len(data):
        start = position
        tag = read()
        if tag & 7 == 0: read()
        elif tag & 7 == 1: position += 8
        elif tag & 7 == 5: position += 4
        else: length = read(); position += length
        out.append((tag, data[start:position]))
    return out

def disturb(data):
    """The same message written otherwise: other field order (lists keep theirs), and unknown fields."""
    parts = fields(data)
    groups = {}
    for tag, part in parts: groups.setdefault(tag >> 3, []).append(part)
    # The members of a oneof must keep their order; there is one of each at most, so any order is the same.
    keys = list(groups); rnd.shuffle(keys)
    out = b"".join(b"".join(groups[key]) for key in keys)
    if rnd.random() < 0.3: out += varint(9000 << 3) + varint(77) + varint(9001 << 3 | 2) + b"\x03abc"
    return out

if mode == "make":
    with open(os.path.join(folder, "python.bin"), "wb") as file:
        for _ in range(count):
            message = pb.EveryField()
            fill(message, 3)
            data = message.SerializeToString(deterministic=True)
            if rnd.random() < 0.5: data = disturb(data)
            file.write(struct.pack("<I", len(data)) + data)
    sys.exit(0)

def messages(name):
    data = open(os.path.join(folder, name), "rb").read()
    position = 0
    while position < len(data):
        length = struct.unpack_from("<I", data, position)[0]
        yield data[position + 4:position + 4 + length]
        position += 4 + length

lines = open(os.path.join(folder, "swift.json"), encoding="utf-8", newline="\n").read().split("\n")
number = 0
for ours, theirs, line in zip(messages("swift.bin"), messages("python.bin"), lines, strict=False):
    want = pb.EveryField.FromString(theirs)
    got = pb.EveryField.FromString(ours)
    assert got.SerializeToString(deterministic=True) == want.SerializeToString(deterministic=True), f"message {number}: other fields"
    parsed = pb.EveryField()
    known = pb.EveryField(); known.CopyFrom(want); known.DiscardUnknownFields()
    json_format.Parse(line, parsed)
    assert parsed.SerializeToString(deterministic=True) == known.SerializeToString(deterministic=True), f"message {number}: other JSON {line}"
    if number % 100 == 0:
        include = ["-I" + here, "-I/usr/include"]
        text = subprocess.run(["protoc", *include, "--decode=tapedeck.test.EveryField", "every_field.proto"], input=ours, capture_output=True, check=True).stdout
        encoded = subprocess.run(["protoc", *include, "--encode=tapedeck.test.EveryField", "every_field.proto"],
                                 input=text_format.MessageToString(known).encode(), capture_output=True, check=True).stdout
        decoded = subprocess.run(["protoc", *include, "--decode=tapedeck.test.EveryField", "every_field.proto"], input=encoded, capture_output=True, check=True).stdout
        assert text_format.Parse(decoded.decode(), pb.EveryField()).SerializeToString(deterministic=True) == known.SerializeToString(deterministic=True)
        assert not text.startswith(b"Failed")
    number += 1
assert number == count, f"{number} of {count} messages"
print("ok", number)
