#include "csimdjson.h"
#include <simdjson.h>
#include <new>
#include <vector>

using namespace simdjson;

struct csj_parser {
    dom::parser parser;
    std::vector<csj_token> tokens;
};

// Depth is bounded by the parser (1024).
static void flatten(std::vector<csj_token> &tokens, const dom::element &element) {
    size_t index = tokens.size();
    tokens.push_back(csj_token{});
    switch (element.type()) {
    case dom::element_type::NULL_VALUE: tokens[index].kind = CSJ_NULL; break;
    case dom::element_type::BOOL: tokens[index].kind = bool(element) ? CSJ_TRUE : CSJ_FALSE; break;
    case dom::element_type::STRING: {
        std::string_view text(element);
        tokens[index].kind = CSJ_STRING;
        tokens[index].value.text = text.data();
        tokens[index].length = text.size();
        break;
    }
    case dom::element_type::INT64:
        tokens[index].kind = CSJ_INTEGER;
        tokens[index].value.integer = int64_t(element);
        break;
    case dom::element_type::UINT64:
        tokens[index].kind = CSJ_UNSIGNED;
        tokens[index].value.uinteger = uint64_t(element);
        break;
    case dom::element_type::DOUBLE: tokens[index].kind = CSJ_DECIMAL; break;
    case dom::element_type::ARRAY:
        tokens[index].kind = CSJ_ARRAY;
        for (dom::element child : dom::array(element)) flatten(tokens, child);
        break;
    case dom::element_type::OBJECT:
        tokens[index].kind = CSJ_OBJECT;
        for (dom::key_value_pair field : dom::object(element)) {
            csj_token name{};
            name.kind = CSJ_STRING;
            name.end = uint32_t(tokens.size() + 1);
            name.value.text = field.key.data();
            name.length = field.key.size();
            tokens.push_back(name);
            flatten(tokens, field.value);
        }
        break;
    }
    tokens[index].end = uint32_t(tokens.size());
}

csj_parser *csj_new(void) { return new (std::nothrow) csj_parser; }
void csj_free(csj_parser *parser) { delete parser; }

int csj_parse(csj_parser *p, const char *bytes, size_t count, const csj_token **tokens, size_t *token_count) {
    p->tokens.clear();
    dom::element root;
    auto error = p->parser.parse(bytes, count).get(root);
    if (error) return int(error);
    flatten(p->tokens, root);
    *tokens = p->tokens.data();
    *token_count = p->tokens.size();
    return 0;
}

const char *csj_message(int error) { return error_message(error_code(error)); }
