#include "policy/resize_passes.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { FRACTION_BITS = 22, HALF_BITS = 12, GROUP = 4, LANES = 8, REACH = 32 };

/* ---- the weights of one pass ---- */

/* The inputs that output i reads, [first, end): Pillow's precompute_coeffs in its order of double operations. */
static void filter_window(int inputs, int outputs, int i, int *first, int *end) {
    double scale = (double)inputs / outputs, support = scale > 1 ? scale : 1, centre = (i + 0.5) * scale;
    *first = (int)(centre - support + 0.5);
    *end = (int)(centre + support + 0.5);
    if (*first < 0) *first = 0;
    if (*end > inputs) *end = inputs;
}

/* Most inputs an output reads, rounded up to whole groups. */
static int filter_taps(int inputs, int outputs) {
    int taps = 1;
    for (int i = 0; i < outputs; i++) {
        int first, end;
        filter_window(inputs, outputs, i, &first, &end);
        if (end - first > taps) taps = end - first;
    }
    return (taps + GROUP - 1) / GROUP * GROUP;
}

void filter_layout(filter *f, arena *memory, int inputs, int outputs) {
    f->inputs = inputs;
    f->outputs = outputs;
    f->taps = filter_taps(inputs, outputs);
    size_t weights = (size_t)outputs * (size_t)f->taps;
    f->start = arena_take(memory, (size_t)outputs, sizeof *f->start);
    f->whole = arena_take(memory, weights, sizeof *f->whole);
    f->low = arena_take(memory, weights, sizeof *f->low);
    f->high = arena_take(memory, weights, sizeof *f->high);
}

