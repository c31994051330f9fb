#include "policy/camera.h"

#include <string.h>

#include "base/memory.h"
#include "base/number.h"
#include "policy/image.h"

/* Which axes of an array are which. */
typedef struct axes {
    bool planes;
    int height, width;
} axes;

static pi0_status refuse(const value *v, const char *key, const char *expected, pi0_error *error) {
    char found[160];
    return error_set(error, PI0_ERROR_ARGUMENT, "image '%.200s': expected %s, found %s", key, expected,
                     value_describe(v, found, sizeof found));
}

static pi0_status find_axes(axes *axes, const value *v, const char *key, camera_layout layout, pi0_error *error) {
    static const char *const expected[] = {
        "a uint8 or float array [3, height, width]",
        "a uint8 or float array [height, width, 3]",
        "a uint8 or float array [height, width, 3] or [3, height, width]",
        "a uint8 or float array [height, width, 3] or [3, height, width]",
    };
    const value_array *a = &v->array;
    bool pixels = v->kind == VALUE_ARRAY && a->rank == 3 && (a->kind == 'f' || (a->kind == 'u' && a->item_bytes == 1));
    if (!pixels) return refuse(v, key, expected[layout], error);
    axes->planes = layout == CAMERA_PLANES || (layout == CAMERA_EITHER && a->shape[0] == 3) ||
                   (layout == CAMERA_ROWS_LAST && a->shape[2] != 3);
    if (a->shape[axes->planes ? 0 : 2] != 3) return refuse(v, key, expected[layout], error);
    int64_t height = a->shape[axes->planes ? 1 : 0], width = a->shape[axes->planes ? 2 : 1];
    if (height < 1 || width < 1) return refuse(v, key, "an image that is not empty", error);
    if (height > IMAGE_MAX_PIXELS / width) return refuse(v, key, "at most 100 million pixels", error);
    axes->height = (int)height;
    axes->width = (int)width;
    return PI0_OK;
}

/* (255 * x).astype(uint8) in x's precision. Outside [0, 1] the reference has no defined answer: the nearest is taken.
 */
static inline uint8_t pixel_from_float(double x, int item_bytes) {
    double product = 255.0 * x;
    if (item_bytes == 4) product = (double)(255.0f * (float)x);
    if (item_bytes == 2) product = half_to_double(half_from_double(product));
    return !(product > 0) ? 0 : product >= 255 ? 255 : (uint8_t)product;
}

/* Elements of the array from `first` on, every 3rd pixel from out on. */
static void convert_channel(uint8_t *out, const value_array *a, size_t first, size_t step, size_t count) {
    const unsigned char *from = (const unsigned char *)a->data + first * (size_t)a->item_bytes;
    size_t stride = step * (size_t)a->item_bytes;
    for (size_t i = 0; i < count; i++, from += stride) {
        float narrow;
        double wide;
        if (a->item_bytes == 4) {
            memcpy(&narrow, from, sizeof narrow);
            wide = (double)narrow;
        } else if (a->item_bytes == 8) {
            memcpy(&wide, from, sizeof wide);
        } else {
            wide = value_array_number(a, first + i * step);
        }
        out[3 * i] = pixel_from_float(wide, a->item_bytes);
    }
}

static void convert_floats(uint8_t *pixels, const value_array *a, const axes *axes) {
    size_t area = (size_t)axes->height * (size_t)axes->width;
    for (size_t c = 0; c < 3; c++)
        convert_channel(pixels + c, a, axes->planes ? c * area : c, axes->planes ? 1 : 3, area);
}

pi0_status camera_check(const value *v, const char *key, camera_layout layout, pi0_error *error) {
    axes axes;
    return find_axes(&axes, v, key, layout, error);
}

pi0_status camera_read(camera_image *image, const value *v, const char *key, camera_layout layout, pi0_error *error) {
    axes axes = {0};
    TRY(find_axes(&axes, v, key, layout, error));
    *image = (camera_image){.height = axes.height, .width = axes.width, .pixels = v->array.data};
    image->planes = v->array.kind == 'u' && axes.planes;
    if (v->array.kind == 'u') return PI0_OK;

    size_t bytes = (size_t)axes.height * (size_t)axes.width * 3;
    uint8_t *pixels = memory_allocate(bytes);
    if (!pixels) return error_memory(error, bytes, key);
    convert_floats(pixels, &v->array, &axes);
    image->pixels = image->memory = pixels;
    return PI0_OK;
}

pi0_status camera_interleave(camera_image *image, const char *key, pi0_error *error) {
    if (!image->planes) return PI0_OK;
    size_t bytes = (size_t)image->height * (size_t)image->width * 3;
    uint8_t *pixels = memory_allocate(bytes);
    if (!pixels) return error_memory(error, bytes, key);
    image_interleave(pixels, image->pixels, image->height, image->width);
    image->pixels = image->memory = pixels;
    image->planes = false;
    return PI0_OK;
}

void camera_release(camera_image *image) {
    memory_release(image->memory);
    *image = (camera_image){0};
}
