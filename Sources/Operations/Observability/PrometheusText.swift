/// Prometheus' text format, version 0.0.4
/// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
public enum PrometheusText {
    /// For the response that carries it.
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// HELP and TYPE once per family, then its series in their order. Families without series are left out.
    public static func write(_ families: [MetricFamily]) -> [UInt8] {
        var out: [UInt8] = []
        for family in families where !family.samples.isEmpty {
            out.append(contentsOf: "# HELP \(family.name) ".utf8)
            appendEscaped(family.help, to: &out, quotes: false)
            out.append(contentsOf: "\n# TYPE \(family.name) \(family.kind.rawValue)\n".utf8)
            for sample in family.samples { append(sample, of: family, to: &out) }
        }
        return out
    }

    private static func append(_ sample: MetricFamily.Sample, of family: MetricFamily, to out: inout [UInt8]) {
        let labels = Array(zip(family.labelNames, sample.labels))
        guard case .histogram(let histogram) = sample.value else {
            return line(family.name, labels, text(sample.value), to: &out)
        }
        var count: UInt64 = 0
        for (index, bucket) in histogram.counts.enumerated() {
            count &+= bucket
            let bound = index < histogram.upperBounds.count ? text(.number(histogram.upperBounds[index])) : "+Inf"
            line(family.name + "_bucket", labels + [("le", bound)], "\(count)", to: &out)
        }
        line(family.name + "_sum", labels, text(.number(histogram.sum)), to: &out)
        line(family.name + "_count", labels, "\(count)", to: &out)
    }

    private static func line(_ name: String, _ labels: [(String, String)], _ value: String, to out: inout [UInt8]) {
        out.append(contentsOf: name.utf8)
        if !labels.isEmpty {
            out.append(UInt8(ascii: "{"))
            for (index, label) in labels.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                out.append(contentsOf: "\(label.0)=\"".utf8)
                appendEscaped(label.1, to: &out, quotes: true)
                out.append(UInt8(ascii: "\""))
            }
            out.append(UInt8(ascii: "}"))
        }
        out.append(contentsOf: " \(value)\n".utf8)
    }

    /// A backslash and a line feed everywhere, a double quote in label values.
    private static func appendEscaped(_ text: String, to out: inout [UInt8], quotes: Bool) {
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): out.append(contentsOf: #"\\"#.utf8)
            case UInt8(ascii: "\n"): out.append(contentsOf: #"\n"#.utf8)
            case UInt8(ascii: "\"") where quotes: out.append(contentsOf: #"\""#.utf8)
            default: out.append(byte)
            }
        }
    }

    private static func text(_ value: MetricFamily.Value) -> String {
        switch value {
        case .whole(let number): return String(number)
        case .signed(let number): return String(number)
        case .histogram(let histogram): return String(histogram.counts.reduce(0, &+))
        case .number(let number):
            if number.isNaN { return "NaN" }
            if number.isInfinite { return number > 0 ? "+Inf" : "-Inf" }
            let text = number.description
            return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
        }
    }

    /// Names of metrics may have colons, names of labels not.
    static func isName(_ name: String, colons: Bool) -> Bool {
        guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return name.utf8.allSatisfy {
            switch $0 {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                true
            default: colons && $0 == UInt8(ascii: ":")
            }
        }
    }
}
