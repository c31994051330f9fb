/*
 * Both resizes against what openpi and lerobot made of the images of golden requests, and the fast passes against the
 * plain ones.
 */
#include <inttypes.h>
#include <math.h>

#include "allocator.h"
#include "checkpoint/safetensors.h"
#include "data.h"
#include "policy/resize.h"

static safetensors *open_golden(const char *folder, const char *name) {
    char path[1024], file[300];
    snprintf(file, sizeof file, "%s.safetensors", name);
    safetensors *tensors;
    pi0_error error;
    if (safetensors_open(&tensors, data_path(path, sizeof path, folder, file), &error)) fail_msg("%s", error.message);
    return tensors;
}

/* ---- golden/policy: hashes of Pillow's bytes ---- */

/* Which request image becomes which of the model's. */
static const struct {
    const char *request, *model;
} cameras[] = {{"images/cam_high", "base_0_rgb"},
               {"images/cam_left_wrist", "left_wrist_0_rgb"},
               {"images/cam_right_wrist", "right_wrist_0_rgb"},
               {"observation/exterior_image_1_left", "base_0_rgb"},
               {"observation/wrist_image_left", "left_wrist_0_rgb"},
               {"observation/image", "base_0_rgb"},
               {"observation/wrist_image", "left_wrist_0_rgb"}};

static int hashes_checked;

static void check_image(const tensor *sent, const json_t *expected) {
    if (!sent || sent->dtype != DTYPE_U8 || !expected) return;
    bool planes = sent->shape[0] == 3;
    int height = (int)sent->shape[planes ? 1 : 0], width = (int)sent->shape[planes ? 2 : 1];
    uint8_t *pixels = malloc(sent->bytes), *out = malloc(224 * 224 * 3);
    size_t plane = (size_t)height * (size_t)width;
    for (size_t i = 0; i < sent->bytes; i++)
        pixels[planes ? i % plane * 3 + i / plane : i] = ((const uint8_t *)sent->data)[i];
    for (int isa = RESIZE_AUTO; isa <= RESIZE_PLAIN; isa++) {
        memset(out, 0xaa, 224 * 224 * 3);
        assert_int_equal(resize_with_pad_isa(out, 224, pixels, height, width, (resize_isa)isa, NULL), PI0_OK);
        char hash[17];
        snprintf(hash, sizeof hash, "%016" PRIx64, data_hash(out, 224 * 224 * 3));
        assert_string_equal(hash, json_string_value(json_object_get(expected, "fnv1a64")));
    }
    free(pixels);
    free(out);
    hashes_checked++;
}

static void check_request(const char *folder, const char *name) {
    if (!strncmp(name, "error_", 6)) return;
    safetensors *file = open_golden(folder, name);
    json_t *images = json_loads(safetensors_metadata(file, "images"), 0, NULL);
    assert_non_null(images);
    for (size_t i = 0; i < sizeof cameras / sizeof *cameras; i++) {
        char tensor_name[100];
        snprintf(tensor_name, sizeof tensor_name, "request/%s", cameras[i].request);
        check_image(safetensors_find(file, tensor_name), json_object_get(images, cameras[i].model));
    }
    json_decref(images);
    safetensors_close(&file);
}

static void golden_requests_give_pillows_bytes(void **state) {
    (void)state;
    data_each("golden/policy", ".safetensors", check_request);
    assert_true(hashes_checked >= 80);
}

/* ---- golden/lerobot_*: the model's float images ---- */

static void check_lerobot(const char *folder) {
    safetensors *file = open_golden(folder, "expected");
    const tensor *expected = safetensors_find(file, "model_images");
    assert_non_null(expected);
    const char *order = safetensors_metadata(file, "model_image_order"); /* names joined by + */
    assert_non_null(order);
    int size = (int)expected->shape[2];
    size_t count = 3 * (size_t)size * (size_t)size;
    float *out = malloc(count * sizeof *out);
    for (size_t camera = 0; camera < (size_t)expected->shape[0]; camera++) {
        char name[200];
        int length = (int)strcspn(order, "+");
        snprintf(name, sizeof name, "raw/%.*s", length, order);
        order += length + (order[length] == '+');
        const tensor *raw = safetensors_find(file, name);
        if (!raw) fail_msg("no tensor %s", name);
        pi0_error error;
        if (resize_with_pad_torch(out, size, raw->data, (int)raw->shape[0], (int)raw->shape[1], &error))
            fail_msg("%s", error.message);
        const float *wanted = (const float *)expected->data + camera * count;
        for (size_t i = 0; i < count; i++) {
            float value;
            memcpy(&value, wanted + i, sizeof value);
            if (!(fabsf(out[i] - value) <= 6e-7f)) fail_msg("%s [%zu]: %g, not %g", name, i, out[i], value);
        }
    }
    free(out);
    safetensors_close(&file);
}

static void lerobot_images_are_within_rounding(void **state) {
    (void)state;
    check_lerobot("golden/lerobot_tiny_pi0");
    check_lerobot("golden/lerobot_tiny_pi05");
}

/* ---- variants, sizes, errors ---- */

