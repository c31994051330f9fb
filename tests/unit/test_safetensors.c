/* safetensors files: what is written reads back; every false claim of a header is refused with its reason. */
#define _GNU_SOURCE /* nftw */
#include "files.h"

#include "checkpoint/safetensors.h"
#include "checkpoint/synthetic.h"

/* A file in memory: length word, header text, `data_bytes` bytes of data. */
static unsigned char *make_file(const char *header, size_t data_bytes, size_t *size) {
    size_t length = strlen(header);
    *size = 8 + length + data_bytes;
    unsigned char *bytes = calloc(1, *size + 1);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) bytes[8 + length + i] = (unsigned char)i;
    return bytes;
}

static pi0_status parse(safetensors **file, unsigned char **bytes, const char *header, size_t data_bytes,
                        pi0_error *error) {
    size_t size;
    *bytes = make_file(header, data_bytes, &size);
    return safetensors_parse(file, *bytes, size, "test file", error);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *message;
    } cases[] = {
        {"", 0, "JSON"},
        {"[]", 0, "JSON object"},
        {"{} x", 0, "JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
         "\"data_offsets\":[0,4]}}",
         4, "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "duplicate"},
        {"{\"a\":3}", 0, "'a': expected an object"},
        {"{\"a\":{\"dtype\":\"X7\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype 'X7'"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'dtype'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4, "'shape'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "axis 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "axis 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "at most 8 axes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}", 4, "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, "JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'data_offsets'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "'data_offsets'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "'data_offsets'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "not inside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "not inside the 3 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
         "expected 8 bytes for F32 [2], found 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
         "\"data_offsets\":[4,8]}}",
         8, "overlap at data byte 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],"
         "\"data_offsets\":[2,3]}}",
         3, "belong to no tensor"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2,
         "expected 1 bytes of data after the header, found 2"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "'a' to be a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        safetensors *file;
        unsigned char *bytes;
        pi0_error error = {0};
        assert_int_equal(parse(&file, &bytes, cases[i].header, cases[i].data_bytes, &error), PI0_ERROR_FORMAT);
        assert_null(file);
        assert_int_equal(error.status, PI0_ERROR_FORMAT);
        if (!strstr(error.message, cases[i].message)) fail_msg("%s: %s", cases[i].header, error.message);
        assert_non_null(strstr(error.message, "test file"));
        free(bytes);
    }
}

static void refuses_false_lengths(void **state) {
    (void)state;
    static const unsigned char longer[] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    static const unsigned char huge[] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    safetensors *file;
    pi0_error error;
    for (size_t size = 0; size < 8; size++)
        assert_int_equal(safetensors_parse(&file, longer, size, "short", &error), PI0_ERROR_FORMAT);
    assert_int_equal(safetensors_parse(&file, longer, sizeof longer, "longer", &error), PI0_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "claims 3 bytes, but the file has only 2"));
    assert_int_equal(safetensors_parse(&file, huge, sizeof huge, "huge", &error), PI0_ERROR_FORMAT);
    assert_null(file);
}

static void refuses_what_is_no_file(void **state) {
    char path[1024];
    safetensors *file;
    pi0_error error;
    assert_int_equal(safetensors_open(&file, *state, &error), PI0_ERROR_IO);
    assert_int_equal(safetensors_open(&file, files_path(path, *state, "absent"), &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "absent"));
    assert_int_equal(mkfifo(files_path(path, *state, "pipe"), 0600), 0);
    assert_int_equal(safetensors_open(&file, path, &error), PI0_ERROR_IO); /* and does not wait for a writer */
    files_write(*state, "empty", "", 0);
    assert_int_equal(safetensors_open(&file, files_path(path, *state, "empty"), &error), PI0_ERROR_FORMAT);
    assert_null(file);
}

