/* MessagePack with numpy arrays against what openpi's client writes and reads (tests/data/golden/wire). */
#include <inttypes.h>
#include <math.h>

#include "allocator.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "data.h"
#include "policy/value.h"

static const char folder[] = "golden/wire";

/* ---- the tree against its description ---- */

static double number_of(const json_t *json) {
    if (!json_is_string(json)) return json_number_value(json);
    const char *text = json_string_value(json);
    return strtod(text, NULL); /* nan, inf, -inf */
}

static void same_number(double found, double expected) {
    if (isnan(expected)) {
        assert_true(isnan(found));
    } else {
        assert_true(found == expected);
        assert_int_equal(signbit(found), signbit(expected));
    }
}

static void same_integer(const value *v, const json_t *json) {
    if (json_is_string(json)) {
        assert_int_equal(v->kind, VALUE_UINT);
        assert_true(v->unsigned_integer == strtoull(json_string_value(json), NULL, 10));
    } else {
        assert_int_equal(v->kind, VALUE_INT);
        assert_true(v->integer == json_integer_value(json));
    }
}

static void same_hash(const void *bytes, size_t size, const json_t *node) {
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, data_hash(bytes, size));
    assert_string_equal(hash, json_string_value(json_object_get(node, "fnv1a64")));
    assert_int_equal(size, json_integer_value(json_object_get(node, "bytes")));
}

/* "<f4" of an array or scalar. */
static const char *type_of(const value_array *array, char text[16]) {
    snprintf(text, 16, "%c%c%d",
             array->item_bytes == 1 || array->kind == 'S' ? '|'
             : array->big_endian                          ? '>'
                                                          : '<',
             array->kind, array->kind == 'U' ? array->item_bytes / 4 : array->item_bytes);
    return text;
}

static void same_elements(const value_array *array, const json_t *values) {
    size_t index;
    json_t *expected;
    json_array_foreach(values, index, expected) {
        const unsigned char *item = (const unsigned char *)array->data + index * (size_t)array->item_bytes;
        if (array->kind == 'U') {
            uint32_t code_point;
            char utf8[64] = "";
            size_t length = 0;
            for (int i = 0; i < array->item_bytes / 4; i++) {
                memcpy(&code_point, item + 4 * i, 4);
                if (!code_point) break;
                length += utf8_write(utf8 + length, code_point);
                utf8[length] = 0;
            }
            assert_string_equal(utf8, json_string_value(expected));
        } else if (array->kind == 'S') {
            char hex[64] = "";
            for (int i = 0; i < array->item_bytes && item[i]; i++) sprintf(hex + 2 * i, "%02x", item[i]);
            assert_string_equal(hex, json_string_value(expected));
        } else if (json_is_boolean(expected)) {
            assert_true(value_array_number(array, index) == json_is_true(expected));
        } else {
            same_number(value_array_number(array, index), number_of(expected));
        }
    }
}

static void same_array(const value_array *array, const json_t *node) {
    char type[16];
    assert_string_equal(type_of(array, type), json_string_value(json_object_get(node, "dtype")));
    json_t *shape = json_object_get(node, "shape");
    assert_int_equal(array->rank, json_array_size(shape));
    for (int i = 0; i < array->rank; i++)
        assert_int_equal(array->shape[i], json_integer_value(json_array_get(shape, (size_t)i)));
    assert_int_equal(array->bytes, value_array_count(array) * (size_t)array->item_bytes);
    if (!array->big_endian) same_hash(array->data, array->bytes, node); /* the hash is of the bytes sent */
    same_elements(array, json_object_get(node, "values"));
}

static void same_scalar(const value_array *array, const json_t *node) {
    char type[16];
    assert_string_equal(type_of(array, type), json_string_value(json_object_get(node, "dtype")));
    json_t *expected = json_object_get(node, "value");
    if (json_is_string(expected) && array->kind == 'u') {
        uint64_t bits;
        memcpy(&bits, array->data, sizeof bits);
        assert_true(bits == strtoull(json_string_value(expected), NULL, 10));
    } else if (json_is_boolean(expected)) {
        assert_true(value_array_number(array, 0) == json_is_true(expected));
    } else {
        same_number(value_array_number(array, 0), number_of(expected));
    }
}

