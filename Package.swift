// swift-tools-version: 6.2
import PackageDescription

// The rooms and what each may import are in docs/ARCHITECTURE.md; Tests/TidyTests holds the sources to it.
// TAPEDECK_STATIC=1 links the C libraries that have archives statically (`make dist`).
let isStatic = Context.environment["TAPEDECK_STATIC"] == "1"
// TAPEDECK_FUZZ=1 declares the fuzz targets (`scripts/fuzz`), which no other build sees.
let isFuzz = Context.environment["TAPEDECK_FUZZ"] == "1"

let swiftSettings: [SwiftSetting] =
    [
        .swiftLanguageMode(.v6),
        .treatAllWarnings(as: .error),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
    ] + (isFuzz ? [.define("TAPEDECK_FUZZ")] : [])

/// A room: a Swift target in the folder of its layer.
func room(
    _ name: String, in layer: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
    settings: [SwiftSetting] = [], linkerSettings: [LinkerSetting] = []
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(layer)/\(name)", exclude: exclude,
        swiftSettings: swiftSettings + settings, linkerSettings: linkerSettings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(
        name: name, dependencies: dependencies, path: "Tests/\(name)", exclude: exclude, swiftSettings: swiftSettings)
}

/// A C library of the distribution. Module maps name no library, so that a static build can name the archive instead.
func library(_ name: String, pkgConfig: String?, apt: String, brew: String) -> Target {
    .systemLibrary(
        name: name, path: "Sources/C/\(name)", pkgConfig: isStatic ? nil : pkgConfig,
        providers: [.apt([apt]), .brew([brew])])
}

func link(_ name: String, archive: String? = nil) -> LinkerSetting {
    .linkedLibrary(isStatic ? (archive.map { ":\($0)" } ?? name) : name)
}

