/// Holds the types of Fixtures/every_field.proto.
public enum TestProto {}
