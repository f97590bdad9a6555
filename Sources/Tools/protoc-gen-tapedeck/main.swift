print("protoc-gen-tapedeck")
