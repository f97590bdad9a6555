/// One measured figure: the median, least and largest over runs, and whose it is.
public struct Figure: Sendable, Hashable {
    public let bench: String
    public let figure: String
    public let unit: String
    /// `tapedeck`, or the name of the peer that was measured beside it.
    public let of: String
    public let median: Double
    public let min: Double
    public let max: Double
    public let runs: Int

    /// `samples` holds one value per run, at least one.
    public init(bench: String, figure: String, unit: String, of: String = "tapedeck", samples: [Double]) {
        precondition(!samples.isEmpty)
        let sorted = samples.sorted()
        self.bench = bench
        self.figure = figure
        self.unit = unit
        self.of = of
        let middle = sorted.count / 2
        median = sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
        min = sorted[0]
        max = sorted[sorted.count - 1]
        runs = sorted.count
    }

    /// One line of JSON, with four significant digits.
    public var json: String {
        """
        {"bench":"\(bench)","figure":"\(figure)","unit":"\(unit)","of":"\(of)","median":\(Figure.digits(median)),\
        "min":\(Figure.digits(min)),"max":\(Figure.digits(max)),"runs":\(runs)}
        """
    }

    /// A plain decimal with four significant digits.
    public static func digits(_ value: Double) -> String {
        guard value.isFinite, value != 0 else { return "0" }
        var scale = 1.0
        while abs(value) * scale < 1000, scale < 1e9 { scale *= 10 }
        let rounded = (value * scale).rounded() / scale
        return rounded == rounded.rounded() && abs(rounded) < 1e15 ? "\(Int64(rounded))" : "\(rounded)"
    }
}

/// A benchmark: what it measures, how, and the code that does it. `tapedeck bench NAME` runs one.
public struct Bench: Sendable {
    public let name: String
    /// The method, for people: unit of work, open or closed loop, what is counted where, what runs beside it.
    public let method: String
    /// Runs it; `progress` takes a line for people.
    public let run: @Sendable (_ runs: Int, _ progress: (String) -> Void) throws -> [Figure]

    public init(
        name: String, method: String,
        run: @escaping @Sendable (_ runs: Int, _ progress: (String) -> Void) throws -> [Figure]
    ) {
        self.name = name
        self.method = method
        self.run = run
    }
}
