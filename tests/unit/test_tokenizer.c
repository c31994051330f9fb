/* Token ids and prompts against what sentencepiece and openpi's tokenizer class gave (tests/data/golden/tokenizer). */
#include <math.h>
#include <unistd.h>

#include "base/memory.h"
#include "data.h"
#include "policy/prompt.h"

static const char folder[] = "golden/tokenizer";

static int open_tiny(void **state) {
    char path[1024];
    pi0_error error;
    tokenizer *tiny;
    if (tokenizer_open(&tiny, data_path(path, sizeof path, folder, "tiny.model"), &error))
        fail_msg("%s", error.message);
    *state = tiny;
    return 0;
}

static int close_tiny(void **state) {
    tokenizer *tiny = *state;
    tokenizer_close(&tiny);
    assert_null(tiny);
    tokenizer_close(&tiny);
    return 0;
}

static void same_ids(const int32_t *ids, const json_t *expected) {
    for (size_t i = 0; i < json_array_size(expected); i++)
        assert_int_equal(ids[i], json_integer_value(json_array_get(expected, i)));
}

static void texts_give_the_librarys_ids(void **state) {
    tokenizer *tiny = *state;
    json_t *golden = data_json(folder, "pairs.json"), *pairs = json_object_get(golden, "pairs"), *pair;
    assert_int_equal(tokenizer_vocabulary(tiny), json_integer_value(json_object_get(golden, "vocab_size")));
    assert_true(json_array_size(pairs) > 50);
    size_t index;
    json_array_foreach(pairs, index, pair) {
        json_t *text = json_object_get(pair, "text"), *expected = json_object_get(pair, "ids");
        int32_t *ids;
        size_t count;
        assert_int_equal(tokenizer_encode(tiny, json_string_value(text), json_string_length(text), &ids, &count, NULL),
                         PI0_OK);
        assert_int_equal(count, json_array_size(expected));
        same_ids(ids, expected);
        memory_release(ids);
    }
    json_decref(golden);
}

static void prompts_give_openpis_tokens(void **state) {
    tokenizer *tiny = *state;
    json_t *golden = data_json(folder, "prompts.json"), *item;
    assert_true(json_array_size(golden) > 50);
    size_t index;
    json_array_foreach(golden, index, item) {
        json_t *text = json_object_get(item, "prompt"), *numbers = json_object_get(item, "state");
        int max_tokens = (int)json_integer_value(json_object_get(item, "max_len"));
        int valid = (int)json_integer_value(json_object_get(item, "valid"));
        double values[64];
        size_t count = json_array_size(numbers);
        assert_true(count <= 64);
        for (size_t i = 0; i < count; i++) values[i] = json_number_value(json_array_get(numbers, i));
        int32_t *ids = malloc((size_t)max_tokens * sizeof *ids);
        bool *mask = malloc((size_t)max_tokens);
        prompt_tokens result;
        pi0_error error;
        if (prompt_tokenize(&result, ids, mask, max_tokens, tiny, json_is_null(numbers) ? PROMPT_PLAIN : PROMPT_STATE,
                            json_string_value(text), json_string_length(text), values, count, &error))
            fail_msg("%s", error.message);
        assert_int_equal(result.valid, valid);
        assert_int_equal(json_array_size(json_object_get(item, "ids")), valid);
        same_ids(ids, json_object_get(item, "ids"));
        for (int i = 0; i < max_tokens; i++) {
            assert_int_equal(mask[i], i < valid);
            if (i >= valid) assert_int_equal(ids[i], 0);
        }
        free(ids);
        free(mask);
    }
    json_decref(golden);
}

