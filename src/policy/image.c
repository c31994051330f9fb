/* PNG through libspng, JPEG through libjpeg-turbo; what the file claims is checked before memory is taken for it. */
#include "policy/image.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MAX_FILE_BYTES ((size_t)512 << 20)

void image_release(image *image) {
    memory_release(image->pixels);
    image->pixels = NULL;
}

static void interleave_plain(uint8_t *rows, const uint8_t *planes, size_t plane, size_t first) {
    for (size_t i = first; i < plane; i++) {
        rows[3 * i] = planes[i];
        rows[3 * i + 1] = planes[plane + i];
        rows[3 * i + 2] = planes[2 * plane + i];
    }
}

#if defined(__x86_64__)
/* 16 pixels a turn: each 16 bytes of a row take 5 or 6 of every plane. Returns how many pixels are done. */
__attribute__((target("ssse3"))) static size_t interleave_ssse3(uint8_t *rows, const uint8_t *planes, size_t plane) {
    enum { O = -1 }; /* not from this plane */
    const __m128i takes[3][3] = {{_mm_setr_epi8(0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O, O, 5),
                                  _mm_setr_epi8(O, 0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O, O),
                                  _mm_setr_epi8(O, O, 0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O)},
                                 {_mm_setr_epi8(O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O, 10, O),
                                  _mm_setr_epi8(5, O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O, 10),
                                  _mm_setr_epi8(O, 5, O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O)},
                                 {_mm_setr_epi8(O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15, O, O),
                                  _mm_setr_epi8(O, O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15, O),
                                  _mm_setr_epi8(10, O, O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15)}};
    size_t i = 0;
    for (; i + 16 <= plane; i += 16) {
        __m128i red = _mm_loadu_si128((const __m128i *)(planes + i));
        __m128i green = _mm_loadu_si128((const __m128i *)(planes + plane + i));
        __m128i blue = _mm_loadu_si128((const __m128i *)(planes + 2 * plane + i));
        for (int k = 0; k < 3; k++) {
            __m128i some = _mm_or_si128(_mm_shuffle_epi8(red, takes[k][0]), _mm_shuffle_epi8(green, takes[k][1]));
            _mm_storeu_si128((__m128i *)(rows + 3 * i + 16 * (size_t)k),
                             _mm_or_si128(some, _mm_shuffle_epi8(blue, takes[k][2])));
        }
    }
    return i;
}
#endif

void image_interleave(uint8_t *rows, const uint8_t *planes, int height, int width) {
    size_t plane = (size_t)height * (size_t)width, done = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("ssse3")) done = interleave_ssse3(rows, planes, plane);
#endif
    interleave_plain(rows, planes, plane, done);
}

#ifdef PI0_WITH_IMAGES
#include <spng.h>
#include <turbojpeg.h>

/* Sets the size and takes the pixels. */
static pi0_status take_pixels(image *image, size_t width, size_t height, const char *name, pi0_error *error) {
    if (!width || !height || width > IMAGE_MAX_PIXELS / height)
        return error_set(error, PI0_ERROR_FORMAT,
                         "%s: expected an image of 1 to %d pixels, found one that claims %zux%zu (width x height)",
                         name, IMAGE_MAX_PIXELS, width, height);
    image->width = (int)width;
    image->height = (int)height;
    image->pixels = memory_allocate(3 * width * height);
    return image->pixels ? PI0_OK : error_memory(error, 3 * width * height, name);
}

static pi0_status png_fail(const char *name, int code, pi0_error *error) {
    return error_set(error, code == SPNG_EMEM ? PI0_ERROR_MEMORY : PI0_ERROR_FORMAT, "%s: damaged PNG file: %s", name,
                     spng_strerror(code));
}

