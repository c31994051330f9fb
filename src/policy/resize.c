/*
 * The two resizes of spec/model.md: Pillow's BILINEAR, which is an antialiased triangle filter in 22-bit fixed point,
 * rounded to uint8 after the horizontal and again after the vertical pass; and torch's plain bilinear in float32.
 *
 * Integer sums have no order, so the AVX2 variant of a pass gives the plain one's bytes: it only splits each weight
 * into two halves of 16 bits that the multiply-add instruction takes.
 */
#include "policy/resize.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { FRACTION_BITS = 22, HALF_BITS = 12, GROUP = 4 };

pi0_status resize_fit(resize_box *box, int size, int height, int width, pi0_error *error) {
    if (height < 1 || width < 1)
        return error_set(error, PI0_ERROR_ARGUMENT, "expected an image, found one of %dx%d pixels (width x height)",
                         width, height);
    double across = (double)width / size, down = (double)height / size;
    double ratio = across > down ? across : down;
    box->width = (int)(width / ratio);
    box->height = (int)(height / ratio);
    if (box->width < 1 || box->height < 1)
        return error_set(
            error, PI0_ERROR_ARGUMENT,
            "expected an image no thinner than 1 to %d, found %dx%d pixels (width x height): it shrinks to "
            "nothing when resized to %dx%d",
            size, width, height, size, size);
    box->left = (size - box->width) / 2;
    box->top = (size - box->height) / 2;
    return PI0_OK;
}

/* ---- the weights of one pass ---- */

/* Output i reads input start[i] .. start[i]+taps-1 with weights whole[i*taps ..]; those beyond its window are 0. */
typedef struct filter {
    int outputs, taps; /* taps: a multiple of GROUP */
    int *start;        /* [outputs] */
    int32_t *whole;    /* [outputs, taps] 22-bit fixed point */
    int16_t *low;      /* [outputs, taps] whole mod 2^12 */
    int16_t *high;     /* [outputs, taps] whole / 2^12: at most 2^10 */
} filter;

/* Most inputs an output reads, rounded up to whole groups. */
static int filter_taps(int inputs, int outputs) {
    double scale = (double)inputs / outputs;
    int taps = 2 * (int)ceil(scale > 1 ? scale : 1) + 1;
    return (taps + GROUP - 1) / GROUP * GROUP;
}

static void filter_layout(filter *f, arena *memory, int inputs, int outputs) {
    f->outputs = outputs;
    f->taps = filter_taps(inputs, outputs);
    size_t weights = (size_t)outputs * (size_t)f->taps;
    f->start = arena_take(memory, (size_t)outputs, sizeof *f->start);
    f->whole = arena_take(memory, weights, sizeof *f->whole);
    f->low = arena_take(memory, weights, sizeof *f->low);
    f->high = arena_take(memory, weights, sizeof *f->high);
}

/* Pillow's precompute_coeffs in its order of double operations. */
static void filter_fill(filter *f, int inputs) {
    double scale = (double)inputs / f->outputs, support = scale > 1 ? scale : 1, inverse = 1 / support;
    for (int i = 0; i < f->outputs; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > inputs) end = inputs;
        for (int j = first; j < end; j++) {
            double distance = fabs((j - centre + 0.5) * inverse);
            sum += distance < 1 ? 1 - distance : 0;
        }
        f->start[i] = first;
        for (int tap = 0; tap < f->taps; tap++) {
            double distance = fabs((first + tap - centre + 0.5) * inverse);
            double weight = first + tap < end && distance < 1 ? (1 - distance) / sum : 0;
            int32_t fixed = (int32_t)(weight * (1 << FRACTION_BITS) + 0.5);
            size_t at = (size_t)i * (size_t)f->taps + (size_t)tap;
            f->whole[at] = fixed;
            f->low[at] = (int16_t)(fixed & ((1 << HALF_BITS) - 1));
            f->high[at] = (int16_t)(fixed >> HALF_BITS);
        }
    }
}