static void same_text(const value *v, const json_t *json) {
    assert_int_equal(v->kind, VALUE_TEXT);
    assert_int_equal(v->text.length, json_string_length(json));
    assert_memory_equal(v->text.data, json_string_value(json), v->text.length);
    assert_int_equal(v->text.data[v->text.length], 0);
}

static void same_value(const value *v, const json_t *node) {
    const char *kind = json_string_value(json_object_get(node, "kind"));
    json_t *expected = json_object_get(node, "value"), *items = json_object_get(node, "items");
    if (!strcmp(kind, "null")) {
        assert_int_equal(v->kind, VALUE_NULL);
    } else if (!strcmp(kind, "bool")) {
        assert_int_equal(v->kind, VALUE_BOOL);
        assert_int_equal(v->boolean, json_is_true(expected));
    } else if (!strcmp(kind, "int")) {
        same_integer(v, expected);
    } else if (!strcmp(kind, "float")) {
        assert_int_equal(v->kind, VALUE_FLOAT);
        same_number(v->number, number_of(expected));
    } else if (!strcmp(kind, "text")) {
        same_text(v, expected);
    } else if (!strcmp(kind, "bytes")) {
        assert_int_equal(v->kind, VALUE_BYTES);
        same_hash(v->text.data, v->text.length, node);
        assert_int_equal(v->text.data[v->text.length], 0);
    } else if (!strcmp(kind, "list")) {
        assert_int_equal(v->kind, VALUE_LIST);
        assert_int_equal(v->list.count, json_array_size(items));
        for (size_t i = 0; i < v->list.count; i++) same_value(&v->list.items[i], json_array_get(items, i));
    } else if (!strcmp(kind, "map")) {
        assert_int_equal(v->kind, VALUE_MAP);
        if (v->list.count != json_array_size(items)) { /* a key twice: Python keeps the last */
            assert_true(v->list.count > json_array_size(items));
            json_t *pair = json_array_get(items, 0);
            same_value(value_find(v, json_string_value(json_array_get(pair, 0))), json_array_get(pair, 1));
            return;
        }
        for (size_t i = 0; i < v->list.count; i++) {
            json_t *pair = json_array_get(items, i);
            same_text(&v->list.keys[i], json_array_get(pair, 0));
            same_value(&v->list.items[i], json_array_get(pair, 1));
            assert_ptr_equal(value_find(v, v->list.keys[i].text.data), &v->list.items[i]);
        }
    } else if (!strcmp(kind, "array")) {
        assert_int_equal(v->kind, VALUE_ARRAY);
        same_array(&v->array, node);
    } else if (!strcmp(kind, "scalar")) {
        assert_int_equal(v->kind, VALUE_SCALAR);
        same_scalar(&v->array, node);
    } else {
        fail_msg("unknown kind %s", kind);
    }
}

/* ---- the golden files ---- */

static pi0_status decode(wire_message *message, const void *bytes, size_t size, pi0_error *error) {
    /* exactly as many bytes as there are, so that a sanitizer sees a read past the end */
    void *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    if (size) memcpy(exact, bytes, size);
    pi0_status status = wire_decode(message, exact, size, NULL, error);
    free(exact);
    return status;
}

static void check_file(const char *where, const char *name) {
    char file[300];
    snprintf(file, sizeof file, "%s.msgpack", name);
    size_t size;
    void *bytes = data_read(where, file, &size);
    snprintf(file, sizeof file, "%s.json", name);
    json_t *description = data_json(where, file);
    json_t *expected = json_object_get(description, "decoded");
    wire_message message;
    pi0_error error = {0};
    pi0_status status = decode(&message, bytes, size, &error);
    bool refused = !strcmp(name, "odd_ext") || !strcmp(name, "odd_timestamp"); /* there is no use for extensions */
    if (!expected || refused) {
        if (status != PI0_ERROR_FORMAT) fail_msg("%s was not refused", name);
        assert_true(strlen(error.message) > 0);
        assert_null(message.root);
    } else {
        if (status) fail_msg("%s: %s", name, error.message);
        same_value(message.root, expected);
        if (strncmp(name, "odd_", 4)) {
            wire_buffer buffer = {0};
            wire_put_value(&buffer, message.root);
            assert_false(buffer.failed);
            assert_int_equal(buffer.size, size);
            assert_memory_equal(buffer.bytes, bytes, size);
            memory_release(buffer.bytes);
        }
    }
    wire_release(&message);
    json_decref(description);
    free(bytes);
}

