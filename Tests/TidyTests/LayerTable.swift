/// What a room may import, by layer: docs/ARCHITECTURE.md's table as data.
struct LayerTable {
    struct Layer {
        let name: String
        /// Layers, or single rooms, that its rooms may import besides what is said of the layer's own rooms.
        let mayImport: [String]
        /// The rooms of the layer that may import each other, upper ones before those they may import.
        let order: [String]
    }

    static let layers: [Layer] = [
        Layer(
            name: "App",
            mayImport: [
                "Services", "Operations", "Client", "Adapters", "Ports", "Engines", "Network", "Wire", "Model", "C",
            ],
            order: []),
        Layer(name: "Services", mayImport: ["Ports", "Engines", "Wire", "Model", "GRPC"], order: []),
        Layer(name: "Operations", mayImport: ["Ports", "Engines", "Client", "Network", "Wire", "Model"], order: []),
        Layer(name: "Client", mayImport: ["Network", "Wire", "Model"], order: []),
        Layer(name: "Adapters", mayImport: ["Ports", "Network", "Wire", "Model", "C"], order: []),
        Layer(name: "Ports", mayImport: ["Wire", "Model"], order: ["TickStore", "EventLog"]),
        Layer(name: "Engines", mayImport: ["Model"], order: []),
        Layer(
            name: "Network", mayImport: ["Protobuf", "HTTP1Codec", "DNSCodec", "CQLFrames", "KafkaFrames", "C"],
            order: ["GRPC", "HTTP2", "HTTP1", "CassandraCQL", "KafkaClient", "TLS", "EventLoop"]),
        Layer(
            name: "Wire", mayImport: ["Model", "CSimdJSON", "CLZ4", "CDeflate", "CZlib", "CZstd"],
            order: [
                "TickCodec", "VenueFormats", "MarketProto", "Protobuf", "HTTP1Codec", "DNSCodec", "CQLFrames",
                "KafkaFrames",
            ]),
        Layer(name: "Model", mayImport: [], order: []),
        Layer(name: "Tools", mayImport: ["Protobuf"], order: []),
    ]

    /// Single imports beyond the table, each with its reason.
    static let exceptions: [(room: String, imports: String, reason: String)] = [
        ("EventLog", "CLinux", "a block is checked by the processor's CRC-32C, which Swift cannot call"),
        ("KafkaFrames", "CLinux", "a batch is checked by the processor's CRC-32C, which Swift cannot call"),
        ("RocksStore", "DayFigures", "day figures are applied in the transaction that stores their ticks"),
        ("CassandraStore", "DayFigures", "day figures are kept with the offset that they go through"),
        ("Bench", "CMallocCount", "calls of the C library's malloc cannot be seen from Swift"),
        ("FeedService", "CZlib", "recordings are read compressed"),
        (
            "EdgeService", "HTTP2",
            "shared blocks are copied into a connection's output without a gRPC object per message"
        ),
        ("EdgeService", "EventLoop", "a subscription lives on the loop of its connection"),
        ("WriterService", "EventLoop", "an answer goes back to the loop of its call"),
    ]

    /// Modules of the toolchain. Foundation is none of them: 40 MB in a static binary.
    static let toolchainModules: Set<String> = ["Swift", "Glibc", "Synchronization", "FoundationEssentials"]

    /// Room name to layer name, of all rooms there are.
    let layerOfRoom: [String: String]

    /// Why `room` may not import `module`; nil where it may.
    func objection(_ room: String, imports module: String) -> String? {
        if LayerTable.toolchainModules.contains(module) { return nil }
        guard let layerName = layerOfRoom[room], let layer = LayerTable.layers.first(where: { $0.name == layerName })
        else { return "\(room) is in no layer of the table" }
        guard let other = layerOfRoom[module] else {
            return "\(module) is neither a room nor a module of the toolchain that may be used"
        }
        if layer.mayImport.contains(other) || layer.mayImport.contains(module) { return nil }
        if LayerTable.exceptions.contains(where: { $0.room == room && $0.imports == module }) { return nil }
        if other == layerName,
            let upper = layer.order.firstIndex(of: room), let lower = layer.order.firstIndex(of: module), upper < lower
        {
            return nil
        }
        return "\(room) (\(layerName)) may not import \(module) (\(other))"
    }
}
