#include "serve/metadata.h"

#include <string.h>

#include "base/json.h"

enum { MAX_DEPTH = 32 };

static bool put(wire_buffer *out, const json_t *node, int depth);

static bool put_object(wire_buffer *out, const json_t *node, int depth) {
    const char *key;
    json_t *item;
    wire_put_map(out, json_object_size(node));
    /* Jansson's macro wants an object it may change, and does not */
    json_object_foreach((json_t *)(uintptr_t)node, key, item) {
        wire_put_text(out, key);
        if (!put(out, item, depth)) return false;
    }
    return true;
}

static bool put_list(wire_buffer *out, const json_t *node, int depth) {
    wire_put_list(out, json_array_size(node));
    for (size_t i = 0; i < json_array_size(node); i++)
        if (!put(out, json_array_get(node, i), depth)) return false;
    return true;
}

static bool put(wire_buffer *out, const json_t *node, int depth) {
    if (depth == MAX_DEPTH) return false;
    value v = {.kind = VALUE_NULL};
    switch (json_typeof(node)) {
    case JSON_OBJECT:
        return put_object(out, node, depth + 1);
    case JSON_ARRAY:
        return put_list(out, node, depth + 1);
    case JSON_STRING:
        v.kind = VALUE_TEXT;
        v.text.data = json_string_value(node);
        v.text.length = json_string_length(node);
        break;
    case JSON_INTEGER:
        v.kind = VALUE_INT;
        v.integer = json_integer_value(node);
        break;
    case JSON_REAL:
        v.kind = VALUE_FLOAT;
        v.number = json_real_value(node);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v.kind = VALUE_BOOL;
        v.boolean = json_is_true(node);
        break;
    case JSON_NULL:
        break;
    }
    wire_put_value(out, &v);
    return true;
}

pi0_status metadata_encode(wire_buffer *out, const char *json, pi0_error *error) {
    json_t *root;
    TRY(json_parse(&root, json, strlen(json), 0, "the metadata", error));
    bool shallow = put(out, root, 0);
    json_decref(root);
    if (!shallow)
        return error_set(error, PI0_ERROR_FORMAT, "the metadata: expected at most %d levels of nesting", MAX_DEPTH);
    return out->failed ? error_memory(error, out->capacity, "the metadata") : PI0_OK;
}
