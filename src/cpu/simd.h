/*
 * One vector of float32 under one set of names, 8 lanes with AVX2 and 16 with AVX-512, so that each kernel is written
 * once. Only kernels_avx2.c and kernels_avx512.c may include this: it needs their compiler flags.
 */
#ifndef PI0_CPU_SIMD_H
#define PI0_CPU_SIMD_H

#include <immintrin.h>
#include <math.h>

#include "base/bf16.h"

#if defined(__AVX512F__)

/* SKINNY_ROWS_AT_ONCE: with more rows fewer columns fit into registers, and the loads of x become the bound */
enum { LANES = 16, TILE_ROWS = 14, SKINNY_SUMS = 25, SKINNY_ROWS_AT_ONCE = 12 };
typedef __m512 vec;
typedef __m512i veci;
typedef __mmask16 vecm;

static inline vecm first_lanes(int count) { return (vecm)((1u << count) - 1); }

static inline vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline vec vec_all(float value) { return _mm512_set1_ps(value); }
static inline vec vec_load(const float *from) { return _mm512_loadu_ps(from); }
static inline void vec_store(float *to, vec value) { _mm512_storeu_ps(to, value); }
static inline vec vec_load_first(const float *from, int count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
}
static inline void vec_store_first(float *to, vec value, int count) {
    _mm512_mask_storeu_ps(to, first_lanes(count), value);
}
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
/* A NaN in b comes through. */
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline float vec_sum(vec a) { return _mm512_reduce_add_ps(a); }
static inline float vec_highest(vec a) { return _mm512_reduce_max_ps(a); }
/* a where x >= limit, else 0 */
static inline vec vec_keep_from(vec x, vec limit, vec a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}
static inline vec vec_nearest(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for an integer n in float32 */
static inline vec vec_scale(vec a, vec n) { return _mm512_scalef_ps(a, n); }

static inline vec vec_from_bits(veci bits) { return _mm512_castsi512_ps(bits); }
static inline veci vec_bits(vec a) { return _mm512_castps_si512(a); }
static inline veci veci_load(const void *from) { return _mm512_loadu_si512(from); }
/* The first `count` of 2 * LANES bf16, zeros after them. */
static inline veci veci_load_halves(const bf16 *from, int count) {
    return _mm512_maskz_loadu_epi16((__mmask32)((1ull << count) - 1), from);
}
/* Of 2 * LANES bf16: those with even and those with odd index, widened. */
static inline vec vec_even(veci pairs) { return vec_from_bits(_mm512_slli_epi32(pairs, 16)); }
static inline vec vec_odd(veci pairs) {
    return vec_from_bits(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}
static inline vec vec_from_bf16(const bf16 *from, int count) {
    __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(count), from);
    return vec_from_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
/* The bits of bf16_from_float in the upper half of each lane (NaN stays NaN). */
static inline veci vec_rounded_bits(vec a) {
    veci bits = _mm512_castps_si512(a);
    veci lowest = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    veci rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
    veci quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
    return _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000));
}
static inline void vec_store_bf16(bf16 *to, vec a, int count) {
    __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(vec_rounded_bits(a), 16));
    _mm256_mask_storeu_epi16(to, first_lanes(count), halves);
}
static inline vec vec_from_bytes(const uint8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

/* Every second of the 2 * LANES values of a and b, from the first or from the second on. */
static inline vec vec_evens(vec a, vec b) {
    const veci pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, pick, b);
}
static inline vec vec_odds(vec a, vec b) {
    const veci pick = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, pick, b);
}

/* Lane i of the result: the sum over the lanes of block[i]; `count` of them, the rest taken as 0. Halves are folded
 * onto each other until each vector has become one lane. */
static inline vec vec_sums(const vec block[LANES], const int count) {
    const veci order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    vec a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) {
        vec low = i < count ? block[i] : vec_zero(), high = i + 8 < count ? block[i + 8] : vec_zero();
        a[i] = i < count ? _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x44), _mm512_shuffle_f32x4(low, high, 0xee))
                         : vec_zero();
    }
    for (int i = 0; i < 4; i++)
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
    for (int i = 0; i < 2; i++) {
        __m512d low = _mm512_castps_pd(b[i]), high = _mm512_castps_pd(b[i + 2]);
        c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    vec sums = _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
    return _mm512_permutexvar_ps(order, sums);
}

