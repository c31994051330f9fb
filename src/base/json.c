#include "base/json.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

enum { MAX_JSON_BYTES = 64 << 20 };

/* The last object key that ends before text[end]: where in the document a syntax error stands. */
static void last_key(char *key, size_t key_size, const char *text, size_t end) {
    key[0] = 0;
    for (size_t i = 0; i < end; i++) {
        if (text[i] != '"') continue;
        size_t begin = ++i;
        while (i < end && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
        size_t after = i + 1;
        while (after < end && strchr(" \t\r\n", text[after]) && text[after]) after++;
        if (after < end && text[after] == ':') snprintf(key, key_size, "%.*s", (int)(i - begin), text + begin);
    }
}

pi0_status json_parse(json_t **root, const char *text, size_t size, size_t flags, const char *name, pi0_error *error) {
    json_error_t problem;
    *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &problem);
    if (*root) return PI0_OK;
    if (json_error_code(&problem) == json_error_out_of_memory) return error_memory(error, size, name);
    char key[120];
    size_t position = problem.position > 0 ? (size_t)problem.position : 0;
    last_key(key, sizeof key, text, position < size ? position : size);
    return error_set(error, PI0_ERROR_FORMAT, "%s: not valid JSON: line %d, column %d%s%s%s: %s", name, problem.line,
                     problem.column, *key ? ", in \"" : "", key, *key ? "\"" : "", problem.text);
}

pi0_status json_open(json_t **root, const char *path, size_t flags, pi0_error *error) {
    void *bytes;
    size_t size;
    *root = NULL;
    TRY(file_read(&bytes, &size, path, MAX_JSON_BYTES, error));
    pi0_status status = json_parse(root, bytes, size, flags, path, error);
    memory_release(bytes);
    return status;
}

const char *json_kind_name(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something unknown";
}
