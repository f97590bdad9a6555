/// Where rows are kept, and how Cassandra is reached.
extension OptionName {
    var storeDefinition: OptionDefinition {
        switch self {
        case .store:
            OptionDefinition(
                .choice(["embedded", "cassandra"]), "KIND", default: "embedded",
                "Where rows are kept: in the data directory, or in Cassandra, in tables of `tapedeck schema apply`."
            )
        case .contactPoints:
            OptionDefinition(
                .text, "HOST[:PORT],...", default: "127.0.0.1:9042",
                "Nodes of the Cassandra cluster that are asked for all others.")
        case .keyspace:
            OptionDefinition(.text, "NAME", default: "market_data", "The keyspace of the tables in Cassandra.")
        case .localDC:
            OptionDefinition(
                .text, "NAME",
                "The data centre whose Cassandra nodes are used; without it that of the first node that answers.")
        case .consistency:
            OptionDefinition(
                .texts, "CLASS=LEVEL",
                "How many copies must have what is written, as trades=QUORUM. Classes are ticks and books (LOCAL_ONE), "
                    + "trades and positions (LOCAL_QUORUM), events (EACH_QUORUM). May be given several times.")
        case .dataCenters:
            OptionDefinition(
                .text, "NAME:COPIES,...",
                "In how many copies each data centre keeps the keyspace, as dc-london:3,dc-newyork:3; without it one "
                    + "copy in all, for a node of one's own.")
        case .cassandraUser:
            OptionDefinition(.text, "NAME", "Who this is, for a Cassandra that asks.")
        case .cassandraPassword:
            OptionDefinition(
                .text, "PASSWORD", "Its password; better in the environment or in the file than on a command line.")
        case .cassandraCA:
            OptionDefinition(
                .path, "FILE",
                "PEM file with the authority that Cassandra's certificates are checked against; TLS is spoken where it "
                    + "is given. The certificate has to name the first contact point.")
        case .cassandraCert:
            OptionDefinition(.path, "FILE", "PEM file with the certificate that Cassandra is shown.")
        default: OptionDefinition(.path, "FILE", "PEM file with the key of --cassandra-cert.")
        }
    }
}
