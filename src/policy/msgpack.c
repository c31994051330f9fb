/*
 * The wire format of openpi's policy server: MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md) plus
 * the two map forms of openpi_client/msgpack_numpy.py for numpy arrays and scalars.
 *
 * Bytes are taken apart by msgpack-c's low-level template, which calls the decode_* functions below and takes no memory
 * itself; put together by its packer. What a message claims is checked before memory is taken: all lists
 * and maps together cannot claim more values than the message has bytes.
 */
#include <msgpack/pack.h>

/* The template's stack; limits->max_depth is checked in decode_container. */
#define MSGPACK_EMBED_STACK_SIZE 64
#include <msgpack/unpack.h>
#include <msgpack/unpack_define.h>

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"
#include "base/utf8.h"
#include "policy/value.h"

wire_limits wire_limits_default(void) {
    return (wire_limits){.max_depth = 32, .max_items = 65536, .max_bytes = (size_t)256 << 20};
}

/* ---- memory of a message: blocks that are freed at once ---- */

typedef struct block {
    struct block *next;
    size_t used, capacity; /* of the bytes that follow this struct */
} block;

enum { BLOCK_ALIGNMENT = 16, BLOCK_BYTES = 16384 };
#define BLOCK_HEADER ((sizeof(block) + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT)

