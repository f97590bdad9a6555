// The types of package financial.marketdata.v1, generated from proto/ by `make proto`.

import Protobuf

/// Holds the generated types.
public enum Proto {
    /// Descriptors of all files, in the order of their imports.
    public static let files: [ProtoFile] = [marketDataFile, orderServiceFile, logRecordsFile]
}