let package = Package(
    name: "tapedeck",
    products: [
        .executable(name: "tapedeck", targets: ["tapedeck"]),
        .executable(name: "protoc-gen-tapedeck", targets: ["protoc-gen-tapedeck"]),
        .library(
            name: "TapedeckClient", targets: ["TapedeckClient", "MarketProto", "TickCodec", "Protobuf", "GRPC", "TLS"]),
        .library(name: "CassandraCQL", targets: ["CassandraCQL", "CQLFrames", "TLS", "EventLoop"]),
    ],
    targets: [
        // App
        .executableTarget(
            name: "tapedeck",
            dependencies: [
                "FeedService", "WriterService", "EdgeService", "Observability", "AccessControl", "Admin", "Repair",
                "Bench",
                "Drills", "TapedeckClient", "SegmentLog", "KafkaLog", "RocksStore", "CassandraStore", "CassandraCQL",
                "CQLFrames", "FileDisk", "EventLog", "TickStore", "Disk", "TimeSource",
                "SimulatedVenue", "FaultSchedule", "BookEngine", "EventLoop", "HTTP2", "GRPC", "TLS", "HTTP1",
                "HTTP1Codec", "Protobuf", "MarketProto",
                "TickCodec", "VenueFormats",
                "MarketModel", "CYAML", "CLinux",
            ],
            path: "Sources/App/tapedeck", swiftSettings: swiftSettings,
            linkerSettings: [link("yaml", archive: "libyaml.a")]),
        // Services
        room(
            "FeedService", in: "Services",
            [
                "EventLog", "TimeSource", "BookEngine", "SimulatedVenue", "VenueFormats", "TickCodec", "MarketModel",
                "CZlib",
            ],
            linkerSettings: [link("z", archive: "libz.a")]),
        room(
            "WriterService", in: "Services",
            [
                "EventLog", "TickStore", "TimeSource", "DayFigures", "TickCodec", "MarketProto", "Protobuf",
                "MarketModel", "GRPC", "EventLoop",
            ]),
        room(
            "EdgeService", in: "Services",
            [
                "EventLog", "TickStore", "TimeSource", "BookView", "Conflation", "DayFigures", "SimulatedExecution",
                "FaultSchedule", "GRPC", "HTTP2", "EventLoop", "TickCodec", "MarketProto", "Protobuf", "MarketModel",
            ]),
        // Operations
        room(
            "Observability", in: "Operations", ["GRPC", "EventLoop", "HTTP1", "HTTP1Codec", "TimeSource"]),
        room("AccessControl", in: "Operations", ["GRPC", "EventLoop"]),
        room(
            "Admin", in: "Operations",
            [
                "BookView", "GRPC", "TapedeckClient", "EventLog", "TickStore", "Disk", "TickCodec", "MarketProto",
                "Protobuf",
                "MarketModel",
            ]),
        room(
            "Repair", in: "Operations",
            ["EventLog", "TickStore", "TimeSource", "TickCodec", "MarketProto", "Protobuf", "MarketModel"]),
        room(
            "Bench", in: "Operations",
            [
                "EventLog", "TickStore", "Disk", "TimeSource", "TapedeckClient", "GRPC", "HTTP2", "CassandraCQL",
                "EventLoop", "CQLFrames", "TickCodec", "VenueFormats", "MarketProto", "Protobuf", "MarketModel",
                "CMallocCount",
            ],
            linkerSettings: [.linkedLibrary("m")]),
        room(
            "Drills", in: "Operations",
            [
                "GRPC", "HTTP2", "EventLoop", "TickCodec", "EventLog", "TickStore", "Disk", "TapedeckClient",
                "MarketProto", "Protobuf", "MarketModel",
            ],
            linkerSettings: [.linkedLibrary("m")]),
        // Client
        room(
            "TapedeckClient", in: "Client",
            ["GRPC", "HTTP2", "TLS", "EventLoop", "TickCodec", "MarketProto", "Protobuf", "MarketModel"]),
        // Adapters
        room("SegmentLog", in: "Adapters", ["EventLog", "Disk", "TimeSource", "MarketModel", "CLinux"]),
        room(
            "RocksStore", in: "Adapters",
            [
                "TickStore", "EventLog", "TimeSource", "DayFigures", "TickCodec", "MarketModel", "CRocksDB",
                "CRocksLogger",
                "CZstd", "CLinux",
            ],
            linkerSettings: [
                link("rocksdb", archive: "librocksdb.a"), link("zstd", archive: "libzstd.a"),
            ]
                + (isStatic
                    ? [
                        link("lz4", archive: "liblz4.a"), link("bz2", archive: "libbz2.a"),
                        link("snappy", archive: "libsnappy.a"), link("z", archive: "libz.a"), link("stdc++"),
                    ] : [])),
        room(
            "CassandraStore", in: "Adapters",
            [
                "TickStore", "EventLog", "TimeSource", "DayFigures", "CassandraCQL", "CQLFrames", "TLS", "EventLoop",
                "TickCodec", "MarketModel", "CLinux", "COpenSSL",
            ]),
        room("FileDisk", in: "Adapters", ["Disk", "CLinux"]),
        room(
            "KafkaLog", in: "Adapters",
            [
                "EventLog", "TimeSource", "KafkaClient", "KafkaFrames", "HTTP1", "HTTP1Codec", "TLS", "EventLoop",
                "TickCodec", "VenueFormats", "MarketModel", "CRdKafka", "CLinux",
            ],
            linkerSettings: [link("rdkafka", archive: "librdkafka.a")]
                // Debian has no archive of SASL's library. The archives that this one needs come again at the end
                // (scripts/dist).
                + (isStatic ? [link("sasl2", archive: "libsasl2.so.2")] : [])),
        // Ports
        room("EventLog", in: "Ports", ["MarketModel", "CLinux"]),
        room("TickStore", in: "Ports", ["EventLog", "MarketModel"]),
        room("Disk", in: "Ports"),
        room("TimeSource", in: "Ports"),
        // Engines
        room("BookEngine", in: "Engines", ["MarketModel"]),
        room("BookView", in: "Engines", ["MarketModel"]),
        room("DayFigures", in: "Engines", ["MarketModel"]),
        room("Conflation", in: "Engines", ["MarketModel"]),
        room("SimulatedVenue", in: "Engines", ["MarketModel"]),
        room("FaultSchedule", in: "Engines"),
        room("SimulatedExecution", in: "Engines", ["MarketModel"]),
        // Network
        room("EventLoop", in: "Network", ["CUV", "CLinux"], linkerSettings: [link("uv", archive: "libuv_a.a")]),
        room(
            "HTTP2", in: "Network", ["EventLoop", "CNGHTTP2"],
            linkerSettings: [link("nghttp2", archive: "libnghttp2.a")]),
        room(
            "TLS", in: "Network", ["EventLoop", "COpenSSL"],
            linkerSettings: [link("ssl", archive: "libssl.a"), link("crypto", archive: "libcrypto.a")]),
        room(
            "GRPC", in: "Network", ["HTTP2", "EventLoop", "Protobuf", "DNSCodec", "CZlib"],
            linkerSettings: [link("z", archive: "libz.a")]),
        room("HTTP1", in: "Network", ["HTTP1Codec", "TLS", "EventLoop"]),
        room("CassandraCQL", in: "Network", ["CQLFrames", "TLS", "EventLoop"]),
        room("KafkaClient", in: "Network", ["KafkaFrames", "EventLoop", "COpenSSL"]),
        // Wire
        room("Protobuf", in: "Wire"),
        room("HTTP1Codec", in: "Wire"),
        room("DNSCodec", in: "Wire"),
        room(
            "CQLFrames", in: "Wire", ["CLZ4", "CDeflate"],
            linkerSettings: [link("lz4", archive: "liblz4.a"), link("deflate", archive: "libdeflate.a")]),
        room(
            "KafkaFrames", in: "Wire", ["CLZ4", "CZlib", "CZstd", "CLinux"],
            linkerSettings: [
                link("lz4", archive: "liblz4.a"), link("z", archive: "libz.a"), link("zstd", archive: "libzstd.a"),
            ]),
        room("MarketProto", in: "Wire", ["Protobuf"]),
        room("TickCodec", in: "Wire", ["MarketModel", "MarketProto", "Protobuf"]),
        room("VenueFormats", in: "Wire", ["MarketModel", "CSimdJSON"]),
        // Model
        room("MarketModel", in: "Model"),
        // C
        library("CUV", pkgConfig: "libuv", apt: "libuv1-dev", brew: "libuv"),
        library("CNGHTTP2", pkgConfig: "libnghttp2", apt: "libnghttp2-dev", brew: "nghttp2"),
        library("COpenSSL", pkgConfig: "openssl", apt: "libssl-dev", brew: "openssl"),
        library("CRocksDB", pkgConfig: "rocksdb", apt: "librocksdb-dev", brew: "rocksdb"),
        library("CZstd", pkgConfig: "libzstd", apt: "libzstd-dev", brew: "zstd"),
        library("CLZ4", pkgConfig: "liblz4", apt: "liblz4-dev", brew: "lz4"),
        library("CZlib", pkgConfig: "zlib", apt: "zlib1g-dev", brew: "zlib"),
        library("CDeflate", pkgConfig: "libdeflate", apt: "libdeflate-dev", brew: "libdeflate"),
        library("CRdKafka", pkgConfig: "rdkafka", apt: "librdkafka-dev", brew: "librdkafka"),
        library("CYAML", pkgConfig: "yaml-0.1", apt: "libyaml-dev", brew: "libyaml"),
        .target(
            name: "CSimdJSON", path: "Sources/C/CSimdJSON", publicHeadersPath: "include",
            linkerSettings: [.linkedLibrary("simdjson")]),
        .target(
            name: "CRocksLogger", dependencies: ["CRocksDB"], path: "Sources/C/CRocksLogger",
            publicHeadersPath: "include"),
        .target(
            name: "CMallocCount", path: "Sources/C/CMallocCount", publicHeadersPath: "include",
            linkerSettings: [.linkedLibrary("dl")]),
        .target(name: "CLinux", path: "Sources/C/CLinux", publicHeadersPath: "include"),
        // Tools
        .executableTarget(
            name: "protoc-gen-tapedeck", dependencies: ["Protobuf"], path: "Sources/Tools/protoc-gen-tapedeck",
            swiftSettings: swiftSettings),
        // Test support: the seeded world
        .target(
            name: "Simulation",
            dependencies: [
                "EventLog", "TickStore", "Disk", "TimeSource", "GRPC", "EventLoop", "DayFigures", "TickCodec",
                "MarketModel",
            ],
            path: "Tests/Simulation", swiftSettings: swiftSettings),
        .target(name: "TestSupport", dependencies: ["CLinux"], path: "Tests/TestSupport", swiftSettings: swiftSettings),
        .target(
            name: "KafkaTestSupport",
            dependencies: ["KafkaLog", "EventLog", "TickCodec", "MarketModel", "Simulation", "TestSupport"],
            path: "Tests/KafkaTestSupport", swiftSettings: swiftSettings),
        // Tests
        tests("MarketModelTests", ["MarketModel", "TestSupport"]),
        tests("ProtobufTests", ["Protobuf", "MarketProto", "TestSupport"], exclude: ["Fixtures"]),
        tests(
            "TickCodecTests",
            ["TickCodec", "EventLog", "Bench", "MarketProto", "Protobuf", "MarketModel", "TestSupport"]),
        tests("CQLFramesTests", ["CQLFrames", "TestSupport"]),
        tests("KafkaFramesTests", ["KafkaFrames", "TestSupport"]),
        tests(
            "KafkaClientTests",
            [
                "KafkaClient", "KafkaFrames", "KafkaLog", "EventLog", "EventLoop", "MarketModel", "KafkaTestSupport",
                "Simulation", "TestSupport", "TimeSource", "CLinux",
            ]),
        tests("VenueFormatsTests", ["VenueFormats", "MarketModel", "TestSupport"]),
        tests("BookEngineTests", ["BookEngine", "VenueFormats", "MarketModel", "TestSupport"]),
        tests(
            "EnginesTests",
            [
                "DayFigures", "Conflation", "SimulatedVenue", "SimulatedExecution", "FaultSchedule", "BookEngine",
                "BookView", "MarketModel", "TestSupport",
            ]),
        tests(
            "FeedServiceTests",
            [
                "Admin", "FeedService", "Observability", "BookEngine", "BookView", "SimulatedVenue", "VenueFormats",
                "TimeSource",
                "SegmentLog", "MarketProto", "Protobuf", "TickStore",
                "FileDisk", "Simulation", "EventLog", "TickCodec", "MarketModel", "TestSupport",
            ]),
        tests("EventLogTests", ["EventLog", "MarketModel", "Simulation", "TestSupport"]),
        tests("SegmentLogTests", ["SegmentLog", "FileDisk", "Simulation", "EventLog", "MarketModel", "TestSupport"]),
        tests(
            "KafkaLogTests",
            [
                "EventLog", "EventLoop", "FeedService", "FileDisk", "HTTP1", "HTTP1Codec", "KafkaClient",
                "KafkaFrames", "KafkaLog", "MarketModel", "SegmentLog", "Simulation", "TLS",
                "TickCodec", "TickStore", "TimeSource", "WriterService", "KafkaTestSupport", "TestSupport", "CRdKafka",
            ]),
        tests(
            "ClusterTests",
            [
                "BookView", "CQLFrames", "CassandraCQL", "CassandraStore", "EdgeService", "EventLog", "EventLoop",
                "FeedService", "FileDisk", "GRPC", "KafkaLog", "MarketModel", "MarketProto", "Protobuf", "Repair",
                "RocksStore", "SegmentLog", "Simulation", "TapedeckClient", "TickCodec", "TickStore",
                "WriterService", "KafkaTestSupport", "TestSupport",
            ]),
        tests(
            "RocksStoreTests",
            [
                "RocksStore", "Repair", "SegmentLog", "FileDisk", "CZstd", "Bench", "Simulation", "DayFigures",
                "TickStore", "TimeSource", "EventLog", "TickCodec", "MarketModel", "TestSupport",
            ]),
        tests(
            "WriterServiceTests",
            [
                "Protobuf", "WriterService", "SegmentLog", "RocksStore", "Repair", "FileDisk", "Simulation", "EventLog",
                "TickStore", "TickCodec", "MarketModel", "MarketProto", "GRPC", "EventLoop", "TimeSource",
                "TestSupport",
            ]),
        tests("EventLoopTests", ["EventLoop", "TestSupport"]),
        tests("TLSTests", ["TLS", "EventLoop", "COpenSSL", "TestSupport"]),
        tests(
            "GRPCTests", ["GRPC", "HTTP2", "TLS", "EventLoop", "Protobuf", "Simulation", "TestSupport", "CNGHTTP2"],
            exclude: ["Fixtures"]),
        tests(
            "GRPCClientTests", ["GRPC", "HTTP2", "EventLoop", "Protobuf", "DNSCodec", "Simulation", "TestSupport"],
            exclude: ["Fixtures"]),
        tests("ScalingTests", ["GRPC", "HTTP2", "EventLoop", "TestSupport"]),
        tests(
            "TapedeckClientTests",
            [
                "TapedeckClient", "EdgeService", "AccessControl", "FaultSchedule", "SegmentLog", "Simulation",
                "EventLog", "GRPC",
                "HTTP2", "TLS", "EventLoop", "TickCodec", "MarketProto", "Protobuf", "MarketModel", "TestSupport",
            ]),
        tests(
            "EdgeServiceTests",
            [
                "EdgeService", "WriterService", "AccessControl", "Observability", "TapedeckClient", "SegmentLog",
                "FileDisk", "Disk", "TimeSource", "Simulation", "EventLog", "TickStore", "GRPC", "HTTP2", "EventLoop",
                "TickCodec", "MarketProto", "Protobuf", "DayFigures", "SimulatedExecution", "MarketModel",
                "TestSupport",
            ], exclude: ["Fixtures"]),
        tests("ObservabilityTests", ["Observability", "TimeSource", "GRPC", "HTTP1Codec", "TestSupport"]),
        tests(
            "InterceptorTests",
            ["AccessControl", "Observability", "GRPC", "EventLoop", "TimeSource", "Simulation", "TestSupport"]),
        tests("CassandraCQLTests", ["CassandraCQL", "CQLFrames", "EventLoop", "Simulation"]),
        tests(
            "CassandraTests",
            [
                "CassandraStore", "Repair", "SegmentLog", "Drills", "CassandraCQL", "CQLFrames", "RocksStore", "TLS",
                "EventLoop", "TickStore",
                "EventLog",
                "TimeSource", "Simulation", "TickCodec", "MarketModel", "TestSupport",
            ]),
        tests("ClusterDrillTests", ["TestSupport"]),
        tests("HTTP1Tests", ["HTTP1", "HTTP1Codec", "EventLoop", "TestSupport"]),
        tests(
            "TapedeckTests",
            [
                "tapedeck", "FeedService", "KafkaLog", "SimulatedVenue", "SegmentLog", "Simulation", "EventLog", "TLS",
                "EventLoop", "TapedeckClient", "MarketProto", "Protobuf", "Observability", "TestSupport",
                "MarketModel", "GRPC", "TimeSource",
            ],
            exclude: ["Fixtures"]),
        tests("TidyTests", ["TestSupport"]),
    ],
    cxxLanguageStandard: .cxx17
)

