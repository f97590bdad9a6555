/// Where a server listens or is reached.
struct Address: Sendable, Hashable, CustomStringConvertible {
    let host: String
    let port: UInt16

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// How fast a recording plays.
enum ReplaySpeed: Sendable, Hashable {
    case times(Int)
    case unlimited
}

/// A checked value of an option.
enum ConfigurationValue: Sendable, Hashable {
    case flag(Bool)
    case text(String)
    case texts([String])
    case integer(Int64)
    case address(Address)
    case speed(ReplaySpeed)
    /// Nanoseconds since the Unix epoch.
    case time(Int64)
    /// Nanoseconds.
    case span(Int64)
}

extension ValueKind {
    /// The value that `text` means, or nil where it means none.
    func parse(_ text: String) -> ConfigurationValue? {
        switch self {
        case .flag: text == "true" ? .flag(true) : text == "false" ? .flag(false) : nil
        case .text, .path: text.isEmpty ? nil : .text(text)
        case .paths, .texts: text.isEmpty ? nil : .texts([text])
        case .origins: text == "*" || ValueKind.isOrigin(text) ? .texts([text]) : nil
        case .integer(let range):
            ValueKind.integer(text).flatMap { range.contains($0) ? .integer($0) : nil }
        case .address: ValueKind.address(text).map { .address($0) }
        case .choice(let names): names.contains(text) ? .text(text) : nil
        case .speed:
            text == "max"
                ? .speed(.unlimited)
                : ValueKind.integer(text).flatMap { (1...10_000).contains($0) ? .speed(.times(Int($0))) : nil }
        case .time: UTCTime.parse(text).map { .time($0) }
        case .span: ValueKind.span(text).map { .span($0) }
        }
    }

    /// Whether there may be several values.
    var isList: Bool { self == .paths || self == .texts || self == .origins }

    /// What is allowed, to end "must be …".
    var allowed: String {
        switch self {
        case .flag: "true or false"
        case .text, .texts: "a name"
        case .path, .paths: "a path"
        case .origins: "* or an origin as browsers write it, as https://desk.example or http://localhost:8080"
        case .integer(let range):
            range.upperBound == Int64.max
                ? "a whole number from \(range.lowerBound)"
                : "a whole number from \(range.lowerBound) to \(range.upperBound)"
        case .address: "HOST:PORT with a port from 0 to 65535, as 127.0.0.1:50051 or [::1]:50051"
        case .choice(let names): "one of " + names.joined(separator: ", ")
        case .speed: "a whole number from 1 to 10000, or max"
        case .span: "a time span, as -15m, 2h or 30s"
        case .time: "a UTC time, as 2024-08-08 or 2024-08-08T09:30:00Z or 2024-08-08T09:30:00.123456789Z"
        }
    }

    /// Whether a browser writes an origin so (RFC 6454 section 6.2): scheme, host in lower case, and the port where it
    /// is not the scheme's own.
    private static func isOrigin(_ text: String) -> Bool {
        let schemes = [("https://", 443), ("http://", 80)]
        guard let (scheme, ownPort) = schemes.first(where: { text.hasPrefix($0.0) }) else { return false }
        let rest = text.dropFirst(scheme.count)
        let isPlain = rest.utf8.allSatisfy {
            (0x61...0x7a).contains($0) || (0x30...0x3a).contains($0) || [0x2d, 0x2e, 0x5b, 0x5d, 0x5f].contains($0)
        }
        guard isPlain else { return false }
        let hasPort = rest.last.map { $0 != "]" } == true && rest.contains(":")
        guard let address = address(hasPort ? String(rest) : "\(rest):0") else { return false }
        return !hasPort || address.port > 0 && address.port != ownPort && rest.hasSuffix(":\(address.port)")
    }

    private static func span(_ text: String) -> Int64? {
        let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3600, "d": 86_400]
        guard let unit = text.last.flatMap({ units[$0] }), let number = integer(String(text.dropLast())),
            abs(number) <= 100_000_000
        else { return nil }
        return number * unit * 1_000_000_000
    }

    /// Plain decimal digits with an optional minus.
    private static func integer(_ text: String) -> Int64? {
        guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2d }) else { return nil }
        return Int64(text)
    }

    private static func address(_ text: String) -> Address? {
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let portText = text[text.index(after: colon)...]
        guard !portText.isEmpty, portText.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(portText)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        let isPlain = host.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7f && $0 != 0x2f && $0 != 0x5b && $0 != 0x5d }
        return host.isEmpty || !isPlain ? nil : Address(host: String(host), port: port)
    }
}

/// UTC times of RFC 3339 as nanoseconds since the Unix epoch.
enum UTCTime {
    /// `2024-08-08`, or with `T09:30:00`, up to nine digits of fraction and `Z`. Years 1970 to 2261.
    static func parse(_ text: String) -> Int64? {
        var rest = Array(text.utf8)[...]
        guard let year = number(&rest, digits: 4), literal(&rest, "-"), let month = number(&rest, digits: 2),
            literal(&rest, "-"), let day = number(&rest, digits: 2), (1970...2261).contains(year),
            (1...12).contains(month), day >= 1, day <= days(in: month, of: year)
        else { return nil }
        var seconds = daysSinceEpoch(year: year, month: month, day: day) * 86_400
        guard !rest.isEmpty else { return seconds * 1_000_000_000 }
        guard literal(&rest, "T"), let hour = number(&rest, digits: 2), literal(&rest, ":"),
            let minute = number(&rest, digits: 2), literal(&rest, ":"), let second = number(&rest, digits: 2),
            hour < 24, minute < 60, second < 60
        else { return nil }
        seconds += hour * 3600 + minute * 60 + second
        guard let fraction = fractionNs(&rest), literal(&rest, "Z"), rest.isEmpty else { return nil }
        return seconds * 1_000_000_000 + fraction
    }

    private static func fractionNs(_ rest: inout ArraySlice<UInt8>) -> Int64? {
        guard literal(&rest, ".") else { return 0 }
        var value: Int64 = 0
        var count = 0
        while let digit = rest.first, (0x30...0x39).contains(digit) {
            guard count < 9 else { return nil }
            value = value * 10 + Int64(digit - 0x30)
            count += 1
            rest.removeFirst()
        }
        guard count > 0 else { return nil }
        for _ in count..<9 { value *= 10 }
        return value
    }

    private static func number(_ rest: inout ArraySlice<UInt8>, digits: Int) -> Int64? {
        guard rest.count >= digits else { return nil }
        var value: Int64 = 0
        for _ in 0..<digits {
            let digit = rest.removeFirst()
            guard (0x30...0x39).contains(digit) else { return nil }
            value = value * 10 + Int64(digit - 0x30)
        }
        return value
    }

    private static func literal(_ rest: inout ArraySlice<UInt8>, _ character: Unicode.Scalar) -> Bool {
        guard let first = rest.first, UInt32(first) == character.value else { return false }
        rest.removeFirst()
        return true
    }

    private static func days(in month: Int64, of year: Int64) -> Int64 {
        switch month {
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    /// Days from 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years that begin on 1 March.
    private static func daysSinceEpoch(year: Int64, month: Int64, day: Int64) -> Int64 {
        let marchYear = month <= 2 ? year - 1 : year
        let era = marchYear / 400
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 719_468
    }
}

/// How the port where metrics are is encrypted.
enum MonitoringTLS: String, CaseIterable {
    case off
    /// Nobody is asked for a certificate: probes have none.
    case server
    /// As the clients are.
    case mutual

    init(_ options: ResolvedOptions) { self = MonitoringTLS(rawValue: options.string(.metricsTLS)) ?? .off }
}
