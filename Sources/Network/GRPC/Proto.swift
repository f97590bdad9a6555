// The types of the standard services, generated from proto/ by `make proto`.

/// Holds the types of grpc.health.v1.
public enum GRPCHealthProto {}
/// Holds the types of grpc.channelz.v1.
public enum GRPCChannelzProto {}
/// Holds the types of grpc.reflection.v1.
public enum GRPCReflectionProto {}
/// Holds the types of grpc.reflection.v1alpha.
public enum GRPCReflectionAlphaProto {}
/// Holds google.rpc.Status.
public enum GoogleRPC {}
