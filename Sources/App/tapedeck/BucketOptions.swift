/// `tapedeck buckets`, and its options.
extension Command {
    var bucketsDefinition: CommandDefinition {
        CommandDefinition(
            "how long the buckets of an instrument's rows in Cassandra are",
            operands: "list|set [SYMBOL...]", count: 1...Int.max,
            options: [.exchange, .minutes, .from, .json] + Command.cassandraOptions,
            text: """
                A bucket is what one partition of `tick_data` holds of an instrument: an hour, or less of one with \
                more than 27 ticks a second, so that it stays below 100,000 rows. `list` prints what was set, and from \
                which trade date on it is in force. `set` gives the instruments of --exchange another width from the \
                trade date --from on, without --from from the first that is allowed: one that begins in 25 hours or \
                later, so that every writer knows it before it files a tick of that date. Rows that are there stay.
                """,
            examples: [
                ("tapedeck buckets list", "all that was set, one line each"),
                ("tapedeck buckets set BTCUSDT --exchange BINANCE --minutes 5", "up to 333 ticks a second"),
                ("tapedeck buckets set AAPL --exchange XNAS --minutes 10 --from 2026-11-29", "from that date on"),
                ("tapedeck buckets set AAPL --exchange XNAS --minutes 60", "an hour again"),
            ])
    }
}

extension OptionName {
    var bucketDefinition: OptionDefinition {
        OptionDefinition(
            .choice(["1", "2", "3", "4", "5", "6", "10", "12", "15", "20", "30", "60"]), "N", unit: "minutes",
            "How long a bucket is: a divisor of an hour.")
    }
}
