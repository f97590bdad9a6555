import FaultSchedule

/// Options of what is asked of servers, and of servers that try their clients.
extension OptionName {
    private static func rate(_ fault: Fault, _ what: String) -> OptionDefinition {
        OptionDefinition(
            .integer(0...Int64(FaultRates.scale)), "N", default: "\(FaultRates.gentle[fault])",
            unit: "of a million messages", what)
    }

    var faultDefinition: OptionDefinition {
        switch self {
        case .drops: OptionName.rate(.drop, "Messages that are left out.")
        case .duplicates: OptionName.rate(.duplicate, "Messages that come twice.")
        case .reorders: OptionName.rate(.reorder, "Messages that come after the one behind them.")
        case .crossed: OptionName.rate(.crossed, "Messages whose bid is above their ask.")
        case .oversize: OptionName.rate(.oversize, "Messages of 17 MiB, more than clients take.")
        case .stalls: OptionName.rate(.stall, "Messages before which nothing comes for a while.")
        case .resets: OptionName.rate(.reset, "Messages in whose place the stream is reset.")
        case .goaways:
            OptionName.rate(
                .goAway, "Messages in whose place the connection ends, by GOAWAY, and those of the next two streams.")
        case .stallMs:
            OptionDefinition(.integer(1...3_600_000), "N", default: "2000", unit: "ms", "How long a stall lasts.")
        default:
            OptionDefinition(
                .integer(1...100_000_000), "N",
                "Print what goes wrong with the first N messages of each of the first 8 streams, and end.")
        }
    }

    var requestDefinition: OptionDefinition {
        switch self {
        case .server:
            OptionDefinition(.address, "HOST:PORT", default: "127.0.0.1:50051", "The Tapedeck to ask.")
        case .exchange:
            OptionDefinition(.text, "NAME", "Only this exchange; needed where more than one lists the symbol.")
        case .topic:
            OptionDefinition(.text, "NAME", default: "ticks.raw", "Which topic of the log.")
        case .from:
            OptionDefinition(
                .time, "TIME",
                "From this filing time on (UTC: 2024-08-08, 2024-08-08T09:30:00Z); without it from the oldest.")
        case .to:
            OptionDefinition(.time, "TIME", "Up to, and without, this filing time; without it to the newest.")
        case .limit:
            OptionDefinition(.integer(1...Int64.max), "N", "Stop after this many; without it all.")
        case .at:
            OptionDefinition(.time, "TIME", "When (UTC: 2024-08-08, 2024-08-08T09:30:00Z); without it now.")
        case .depth:
            OptionDefinition(.integer(1...10_000), "N", default: "10", unit: "levels", "The most levels a side.")
        case .runs:
            OptionDefinition(
                .integer(1...100), "N", default: "5", "How often each figure is measured; the median is printed.")
        case .rounds:
            OptionDefinition(
                .integer(1...1_000_000), "N", "How often the drill is repeated; without it the drill's own number.")
        case .close:
            OptionDefinition(.text, "ID", "End the call of this id; its client is told that it may call again.")
        case .json:
            OptionDefinition(.flag, "", default: "false", "One JSON object per line, for programs.")
        case .config:
            OptionDefinition(
                .path, "FILE",
                "The configuration file; without it tapedeck.yaml in the data directory, else in the current one.")
        case .logLevel:
            OptionDefinition(
                .choice(["debug", "info", "warning", "error"]), "LEVEL", default: "info",
                "What is worth a line on stderr.")
        default:
            OptionDefinition(.choice(["text", "json"]), "FORMAT", default: "text", "How lines on stderr are written.")
        }
    }
}
