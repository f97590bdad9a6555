import CYAML
import Glibc

/// A configuration file: one flat YAML mapping of option names to scalars, or to lists where an option may be repeated.
enum ConfigurationFile {
    struct Mark: Sendable, Hashable, CustomStringConvertible {
        let path: String
        /// From 1.
        let line: Int
        let column: Int

        var description: String { "\(path):\(line):\(column)" }
    }

    struct Scalar: Sendable, Hashable {
        let text: String
        let mark: Mark
    }

    struct Entry: Sendable, Hashable {
        let key: Scalar
        /// One, or any number where the file has a list.
        let values: [Scalar]
    }

    /// The largest file read, in bytes.
    static let lengthMax = 1 << 20

    /// The entries in the file's order. Any bytes may be given; errors carry line and column.
    static func parse(_ bytes: [UInt8], path: String) throws(UsageError) -> [Entry] {
        guard bytes.count <= lengthMax else {
            throw UsageError("\(path) has \(bytes.count) bytes; a configuration has at most \(lengthMax)")
        }
        let parser = EventParser(bytes, path: path)
        return try parser.document()
    }

    /// The file's bytes; nil where there is none.
    static func read(_ path: String) throws(UsageError) -> [UInt8]? {
        guard let file = fopen(path, "rb") else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw UsageError("cannot read \(path): \(String(cString: strerror(errno)))")
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while bytes.count <= lengthMax {
            let count = fread(&chunk, 1, chunk.count, file)
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        guard ferror(file) == 0 else { throw UsageError("cannot read \(path): \(String(cString: strerror(errno)))") }
        return bytes
    }
}

/// libyaml's events, read as the one shape a configuration has.
private final class EventParser {
    private enum Event {
        case end
        case mappingStart, mappingEnd, sequenceStart, sequenceEnd
        case scalar(ConfigurationFile.Scalar)
        case alias
        case other
    }

    private let bytes: [UInt8]
    private let path: String
    private var parser = yaml_parser_t()
    private var mark: ConfigurationFile.Mark

    init(_ bytes: [UInt8], path: String) {
        self.bytes = bytes
        self.path = path
        mark = ConfigurationFile.Mark(path: path, line: 1, column: 1)
    }

    func document() throws(UsageError) -> [ConfigurationFile.Entry] {
        guard yaml_parser_initialize(&parser) == 1 else { throw UsageError("no memory to read \(path)") }
        defer { yaml_parser_delete(&parser) }
        // libyaml keeps the pointer it is given until it is deleted.
        let input = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: max(bytes.count, 1))
        defer { input.deallocate() }
        _ = input.initialize(from: bytes)
        yaml_parser_set_input_string(&parser, input.baseAddress, bytes.count)
        var entries: [ConfigurationFile.Entry] = []
        var hasDocument = false
        while true {
            switch try next() {
            case .end: return entries
            case .other: continue
            case .mappingStart where !hasDocument:
                hasDocument = true
                entries = try mapping()
            // A file of comments alone is an empty document.
            case .scalar(let scalar) where !hasDocument && scalar.text.isEmpty: hasDocument = true
            default: throw fail("a configuration is one list of `name: value` lines")
            }
        }
    }

    private func mapping() throws(UsageError) -> [ConfigurationFile.Entry] {
        var entries: [ConfigurationFile.Entry] = []
        while true {
            let event = try next()
            if case .mappingEnd = event { return entries }
            guard case .scalar(let key) = event else { throw fail("a name was expected here") }
            if let earlier = entries.first(where: { $0.key.text == key.text }) {
                throw fail("\(key.text) is given twice, first in line \(earlier.key.mark.line)")
            }
            switch try next() {
            case .scalar(let value): entries.append(ConfigurationFile.Entry(key: key, values: [value]))
            case .sequenceStart: entries.append(ConfigurationFile.Entry(key: key, values: try sequence()))
            case .alias: throw fail("anchors and aliases are not read here; write the value out")
            default: throw fail("\(key.text) takes a value or a list of values, not a group")
            }
        }
    }

    private func sequence() throws(UsageError) -> [ConfigurationFile.Scalar] {
        var values: [ConfigurationFile.Scalar] = []
        while true {
            switch try next() {
            case .scalar(let value): values.append(value)
            case .sequenceEnd: return values
            default: throw fail("a list here holds plain values")
            }
        }
    }

    private func next() throws(UsageError) -> Event {
        var event = yaml_event_t()
        guard yaml_parser_parse(&parser, &event) == 1 else {
            mark = position(parser.problem_mark)
            throw fail(parser.problem.map { String(cString: $0) } ?? "not YAML")
        }
        defer { yaml_event_delete(&event) }
        mark = position(event.start_mark)
        switch event.type {
        case YAML_STREAM_END_EVENT: return .end
        case YAML_MAPPING_START_EVENT: return .mappingStart
        case YAML_MAPPING_END_EVENT: return .mappingEnd
        case YAML_SEQUENCE_START_EVENT: return .sequenceStart
        case YAML_SEQUENCE_END_EVENT: return .sequenceEnd
        case YAML_ALIAS_EVENT: return .alias
        case YAML_SCALAR_EVENT:
            let scalar = event.data.scalar
            let text = String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
            return .scalar(ConfigurationFile.Scalar(text: text, mark: mark))
        default: return .other
        }
    }

    private func position(_ mark: yaml_mark_t) -> ConfigurationFile.Mark {
        ConfigurationFile.Mark(path: path, line: Int(mark.line) + 1, column: Int(mark.column) + 1)
    }

    private func fail(_ message: String) -> UsageError { UsageError("\(mark): \(message)") }
}
