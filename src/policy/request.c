#include "policy/request.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "policy/image.h"

enum { MAX_STATE = 1 << 16, MAX_TOKENS = 1 << 20, MAX_PROMPT_BYTES = 64 << 20 };

pi0_status pi0_request_new(pi0_request **request, pi0_error *error) {
    if (!request) return error_set(error, PI0_ERROR_ARGUMENT, "pi0_request_new: request is NULL");
    *request = memory_zeroed(1, sizeof **request);
    if (!*request) return error_memory(error, sizeof **request, "a request");
    return PI0_OK;
}

/* A request whose message came out of wire_decode with this status; takes *made over. */
static pi0_status accept_message(pi0_request **request, pi0_request *made, pi0_status status, pi0_error *error) {
    const value *root = status == PI0_OK ? made->message.root : NULL;
    if (root && root->kind != VALUE_MAP) {
        char found[120];
        status = error_set(error, PI0_ERROR_FORMAT, "expected a request to be a map, found %s",
                           value_describe(root, found, sizeof found));
    }
    if (status == PI0_OK)
        *request = made;
    else
        pi0_request_free(&made);
    return status;
}

pi0_status pi0_request_decode(pi0_request **request, const void *bytes, size_t size, pi0_error *error) {
    if (!request || (size && !bytes))
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_request_decode: expected a request and bytes");
    *request = NULL;
    pi0_request *made;
    TRY(pi0_request_new(&made, error));
    wire_limits limits = wire_limits_default();
    return accept_message(request, made, wire_decode(&made->message, bytes, size, &limits, error), error);
}

pi0_status request_decode_in_place(pi0_request **request, void *bytes, size_t size, pi0_error *error) {
    *request = NULL;
    pi0_request *made;
    TRY(pi0_request_new(&made, error));
    wire_limits limits = wire_limits_default();
    return accept_message(request, made, wire_decode_in_place(&made->message, bytes, size, &limits, error), error);
}

void pi0_request_free(pi0_request **request) {
    if (!request || !*request) return;
    for (size_t i = 0; i < (*request)->count; i++) {
        memory_release((*request)->entries[i].key);
        memory_release((*request)->entries[i].memory);
    }
    memory_release((*request)->entries);
    if ((*request)->message.root) wire_release(&(*request)->message);
    memory_release(*request);
    *request = NULL;
}

static request_entry *find_entry(const pi0_request *request, const char *key) {
    for (size_t i = 0; i < request->count; i++)
        if (strcmp(request->entries[i].key, key) == 0) return &request->entries[i];
    return NULL;
}

static pi0_status grow(pi0_request *request, pi0_error *error) {
    if (request->count < request->capacity) return PI0_OK;
    size_t capacity = request->capacity ? 2 * request->capacity : 8, size = sizeof *request->entries;
    request_entry *entries = memory_resize(request->entries, request->capacity * size, capacity * size);
    if (!entries) return error_memory(error, capacity * size, "a request");
    request->entries = entries;
    request->capacity = capacity;
    return PI0_OK;
}

/* Takes `memory` in any case. Replaces what stood under the key. */
static pi0_status put(pi0_request *request, const char *key, request_role role, value item, void *memory,
                      pi0_error *error) {
    request_entry *entry = find_entry(request, key);
    if (!entry) {
        char *copy = memory_string(key);
        pi0_status status = copy ? grow(request, error) : error_memory(error, strlen(key), "a request's key");
        if (status != PI0_OK) {
            memory_release(copy);
            memory_release(memory);
            return status;
        }
        entry = &request->entries[request->count++];
        *entry = (request_entry){.key = copy};
    }
    memory_release(entry->memory);
    entry->role = role;
    entry->item = item;
    entry->memory = memory;
    return PI0_OK;
}

static pi0_status refuse_null(const char *function, pi0_error *error) {
    return error_set(error, PI0_ERROR_ARGUMENT, "%s: an argument is NULL", function);
}

/* A copy of a C-ordered array as a value. */
static pi0_status put_array(pi0_request *request, const char *key, request_role role, value_array array,
                            pi0_error *error) {
    void *copy = memory_allocate(array.bytes);
    if (!copy) return error_memory(error, array.bytes, key);
    if (array.bytes) memcpy(copy, array.data, array.bytes);
    array.data = copy;
    return put(request, key, role, (value){.kind = VALUE_ARRAY, .array = array}, copy, error);
}

