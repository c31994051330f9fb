/* PNG and JPEG files against what Pillow made of them (tests/data/images), and what is no image. */
#include <inttypes.h>
#include <math.h>

#include "allocator.h"
#include "data.h"
#include "policy/image.h"

static const char folder[] = "images";

static void files_give_pillows_pixels(void **state) {
    (void)state;
    json_t *golden = data_json(folder, "expected.json"), *expected;
    const char *name;
    assert_true(json_object_size(json_object_get(golden, "files")) >= 10);
    json_object_foreach(json_object_get(golden, "files"), name, expected) {
        char path[1024], hash[17];
        image decoded;
        pi0_error error;
        if (image_open(&decoded, data_path(path, sizeof path, folder, name), &error)) fail_msg("%s", error.message);
        assert_int_equal(decoded.height, json_integer_value(json_object_get(expected, "height")));
        assert_int_equal(decoded.width, json_integer_value(json_object_get(expected, "width")));
        size_t bytes = 3 * (size_t)decoded.height * (size_t)decoded.width;
        double mean = 0;
        for (size_t i = 0; i < bytes; i++) mean += decoded.pixels[i] / (double)bytes;
        assert_true(fabs(mean - json_number_value(json_object_get(expected, "mean"))) < 0.1);
        snprintf(hash, sizeof hash, "%016" PRIx64, data_hash(decoded.pixels, bytes));
        /* releases of the JPEG decoder may differ in a last place, PNG's may not */
        if (strstr(name, ".png")) assert_string_equal(hash, json_string_value(json_object_get(expected, "fnv1a64")));
        image_release(&decoded);
        assert_null(decoded.pixels);
        image_release(&decoded);
    }
    json_decref(golden);
}

/* Returns how many bytes the library took. */
static size_t refused(const void *bytes, size_t size, pi0_status status, const char *says) {
    image decoded;
    pi0_error error = {0};
    void *exact = malloc(size ? size : 1); /* a sanitizer sees a read past the end */
    if (size) memcpy(exact, bytes, size);
    allocator_log log;
    allocator_begin(&log, INT_MAX);
    pi0_status found = image_decode(&decoded, exact, size, "file", &error);
    allocator_end();
    free(exact);
    assert_null(decoded.pixels);
    if (found != status || !strstr(error.message, says)) fail_msg("status %d, %s", found, error.message);
    assert_int_equal(strncmp(error.message, "file: ", 6), 0);
    return log.bytes;
}

static void what_is_no_image_is_refused(void **state) {
    (void)state;
    refused("", 0, PI0_ERROR_FORMAT, "empty");
    refused("GIF89a, really", 14, PI0_ERROR_FORMAT, "expected a PNG or JPEG image");
    refused("\x89PNG\r\n\x1a\n", 8, PI0_ERROR_FORMAT, "damaged PNG");
    refused("\xff\xd8\xff", 3, PI0_ERROR_FORMAT, "damaged JPEG");
    size_t size;
    char *cmyk = data_read(folder, "cmyk.jpg", &size);
    refused(cmyk, size, PI0_ERROR_UNSUPPORTED, "CMYK");
    free(cmyk);
    image decoded;
    pi0_error error;
    assert_int_equal(image_open(&decoded, "/nonexistent/image.png", &error), PI0_ERROR_IO);
    assert_non_null(strstr(error.message, "/nonexistent/image.png"));
    assert_int_equal(image_open(&decoded, "/", &error), PI0_ERROR_IO);
}

static void truncated_files_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"rgb.png", "palette.png", "colour.jpg", "progressive.jpg"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        char *bytes = data_read(folder, names[i], &size);
        size_t last = size - (strstr(names[i], ".png") ? 16 : 2); /* end of the pixels: the end marker may be missing */
        for (size_t cut = 0; cut < last; cut += 3) {
            image decoded;
            pi0_error error;
            char *exact = malloc(cut ? cut : 1);
            memcpy(exact, bytes, cut);
            if (image_decode(&decoded, exact, cut, names[i], &error) == PI0_OK)
                fail_msg("%s accepted %zu of %zu bytes", names[i], cut, size);
            free(exact);
        }
        free(bytes);
    }
}

/* Only the header says how large the image is: it is refused before memory is taken for it. */
static void huge_claims_are_refused_before_memory_is_taken(void **state) {
    (void)state;
    size_t size;
    unsigned char *jpeg = data_read(folder, "colour.jpg", &size);
    size_t frame = 2; /* the SOF0 segment has height and width behind its length and precision */
    while (frame + 9 < size && jpeg[frame + 1] != 0xc0) frame += 2 + (size_t)(jpeg[frame + 2] << 8 | jpeg[frame + 3]);
    memcpy(jpeg + frame + 5, "\xff\xdc\xff\xdc", 4); /* the most the decoder itself takes */
    assert_true(refused(jpeg, size, PI0_ERROR_FORMAT, "65500x65500") < 1000);
    free(jpeg);
}

static void missing_memory_is_reported(void **state) {
    (void)state;
    static const char *const names[] = {"rgb.png", "colour.jpg"};
    for (size_t i = 0; i < 2; i++) {
        size_t size;
        void *bytes = data_read(folder, names[i], &size);
        image decoded;
        allocator_log log;
        allocator_begin(&log, 0);
        pi0_status status = image_decode(&decoded, bytes, size, names[i], NULL);
        allocator_end();
        assert_int_equal(status, PI0_ERROR_MEMORY);
        free(bytes);
    }
}

static void planes_become_pixels(void **state) {
    (void)state;
    static const uint8_t planes[12] = {1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24};
    static const uint8_t expected[12] = {1, 11, 21, 2, 12, 22, 3, 13, 23, 4, 14, 24};
    uint8_t pixels[12];
    image_interleave(pixels, planes, 2, 2);
    assert_memory_equal(pixels, expected, sizeof pixels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_give_pillows_pixels),   cmocka_unit_test(what_is_no_image_is_refused),
        cmocka_unit_test(truncated_files_are_refused), cmocka_unit_test(huge_claims_are_refused_before_memory_is_taken),
        cmocka_unit_test(missing_memory_is_reported),  cmocka_unit_test(planes_become_pixels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
