import COpenSSL
import Glibc

/// What a server shows its clients: whose certificate it is, and for how long.
public struct TLSOwnCertificate: Hashable, Sendable {
    /// The subject, as OpenSSL writes it in one line.
    public private(set) var subject = ""
    /// From when and until when it is valid, in seconds since the Unix epoch.
    public private(set) var validFrom: Int64 = 0
    public private(set) var validTo: Int64 = 0

    init() {}

    init(_ certificate: OpaquePointer?) {
        guard let certificate else { return }
        subject = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            guard let start = buffer.baseAddress else { return "" }
            X509_NAME_oneline(X509_get_subject_name(certificate), start, Int32(buffer.count))
            return String(cString: start)
        }
        validFrom = TLSOwnCertificate.seconds(X509_get0_notBefore(certificate)) ?? 0
        validTo = TLSOwnCertificate.seconds(X509_get0_notAfter(certificate)) ?? 0
    }

    private static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> Int64? {
        var fields = tm()
        guard let time, ASN1_TIME_to_tm(time, &fields) == 1 else { return nil }
        return Int64(timegm(&fields))
    }

    /// As OpenSSL's clock has it.
    static func check(_ certificate: OpaquePointer, isValidNow file: String) throws(TLSError) {
        let dates = TLSOwnCertificate(certificate)
        if X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0 {
            throw TLSError(
                "the certificate in \(file) is over since \(TLSOwnCertificate.text(dates.validTo)): renew it")
        }
        if X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0 {
            throw TLSError("the certificate in \(file) is not valid before \(TLSOwnCertificate.text(dates.validFrom))")
        }
    }

    /// As `2026-03-01 12:00:00 UTC`.
    public static func text(_ seconds: Int64) -> String {
        var moment = time_t(seconds)
        var fields = tm()
        gmtime_r(&moment, &fields)
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
            guard let start = buffer.baseAddress else { return "" }
            strftime(start, buffer.count, "%Y-%m-%d %H:%M:%S UTC", &fields)
            return String(cString: start)
        }
    }
}
