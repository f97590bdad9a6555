/// Holds the types of package google.protobuf, generated from the files that protoc ships. Some have a JSON form of
/// their own (proto3 JSON mapping).
public enum WellKnown {
    /// Descriptors of all of them.
    public static let files: [ProtoFile] = [
        anyFile, durationFile, emptyFile, fieldMaskFile, structFile, timestampFile, wrappersFile,
    ]

    /// `.123`, `.123456`, `.123456789` or nothing.
    static func writeFraction(_ nanos: Int32, to writer: inout JSONWriter) {
        let nanos = UInt64(nanos.magnitude)
        if nanos == 0 { return }
        writer.put(".")
        if nanos % 1_000_000 == 0 {
            writer.digits(nanos / 1_000_000, 3)
        } else if nanos % 1000 == 0 {
            writer.digits(nanos / 1000, 6)
        } else {
            writer.digits(nanos, 9)
        }
    }
}

/// A point in time, as messages carry it.
public typealias Timestamp = WellKnown.Timestamp

extension WellKnown.Timestamp {
    /// Nanoseconds since the Unix epoch.
    public init(ns: Int64) {
        self.init()
        let (quotient, remainder) = ns.quotientAndRemainder(dividingBy: 1_000_000_000)
        seconds = remainder < 0 ? quotient - 1 : quotient
        nanos = Int32(remainder < 0 ? remainder + 1_000_000_000 : remainder)
    }

    /// Nanoseconds since the Unix epoch; nil where that does not fit 64 bits or `nanos` is out of range.
    public var ns: Int64? {
        guard (0..<1_000_000_000).contains(nanos) else { return nil }
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, carry) = product.addingReportingOverflow(Int64(nanos))
        return overflow || carry ? nil : sum
    }

    /// RFC 3339 in UTC; null outside the years 1 to 9999, which JSON cannot hold.
    public func writeJSON(to writer: inout JSONWriter) {
        guard (-62_135_596_800...253_402_300_799).contains(seconds), (0..<1_000_000_000).contains(nanos) else {
            return writer.null()
        }
        let day = seconds >= 0 ? seconds / 86_400 : (seconds - 86_399) / 86_400
        let second = seconds - day * 86_400
        let (year, month, date) = WellKnown.Timestamp.civil(day)
        let parts: [(value: Int64, count: Int, end: String)] = [
            (year, 4, "-"), (month, 2, "-"), (date, 2, "T"), (second / 3600, 2, ":"), (second / 60 % 60, 2, ":"),
            (second % 60, 2, ""),
        ]
        writer.put("\"")
        for part in parts {
            writer.digits(UInt64(part.value), part.count)
            writer.put(part.end)
        }
        WellKnown.writeFraction(nanos, to: &writer)
        writer.put("Z\"")
    }

    /// Date of a number of days since 1970-01-01 (proleptic Gregorian), after Howard Hinnant's `civil_from_days`.
    static func civil(_ day: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let shifted = day + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let calendarMonth = month < 10 ? month + 3 : month - 9
        return (
            yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0), calendarMonth, dayOfYear - (153 * month + 2) / 5 + 1
        )
    }
}

extension WellKnown.Duration {
    public func writeJSON(to writer: inout JSONWriter) {
        writer.put(seconds < 0 || nanos < 0 ? "\"-" : "\"")
        writer.digits(seconds.magnitude, 1)
        WellKnown.writeFraction(nanos, to: &writer)
        writer.put("s\"")
    }
}

extension WellKnown.FieldMask {
    public func writeJSON(to writer: inout JSONWriter) {
        writer.string(
            paths.map { path in
                var out = ""
                var raisesNext = false
                for character in path {
                    if character == "_" {
                        raisesNext = true
                    } else {
                        out += raisesNext ? character.uppercased() : String(character)
                        raisesNext = false
                    }
                }
                return out
            }.joined(separator: ","))
    }
}

extension WellKnown.Struct {
    public func writeJSON(to writer: inout JSONWriter) {
        writer.beginObject()
        for (key, value) in fields.sorted(by: { $0.key < $1.key }) {
            writer.name(key)
            value.writeJSON(to: &writer)
        }
        writer.endObject()
    }
}

extension WellKnown.ListValue {
    public func writeJSON(to writer: inout JSONWriter) {
        writer.beginArray()
        for value in values {
            writer.element()
            value.writeJSON(to: &writer)
        }
        writer.endArray()
    }
}

extension WellKnown.Value {
    public func writeJSON(to writer: inout JSONWriter) {
        switch kind {
        case .nullValue, nil: writer.null()
        case .numberValue(let value): writer.double(value)
        case .stringValue(let value): writer.string(value)
        case .boolValue(let value): writer.bool(value)
        case .structValue(let value): value.writeJSON(to: &writer)
        case .listValue(let value): value.writeJSON(to: &writer)
        }
    }
}

extension WellKnown.DoubleValue { public func writeJSON(to writer: inout JSONWriter) { writer.double(value) } }
extension WellKnown.FloatValue { public func writeJSON(to writer: inout JSONWriter) { writer.float(value) } }
extension WellKnown.Int64Value { public func writeJSON(to writer: inout JSONWriter) { writer.int64(value) } }
extension WellKnown.UInt64Value { public func writeJSON(to writer: inout JSONWriter) { writer.uint64(value) } }
extension WellKnown.Int32Value { public func writeJSON(to writer: inout JSONWriter) { writer.int32(value) } }
extension WellKnown.UInt32Value { public func writeJSON(to writer: inout JSONWriter) { writer.uint32(value) } }
extension WellKnown.BoolValue { public func writeJSON(to writer: inout JSONWriter) { writer.bool(value) } }
extension WellKnown.StringValue { public func writeJSON(to writer: inout JSONWriter) { writer.string(value) } }
extension WellKnown.BytesValue { public func writeJSON(to writer: inout JSONWriter) { writer.bytes(value) } }