/* 16 x 16 transpose in place. */
static inline void vec_transpose(vec r[LANES]) {
    __m512d d[LANES];
    vec t[LANES];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
            d[i + 2 * j] = _mm512_unpacklo_pd(low, high);
            d[i + 2 * j + 1] = _mm512_unpackhi_pd(low, high);
        }
    }
    /* d[4 g + j]: in 128-bit lane l, column 4 l + j of rows 4 g .. 4 g + 3 */
    for (int j = 0; j < 4; j++) {
        vec a = _mm512_castpd_ps(d[j]), b = _mm512_castpd_ps(d[4 + j]);
        vec c = _mm512_castpd_ps(d[8 + j]), e = _mm512_castpd_ps(d[12 + j]);
        vec ab_even = _mm512_shuffle_f32x4(a, b, 0x88), ab_odd = _mm512_shuffle_f32x4(a, b, 0xdd);
        vec ce_even = _mm512_shuffle_f32x4(c, e, 0x88), ce_odd = _mm512_shuffle_f32x4(c, e, 0xdd);
        r[j] = _mm512_shuffle_f32x4(ab_even, ce_even, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(ab_even, ce_even, 0xdd);
        r[4 + j] = _mm512_shuffle_f32x4(ab_odd, ce_odd, 0x88);
        r[12 + j] = _mm512_shuffle_f32x4(ab_odd, ce_odd, 0xdd);
    }
}

#else

enum { LANES = 8, TILE_ROWS = 6, SKINNY_SUMS = 13, SKINNY_ROWS_AT_ONCE = 6 };
typedef __m256 vec;
typedef __m256i veci;

static inline veci first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_zero(void) { return _mm256_setzero_ps(); }
static inline vec vec_all(float value) { return _mm256_set1_ps(value); }
static inline vec vec_load(const float *from) { return _mm256_loadu_ps(from); }
static inline void vec_store(float *to, vec value) { _mm256_storeu_ps(to, value); }
static inline vec vec_load_first(const float *from, int count) { return _mm256_maskload_ps(from, first_lanes(count)); }
static inline void vec_store_first(float *to, vec value, int count) {
    _mm256_maskstore_ps(to, first_lanes(count), value);
}
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
/* A NaN in b comes through. */
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline float vec_sum(vec a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
static inline float vec_highest(vec a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
/* a where x >= limit, else 0 */
static inline vec vec_keep_from(vec x, vec limit, vec a) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), a);
}
static inline vec vec_nearest(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for an integer n in float32, -252 <= n <= 254: in two steps, each a normal number */
static inline vec vec_scale(vec a, vec n) {
    veci whole = _mm256_cvtps_epi32(n);
    veci half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    vec first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vec second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}

static inline vec vec_from_bits(veci bits) { return _mm256_castsi256_ps(bits); }
static inline veci vec_bits(vec a) { return _mm256_castps_si256(a); }
static inline veci veci_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
/* The first `count` of 2 * LANES bf16, zeros after them. */
static inline veci veci_load_halves(const bf16 *from, int count) {
    bf16 padded[2 * LANES] = {0};
    memcpy(padded, from, (size_t)count * sizeof *padded);
    return veci_load(padded);
}
/* Of 2 * LANES bf16: those with even and those with odd index, widened. */
static inline vec vec_even(veci pairs) { return vec_from_bits(_mm256_slli_epi32(pairs, 16)); }
static inline vec vec_odd(veci pairs) {
    return vec_from_bits(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}
static inline vec vec_from_bf16(const bf16 *from, int count) {
    __m128i halves;
    if (count == LANES) {
        halves = _mm_loadu_si128((const __m128i *)from);
    } else {
        bf16 padded[LANES] = {0};
        memcpy(padded, from, (size_t)count * sizeof *padded);
        halves = _mm_loadu_si128((const __m128i *)padded);
    }
    return vec_from_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
/* The bits of bf16_from_float in the upper half of each lane (NaN stays NaN). */
static inline veci vec_rounded_bits(vec a) {
    veci bits = _mm256_castps_si256(a);
    veci lowest = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    veci rounded = _mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff)));
    veci quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
    return _mm256_and_si256(rounded, _mm256_set1_epi32((int)0xffff0000));
}
static inline void vec_store_bf16(bf16 *to, vec a, int count) {
    veci high = _mm256_srli_epi32(vec_rounded_bits(a), 16);
    __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    if (count == LANES) {
        _mm_storeu_si128((__m128i *)to, halves);
    } else {
        bf16 all[LANES];
        _mm_storeu_si128((__m128i *)all, halves);
        memcpy(to, all, (size_t)count * sizeof *to);
    }
}
static inline vec vec_from_bytes(const uint8_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

/* Every second of the 2 * LANES values of a and b, from the first or from the second on. */
static inline vec vec_evens(vec a, vec b) {
    __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8));
}
static inline vec vec_odds(vec a, vec b) {
    __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8));
}