static inline uint8_t fixed_to_byte(int32_t sum) {
    int32_t value = (sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* ---- passes over rows of RGB pixels ---- */

/* One row: out [f->outputs, 3]; in [inputs, 3]. */
static void horizontal_row(uint8_t *out, const uint8_t *in, int inputs, const filter *f) {
    for (int i = 0; i < f->outputs; i++) {
        const int32_t *weights = f->whole + (size_t)i * (size_t)f->taps;
        const uint8_t *pixel = in + 3 * (size_t)f->start[i];
        int taps = inputs - f->start[i] < f->taps ? inputs - f->start[i] : f->taps;
        int32_t red = 0, green = 0, blue = 0;
        for (int tap = 0; tap < taps; tap++, pixel += 3) {
            red += weights[tap] * pixel[0];
            green += weights[tap] * pixel[1];
            blue += weights[tap] * pixel[2];
        }
        out[3 * i] = fixed_to_byte(red);
        out[3 * i + 1] = fixed_to_byte(green);
        out[3 * i + 2] = fixed_to_byte(blue);
    }
}

/* Two rows of in, which follow each other; out_stride bytes lie between those of out. */
static void horizontal_plain(uint8_t *out, size_t out_stride, const uint8_t *in, int inputs, const filter *f) {
    horizontal_row(out, in, inputs, f);
    horizontal_row(out + out_stride, in + 3 * (size_t)inputs, inputs, f);
}

/* out: [bytes]; rows: [>= taps][stride], of which row `tap` has weights[tap]; taps leaves out rows past the image. */
static inline void vertical_bytes(uint8_t *out, const uint8_t *rows, size_t stride, int first, int end,
                                  const int32_t *weights, int taps) {
    for (int x = first; x < end; x++) {
        int32_t sum = 0;
        for (int tap = 0; tap < taps; tap++) sum += weights[tap] * rows[(size_t)tap * stride + (size_t)x];
        out[x] = fixed_to_byte(sum);
    }
}

static void vertical_plain(uint8_t *out, const uint8_t *rows, size_t stride, int bytes, const filter *f, int i,
                           int taps) {
    vertical_bytes(out, rows, stride, 0, bytes, f->whole + (size_t)i * (size_t)f->taps, taps);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

/* (high << 12 + low + half) >> 22 per 32-bit lane. */
AVX2 static inline __m256i join_halves(__m256i high, __m256i low) {
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, HALF_BITS), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << (FRACTION_BITS - 1))), FRACTION_BITS);
}

/* The 12 bytes of four pixels, of fewer at a row's end, which is not read past. */
AVX2 static inline __m256i load_pixels(const uint8_t *pixel, int pixels_left) {
    if (3 * pixels_left >= 16) return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)pixel));
    uint8_t rest[16] = {0};
    memcpy(rest, pixel, 3 * (size_t)pixels_left);
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)rest));
}

/* Adds the upper half (pixels 2 and 3) to the lower, for two rows in one go: row a's sums, then row b's. */
AVX2 static inline __m256i fold_pixels(__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/*
 * Two rows at a time, which share the weights; of each, four pixels at a time: their 12 bytes become 16-bit pairs of
 * one channel, (r0 r1) (g0 g1) (b0 b1) - in the lower half and the same of pixels 2 and 3 in the upper, so that a
 * multiply-add leaves one sum per channel.
 */
AVX2 static void horizontal_avx2(uint8_t *out, size_t out_stride, const uint8_t *in, int inputs, const filter *f) {
    const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, /* pixels 0, 1 */
                                           6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const uint8_t *in_b = in + 3 * (size_t)inputs;
    for (int i = 0; i < f->outputs; i++) {
        const int16_t *low = f->low + (size_t)i * (size_t)f->taps, *high = f->high + (size_t)i * (size_t)f->taps;
        __m256i low_a = _mm256_setzero_si256(), low_b = low_a, high_a = low_a, high_b = low_a;
        for (int tap = 0; tap < f->taps && f->start[i] + tap < inputs; tap += GROUP) {
            int at = f->start[i] + tap;
            __m256i a = _mm256_shuffle_epi8(load_pixels(in + 3 * (size_t)at, inputs - at), pairs);
            __m256i b = _mm256_shuffle_epi8(load_pixels(in_b + 3 * (size_t)at, inputs - at), pairs);
            __m256i low_weights = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(low + tap)));
            __m256i high_weights = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(high + tap)));
            low_weights = _mm256_permutevar8x32_epi32(low_weights, spread);
            high_weights = _mm256_permutevar8x32_epi32(high_weights, spread);
            low_a = _mm256_add_epi32(low_a, _mm256_madd_epi16(a, low_weights));
            low_b = _mm256_add_epi32(low_b, _mm256_madd_epi16(b, low_weights));
            high_a = _mm256_add_epi32(high_a, _mm256_madd_epi16(a, high_weights));
            high_b = _mm256_add_epi32(high_b, _mm256_madd_epi16(b, high_weights));
        }
        __m256i rounded = join_halves(fold_pixels(high_a, high_b), fold_pixels(low_a, low_b));
        rounded = _mm256_packs_epi32(rounded, rounded);
        rounded = _mm256_packus_epi16(rounded, rounded);
        int32_t pixel_a = _mm256_extract_epi32(rounded, 0), pixel_b = _mm256_extract_epi32(rounded, 4);
        memcpy(out + 3 * (size_t)i, &pixel_a, 3);
        memcpy(out + out_stride + 3 * (size_t)i, &pixel_b, 3);
    }
}

