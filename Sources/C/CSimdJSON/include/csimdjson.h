// JSON for venue messages: simdjson's validating parser, flattened into an array that Swift walks.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    CSJ_NULL, CSJ_FALSE, CSJ_TRUE, CSJ_STRING, CSJ_INTEGER, CSJ_UNSIGNED, CSJ_DECIMAL, CSJ_ARRAY, CSJ_OBJECT
} csj_kind;

// One value in document order. An object's members are a string (the name) and a value each.
typedef struct {
    uint32_t kind;
    // Of an array or object: the index of the token after it. Of other values: the next token.
    uint32_t end;
    // Of a string: its bytes (UTF-8, unescaped), valid until the next parse. Of an integer: its value.
    union {
        const char *text;
        int64_t integer;
        uint64_t uinteger;
    } value;
    uint64_t length;
} csj_token;

typedef struct csj_parser csj_parser;

csj_parser *csj_new(void);
void csj_free(csj_parser *parser);

// Parses one whole document. 0, or an error number for csj_message. Refuses what RFC 8259 refuses.
int csj_parse(csj_parser *parser, const char *bytes, size_t count, const csj_token **tokens, size_t *token_count);
const char *csj_message(int error);

#ifdef __cplusplus
}
#endif