/* Lane i of the result: the sum over the lanes of block[i]; `count` of them, the rest taken as 0. Halves are folded
 * onto each other until each vector has become one lane. */
static inline vec vec_sums(const vec block[LANES], const int count) {
    const veci order = _mm256_setr_epi32(0, 2, 1, 3, 4, 6, 5, 7);
    vec a[4], b[2];
    for (int i = 0; i < 4; i++) {
        vec low = i < count ? block[i] : vec_zero(), high = i + 4 < count ? block[i + 4] : vec_zero();
        a[i] = i < count
                   ? _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))
                   : vec_zero();
    }
    for (int i = 0; i < 2; i++) {
        __m256d low = _mm256_castps_pd(a[i]), high = _mm256_castps_pd(a[i + 2]);
        b[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)));
    }
    vec sums = _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));
    return _mm256_permutevar8x32_ps(sums, order);
}

/* 8 x 8 transpose in place. */
static inline void vec_transpose(vec r[LANES]) {
    __m256d d[LANES];
    vec t[LANES];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            __m256d low = _mm256_castps_pd(t[i + j]), high = _mm256_castps_pd(t[i + j + 2]);
            d[i + 2 * j] = _mm256_unpacklo_pd(low, high);
            d[i + 2 * j + 1] = _mm256_unpackhi_pd(low, high);
        }
    }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_castpd_ps(_mm256_permute2f128_pd(d[j], d[4 + j], 0x20));
        r[4 + j] = _mm256_castpd_ps(_mm256_permute2f128_pd(d[j], d[4 + j], 0x31));
    }
}

#endif

static inline vec vec_round_bf16(vec a) { return vec_from_bits(vec_rounded_bits(a)); }

/*
 * e^x, relative error below 1.2e-7 where the result is a normal number; 0 below -87.3, so also at -infinity. NaN stays.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial of degree 7 (Taylor; its error there is 5e-9).
 */
static inline vec vec_exp(vec x) {
    vec lowest = vec_all(-87.3f);
    vec bounded = vec_max(lowest, vec_min(vec_all(88.7f), x));
    vec n = vec_nearest(vec_mul(bounded, vec_all(1.44269504f)));
    vec r = vec_fma(n, vec_all(-0.693145752f), bounded); /* ln 2 in two parts: n times the first is exact */
    r = vec_fma(n, vec_all(-1.42860677e-6f), r);
    vec p = vec_all(1.0f / 5040);
    p = vec_fma(p, r, vec_all(1.0f / 720));
    p = vec_fma(p, r, vec_all(1.0f / 120));
    p = vec_fma(p, r, vec_all(1.0f / 24));
    p = vec_fma(p, r, vec_all(1.0f / 6));
    p = vec_fma(p, r, vec_all(0.5f));
    p = vec_fma(p, r, vec_all(1.0f));
    p = vec_fma(p, r, vec_all(1.0f));
    return vec_keep_from(x, lowest, vec_scale(p, n));
}

/* x * sigmoid(y) = x / (1 + e^-y) */
static inline vec vec_times_sigmoid(vec x, vec y) {
    return vec_div(x, vec_add(vec_all(1.0f), vec_exp(vec_sub(vec_zero(), y))));
}

/* 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = 0.79788456 (x + 0.044715 x^3): no cancellation for negative x */
static inline vec vec_gelu_tanh(vec x) {
    vec cubic = vec_fma(vec_mul(x, x), vec_all(0.044715f), vec_all(1.0f));
    return vec_times_sigmoid(x, vec_mul(vec_mul(x, vec_all(1.5957691216f)), cubic));
}

#endif