/* Two rows at a time, 16 bytes of each: interleaved to 16-bit pairs for the multiply-add. */
AVX2 static void vertical_avx2(uint8_t *out, const uint8_t *rows, size_t stride, int bytes, const filter *f, int i,
                               int taps) {
    const int16_t *low = f->low + (size_t)i * (size_t)f->taps, *high = f->high + (size_t)i * (size_t)f->taps;
    int x = 0;
    for (; x + 16 <= bytes; x += 16) {
        __m256i low_first = _mm256_setzero_si256(), low_second = low_first;
        __m256i high_first = low_first, high_second = low_first;
        for (int tap = 0; tap < taps; tap += 2) {
            const uint8_t *row = rows + (size_t)tap * stride + (size_t)x;
            __m128i even = _mm_loadu_si128((const __m128i *)row);
            __m128i odd = tap + 1 < taps ? _mm_loadu_si128((const __m128i *)(row + stride)) : _mm_setzero_si128();
            __m256i first = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd));
            __m256i second = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(even, odd));
            int32_t low_pair, high_pair; /* both rows' weights: there is a whole group of them */
            memcpy(&low_pair, low + tap, sizeof low_pair);
            memcpy(&high_pair, high + tap, sizeof high_pair);
            __m256i low_weights = _mm256_set1_epi32(low_pair), high_weights = _mm256_set1_epi32(high_pair);
            low_first = _mm256_add_epi32(low_first, _mm256_madd_epi16(first, low_weights));
            low_second = _mm256_add_epi32(low_second, _mm256_madd_epi16(second, low_weights));
            high_first = _mm256_add_epi32(high_first, _mm256_madd_epi16(first, high_weights));
            high_second = _mm256_add_epi32(high_second, _mm256_madd_epi16(second, high_weights));
        }
        __m256i words = _mm256_packs_epi32(join_halves(high_first, low_first), join_halves(high_second, low_second));
        words = _mm256_permute4x64_epi64(words, 0xd8); /* packing works within halves: back into order */
        _mm_storeu_si128((__m128i *)(out + x),
                         _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    vertical_bytes(out, rows, stride, x, bytes, f->whole + (size_t)i * (size_t)f->taps, taps);
}
#endif

typedef struct passes {
    void (*horizontal)(uint8_t *out, size_t out_stride, const uint8_t *in, int inputs, const filter *f);
    void (*vertical)(uint8_t *out, const uint8_t *rows, size_t stride, int bytes, const filter *f, int i, int taps);
} passes;

static passes passes_pick(resize_isa isa) {
#if defined(__x86_64__)
    if (isa == RESIZE_AUTO && __builtin_cpu_supports("avx2")) return (passes){horizontal_avx2, vertical_avx2};
#else
    (void)isa;
#endif
    return (passes){horizontal_plain, vertical_plain};
}

/* ---- openpi's resize ---- */

pi0_status resize_with_pad_isa(uint8_t *out, int size, const uint8_t *pixels, int height, int width, resize_isa isa,
                               pi0_error *error) {
    resize_box box;
    TRY(resize_fit(&box, size, height, width, error));
    bool across = box.width != width, down = box.height != height; /* Pillow leaves out a pass that changes nothing */
    size_t row_bytes = 3 * (size_t)box.width;
    filter horizontal, vertical;
    uint8_t *narrowed = NULL; /* uint8 [height, box.width, 3] between the passes */
    arena memory = {0};
    for (int pass = 0; pass < 2; pass++) {
        memory.used = 0;
        if (across) filter_layout(&horizontal, &memory, width, box.width);
        if (down) filter_layout(&vertical, &memory, height, box.height);
        if (across && down) narrowed = arena_take(&memory, (size_t)height, row_bytes);
        if (pass || !memory.used) break;
        memory.base = memory_allocate(memory.used);
        if (!memory.base) return error_memory(error, memory.used, "resizing an image");
    }
    passes run = passes_pick(isa);
    size_t stride = 3 * (size_t)size;
    uint8_t *corner = out + (size_t)box.top * stride + 3 * (size_t)box.left;
    if (box.width < size || box.height < size) memset(out, 0, (size_t)size * stride);
    const uint8_t *rows = pixels;
    if (across) {
        filter_fill(&horizontal, width);
        uint8_t *to = down ? narrowed : corner;
        size_t to_stride = down ? row_bytes : stride;
        for (int y = 0; y < height; y += 2) {
            const uint8_t *from = pixels + 3 * (size_t)y * (size_t)width;
            if (y + 1 < height)
                run.horizontal(to + (size_t)y * to_stride, to_stride, from, width, &horizontal);
            else
                horizontal_row(to + (size_t)y * to_stride, from, width, &horizontal);
        }
        rows = narrowed;
    }
    if (down) {
        filter_fill(&vertical, height);
        for (int y = 0; y < box.height; y++) {
            int first = vertical.start[y];
            int taps = height - first < vertical.taps ? height - first : vertical.taps;
            run.vertical(corner + (size_t)y * stride, rows + (size_t)first * row_bytes, row_bytes, (int)row_bytes,
                         &vertical, y, taps);
        }
    } else if (!across) {
        for (int y = 0; y < height; y++) memcpy(corner + (size_t)y * stride, pixels + (size_t)y * row_bytes, row_bytes);
    }
    memory_release(memory.base);
    return PI0_OK;
}