static void every_file_is_read_as_the_client_reads_it(void **state) {
    (void)state;
    assert_true(data_each(folder, ".msgpack", check_file) >= 40);
}

/* Every prefix of a message is refused, and nothing is read past its end. */
static void every_prefix_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {"request_droid_scalars.msgpack", "dtypes.msgpack", "scalars.msgpack"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        void *bytes = data_read(folder, names[i], &size);
        for (size_t cut = 0; cut < size; cut++) {
            wire_message message;
            assert_int_equal(decode(&message, bytes, cut, NULL), PI0_ERROR_FORMAT);
        }
        free(bytes);
    }
}

/* ---- limits ---- */

static void claims_are_checked_before_memory_is_taken(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } claims[] = {{"\xdd\xff\xff\xff\xff", 5},
                  {"\xdf\xff\xff\xff\xff", 5},
                  {"\xdd\x00\x00\xff\xff\xdd\x00\x00\xff\xff\xdd\x00\x00\xff\xff", 15},
                  {"\xdb\xff\xff\xff\xff"
                   "a",
                   6},
                  {"\xc6\xff\xff\xff\xff"
                   "a",
                   6},
                  {"\xc9\xff\xff\xff\xff"
                   "a",
                   6},
                  {"\xdc\xff\xff", 3},
                  {"\xde\xff\xff", 3}};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        wire_message message;
        allocator_log log;
        allocator_begin(&log, INT_MAX);
        pi0_status status = decode(&message, claims[i].bytes, claims[i].size, NULL);
        allocator_end();
        assert_int_equal(status, PI0_ERROR_FORMAT);
        assert_true(log.bytes < 100000);
    }
}

static void limits_hold(void **state) {
    (void)state;
    wire_limits limits = wire_limits_default();
    unsigned char nested[200];
    memset(nested, 0x91, sizeof nested);
    wire_message message;
    for (int depth = 1; depth < 100; depth++) {
        nested[depth] = 0xc0;
        pi0_status status = wire_decode(&message, nested, (size_t)depth + 1, &limits, NULL);
        assert_int_equal(status, depth <= 32 ? PI0_OK : PI0_ERROR_FORMAT);
        wire_release(&message);
        limits.max_depth = 1000; /* more than there is room for */
        status = wire_decode(&message, nested, (size_t)depth + 1, &limits, NULL);
        assert_int_equal(status, depth <= 64 ? PI0_OK : PI0_ERROR_FORMAT);
        wire_release(&message);
        limits.max_depth = 32;
        nested[depth] = 0x91;
    }
    limits.max_items = 3;
    assert_int_equal(wire_decode(&message, "\x93\x01\x02\x03", 4, &limits, NULL), PI0_OK);
    wire_release(&message);
    assert_int_equal(wire_decode(&message, "\x94\x01\x02\x03\x04", 5, &limits, NULL), PI0_ERROR_FORMAT);
    assert_int_equal(wire_decode(&message, "\x92\x01\x92\x03\x04", 5, &limits, NULL), PI0_ERROR_FORMAT);
    limits.max_bytes = 4;
    assert_int_equal(wire_decode(&message, "\x94\x01\x02\x03\x04", 5, &limits, NULL), PI0_ERROR_FORMAT);
}

/* ---- failing allocations ---- */

static void failing_allocations_are_reported(void **state) {
    (void)state;
    size_t size;
    void *bytes = data_read(folder, "plain.msgpack", &size);
    pi0_status status = PI0_ERROR_MEMORY;
    for (int k = 0; status != PI0_OK; k++) {
        wire_message message;
        wire_buffer buffer = {0};
        allocator_log log;
        allocator_begin(&log, k);
        status = wire_decode(&message, bytes, size, NULL, NULL);
        log.left = 0;
        if (status == PI0_OK) wire_put_value(&buffer, message.root);
        allocator_end();
        if (status == PI0_OK)
            assert_true(buffer.failed);
        else
            assert_int_equal(status, PI0_ERROR_MEMORY);
        memory_release(buffer.bytes);
        wire_release(&message);
        assert_true(k < 1000);
    }
    free(bytes);
}

/* ---- the rest of value.h ---- */

