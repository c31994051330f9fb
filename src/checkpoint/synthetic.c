/*
 * Values come from splitmix64 run as a counter: element i of a stream is the finaliser of key + (i + 1) * gamma, so any
 * piece of any tensor can be made alone, by any thread. One loop body serves every instruction set: the compiler
 * vectorises it once per target, and all of them give the same bits, since integers and separately rounded float32
 * products and sums leave no freedom.
 */
#include "checkpoint/synthetic.h"

#include <math.h>
#include <string.h>

#define GOLDEN_GAMMA 0x9E3779B97F4A7C15u

const char *const synthetic_cameras[3] = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};

/* 64-bit FNV-1a, then the seed: see the header. `prefix` and `name` are hashed as one string. */
static uint64_t key_of(const char *prefix, const char *name, uint64_t seed) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *prefix; prefix++) hash = (hash ^ (unsigned char)*prefix) * 0x100000001B3u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return hash ^ (seed * GOLDEN_GAMMA);
}

uint64_t synthetic_key(const char *name, uint64_t seed) { return key_of("", name, seed); }

static inline __attribute__((always_inline)) uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t synthetic_bits(uint64_t key, uint64_t index) { return mix(key + (index + 1) * GOLDEN_GAMMA); }

/* float32(bits >> 40) * 2^-23 - 1: exact, in [-1, 1). The 24-bit number goes through int32, which vector units convert.
 */
static inline __attribute__((always_inline)) float unit(uint64_t bits) {
    return (float)(int32_t)(bits >> 40) * 0x1p-23f - 1.0f;
}

static bool ends_with(const char *name, const char *end) {
    size_t length = strlen(name), end_length = strlen(end);
    return length >= end_length && !strcmp(name + length - end_length, end);
}

void synthetic_amplitude_base(const char *name, int rank, const int64_t *shape, float *amplitude, float *base) {
    *base = 0;
    if (ends_with(name, "bias")) {
        *amplitude = 0.02f;
    } else if (ends_with(name, "position_embedding.weight")) {
        *amplitude = 0.05f;
    } else if (rank == 1) {
        *amplitude = 0.1f;
        *base = strstr(name, ".vision_tower.") ? 1.0f : 0.0f;
    } else {
        int64_t fan_in = 1;
        for (int i = 1; i < rank; i++) fan_in *= shape[i];
        *amplitude = (float)sqrt(3.0 / (double)fan_in);
    }
}

/* The bf16 pattern of a finite float32, without the NaN case of bf16_from_float: parameters have none. */
static inline __attribute__((always_inline)) uint32_t round_finite(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/* `state` is the counter before element 0: key + start * gamma. */
static inline __attribute__((always_inline)) void fill_bf16(uint64_t state, float amplitude, float base, int64_t count,
                                                            bf16 *values) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        values[i] = (bf16)round_finite(base + amplitude * unit(mix(state + ((uint64_t)i + 1) * GOLDEN_GAMMA)));
}

static inline __attribute__((always_inline)) void fill_float(uint64_t state, float amplitude, float base, int64_t count,
                                                             float *values) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = round_finite(base + amplitude * unit(mix(state + ((uint64_t)i + 1) * GOLDEN_GAMMA))) << 16;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

#if defined(__x86_64__)
#define AVX2   __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))

AVX2 static void fill_bf16_avx2(uint64_t state, float amplitude, float base, int64_t count, bf16 *values) {
    fill_bf16(state, amplitude, base, count, values);
}
AVX512 static void fill_bf16_avx512(uint64_t state, float amplitude, float base, int64_t count, bf16 *values) {
    fill_bf16(state, amplitude, base, count, values);
}
AVX2 static void fill_float_avx2(uint64_t state, float amplitude, float base, int64_t count, float *values) {
    fill_float(state, amplitude, base, count, values);
}
AVX512 static void fill_float_avx512(uint64_t state, float amplitude, float base, int64_t count, float *values) {
    fill_float(state, amplitude, base, count, values);
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

void synthetic_bf16(uint64_t key, float amplitude, float base, int64_t start, int64_t count, bf16 *values) {
    uint64_t state = key + (uint64_t)start * GOLDEN_GAMMA;
#if defined(__x86_64__)
    if (has_avx512()) {
        fill_bf16_avx512(state, amplitude, base, count, values);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        fill_bf16_avx2(state, amplitude, base, count, values);
        return;
    }
#endif
    fill_bf16(state, amplitude, base, count, values);
}

void synthetic_float(uint64_t key, float amplitude, float base, int64_t start, int64_t count, float *values) {
    uint64_t state = key + (uint64_t)start * GOLDEN_GAMMA;
#if defined(__x86_64__)
    if (has_avx512()) {
        fill_float_avx512(state, amplitude, base, count, values);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        fill_float_avx2(state, amplitude, base, count, values);
        return;
    }
#endif
    fill_float(state, amplitude, base, count, values);
}

void synthetic_unit(const char *name, uint64_t seed, float *values, int64_t count) {
    uint64_t key = synthetic_key(name, seed);
    for (int64_t i = 0; i < count; i++) values[i] = unit(synthetic_bits(key, (uint64_t)i));
}

/* About N(0, 1): twelve 24-bit uniforms added as integers, minus 6. */
void synthetic_normal(const char *name, uint64_t seed, float *values, int64_t count) {
    uint64_t key = synthetic_key(name, seed);
    for (int64_t i = 0; i < count; i++) {
        uint64_t sum = 0;
        for (uint64_t draw = 0; draw < 12; draw++) sum += synthetic_bits(key, 12 * (uint64_t)i + draw) >> 40;
        values[i] = (float)(((double)sum + 6.0) * 0x1p-24 - 6.0);
    }
}

/* A smooth gradient plus six bits of noise. */
void synthetic_image(int camera, uint64_t seed, int size, uint8_t *pixels) {
    uint64_t key = key_of("image/", synthetic_cameras[camera], seed), index = 0;
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++)
            for (int channel = 0; channel < 3; channel++, index++) {
                int ramp = y * 96 / size + x * 96 / size * (channel + 1) / 3;
                pixels[index] = (uint8_t)(ramp + (int)(synthetic_bits(key, index) >> 58));
            }
}

void synthetic_tokens(uint64_t seed, int vocabulary, int32_t *tokens, int count) {
    uint64_t key = synthetic_key("prompt", seed);
    for (int i = 0; i < count; i++)
        tokens[i] = (int32_t)(3 + synthetic_bits(key, (uint64_t)i) % (uint64_t)(vocabulary - 3));
}

void synthetic_state(uint64_t seed, float *state, int count) { synthetic_unit("state", seed, state, count); }