pi0_status resize_with_pad(uint8_t *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error) {
    return resize_with_pad_isa(out, size, pixels, height, width, RESIZE_AUTO, error);
}

/* ---- lerobot's resize ---- */

/* torch's upsample_bilinear2d, align_corners false: output i lies between inputs low[i] and high[i]. */
typedef struct blend {
    int *low, *high; /* [outputs] */
    float *weight;   /* [outputs] of high */
} blend;

static void blend_layout(blend *b, arena *memory, int outputs) {
    b->low = arena_take(memory, (size_t)outputs, sizeof *b->low);
    b->high = arena_take(memory, (size_t)outputs, sizeof *b->high);
    b->weight = arena_take(memory, (size_t)outputs, sizeof *b->weight);
}

static void blend_fill(blend *b, int inputs, int outputs) {
    float scale = (float)inputs / (float)outputs;
    for (int i = 0; i < outputs; i++) {
        float position = scale * ((float)i + 0.5f) - 0.5f;
        if (position < 0) position = 0;
        int low = (int)position < inputs - 1 ? (int)position : inputs - 1;
        b->low[i] = low;
        b->high[i] = low < inputs - 1 ? low + 1 : low;
        b->weight[i] = position - (float)low;
    }
}

static inline float clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

/* One output row: three channels of out, `plane` apart. */
static void blend_row(float *out, size_t plane, int width, const uint8_t *upper, const uint8_t *lower, float weight,
                      const blend *across, const float *unit) {
    for (int x = 0; x < width; x++) {
        size_t left = 3 * (size_t)across->low[x], right = 3 * (size_t)across->high[x];
        float right_weight = across->weight[x], left_weight = 1 - right_weight;
        for (size_t channel = 0; channel < 3; channel++) {
            float top = left_weight * unit[upper[left + channel]] + right_weight * unit[upper[right + channel]];
            float bottom = left_weight * unit[lower[left + channel]] + right_weight * unit[lower[right + channel]];
            out[channel * plane + (size_t)x] = clamp01((1 - weight) * top + weight * bottom) * 2 - 1;
        }
    }
}

pi0_status resize_with_pad_torch(float *out, int size, const uint8_t *pixels, int height, int width, pi0_error *error) {
    resize_box box;
    TRY(resize_fit(&box, size, height, width, error));
    blend across, down;
    arena memory = {0};
    for (int pass = 0; pass < 2; pass++) {
        memory.used = 0;
        blend_layout(&across, &memory, box.width);
        blend_layout(&down, &memory, box.height);
        if (pass) break;
        memory.base = memory_allocate(memory.used);
        if (!memory.base) return error_memory(error, memory.used, "resizing an image");
    }
    blend_fill(&across, width, box.width);
    blend_fill(&down, height, box.height);
    float unit[256];
    for (int i = 0; i < 256; i++) unit[i] = (float)i / 255.0f;
    size_t plane = (size_t)size * (size_t)size, row_bytes = 3 * (size_t)width;
    for (size_t i = 0; i < 3 * plane; i++) out[i] = -1;
    for (int y = 0; y < box.height; y++)
        blend_row(out + (size_t)(box.top + y) * (size_t)size + (size_t)box.left, plane, box.width,
                  pixels + (size_t)down.low[y] * row_bytes, pixels + (size_t)down.high[y] * row_bytes, down.weight[y],
                  &across, unit);
    memory_release(memory.base);
    return PI0_OK;
}
