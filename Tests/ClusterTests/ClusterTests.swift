import KafkaTestSupport
import TestSupport
import Testing

/// What goes from a real broker into a real node, one test after another: they share both.
@Suite(.serialized, .enabled(if: Broker.isPresent && CassandraNode.isPresent, "../shared/engines is absent"))
struct ClusterTests {}
