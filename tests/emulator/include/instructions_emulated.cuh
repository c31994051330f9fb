/*
 * The instructions that the portable kernels use, emulated: for warps of 32 lanes the functions of
 * instructions_nvidia.cuh, with PI0_AMD for waves of 64 those of instructions_amd.cuh (PI0_GFX950: with that GPU's
 * MFMA). What they do is in tests/emulator/instructions.cc. Included by common.cuh.
 */
#ifndef PI0_INSTRUCTIONS_EMULATED_CUH
#define PI0_INSTRUCTIONS_EMULATED_CUH

#include "emulator.h"

enum { WARP_LANES = EMULATOR_LANES };

static inline uint32_t shared_address(const void *p) { return emulator_shared_address(p); }
static inline void grid_wait() {}
static inline void grid_launch_next() {}
static inline float exp2_fast(float x) { return exp2f(x); }
static inline void barrier_sync(int id, int threads) { emulator_barrier(id, threads); }
static inline int warp_uniform(int value) {
    emulator_warp(EMULATOR_UNIFORM, &value);
    return value;
}

#ifdef PI0_AMD
static inline void shared_load_16(uint32_t (&to)[4], uint32_t shared) { emulator_shared_load(to, shared, 16); }
static inline void shared_load_8(uint32_t (&to)[2], uint32_t shared) { emulator_shared_load(to, shared, 8); }
static inline uint32_t shared_load_2(uint32_t shared) {
    uint16_t value;
    emulator_shared_load(&value, shared, 2);
    return value;
}
static inline void shared_store_16(uint32_t shared, uint4 v) { emulator_shared_store(shared, &v, 16); }
static inline uint32_t join_low(uint32_t first, uint32_t second) { return (first & 0xffff) | second << 16; }
static inline uint32_t join_high(uint32_t first, uint32_t second) { return first >> 16 | (second & 0xffff0000); }

static inline uint4 buffer_load_16(const void *base, uint32_t offset, bool valid) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (valid) emulator_global_load(&v, (const char *)base + offset, 16);
    return v;
}
static inline uint2 buffer_load_8(const void *base, uint32_t offset, bool valid) {
    uint2 v = make_uint2(0, 0);
    if (valid) emulator_global_load(&v, (const char *)base + offset, 8);
    return v;
}
static inline void copy_async_16(uint32_t shared, const void *global, bool valid) {
    shared_store_16(shared, buffer_load_16(global, 0, valid));
}
static inline void copy_async_commit() {}
template <int PENDING> static inline void copy_async_wait() {}

static inline void mfma_16x16x16(float (&d)[4], const uint32_t *a, const uint32_t *b) {
    emulator_product product = {d, a, b};
    emulator_warp(EMULATOR_MFMA_16X16X16, &product);
}
static inline void mfma_16x16x32(float (&d)[4], const uint32_t *a, const uint32_t *b) {
#ifdef PI0_GFX950
    emulator_product product = {d, a, b};
    emulator_warp(EMULATOR_MFMA_16X16X32, &product);
#else
    mfma_16x16x16(d, a, b);
    mfma_16x16x16(d, a + 2, b + 2);
#endif
}
static inline void mfma_32x32x8(float (&d)[16], const uint32_t *a, const uint32_t *b) {
    emulator_product product = {d, a, b};
    emulator_warp(EMULATOR_MFMA_32X32X8, &product);
}
#else
static inline void copy_async_16(uint32_t shared, const void *global, bool valid) {
    emulator_copy_async(shared, global, valid);
}
static inline void copy_async_16_ahead(uint32_t shared, const void *global, bool valid) {
    emulator_copy_async(shared, global, valid);
}
static inline void prefetch_line(const void *) {}
static inline void copy_async_commit() { emulator_copy_commit(); }
template <int PENDING> static inline void copy_async_wait() { emulator_copy_wait(PENDING); }

static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    emulator_product product = {d, a, b};
    emulator_warp(EMULATOR_MMA_16X8X16, &product);
}
static inline void load_matrix_4(uint32_t (&r)[4], uint32_t shared) {
    emulator_matrix matrix = {r, shared, 4, false};
    emulator_warp(EMULATOR_LOAD_MATRIX, &matrix);
}
static inline void load_matrix_4_transposed(uint32_t (&r)[4], uint32_t shared) {
    emulator_matrix matrix = {r, shared, 4, true};
    emulator_warp(EMULATOR_LOAD_MATRIX, &matrix);
}
static inline void load_matrix_2_transposed(uint32_t (&r)[2], uint32_t shared) {
    emulator_matrix matrix = {r, shared, 2, true};
    emulator_warp(EMULATOR_LOAD_MATRIX, &matrix);
}
#endif
#endif