static void accepts_odd_but_legal(void **state) {
    (void)state;
    safetensors *file;
    unsigned char *bytes;
    pi0_error error = {0};
    /* out of order, empty and scalar tensors, a misaligned one, trailing blanks, a NUL in the metadata */
    assert_int_equal(
        parse(&file, &bytes,
              "{\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]},\"__metadata__\":{\"k\":\"v\\u0000w\"},"
              "\"z\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[1,1]},"
              "\"a\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[0,1]}}   ",
              5, &error),
        PI0_OK);
    assert_int_equal(safetensors_count(file), 3);
    assert_string_equal(safetensors_at(file, 0)->name, "a");
    assert_string_equal(safetensors_at(file, 1)->name, "z");
    assert_string_equal(safetensors_at(file, 2)->name, "c");
    assert_int_equal(tensor_elements(safetensors_find(file, "a")), 1);
    assert_int_equal(tensor_elements(safetensors_find(file, "z")), 0);
    assert_int_equal(*(const unsigned char *)safetensors_find(file, "c")->data, 1);
    assert_null(safetensors_find(file, "b"));
    assert_null(safetensors_find(file, ""));
    assert_string_equal(safetensors_metadata(file, "k"), "v");
    assert_null(safetensors_metadata(file, "q"));
    safetensors_close(&file);
    free(bytes);
    assert_int_equal(parse(&file, &bytes, "{}", 0, &error), PI0_OK);
    assert_int_equal(safetensors_count(file), 0);
    assert_int_equal(safetensors_metadata_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    safetensors_close(&file);
    safetensors_close(&file);
    free(bytes);
}

static void written_files_read_back(void **state) {
    static const uint8_t small[3] = {7, 8, 9};
    static const double wide[2] = {1.5, -2.5};
    tensor tensors[4] = {
        {.name = "small", .dtype = DTYPE_U8, .rank = 1, .shape = {3}, .bytes = 3, .data = small},
        {.name = "made \"up\"", .dtype = DTYPE_BF16, .rank = 2, .shape = {3000, 1000}, .bytes = 6000000},
        {.name = "wide", .dtype = DTYPE_F64, .rank = 1, .shape = {2}, .bytes = 16, .data = wide},
        {.name = "none", .dtype = DTYPE_F32, .rank = 1, .shape = {0}, .bytes = 0, .data = small},
    };
    tensors[1].key = synthetic_key("x", 3);
    tensors[1].amplitude = 0.5f;
    static const safetensors_pair metadata[] = {{"format", "pt"}, {"\xc3\xa9", "\n"}};
    char path[1024];
    pi0_error error = {0};
    files_path(path, *state, "a.safetensors");
    assert_int_equal(safetensors_write(path, tensors, 4, metadata, 2, NULL, NULL, &error), PI0_OK);
    assert_int_equal(files_count(*state), 1);
    safetensors *file;
    assert_int_equal(safetensors_open(&file, path, &error), PI0_OK);
    assert_int_equal(safetensors_count(file), 4);
    assert_int_equal(safetensors_metadata_count(file), 2);
    const char *key, *value;
    safetensors_metadata_at(file, 1, &key, &value);
    assert_string_equal(key, metadata[1].key);
    assert_string_equal(value, metadata[1].value);
    for (size_t i = 0; i < 4; i++) {
        const tensor *read = safetensors_find(file, tensors[i].name);
        assert_non_null(read);
        assert_int_equal(read->dtype, tensors[i].dtype);
        assert_int_equal(read->bytes, tensors[i].bytes);
        assert_memory_equal(read->shape, tensors[i].shape, sizeof read->shape);
        assert_int_equal((uintptr_t)read->data % tensor_dtype_size(read->dtype), 0);
        if (tensors[i].data) assert_memory_equal(read->data, tensors[i].data, read->bytes);
    }
    bf16 *expected = malloc(6000000);
    assert_non_null(expected);
    synthetic_bf16(tensors[1].key, 0.5f, 0, 0, 3000000, expected);
    assert_memory_equal(safetensors_find(file, tensors[1].name)->data, expected, 6000000);
    free(expected);
    safetensors_close(&file);
}

static int stop(void *user, const char *what, double fraction) {
    (void)what;
    *(double *)user = fraction;
    return 1;
}

static void failed_writes_leave_nothing(void **state) {
    tensor tensor = {.name = "x", .dtype = DTYPE_BF16, .rank = 1, .shape = {20000000}, .bytes = 40000000};
    char path[1024];
    double fraction = 0;
    pi0_error error;
    files_path(path, *state, "a.safetensors");
    assert_int_equal(safetensors_write(path, &tensor, 1, NULL, 0, stop, &fraction, &error), PI0_ERROR_CANCELLED);
    assert_true(fraction > 0 && fraction < 1);
    assert_int_equal(files_count(*state), 0);
    files_path(path, *state, "absent/a.safetensors");
    assert_int_equal(safetensors_write(path, &tensor, 1, NULL, 0, NULL, NULL, &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "absent/a.safetensors"));
    assert_int_equal(files_count(*state), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_false_lengths),
        cmocka_unit_test_setup_teardown(refuses_what_is_no_file, files_setup, files_teardown),
        cmocka_unit_test(accepts_odd_but_legal),
        cmocka_unit_test_setup_teardown(written_files_read_back, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(failed_writes_leave_nothing, files_setup, files_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