static pi0_status png_decode(image *image, spng_ctx *context, const void *bytes, size_t size, const char *name,
                             pi0_error *error) {
    enum { CHUNK_BYTES = 16 << 20, ALL_CHUNKS_BYTES = 64 << 20 }; /* profiles and texts, which nothing here reads */
    struct spng_ihdr header;
    int code = spng_set_chunk_limits(context, CHUNK_BYTES, ALL_CHUNKS_BYTES);
    if (!code) code = spng_set_png_buffer(context, bytes, size);
    if (!code) code = spng_get_ihdr(context, &header);
    if (code) return png_fail(name, code, error);
    TRY(take_pixels(image, header.width, header.height, name, error));
    /* To 8 bits by dropping the lower byte, palettes and grey to RGB; alpha is dropped, not blended. */
    code = spng_decode_image(context, image->pixels, 3 * (size_t)header.width * header.height, SPNG_FMT_RGB8, 0);
    return code ? png_fail(name, code, error) : PI0_OK;
}

static pi0_status png_open(image *image, const void *bytes, size_t size, const char *name, pi0_error *error) {
    spng_ctx *context = spng_ctx_new(0);
    if (!context) return error_memory(error, size, name);
    pi0_status status = png_decode(image, context, bytes, size, name, error);
    spng_ctx_free(context);
    return status;
}

static pi0_status jpeg_decode(image *image, tjhandle context, const void *bytes, size_t size, const char *name,
                              pi0_error *error) {
    int width = 0, height = 0, subsampling, colours;
    /* a file that ends before its frame passes for one of tables alone, without a size */
    bool damaged = tjDecompressHeader3(context, bytes, size, &width, &height, &subsampling, &colours) != 0;
    if (damaged || width < 1 || height < 1)
        return error_set(error, PI0_ERROR_FORMAT, "%s: damaged JPEG file: %s", name,
                         damaged ? tjGetErrorStr2(context) : "no image in it");
    if (colours == TJCS_CMYK || colours == TJCS_YCCK)
        return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: expected a grey or colour JPEG file, found CMYK", name);
    TRY(take_pixels(image, (size_t)width, (size_t)height, name, error));
    if (!tjDecompress2(context, bytes, size, image->pixels, width, 0, height, TJPF_RGB, TJFLAG_LIMITSCANS))
        return PI0_OK;
    /* A warning means grey in place of what is missing, except that webcams like to put filler between segments. */
    const char *message = tjGetErrorStr2(context);
    if (tjGetErrorCode(context) == TJERR_WARNING && strstr(message, "extraneous bytes")) return PI0_OK;
    return error_set(error, PI0_ERROR_FORMAT, "%s: damaged JPEG file: %s", name, message);
}

static pi0_status jpeg_open(image *image, const void *bytes, size_t size, const char *name, pi0_error *error) {
    tjhandle context = tjInitDecompress();
    if (!context) return error_memory(error, size, name);
    pi0_status status = jpeg_decode(image, context, bytes, size, name, error);
    tjDestroy(context);
    return status;
}

pi0_status image_decode(image *result, const void *bytes, size_t size, const char *name, pi0_error *error) {
    static const unsigned char png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'}, jpeg[3] = {0xff, 0xd8, 0xff};
    *result = (image){0};
    pi0_status status;
    if (size >= sizeof png && !memcmp(bytes, png, sizeof png))
        status = png_open(result, bytes, size, name, error);
    else if (size >= sizeof jpeg && !memcmp(bytes, jpeg, sizeof jpeg))
        status = jpeg_open(result, bytes, size, name, error);
    else
        return error_set(error, PI0_ERROR_FORMAT, "%s: expected a PNG or JPEG image, found %s", name,
                         size ? "something else" : "an empty file");
    if (status) image_release(result);
    return status;
}
#else
pi0_status image_decode(image *result, const void *bytes, size_t size, const char *name, pi0_error *error) {
    (void)bytes, (void)size;
    *result = (image){0};
    return error_set(error, PI0_ERROR_UNSUPPORTED, "%s: this build reads no image files (PI0_IMAGES is off)", name);
}
#endif

pi0_status image_open(image *result, const char *path, pi0_error *error) {
    *result = (image){0};
    void *bytes;
    size_t size;
    TRY(file_read(&bytes, &size, path, MAX_FILE_BYTES, error));
    pi0_status status = image_decode(result, bytes, size, path, error);
    memory_release(bytes);
    return status;
}