static void *block_take(block **blocks, size_t bytes) {
    bytes = (bytes + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
    block *last = *blocks;
    if (!last || last->capacity - last->used < bytes) {
        size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block *fresh = memory_allocate(BLOCK_HEADER + capacity);
        if (!fresh) return NULL;
        *fresh = (block){.next = last, .used = 0, .capacity = capacity};
        *blocks = last = fresh;
    }
    void *memory = (unsigned char *)last + BLOCK_HEADER + last->used;
    last->used += bytes;
    return memory;
}

void wire_release(wire_message *message) {
    for (block *b = message->memory; b;) {
        block *next = b->next;
        memory_release(b);
        b = next;
    }
    *message = (wire_message){0};
}

/* ---- decoding ---- */

/* What the template hands around: a finished value, or a list or map being filled. */
typedef struct node {
    value value;
    value *items, *keys; /* the writable view of value.list */
    size_t filled;
} node;

typedef struct decoder {
    wire_limits limits;
    size_t items; /* claimed so far */
    int depth;
    block *blocks;
    pi0_error *error;
    pi0_status status; /* of the failure that a callback reports by -1 */
} decoder;

#define FAIL(...) ((d)->status = error_set((d)->error, PI0_ERROR_FORMAT, __VA_ARGS__), -1)

static int fail_memory(decoder *d, size_t bytes) {
    d->status = error_memory(d->error, bytes, "a message");
    return -1;
}

static int decode_nil(decoder *d, node *out) {
    (void)d;
    out->value.kind = VALUE_NULL;
    return 0;
}

static int put_bool(node *out, bool boolean) {
    out->value.kind = VALUE_BOOL;
    out->value.boolean = boolean;
    return 0;
}

static int decode_true(decoder *d, node *out) {
    (void)d;
    return put_bool(out, true);
}

static int decode_false(decoder *d, node *out) {
    (void)d;
    return put_bool(out, false);
}

static int decode_int64(decoder *d, int64_t integer, node *out) {
    (void)d;
    out->value.kind = VALUE_INT;
    out->value.integer = integer;
    return 0;
}

static int decode_uint64(decoder *d, uint64_t integer, node *out) {
    if (integer <= INT64_MAX) return decode_int64(d, (int64_t)integer, out);
    out->value.kind = VALUE_UINT;
    out->value.unsigned_integer = integer;
    return 0;
}

static int decode_double(decoder *d, double number, node *out) {
    (void)d;
    out->value.kind = VALUE_FLOAT;
    out->value.number = number;
    return 0;
}

/* A text or bin is followed by the next value, so there is no room for its NUL; but what stood before it was its size,
 * which has been read. */
static void move_for_nul(value *v) {
    char *data = (char *)v->text.data;
    memmove(data - 1, data, v->text.length);
    data[(ptrdiff_t)v->text.length - 1] = 0;
    v->text.data = data - 1;
}

static int decode_str(decoder *d, const char *message, const char *text, unsigned length, node *out) {
    (void)message;
    if (length && !utf8_valid(text, length))
        return FAIL("expected UTF-8, found a text of %u bytes that is not", length);
    out->value.kind = VALUE_TEXT;
    out->value.text.data = length ? text : "";
    out->value.text.length = length;
    if (length) move_for_nul(&out->value);
    return 0;
}

static int decode_bin(decoder *d, const char *message, const char *bytes, unsigned length, node *out) {
    (void)d, (void)message;
    out->value.kind = VALUE_BYTES;
    out->value.text.data = length ? bytes : "";
    out->value.text.length = length;
    return 0;
}

/* Bytes that turn out not to be an array's data get their NUL here: arrays are large and need none. */
static void settle(value *v) {
    if (v->kind == VALUE_BYTES && v->text.length) move_for_nul(v);
}

static int decode_ext(decoder *d, const char *message, const char *bytes, unsigned length, node *out) {
    (void)message, (void)bytes, (void)length, (void)out;
    return FAIL("expected plain MessagePack and numpy arrays, found an extension type");
}

static int decode_container(decoder *d, size_t count, value_kind kind, node *out) {
    if (d->depth >= d->limits.max_depth) return FAIL("nested more than %d deep", d->limits.max_depth);
    size_t values = kind == VALUE_MAP ? 2 * count : count;
    if (values > d->limits.max_items - d->items)
        return FAIL("a %s claims %zu items: more than the message can or may hold", kind == VALUE_MAP ? "map" : "list",
                    count);
    d->items += values;
    size_t bytes = count * sizeof(value);
    *out = (node){.value = {.kind = kind}};
    out->value.list.count = count;
    if (!count) return 0;
    out->items = block_take(&d->blocks, bytes);
    out->keys = kind == VALUE_MAP ? block_take(&d->blocks, bytes) : NULL;
    if (!out->items || (kind == VALUE_MAP && !out->keys)) return fail_memory(d, bytes);
    out->value.list.items = out->items;
    out->value.list.keys = out->keys;
    d->depth++;
    return 0;
}

static int decode_array(decoder *d, unsigned count, node *out) { return decode_container(d, count, VALUE_LIST, out); }

static int decode_map(decoder *d, unsigned count, node *out) { return decode_container(d, count, VALUE_MAP, out); }

static int decode_array_item(decoder *d, node *list, node item) {
    settle(&item.value);
    list->items[list->filled++] = item.value;
    if (list->filled == list->value.list.count) d->depth--;
    return 0;
}

/* ---- the numpy forms ---- */

typedef struct element_type {
    char kind;
    int item_bytes;
    bool big_endian;
} element_type;

/* numpy.dtype(text): "<f4", "=f4", "f4", "float32", "<U5", "|S4". */
static bool parse_type(const char *text, size_t length, element_type *type) {
    static const struct {
        const char *name;
        char kind;
        int item_bytes;
    } names[] = {{"bool", 'b', 1},    {"int8", 'i', 1},   {"int16", 'i', 2},   {"int32", 'i', 4},  {"int64", 'i', 8},
                 {"uint8", 'u', 1},   {"uint16", 'u', 2}, {"uint32", 'u', 4},  {"uint64", 'u', 8}, {"half", 'f', 2},
                 {"float16", 'f', 2}, {"single", 'f', 4}, {"float32", 'f', 4}, {"double", 'f', 8}, {"float64", 'f', 8},
                 {"float", 'f', 8},   {"int", 'i', 8},    {"?", 'b', 1}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == length && !memcmp(names[i].name, text, length)) {
            *type = (element_type){names[i].kind, names[i].item_bytes, false};
            return true;
        }
    bool big_endian = length && *text == '>';
    if (length && *text && strchr("<>=|", *text)) text++, length--;
    if (length < 2 || length > 9 || !*text || !strchr("uibfUS", *text)) return false;
    int number = 0;
    for (size_t i = 1; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        number = number * 10 + (text[i] - '0');
    }
    char kind = *text;
    bool power = number == 1 || number == 2 || number == 4 || number == 8;
    bool known = kind == 'b'                  ? number == 1
                 : kind == 'f'                ? power && number > 1
                 : kind == 'U' || kind == 'S' ? number > 0
                                              : power;
    int item_bytes = kind == 'U' ? 4 * number : number;
    *type = (element_type){kind, item_bytes, big_endian && kind != 'S' && item_bytes > 1};
    return known;
}

/* Turns every unit of `unit` bytes around. */
static void swap_units(unsigned char *bytes, size_t size, size_t unit) {
    for (size_t start = 0; start < size; start += unit)
        for (size_t i = 0; i < unit / 2; i++) {
            unsigned char first = bytes[start + i];
            bytes[start + i] = bytes[start + unit - 1 - i];
            bytes[start + unit - 1 - i] = first;
        }
}

static size_t swap_unit(const value_array *array) { return array->kind == 'U' ? 4 : (size_t)array->item_bytes; }

/* The value under a key of bytes, or NULL; the last one wins. */
static const value *find_bytes(const value *map, const char *key) {
    size_t length = strlen(key);
    for (size_t i = map->list.count; i-- > 0;) {
        const value *candidate = &map->list.keys[i];
        if (candidate->kind == VALUE_BYTES && candidate->text.length == length &&
            !memcmp(candidate->text.data, key, length))
            return &map->list.items[i];
    }
    return NULL;
}

static int find_type(decoder *d, const value *map, element_type *type) {
    const value *text = find_bytes(map, "dtype");
    if (!text || (text->kind != VALUE_TEXT && text->kind != VALUE_BYTES))
        return FAIL("expected a dtype in a numpy array, found none");
    if (!parse_type(text->text.data, text->text.length, type))
        return FAIL("expected a numpy dtype of kind u, i, b, f, U or S, found \"%.*s\"",
                    text->text.length < 32 ? (int)text->text.length : 32, text->text.data);
    return 0;
}

static int find_shape(decoder *d, const value *map, value_array *array) {
    const value *shape = find_bytes(map, "shape");
    if (!shape) return FAIL("expected a shape in a numpy array, found none");
    const value *sizes = shape;
    size_t rank = 1; /* numpy takes one number for a tuple of one */
    if (shape->kind == VALUE_LIST) {
        sizes = shape->list.items;
        rank = shape->list.count;
    }
    if (rank > VALUE_MAX_RANK)
        return FAIL("expected an array of at most %d dimensions, found %zu", VALUE_MAX_RANK, rank);
    array->rank = (int)rank;
    /* Sizes of 0 are left out of the product, as numpy does when it looks for arrays that are too large. */
    size_t bytes = (size_t)array->item_bytes;
    bool empty = false, overflow = false;
    for (size_t i = 0; i < rank; i++) {
        if (sizes[i].kind != VALUE_INT || sizes[i].integer < 0)
            return FAIL("expected a shape of sizes from 0 on, found another value");
        array->shape[i] = sizes[i].integer;
        if (!sizes[i].integer)
            empty = true;
        else
            overflow |= __builtin_mul_overflow(bytes, (size_t)sizes[i].integer, &bytes);
    }
    if (overflow || bytes > PTRDIFF_MAX) return FAIL("the shape of an array is too large");
    array->bytes = empty ? 0 : bytes;
    return 0;
}

static int decode_ndarray(decoder *d, value *map) {
    element_type type;
    value_array array = {0};
    if (find_type(d, map, &type)) return -1;
    array.kind = type.kind;
    array.item_bytes = type.item_bytes;
    array.big_endian = type.big_endian;
    if (find_shape(d, map, &array)) return -1;
    const value *data = find_bytes(map, "data");
    if (!data || data->kind != VALUE_BYTES) return FAIL("expected an array's data as bytes, found something else");
    if (data->text.length < array.bytes) {
        char text[192];
        return FAIL("expected %zu bytes of data for an array of %s, found %zu", array.bytes,
                    number_describe(array.kind, array.item_bytes, array.rank, array.shape, text, sizeof text),
                    data->text.length);
    }
    array.data = data->text.data;
    if (array.big_endian) swap_units((unsigned char *)data->text.data, array.bytes, swap_unit(&array));
    map->kind = VALUE_ARRAY;
    map->array = array;
    return 0;
}

/* A number of the message as an element of kind u, i or b; false if it does not fit. */
static bool store_integer(const value *data, const element_type *type, unsigned char *item) {
    uint64_t bits;
    bool negative = false;
    switch (data->kind) {
    case VALUE_BOOL:
        bits = data->boolean;
        break;
    case VALUE_INT:
        bits = (uint64_t)data->integer;
        negative = data->integer < 0;
        break;
    case VALUE_UINT:
        bits = data->unsigned_integer;
        break;
    default:
        return false;
    }
    int width = type->item_bytes * 8;
    if (type->kind == 'b')
        bits = bits != 0;
    else if (type->kind == 'u' && (negative || (width < 64 && bits >> width)))
        return false;
    else if (type->kind == 'i' && !negative && bits >> (width - 1))
        return false;
    else if (type->kind == 'i' && negative && ~bits >> (width - 1))
        return false;
    memcpy(item, &bits, (size_t)type->item_bytes); /* little-endian: the low bytes come first */
    return true;
}

static bool store_float(const value *data, const element_type *type, unsigned char *item) {
    double number;
    switch (data->kind) {
    case VALUE_FLOAT:
        number = data->number;
        break;
    case VALUE_INT:
        number = (double)data->integer;
        break;
    case VALUE_UINT:
        number = (double)data->unsigned_integer;
        break;
    default:
        return false;
    }
    float single = (float)number;
    uint16_t half = half_from_double(number);
    memcpy(item,
           type->item_bytes == 2   ? (void *)&half
           : type->item_bytes == 4 ? (void *)&single
                                   : (void *)&number,
           (size_t)type->item_bytes);
    return true;
}

static int decode_npgeneric(decoder *d, value *map) {
    element_type type;
    if (find_type(d, map, &type)) return -1;
    const value *data = find_bytes(map, "data");
    if (data && ((type.kind == 'U' && data->kind == VALUE_TEXT) || (type.kind == 'S' && data->kind == VALUE_BYTES))) {
        value plain = *data; /* numpy's str and bytes scalars are Python's */
        settle(&plain);
        *map = plain;
        return 0;
    }
    unsigned char *item = block_take(&d->blocks, 8);
    if (!item) return fail_memory(d, 8);
    bool stored = data && (type.kind == 'f'                       ? store_float(data, &type, item)
                           : type.kind != 'U' && type.kind != 'S' ? store_integer(data, &type, item)
                                                                  : false);
    if (!stored) return FAIL("a numpy scalar's data does not fit its dtype");
    map->kind = VALUE_SCALAR;
    map->array =
        (value_array){.kind = type.kind, .item_bytes = type.item_bytes, .bytes = (size_t)type.item_bytes, .data = item};
    return 0;
}

static int decode_map_item(decoder *d, node *map, node key, node item) {
    if (key.value.kind != VALUE_TEXT && key.value.kind != VALUE_BYTES)
        return FAIL("expected text as the key of a map, found something else");
    map->keys[map->filled] = key.value;
    map->items[map->filled++] = item.value;
    if (map->filled < map->value.list.count) return 0;
    d->depth--;
    if (find_bytes(&map->value, "__ndarray__")) return decode_ndarray(d, &map->value);
    if (find_bytes(&map->value, "__npgeneric__")) return decode_npgeneric(d, &map->value);
    for (size_t i = 0; i < map->filled; i++) {
        settle(&map->keys[i]);
        settle(&map->items[i]);
    }
    return 0;
}

static node decode_root(decoder *d) {
    (void)d;
    return (node){0};
}

#define decode_uint8  decode_uint64
#define decode_uint16 decode_uint64
#define decode_uint32 decode_uint64
#define decode_int8   decode_int64
#define decode_int16  decode_int64
#define decode_int32  decode_int64
#define decode_float  decode_double

#define msgpack_unpack_struct(name)     struct template##name
#define msgpack_unpack_func(type, name) static inline type template##name
#define msgpack_unpack_callback(name)   decode##name
#define msgpack_unpack_object           node
#define msgpack_unpack_user             decoder
#include <msgpack/unpack_template.h>

/* Decodes `text`, which stays where it is and may be changed; NULL: a copy of `bytes` is made. */
static pi0_status decode(wire_message *message, char *text, const void *bytes, size_t size, const wire_limits *limits,
                         pi0_error *error) {
    *message = (wire_message){0};
    struct template_context context = {.user = {.limits = limits ? *limits : wire_limits_default(), .error = error}};
    decoder *d = &context.user;
    if (d->limits.max_depth > MSGPACK_EMBED_STACK_SIZE) d->limits.max_depth = MSGPACK_EMBED_STACK_SIZE;
    if (size > d->limits.max_bytes)
        return error_set(error, PI0_ERROR_FORMAT, "expected a message of at most %zu bytes, found %zu",
                         d->limits.max_bytes, size);
    if (d->limits.max_items > size) d->limits.max_items = size; /* a value takes one byte at least */
    bool copied = !text;
    if (copied) text = block_take(&d->blocks, size);
    value *root = block_take(&d->blocks, sizeof *root);
    if (!text || !root) {
        fail_memory(d, size);
    } else {
        if (copied && size) memcpy(text, bytes, size);
        template_init(&context);
        size_t offset = 0;
        int result = size ? template_execute(&context, text, size, &offset) : 0;
        if (result == 0)
            d->status =
                error_set(error, PI0_ERROR_FORMAT, "expected a whole message, found its end after %zu bytes", size);
        else if (result < 0 && d->status == PI0_OK)
            d->status =
                error_set(error, PI0_ERROR_FORMAT, "expected MessagePack, found a reserved type byte at %zu", offset);
        else if (result > 0 && offset != size)
            d->status =
                error_set(error, PI0_ERROR_FORMAT, "expected one value, found %zu bytes after it", size - offset);
        *root = template_data(&context).value;
        settle(root);
    }
    message->memory = d->blocks;
    message->root = root;
    if (d->status) wire_release(message);
    return d->status;
}

pi0_status wire_decode(wire_message *message, const void *bytes, size_t size, const wire_limits *limits,
                       pi0_error *error) {
    return decode(message, NULL, bytes, size, limits, error);
}

pi0_status wire_decode_in_place(wire_message *message, void *bytes, size_t size, const wire_limits *limits,
                                pi0_error *error) {
    return decode(message, bytes, NULL, size, limits, error);
}

/* ---- encoding ---- */

static int append(void *data, const char *bytes, size_t length) {
    wire_buffer *buffer = data;
    if (buffer->failed) return -1;
    if (length > buffer->capacity - buffer->size) {
        size_t capacity = (buffer->size + length) * 2;
        unsigned char *grown = memory_resize(buffer->bytes, buffer->size, capacity);
        if (!grown) {
            buffer->failed = true;
            return -1;
        }
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->bytes + buffer->size, bytes, length);
    buffer->size += length;
    return 0;
}

static void put_text(msgpack_packer *packer, const char *text, size_t length) {
    msgpack_pack_str(packer, length);
    msgpack_pack_str_body(packer, text, length);
}

static void put_bytes(msgpack_packer *packer, const void *bytes, size_t length) {
    msgpack_pack_bin(packer, length);
    msgpack_pack_bin_body(packer, bytes, length);
}

static void put_key(msgpack_packer *packer, const char *key) { put_bytes(packer, key, strlen(key)); }

/* numpy's dtype.str: "<f4", "|u1", "<U5". */
static void put_type(msgpack_packer *packer, const value_array *array) {
    char text[16];
    bool single_bytes = array->kind == 'S' || array->item_bytes == 1;
    snprintf(text, sizeof text, "%c%c%d",
             single_bytes        ? '|'
             : array->big_endian ? '>'
                                 : '<',
             array->kind, array->kind == 'U' ? array->item_bytes / 4 : array->item_bytes);
    put_key(packer, "dtype");
    put_text(packer, text, strlen(text));
}

static void put_array(msgpack_packer *packer, const value_array *array) {
    msgpack_pack_map(packer, 4);
    put_key(packer, "__ndarray__");
    msgpack_pack_true(packer);
    put_key(packer, "data");
    msgpack_pack_bin(packer, array->bytes);
    if (array->big_endian) {
        size_t unit = swap_unit(array);
        for (size_t start = 0; start < array->bytes; start += unit) {
            unsigned char turned[8];
            memcpy(turned, (const unsigned char *)array->data + start, unit);
            swap_units(turned, unit, unit);
            msgpack_pack_bin_body(packer, turned, unit);
        }
    } else {
        msgpack_pack_bin_body(packer, array->data, array->bytes);
    }
    put_type(packer, array);
    put_key(packer, "shape");
    msgpack_pack_array(packer, (size_t)array->rank);
    for (int i = 0; i < array->rank; i++) msgpack_pack_int64(packer, array->shape[i]);
}

static void put_scalar(msgpack_packer *packer, const value_array *array) {
    double number = value_array_number(array, 0);
    if (array->kind == 'f' && array->item_bytes == 8) { /* a Python float to the packer */
        msgpack_pack_double(packer, number);
        return;
    }
    msgpack_pack_map(packer, 3);
    put_key(packer, "__npgeneric__");
    msgpack_pack_true(packer);
    put_key(packer, "data");
    uint64_t bits = 0;
    memcpy(&bits, array->data, array->bytes);
    int unused = 64 - 8 * array->item_bytes;
    if (array->kind == 'f')
        msgpack_pack_double(packer, number);
    else if (array->kind == 'u')
        msgpack_pack_uint64(packer, bits);
    else if (array->kind == 'i')
        msgpack_pack_int64(packer, (int64_t)(bits << unused) >> unused);
    else if (bits)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
    put_type(packer, array);
}

static void put_value(msgpack_packer *packer, const value *v) {
    switch (v->kind) {
    case VALUE_NULL:
        msgpack_pack_nil(packer);
        break;
    case VALUE_BOOL:
        if (v->boolean)
            msgpack_pack_true(packer);
        else
            msgpack_pack_false(packer);
        break;
    case VALUE_INT:
        msgpack_pack_int64(packer, v->integer);
        break;
    case VALUE_UINT:
        msgpack_pack_uint64(packer, v->unsigned_integer);
        break;
    case VALUE_FLOAT:
        msgpack_pack_double(packer, v->number);
        break;
    case VALUE_TEXT:
        put_text(packer, v->text.data, v->text.length);
        break;
    case VALUE_BYTES:
        put_bytes(packer, v->text.data, v->text.length);
        break;
    case VALUE_LIST:
        msgpack_pack_array(packer, v->list.count);
        for (size_t i = 0; i < v->list.count; i++) put_value(packer, &v->list.items[i]);
        break;
    case VALUE_MAP:
        msgpack_pack_map(packer, v->list.count);
        for (size_t i = 0; i < v->list.count; i++) {
            put_value(packer, &v->list.keys[i]);
            put_value(packer, &v->list.items[i]);
        }
        break;
    case VALUE_ARRAY:
        put_array(packer, &v->array);
        break;
    case VALUE_SCALAR:
        put_scalar(packer, &v->array);
        break;
    }
}

void wire_put_value(wire_buffer *buffer, const value *v) { put_value(&(msgpack_packer){buffer, append}, v); }

void wire_put_map(wire_buffer *buffer, size_t count) { msgpack_pack_map(&(msgpack_packer){buffer, append}, count); }

void wire_put_list(wire_buffer *buffer, size_t count) { msgpack_pack_array(&(msgpack_packer){buffer, append}, count); }

void wire_put_text(wire_buffer *buffer, const char *text) {
    put_text(&(msgpack_packer){buffer, append}, text, strlen(text));
}

void wire_put_float(wire_buffer *buffer, double number) {
    msgpack_pack_double(&(msgpack_packer){buffer, append}, number);
}

void wire_put_array(wire_buffer *buffer, char kind, int item_bytes, int rank, const int64_t *shape, const void *data) {
    value_array array = {.kind = kind, .item_bytes = item_bytes, .rank = rank, .data = data};
    for (int i = 0; i < rank; i++) array.shape[i] = shape[i];
    array.bytes = value_array_count(&array) * (size_t)item_bytes;
    put_array(&(msgpack_packer){buffer, append}, &array);
}