static void fast_passes_give_the_plain_ones_bytes(void **state) {
    (void)state;
    static const int sizes[][2] = {{480, 640}, {640, 480}, {1, 1},   {1, 224},   {224, 1},    {2, 400},   {3, 5},
                                   {18, 18},   {320, 323}, {223, 7}, {225, 11},  {1200, 9},   {224, 300}, {300, 224},
                                   {5, 6},     {97, 131},  {7, 2},   {8, 1000},  {1000, 17},  {448, 448}, {224, 224},
                                   {56, 60},   {900, 900}, {57, 57}, {950, 953}, {720, 1280}, {66, 299}};
    uint32_t random = 1;
    resize_plan *plan = NULL;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int size = 56; size <= 224; size += 168) {
            int height = sizes[i][0], width = sizes[i][1];
            size_t bytes = (size_t)height * (size_t)width * 3, out_bytes = (size_t)size * (size_t)size * 3;
            uint8_t *pixels = malloc(bytes); /* no slack: a sanitizer sees a read past the end */
            uint8_t *fast = malloc(out_bytes), *plain = malloc(out_bytes);
            for (size_t at = 0; at < bytes; at++) {
                random = random * 1664525 + 1013904223;
                pixels[at] = i % 3 ? (uint8_t)(random >> 24) : 255; /* white: the largest sums */
            }
            memset(plain, 2, out_bytes);
            pi0_status status = resize_with_pad_isa(plain, size, pixels, height, width, RESIZE_PLAIN, NULL);
            for (int isa = RESIZE_AUTO; isa < RESIZE_PLAIN; isa++) {
                memset(fast, 1, out_bytes);
                assert_int_equal(status, resize_with_pad_isa(fast, size, pixels, height, width, (resize_isa)isa, NULL));
                if (status == PI0_OK) assert_memory_equal(fast, plain, out_bytes);
            }
            uint8_t *planes = malloc(bytes);
            for (size_t at = 0; at < bytes; at++) planes[at % 3 * (bytes / 3) + at / 3] = pixels[at];
            for (int turn = 0; turn < 4; turn++) { /* one plan, made anew where it does not fit */
                bool as_planes = turn < 2;
                memset(fast, 1, out_bytes);
                assert_int_equal(status, resize_again(fast, size, as_planes ? planes : pixels, height, width, as_planes,
                                                      &plan, NULL));
                if (status == PI0_OK) assert_memory_equal(fast, plain, out_bytes);
            }
            free(planes);
            free(pixels);
            free(fast);
            free(plain);
        }
    resize_plan_release(&plan);
}

static void an_image_of_the_right_size_is_untouched(void **state) {
    (void)state;
    static uint8_t pixels[56 * 56 * 3], out[56 * 56 * 3];
    static float floats[3 * 56 * 56];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 7);
    assert_int_equal(resize_with_pad(out, 56, pixels, 56, 56, NULL), PI0_OK);
    assert_memory_equal(out, pixels, sizeof out);
    assert_int_equal(resize_with_pad_torch(floats, 56, pixels, 56, 56, NULL), PI0_OK);
    for (size_t i = 0; i < sizeof pixels; i++)
        assert_true(floats[i % 3 * 56 * 56 + i / 3] == (float)pixels[i] / 255.0f * 2 - 1);
}

static void boxes_are_openpis(void **state) {
    (void)state;
    static const int cases[][6] = {/* height, width, box height, width, top, left */
                                   {18, 18, 223, 223, 0, 0}, {323, 320, 223, 221, 0, 1}, {480, 640, 168, 224, 28, 0},
                                   {1, 1, 224, 224, 0, 0},   {1, 224, 1, 224, 111, 0},   {224, 1, 224, 1, 0, 111}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        resize_box box;
        assert_int_equal(resize_fit(&box, 224, cases[i][0], cases[i][1], NULL), PI0_OK);
        assert_int_equal(box.height, cases[i][2]);
        assert_int_equal(box.width, cases[i][3]);
        assert_int_equal(box.top, cases[i][4]);
        assert_int_equal(box.left, cases[i][5]);
    }
}

static void what_shrinks_to_nothing_is_refused(void **state) {
    (void)state;
    static uint8_t pixels[60000], out[224 * 224 * 3];
    static float floats[3 * 224 * 224];
    static const int sizes[][2] = {{1, 20000}, {20000, 1}, {1, 1000}, {0, 5}, {5, 0}, {0, 0}, {-1, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pi0_error error = {0};
        assert_int_equal(resize_with_pad(out, 224, pixels, sizes[i][0], sizes[i][1], &error), PI0_ERROR_ARGUMENT);
        assert_non_null(strstr(error.message, "expected"));
        assert_int_equal(resize_with_pad_torch(floats, 224, pixels, sizes[i][0], sizes[i][1], &error),
                         PI0_ERROR_ARGUMENT);
    }
    assert_int_equal(resize_with_pad(out, 224, pixels, 1, 224, NULL), PI0_OK);
}

static void missing_memory_is_reported(void **state) {
    (void)state;
    static uint8_t pixels[300], out[224 * 224 * 3];
    static float floats[3 * 224 * 224];
    allocator_log log;
    allocator_begin(&log, 0);
    pi0_status first = resize_with_pad(out, 224, pixels, 10, 10, NULL);
    pi0_status second = resize_with_pad_torch(floats, 224, pixels, 10, 10, NULL);
    allocator_end();
    assert_int_equal(first, PI0_ERROR_MEMORY);
    assert_int_equal(second, PI0_ERROR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_requests_give_pillows_bytes),
        cmocka_unit_test(lerobot_images_are_within_rounding),
        cmocka_unit_test(fast_passes_give_the_plain_ones_bytes),
        cmocka_unit_test(an_image_of_the_right_size_is_untouched),
        cmocka_unit_test(boxes_are_openpis),
        cmocka_unit_test(what_shrinks_to_nothing_is_refused),
        cmocka_unit_test(missing_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
