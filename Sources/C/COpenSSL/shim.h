#pragma once
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

// OpenSSL's macros, which Swift cannot call.

// Makes the library ready for a process whose threads may still use it while it exits: nothing is freed then. 0 on failure.
// Before anything else of it.
static inline int copenssl_begin(void) { return OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL); }

static inline int copenssl_set_versions(SSL_CTX *context, int least, int most) {
    return SSL_CTX_set_min_proto_version(context, least) && SSL_CTX_set_max_proto_version(context, most);
}

// No renegotiation, no compression; idle connections give their buffers back; a write may be cut and may move.
static inline void copenssl_set_defaults(SSL_CTX *context) {
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}

static inline void copenssl_refuse_resumption(SSL_CTX *context) {
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context, 0);
}

static inline int copenssl_set_server_name(SSL *ssl, const char *name) { return (int)SSL_set_tlsext_host_name(ssl, name); }

static inline int copenssl_has_alpn(SSL *ssl) {
    const unsigned char *bytes;
    size_t count;
    return SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &bytes, &count);
}

static inline void copenssl_retry_read(BIO *bio) { BIO_set_retry_read(bio); }
static inline void copenssl_clear_retry(BIO *bio) { BIO_clear_retry_flags(bio); }

// What an error of the queue says, in words.
static inline void copenssl_error_text(unsigned long code, char *text, size_t size) {
    const char *reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    if (reason)
        snprintf(text, size, "%s", reason);
    else
        ERR_error_string_n(code, text, size);
}

// A certificate's alternative names; NULL with *isAbsent 1 where it has none, 0 where they cannot be read.
static inline GENERAL_NAMES *copenssl_alternative_names(const X509 *certificate, int *isAbsent) {
    int critical = -1;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
    *isAbsent = critical == -1;
    return names;
}

static inline int copenssl_name_count(const GENERAL_NAMES *names) { return sk_GENERAL_NAME_num(names); }

// The text of a URI or DNS name and its kind (GEN_URI, GEN_DNS); NULL for other kinds.
static inline const ASN1_STRING *copenssl_name(const GENERAL_NAMES *names, int index, int *kind) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
    *kind = name->type;
    return name->type == GEN_URI || name->type == GEN_DNS ? name->d.ia5 : NULL;
}

static inline void copenssl_free(void *memory) { OPENSSL_free(memory); }