static void pieces_make_the_same_bytes(void **state) {
    (void)state;
    size_t size;
    unsigned char *expected = data_read(folder, "response_float32.msgpack", &size);
    wire_message message;
    assert_int_equal(decode(&message, expected, size, NULL), PI0_OK);
    const value *actions = value_find(message.root, "actions");
    assert_non_null(actions);
    wire_buffer whole = {0}, pieces = {0};
    wire_put_value(&whole, actions);
    wire_put_array(&pieces, actions->array.kind, actions->array.item_bytes, actions->array.rank, actions->array.shape,
                   actions->array.data);
    assert_int_equal(whole.size, pieces.size);
    assert_memory_equal(whole.bytes, pieces.bytes, whole.size);
    memory_release(whole.bytes);
    memory_release(pieces.bytes);
    wire_release(&message);
    free(expected);
    wire_buffer map = {0};
    wire_put_map(&map, 1);
    wire_put_text(&map, "infer_ms");
    wire_put_float(&map, 1.5);
    assert_int_equal(map.size, 19);
    assert_memory_equal(map.bytes, "\x81\xa8infer_ms\xcb\x3f\xf8\0\0\0\0\0\0", 19);
    memory_release(map.bytes);
}

static void values_are_described(void **state) {
    (void)state;
    static const char text[] = "\x89\xa1"
                               "a\x84\xc4\x0b__ndarray__\xc3\xc4\x04"
                               "data\xc4\x08"
                               "12345678\xc4\x05"
                               "dtype\xa3<f4\xc4\x05shape\x92\x01\x02"
                               "\xa1"
                               "b\x83\xc4\x0d__npgeneric__\xc3\xc4\x04"
                               "data\x07\xc4\x05"
                               "dtype\xa3<i4"
                               "\xa1"
                               "c\x93\x01\x02\x03\xa1"
                               "d\xa2xy\xa1"
                               "e\xc4\x03"
                               "abc\xa1"
                               "f\xc0\xa1"
                               "g\xc2\xa1"
                               "h\x07\xa1"
                               "i\xcb\0\0\0\0\0\0\0\0";
    static const char *const expected[] = {
        "float32 array [1, 2]", "int32 scalar", "list of 3", "text", "3 bytes", "null", "bool", "integer", "number"};
    wire_message message;
    pi0_error error;
    pi0_status status = decode(&message, text, sizeof text - 1, &error);
    if (status) fail_msg("%s", error.message);
    for (size_t i = 0; i < 9; i++) {
        char key[2] = {(char)('a' + i), 0}, described[100];
        assert_string_equal(value_describe(value_find(message.root, key), described, sizeof described), expected[i]);
    }
    assert_null(value_find(message.root, "z"));
    assert_null(value_find(NULL, "a"));
    char short_text[8];
    assert_string_equal(value_describe(value_find(message.root, "a"), short_text, sizeof short_text), "float32");
    wire_release(&message);
}

/* Scalars must fit their dtype. */
static void scalars_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *data, *type;
        size_t length;
        bool good;
    } cases[] = {{"\x7f", "|i1", 1, true},
                 {"\xcc\x80", "|i1", 2, false},
                 {"\xd0\x80", "|i1", 2, true},
                 {"\xd1\xff\x7f", "|i1", 3, false},
                 {"\xcc\xff", "|u1", 2, true},
                 {"\xcd\x01\x00", "|u1", 3, false},
                 {"\xff", "<u8", 1, false},
                 {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "<i8", 9, false},
                 {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "<f8", 9, true},
                 {"\xc3", "|b1", 1, true},
                 {"\xc0", "<f4", 1, false},
                 {"\xa1x", "<U1", 2, true},
                 {"\xa1x", "<f4", 2, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char bytes[100] = "\x83\xc4\x0d__npgeneric__\xc3\xc4\x04"
                          "data";
        size_t size = strlen(bytes);
        memcpy(bytes + size, cases[i].data, cases[i].length);
        size += cases[i].length;
        memcpy(bytes + size,
               "\xc4\x05"
               "dtype\xa3",
               8);
        memcpy(bytes + size + 8, cases[i].type, 3);
        wire_message message;
        pi0_status status = decode(&message, bytes, size + 11, NULL);
        if ((status == PI0_OK) != cases[i].good) fail_msg("case %zu", i);
        wire_release(&message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_is_read_as_the_client_reads_it),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(claims_are_checked_before_memory_is_taken),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(failing_allocations_are_reported),
        cmocka_unit_test(pieces_make_the_same_bytes),
        cmocka_unit_test(values_are_described),
        cmocka_unit_test(scalars_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
