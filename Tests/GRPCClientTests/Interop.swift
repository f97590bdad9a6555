/// Holds the types of Fixtures/interop.proto.
public enum Interop {}