static value_array image_array(const uint8_t *pixels, int height, int width) {
    return (value_array){.kind = 'u',
                         .item_bytes = 1,
                         .rank = 3,
                         .shape = {height, width, 3},
                         .bytes = (size_t)height * (size_t)width * 3,
                         .data = pixels};
}

pi0_status pi0_request_set_image(pi0_request *request, const char *key, const uint8_t *pixels, int height, int width,
                                 pi0_error *error) {
    if (!request || !key || !pixels) return refuse_null("pi0_request_set_image", error);
    if (height < 1 || width < 1 || (int64_t)height * width > IMAGE_MAX_PIXELS)
        return error_set(
            error, PI0_ERROR_ARGUMENT,
            "image '%.200s': expected a height and width of 1 or more and at most %d pixels, found %d x %d", key,
            IMAGE_MAX_PIXELS, height, width);
    return put_array(request, key, REQUEST_IS_IMAGE, image_array(pixels, height, width), error);
}

pi0_status pi0_request_set_image_file(pi0_request *request, const char *key, const char *path, pi0_error *error) {
    if (!request || !key || !path) return refuse_null("pi0_request_set_image_file", error);
    image image;
    TRY(image_open(&image, path, error));
    value item = {.kind = VALUE_ARRAY, .array = image_array(image.pixels, image.height, image.width)};
    return put(request, key, REQUEST_IS_IMAGE, item, image.pixels, error);
}

pi0_status pi0_request_set_state(pi0_request *request, const char *key, const double *values, int count,
                                 pi0_error *error) {
    if (!request || (count && !values)) return refuse_null("pi0_request_set_state", error);
    if (count < 0 || count > MAX_STATE)
        return error_set(error, PI0_ERROR_ARGUMENT, "state: expected 0 to %d values, found %d", MAX_STATE, count);
    value_array array = {.kind = 'f',
                         .item_bytes = 8,
                         .rank = 1,
                         .shape = {count},
                         .bytes = (size_t)count * sizeof *values,
                         .data = values};
    return put_array(request, key ? key : REQUEST_STATE, REQUEST_IS_STATE, array, error);
}

pi0_status pi0_request_set_prompt(pi0_request *request, const char *utf8, pi0_error *error) {
    if (!request || !utf8) return refuse_null("pi0_request_set_prompt", error);
    size_t length = strlen(utf8);
    if (length > MAX_PROMPT_BYTES)
        return error_set(error, PI0_ERROR_ARGUMENT, "prompt: expected at most %d bytes, found %zu", MAX_PROMPT_BYTES,
                         length);
    if (!utf8_valid(utf8, length)) return error_set(error, PI0_ERROR_ARGUMENT, "prompt: expected UTF-8");
    char *copy = memory_string_n(utf8, length);
    if (!copy) return error_memory(error, length, "a prompt");
    value item = {.kind = VALUE_TEXT, .text = {copy, length}};
    return put(request, REQUEST_PROMPT, REQUEST_IS_PROMPT, item, copy, error);
}

pi0_status pi0_request_set_tokens(pi0_request *request, const int32_t *tokens, int count, pi0_error *error) {
    if (!request || (count && !tokens)) return refuse_null("pi0_request_set_tokens", error);
    if (count < 0 || count > MAX_TOKENS)
        return error_set(error, PI0_ERROR_ARGUMENT, "tokens: expected 0 to %d ids, found %d", MAX_TOKENS, count);
    value_array array = {.kind = 'i',
                         .item_bytes = 4,
                         .rank = 1,
                         .shape = {count},
                         .bytes = (size_t)count * sizeof *tokens,
                         .data = tokens};
    return put_array(request, REQUEST_TOKENS, REQUEST_IS_TOKENS, array, error);
}

const value *request_find_set(const pi0_request *request, const char *key) {
    const request_entry *entry = find_entry(request, key);
    return entry ? &entry->item : NULL;
}

const value *request_find(const pi0_request *request, const char *key) {
    const value *set = request_find_set(request, key);
    if (set || !request->message.root) return set;
    return value_find(request->message.root, key);
}

bool request_is_built(const pi0_request *request) { return request->message.root == NULL; }