static void lerobots_prompt_keeps_what_openpis_cleans(void **state) {
    tokenizer *tiny = *state;
    static const struct {
        const char *text, *encoded;
    } cases[] = {{"", "\n"},           {"\n", "\n"},      {"pick_up", "pick_up\n"}, {" a\nb ", " a\nb \n"},
                 {"done\n", "done\n"}, {"x\n\n", "x\n\n"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t ids[48], *expected;
        size_t count;
        prompt_tokens result;
        assert_int_equal(prompt_tokenize(&result, ids, NULL, 48, tiny, PROMPT_LEROBOT_PLAIN, cases[i].text,
                                         strlen(cases[i].text), NULL, 0, NULL),
                         PI0_OK);
        assert_int_equal(tokenizer_encode(tiny, cases[i].encoded, strlen(cases[i].encoded), &expected, &count, NULL),
                         PI0_OK);
        assert_int_equal(result.valid, count + 1);
        assert_int_equal(ids[0], 2);
        assert_memory_equal(ids + 1, expected, count * sizeof *ids);
        memory_release(expected);
    }
}

static void bins_are_numpys(void **state) {
    (void)state;
    assert_int_equal(prompt_state_bin(-1), 0);
    assert_int_equal(prompt_state_bin(nextafter(-1, -2)), -1);
    assert_int_equal(prompt_state_bin(0.0), 128);
    assert_int_equal(prompt_state_bin(-0.0), 128);
    assert_int_equal(prompt_state_bin(-5e-324), 127);
    assert_int_equal(prompt_state_bin(0.9921875), 255);
    assert_int_equal(prompt_state_bin(nextafter(0.9921875, 0)), 254);
    assert_int_equal(prompt_state_bin(1e300), 255);
    assert_int_equal(prompt_state_bin(-1e308), -1);
    assert_int_equal(prompt_state_bin(NAN), 255);
    assert_int_equal(prompt_state_bin(INFINITY), 255);
    assert_int_equal(prompt_state_bin(-INFINITY), -1);
    for (int k = 0; k < 256; k++) { /* every edge and its neighbours */
        double edge = -1 + k / 128.0;
        assert_int_equal(prompt_state_bin(edge), k);
        assert_int_equal(prompt_state_bin(nextafter(edge, 2)), k);
        assert_int_equal(prompt_state_bin(nextafter(edge, -2)), k - 1);
    }
}

static void only_pythons_white_space_is_stripped(void **state) {
    (void)state;
    static const struct {
        const char *text, *cleaned;
    } cases[] = {{" \t\r\n\x1c\x1f x \v\f", "x"},
                 {"\xc2\x85\xc2\xa0\xe1\x9a\x80x\xe2\x80\x80\xe2\x80\x8a\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaf", "x"},
                 {"\xe2\x81\x9fx\xe3\x80\x80", "x"},
                 {"\xe1\xa0\x8ex\xe2\x80\x8b", "\xe1\xa0\x8ex\xe2\x80\x8b"}, /* 180E, 200B stay */
                 {"\xef\xbb\xbfx", "\xef\xbb\xbfx"},
                 {"_x_", " x "},
                 {"a\nb\tc\rd", "a b\tc\rd"},
                 {" \n ", ""},
                 {"", ""},
                 {"\xc3\xa9 ", "\xc3\xa9"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].text);
        char *text = malloc(length + 1), *start; /* exact: a sanitizer sees a read past the end */
        memcpy(text, cases[i].text, length);
        text = realloc(text, length ? length : 1);
        length = prompt_clean(text, length, &start);
        assert_int_equal(length, strlen(cases[i].cleaned));
        assert_memory_equal(start, cases[i].cleaned, length);
        free(text);
    }
}

static void long_prompts_are_cut_and_said_to_be(void **state) {
    tokenizer *tiny = *state;
    char *words = malloc(60001);
    for (int i = 0; i < 10000; i++) memcpy(words + 6 * i, "block ", 7);
    int32_t ids[200];
    bool mask[200];
    prompt_tokens result;
    assert_int_equal(prompt_tokenize(&result, ids, mask, 48, tiny, PROMPT_PLAIN, words, 60000, NULL, 0, NULL), PI0_OK);
    assert_true(result.truncated);
    assert_int_equal(result.valid, 48);
    assert_true(result.full_count >= 10000);
    assert_int_equal(ids[0], 2);
    double zeros[14] = {0};
    assert_int_equal(prompt_tokenize(&result, ids, mask, 200, tiny, PROMPT_STATE, words, 60000, zeros, 14, NULL),
                     PI0_OK);
    assert_true(result.truncated);
    assert_int_equal(result.valid, 200);
    assert_int_equal(prompt_tokenize(&result, ids, mask, 200, tiny, PROMPT_STATE, "x", 1, zeros, 14, NULL), PI0_OK);
    assert_false(result.truncated);
    assert_int_equal(result.full_count, result.valid);
    pi0_error error = {0};
    assert_int_equal(prompt_tokenize(&result, ids, mask, 48, tiny, PROMPT_PLAIN, "\xff", 1, NULL, 0, &error),
                     PI0_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "UTF-8"));
    free(words);
}

/* ---- files that are no models ---- */

static void refused(const void *bytes, size_t size) {
    tokenizer *none = (tokenizer *)1;
    pi0_error error = {0};
    void *exact = malloc(size ? size : 1);
    if (size) memcpy(exact, bytes, size);
    assert_true(tokenizer_parse(&none, exact, size, "file", &error) != PI0_OK);
    assert_null(none);
    assert_int_equal(strncmp(error.message, "file: ", 6), 0);
    free(exact);
}

static void garbage_is_refused(void **state) {
    (void)state;
    refused("", 0);
    refused("hello, world", 12);
    refused("{\"model\": 1}", 12);
    char random[4096];
    uint32_t seed = 1;
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof random; i++) random[i] = (char)((seed = seed * 1664525 + 1013904223) >> 24);
        refused(random, sizeof random);
    }
    tokenizer *none;
    pi0_error error;
    assert_int_equal(tokenizer_open(&none, "/nonexistent/tokenizer.model", &error), PI0_ERROR_IO);
    assert_int_equal(tokenizer_open(&none, "/", &error), PI0_ERROR_IO);
}