void filter_fill(filter *f) {
    double scale = (double)f->inputs / f->outputs, support = scale > 1 ? scale : 1, inverse = 1 / support;
    for (int i = 0; i < f->outputs; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int first, end;
        filter_window(f->inputs, f->outputs, i, &first, &end);
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

/* ---- the same for the lanes ---- */

static int lanes_outputs(int pixel_bytes) { return LANES / pixel_bytes; }

bool lanes_fit(int inputs, int outputs, int pixel_bytes) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
        return false;
    int some = lanes_outputs(pixel_bytes);
    for (int i = 0; i < outputs; i += some) {
        int first, last, end, final = i + some < outputs ? i + some - 1 : outputs - 1;
        filter_window(inputs, outputs, i, &first, &end);
        filter_window(inputs, outputs, final, &last, &end);
        if ((last - first + GROUP) * pixel_bytes > REACH) return false;
    }
    return true;
#else
    (void)inputs, (void)outputs, (void)pixel_bytes;
    return false;
#endif
}

void lanes_layout(lanes *l, arena *memory, const filter *f, int pixel_bytes) {
    l->pixel_bytes = pixel_bytes;
    l->block_outputs = lanes_outputs(pixel_bytes);
    l->blocks = (f->outputs + l->block_outputs - 1) / l->block_outputs;
    l->turns = f->taps / GROUP;
    size_t blocks = (size_t)l->blocks, turns = blocks * (size_t)l->turns;
    l->base = arena_take(memory, blocks, sizeof *l->base);
    l->index = arena_take(memory, blocks, REACH);
    l->weights = arena_take(memory, turns, 3 * REACH);
    l->constant = arena_take(memory, blocks, LANES * sizeof *l->constant);
    l->within = arena_take(memory, turns, sizeof *l->within);
}

/* Sum `lane` of block `block`: channel `channel` of output i. */
static void lanes_fill_one(lanes *l, const filter *f, int block, int lane, int i, int channel) {
    const int32_t *whole = f->whole + (size_t)i * (size_t)f->taps;
    int offset = (f->start[i] * l->pixel_bytes) - l->base[block] + channel;
    size_t at = (size_t)block * REACH + (size_t)lane * GROUP;
    int32_t sum = 0;
    for (int tap = 0; tap < f->taps; tap++) {
        size_t turn = (size_t)block * (size_t)l->turns + (size_t)(tap / GROUP);
        for (int third = 0; third < 3; third++)
            l->weights[(turn * 3 + (size_t)third) * REACH + (size_t)(lane * GROUP + tap % GROUP)] =
                (uint8_t)(whole[tap] >> 8 * third);
        if (tap < GROUP) l->index[at + (size_t)tap] = (uint8_t)(offset + tap * l->pixel_bytes);
        sum += whole[tap];
    }
    l->constant[(size_t)block * LANES + (size_t)lane] = (1 << (FRACTION_BITS - 1)) + 128 * sum;
}

void lanes_fill(lanes *l, const filter *f) {
    size_t turns = (size_t)l->blocks * (size_t)l->turns;
    memset(l->index, 0, (size_t)l->blocks * REACH); /* lanes beyond the last output: computed and left out */
    memset(l->weights, 0, turns * 3 * REACH);
    memset(l->constant, 0, (size_t)l->blocks * LANES * sizeof *l->constant);
    for (int block = 0; block < l->blocks; block++) {
        int first = block * l->block_outputs;
        l->base[block] = f->start[first] * l->pixel_bytes;
        for (int lane = 0; lane < l->block_outputs * l->pixel_bytes; lane++) {
            int i = first + lane / l->pixel_bytes;
            if (i < f->outputs) lanes_fill_one(l, f, block, lane, i, lane % l->pixel_bytes);
        }
        for (int turn = 0; turn < l->turns; turn++) {
            int left = f->inputs * l->pixel_bytes - l->base[block] - turn * GROUP * l->pixel_bytes;
            uint32_t within = left >= REACH ? UINT32_MAX : left <= 0 ? 0 : (UINT32_C(1) << left) - 1;
            l->within[(size_t)block * (size_t)l->turns + (size_t)turn] = within;
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

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

/* The thirds' sums to 8 bytes: 2^0, 2^8 and 2^16 of them, the constant, rounded. */
VNNI static inline __m256i load_lanes(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }

VNNI static inline __m128i join_thirds(__m256i low, __m256i middle, __m256i high, __m256i constant) {
    __m256i sum = _mm256_add_epi32(_mm256_add_epi32(low, constant), _mm256_slli_epi32(middle, 8));
    sum = _mm256_add_epi32(sum, _mm256_slli_epi32(high, 16));
    return _mm256_cvtusepi32_epi8(_mm256_srai_epi32(sum, FRACTION_BITS));
}

/* Four weights times four bytes in each of 8 lanes. The instruction takes one side signed: the bytes, less 128. */
VNNI static inline __m256i gather_bytes(const uint8_t *in, uint32_t within, __m256i index) {
    __m256i bytes = _mm256_permutexvar_epi8(index, _mm256_maskz_loadu_epi8(within, in));
    return _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x80));
}

/* Two rows at a time, which share the weights; the last of an odd number goes with itself. */
VNNI static void across_vnni(uint8_t *out, size_t out_stride, const uint8_t *in, int rows, const filter *f,
                             const lanes *l) {
    size_t in_stride = (size_t)f->inputs * (size_t)l->pixel_bytes;
    int out_bytes = f->outputs * l->pixel_bytes, block_bytes = l->block_outputs * l->pixel_bytes;
    for (int y = 0; y < rows; y += 2) {
        const uint8_t *in_a = in + (size_t)y * in_stride, *in_b = y + 1 < rows ? in_a + in_stride : in_a;
        uint8_t *out_a = out + (size_t)y * out_stride, *out_b = y + 1 < rows ? out_a + out_stride : out_a;
        for (int block = 0; block < l->blocks; block++) {
            __m256i index = load_lanes(l->index + (size_t)block * REACH);
            __m256i low_a = _mm256_setzero_si256(), low_b = low_a, middle_a = low_a, middle_b = low_a;
            __m256i high_a = low_a, high_b = low_a;
            int at = l->base[block];
            for (int turn = 0; turn < l->turns; turn++, at += GROUP * l->pixel_bytes) {
                size_t row = (size_t)block * (size_t)l->turns + (size_t)turn;
                const uint8_t *weights = l->weights + row * 3 * REACH;
                __m256i low = load_lanes(weights), middle = load_lanes(weights + REACH);
                __m256i high = load_lanes(weights + 2 * REACH);
                __m256i a = gather_bytes(in_a + at, l->within[row], index);
                __m256i b = gather_bytes(in_b + at, l->within[row], index);
                low_a = _mm256_dpbusd_epi32(low_a, low, a);
                low_b = _mm256_dpbusd_epi32(low_b, low, b);
                middle_a = _mm256_dpbusd_epi32(middle_a, middle, a);
                middle_b = _mm256_dpbusd_epi32(middle_b, middle, b);
                high_a = _mm256_dpbusd_epi32(high_a, high, a);
                high_b = _mm256_dpbusd_epi32(high_b, high, b);
            }
            __m256i constant = load_lanes(l->constant + (size_t)block * LANES);
            int to = block * block_bytes, left = out_bytes - to < block_bytes ? out_bytes - to : block_bytes;
            __mmask8 stored = (__mmask8)((1U << left) - 1);
            _mm_mask_storeu_epi8(out_a + to, stored, join_thirds(low_a, middle_a, high_a, constant));
            _mm_mask_storeu_epi8(out_b + to, stored, join_thirds(low_b, middle_b, high_b, constant));
        }
    }
}
#endif

static bool has_avx2(resize_isa isa) {
#if defined(__x86_64__)
    return isa != RESIZE_PLAIN && __builtin_cpu_supports("avx2");
#else
    (void)isa;
    return false;
#endif
}

void pass_across(uint8_t *out, size_t out_stride, const uint8_t *in, int rows, const filter *f, resize_isa isa) {
    bool avx2 = has_avx2(isa);
    for (int y = 0; y < rows; y += 2) {
        const uint8_t *from = in + 3 * (size_t)y * (size_t)f->inputs;
        uint8_t *to = out + (size_t)y * out_stride;
        if (y + 1 == rows) horizontal_row(to, from, f->inputs, f);
#if defined(__x86_64__)
        else if (avx2)
            horizontal_avx2(to, out_stride, from, f->inputs, f);
#endif
        else
            horizontal_plain(to, out_stride, from, f->inputs, f);
    }
    (void)avx2;
}

void pass_across_lanes(uint8_t *out, size_t out_stride, const uint8_t *in, int rows, const filter *f, const lanes *l) {
#if defined(__x86_64__)
    across_vnni(out, out_stride, in, rows, f, l);
#else
    (void)out, (void)out_stride, (void)in, (void)rows, (void)f, (void)l;
#endif
}

void pass_down(uint8_t *out, const uint8_t *rows, int bytes, const filter *f, int i, resize_isa isa) {
    int first = f->start[i], taps = f->inputs - first < f->taps ? f->inputs - first : f->taps;
    const uint8_t *from = rows + (size_t)first * (size_t)bytes;
#if defined(__x86_64__)
    if (has_avx2(isa)) {
        vertical_avx2(out, from, (size_t)bytes, bytes, f, i, taps);
        return;
    }
#endif
    (void)isa;
    vertical_plain(out, from, (size_t)bytes, bytes, f, i, taps);
}
