import HTTP1Codec
import VenueFormats

/// What a token endpoint answers (RFC 6749, sections 5.1 and 5.2).
struct TokenAnswer: Equatable {
    let token: String
    /// nil where the answer does not say.
    let lifeMs: Int64?

    private static let secondsMax: UInt64 = 10 * 365 * 86_400
    private static let textCountMax = 300

    /// `client`: whose words must not come back in an error.
    init(_ response: HTTP1Response, client: OIDCCredentials) throws(KafkaTokenError) {
        guard response.status == 200 else {
            throw KafkaTokenError(description: TokenAnswer.refusal(response, client))
        }
        let document = JSONParser()
        let json = try TokenAnswer.parse(document, response.body)
        guard let token = json.text(of: "access_token"), !token.isEmpty else {
            throw KafkaTokenError(
                description: "its answer has no access_token; is it the token endpoint, and not another address of "
                    + "the provider?")
        }
        guard token.utf8.allSatisfy({ $0 > 32 && $0 < 127 }) else {
            throw KafkaTokenError(description: "its access_token has characters that no bearer token has")
        }
        guard !json.has("token_type") || json.text(of: "token_type")?.lowercased() == "bearer" else {
            throw KafkaTokenError(description: "its token is no bearer token, which is the only kind that brokers take")
        }
        self.token = token
        lifeMs = try TokenAnswer.life(json)
        withExtendedLifetime(document) {}
    }

    private static func parse(_ parser: JSONParser, _ body: [UInt8]) throws(KafkaTokenError) -> JSONValue {
        do {
            return try body.withUnsafeBytes { try parser.parse($0) }
        } catch {
            throw KafkaTokenError(
                description: "its answer of \(body.count) bytes is no JSON; is it the token endpoint, and not a page?")
        }
    }

    private static func life(_ json: JSONValue) throws(KafkaTokenError) -> Int64? {
        guard json.has("expires_in") else { return nil }
        // Some servers send it as text.
        guard let seconds = json.number(of: "expires_in") ?? json.text(of: "expires_in").flatMap({ UInt64($0) }) else {
            throw KafkaTokenError(description: "its expires_in is no whole number of seconds")
        }
        guard seconds > 0 else { throw KafkaTokenError(description: "its token has expired already (expires_in is 0)") }
        return Int64(min(seconds, secondsMax)) * 1000
    }

    private static func refusal(_ response: HTTP1Response, _ client: OIDCCredentials) -> String {
        var text = "it answers \(response.status)"
        let parser = JSONParser()
        if let json = try? parse(parser, response.body) {
            let words = [json.text(of: "error"), json.text(of: "error_description")].compactMap { $0 }
            if !words.isEmpty { text += " (\(client.redacted(words.joined(separator: ": "), most: textCountMax)))" }
        }
        withExtendedLifetime(parser) {}
        switch response.status {
        case 300...399:
            let place = client.redacted(response.value("location") ?? "another address", most: textCountMax)
            return text + ", \(place); redirects are not followed: give the address that answers itself"
        case 400, 401, 403: return text + "; check the client id, the secret in \(client.secretFile) and the scope"
        case 404, 405: return text + "; check the address"
        default: return text
        }
    }
}

/// Who asks for tokens.
struct OIDCCredentials {
    let clientID: String
    let secret: String
    let secretFile: String

    /// Reads the secret's file, without the white space around it.
    init(clientID: String, secretFile: String) throws(KafkaTokenError) {
        let text = try KafkaToken.text(file: secretFile, of: "the client secret's file", what: "client secret")
        self.init(clientID: clientID, secret: text, secretFile: secretFile)
    }

    init(clientID: String, secret: String, secretFile: String) {
        self.clientID = clientID
        self.secret = secret
        self.secretFile = secretFile
    }

    /// RFC 6749, section 2.3.1: both are encoded before they are joined.
    var basic: [UInt8] { Array("\(FormText.encode(clientID)):\(FormText.encode(secret))".utf8) }

    /// Printable ASCII of a server's words, without the secret in any form that it was sent in.
    func redacted(_ text: String, most: Int) -> String {
        var text = String(decoding: text.utf8.map { $0 >= 32 && $0 < 127 ? $0 : 63 }, as: UTF8.self)
        for form in [secret, FormText.encode(secret), FormText.basic(basic)] {
            text = text.replacing(form, with: "***")
        }
        return text.count > most ? text.prefix(most) + "..." : text
    }
}