/* A piece message: text, score 0, type. */
static size_t put_piece(char *out, const char *text, size_t length, char type) {
    char *at = out;
    *at++ = 0x0a;
    *at++ = (char)(length + 4);
    *at++ = 0x0a;
    *at++ = (char)length;
    memcpy(at, text, length);
    at += length;
    *at++ = 0x18;
    *at++ = type;
    return (size_t)(at - out);
}

static void unsafe_models_are_refused(void **state) {
    (void)state;
    enum { NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4 };
    char model[16384];
    size_t unknown = put_piece(model, "<unk>", 5, UNKNOWN), size;
    /* 65 symbols that begin with each other: the library has room for 64 */
    char letters[100];
    memset(letters, 'a', sizeof letters);
    for (size_t count = 64; count <= 65; count++) {
        size = unknown;
        for (size_t length = 1; length <= count; length++)
            size += put_piece(model + size, letters, length, USER_DEFINED);
        memcpy(model + size, "\x12\x02\x18\x02\x1a\x02\x18\x00", 8); /* BPE, no dummy prefix */
        if (count == 64) {
            tokenizer *good;
            pi0_error error;
            if (tokenizer_parse(&good, model, size + 8, "file", &error)) fail_msg("%s", error.message);
            int32_t *ids;
            size_t id_count;
            assert_int_equal(tokenizer_encode(good, letters, 100, &ids, &id_count, NULL), PI0_OK);
            assert_int_equal(id_count, 2);
            memory_release(ids);
            tokenizer_close(&good);
        } else {
            refused(model, size + 8);
        }
    }
    size = unknown + put_piece(model + unknown, "a\0b", 3, USER_DEFINED); /* NUL in a symbol */
    refused(model, size);
    size = unknown + put_piece(model + unknown, "", 0, NORMAL);
    refused(model, size);
    size = unknown + put_piece(model + unknown, "\xff", 1, NORMAL);
    refused(model, size);
    size = unknown + put_piece(model + unknown, "a", 1, NORMAL);
    size += put_piece(model + size, "a", 1, NORMAL); /* the library's own check */
    refused(model, size);
    size = unknown + put_piece(model + unknown, "a", 1, NORMAL);
    /* normalizer_spec: a compiled trie of one unit that claims children far away */
    memcpy(model + size, "\x1a\x0b\x12\x09\x04\0\0\0\xff\xff\xff\x7f\0", 13);
    refused(model, size + 13);
    memcpy(model + size, "\x1a\x0b\x12\x09\xff\xff\xff\xff\xff\xff\xff\x7f\0", 13); /* and one that claims to be long */
    refused(model, size + 13);
}

static void every_prefix_of_a_model_is_safe(void **state) {
    (void)state;
    size_t size;
    char *bytes = data_read(folder, "tiny.model", &size);
    for (size_t cut = 0; cut < size; cut += cut < 300 ? 1 : 37) {
        tokenizer *maybe;
        char *exact = malloc(cut ? cut : 1);
        memcpy(exact, bytes, cut);
        if (tokenizer_parse(&maybe, exact, cut, "file", NULL) == PI0_OK)
            tokenizer_close(&maybe);
        else
            assert_null(maybe);
        free(exact);
    }
    free(bytes);
}

/* Standard error stays empty whatever the file holds. */
static void nothing_is_printed(void **state) {
    char name[] = "/tmp/test_tokenizer_XXXXXX";
    int file = mkstemp(name), saved = dup(2);
    assert_true(file >= 0 && saved >= 0);
    fflush(stderr);
    dup2(file, 2);
    garbage_is_refused(state);
    unsafe_models_are_refused(state);
    every_prefix_of_a_model_is_safe(state);
    fflush(stderr);
    dup2(saved, 2);
    off_t printed = lseek(file, 0, SEEK_END);
    close(saved);
    close(file);
    unlink(name);
    assert_int_equal(printed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_give_the_librarys_ids),
        cmocka_unit_test(prompts_give_openpis_tokens),
        cmocka_unit_test(lerobots_prompt_keeps_what_openpis_cleans),
        cmocka_unit_test(bins_are_numpys),
        cmocka_unit_test(only_pythons_white_space_is_stripped),
        cmocka_unit_test(long_prompts_are_cut_and_said_to_be),
        cmocka_unit_test(garbage_is_refused),
        cmocka_unit_test(unsafe_models_are_refused),
        cmocka_unit_test(every_prefix_of_a_model_is_safe),
        cmocka_unit_test(nothing_is_printed),
    };
    return cmocka_run_group_tests(tests, open_tiny, close_tiny);
}