if isFuzz {
    // Every executable of a fuzz build has libFuzzer's `main`: of the binary, what reads configurations is a library.
    package.targets.removeAll { $0.name == "tapedeck" }
    package.targets += [
        .target(
            name: "tapedeck", dependencies: ["AccessControl", "FaultSchedule", "TLS", "CYAML"],
            path: "Sources/App/tapedeck",
            sources: [
                "Arguments.swift", "BucketOptions.swift", "ClusterCommands.swift", "Command.swift",
                "Configuration.swift",
                "ConfigurationFile.swift", "ConfigurationOption.swift", "RequestOptions.swift",
                "ConfigurationValue.swift",
                "RepairOptions.swift", "StoreOptions.swift", "UsageError.swift",
            ],
            swiftSettings: swiftSettings, linkerSettings: [link("yaml")]),
        .executableTarget(
            name: "fuzz-parsers",
            dependencies: [
                "tapedeck", "EdgeService", "SegmentLog", "RocksStore", "EventLog", "TickStore", "Disk", "BookEngine",
                "TapedeckClient", "GRPC", "HTTP2", "TLS", "EventLoop", "COpenSSL", "MarketProto", "Protobuf",
                "TickCodec", "VenueFormats", "DNSCodec", "HTTP1Codec", "CQLFrames", "KafkaFrames", "CLinux",
                "MarketModel", "CZstd", "Simulation",
            ],
            path: "Tests/Fuzz", swiftSettings: swiftSettings),
    ]
    package.products = [.executable(name: "fuzz-parsers", targets: ["fuzz-parsers"])]
}
