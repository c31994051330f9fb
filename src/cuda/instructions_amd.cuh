/*
 * The instructions of AMD's gfx942 and gfx950 that the portable kernels use, one function each; the counterparts of
 * instructions_nvidia.cuh. Facts: "AMD Instinct MI300" and "CDNA4" instruction set references, LLVM's AMDGPU usage
 * guide for the builtins. Fragment layouts stand in matrix.cuh. Included by common.cuh.
 */
#ifndef PI0_CUDA_INSTRUCTIONS_AMD_CUH
#define PI0_CUDA_INSTRUCTIONS_AMD_CUH

#include <stdint.h>

enum { WARP_LANES = 64 };

#ifdef __gfx950__
#define PI0_GFX950 1
#endif

/* The same value in all lanes of a warp, known to the compiler as such: what follows from it stays in uniform
 * registers. */
__device__ __forceinline__ int warp_uniform(int value) { return __builtin_amdgcn_readfirstlane(value); }

/* ---- LDS; an address is the 32-bit offset ---- */

#define PI0_LDS __attribute__((address_space(3)))
typedef uint32_t words_2 __attribute__((ext_vector_type(2)));
typedef uint32_t words_4 __attribute__((ext_vector_type(4)));

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)(uintptr_t)(const PI0_LDS void *)p;
}
__device__ __forceinline__ void shared_load_16(uint32_t (&to)[4], uint32_t shared) {
    const words_4 v = *(const PI0_LDS words_4 *)(uintptr_t)shared;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void shared_load_8(uint32_t (&to)[2], uint32_t shared) {
    const words_2 v = *(const PI0_LDS words_2 *)(uintptr_t)shared;
    to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ uint32_t shared_load_2(uint32_t shared) {
    return *(const PI0_LDS uint16_t *)(uintptr_t)shared;
}
__device__ __forceinline__ void shared_store_16(uint32_t shared, uint4 v) {
    *(PI0_LDS words_4 *)(uintptr_t)shared = words_4{v.x, v.y, v.z, v.w};
}
/* The lower (upper) halves of two words as one. */
__device__ __forceinline__ uint32_t join_low(uint32_t first, uint32_t second) {
    return __builtin_amdgcn_perm(second, first, 0x05040100);
}
__device__ __forceinline__ uint32_t join_high(uint32_t first, uint32_t second) {
    return __builtin_amdgcn_perm(second, first, 0x07060302);
}

/* ---- global memory: buffer loads give zeros beyond the end, so that no lane has to branch ---- */

/* 16 bytes at base + offset (below 2 GB); zeros where not `valid`. `base` is the same in all lanes. */
__device__ __forceinline__ uint4 buffer_load_16(const void *base, uint32_t offset, bool valid) {
    const __amdgpu_buffer_rsrc_t buffer =
        __builtin_amdgcn_make_buffer_rsrc(const_cast<void *>(base), 0, 0x7fffffff, 0x00027000);
    const words_4 v = __builtin_amdgcn_raw_buffer_load_b128(buffer, valid ? offset : 0xffffffffu, 0, 0);
    return make_uint4(v.x, v.y, v.z, v.w);
}

__device__ __forceinline__ uint2 buffer_load_8(const void *base, uint32_t offset, bool valid) {
    const __amdgpu_buffer_rsrc_t buffer =
        __builtin_amdgcn_make_buffer_rsrc(const_cast<void *>(base), 0, 0x7fffffff, 0x00027000);
    const words_2 v = __builtin_amdgcn_raw_buffer_load_b64(buffer, valid ? offset : 0xffffffffu, 0, 0);
    return make_uint2(v.x, v.y);
}

/* Where NVIDIA copies in the background: through registers, at once. */
__device__ __forceinline__ void copy_async_16(uint32_t shared, const void *global, bool valid) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (valid) v = *(const uint4 *)global;
    shared_store_16(shared, v);
}
__device__ __forceinline__ void copy_async_commit() {}
template <int PENDING> __device__ __forceinline__ void copy_async_wait() {}

/* ---- one kernel after the other: nothing overlaps, nothing to wait for ---- */

__device__ __forceinline__ void grid_wait() {}
__device__ __forceinline__ void grid_launch_next() {}

/* ---- MFMA ---- */

typedef short mfma_bf16_4 __attribute__((ext_vector_type(4)));
typedef __bf16 mfma_bf16_8 __attribute__((ext_vector_type(8)));
typedef float mfma_f32_4 __attribute__((ext_vector_type(4)));
typedef float mfma_f32_16 __attribute__((ext_vector_type(16)));

/* D[16, 16] += A[16, 16] B[16, 16], bf16 */
__device__ __forceinline__ void mfma_16x16x16(float (&d)[4], const uint32_t *a, const uint32_t *b) {
    const words_2 x = {a[0], a[1]}, y = {b[0], b[1]};
    mfma_f32_4 sum = {d[0], d[1], d[2], d[3]};
    sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(mfma_bf16_4, x),
                                                    __builtin_bit_cast(mfma_bf16_4, y), sum, 0, 0, 0);
    d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
}
/* D[16, 16] += A[16, 32] B[32, 16], bf16; gfx942: two of the above */
__device__ __forceinline__ void mfma_16x16x32(float (&d)[4], const uint32_t *a, const uint32_t *b) {
#ifdef PI0_GFX950
    const words_4 x = {a[0], a[1], a[2], a[3]}, y = {b[0], b[1], b[2], b[3]};
    mfma_f32_4 sum = {d[0], d[1], d[2], d[3]};
    sum = __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(mfma_bf16_8, x),
                                                  __builtin_bit_cast(mfma_bf16_8, y), sum, 0, 0, 0);
    d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
#else
    mfma_16x16x16(d, a, b);
    mfma_16x16x16(d, a + 2, b + 2);
#endif
}
/* D[32, 32] += A[32, 8] B[8, 32], bf16 */
__device__ __forceinline__ void mfma_32x32x8(float (&d)[16], const uint32_t *a, const uint32_t *b) {
    const words_2 x = {a[0], a[1]}, y = {b[0], b[1]};
    mfma_f32_16 sum;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = d[i];
    sum = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(__builtin_bit_cast(mfma_bf16_4, x),
                                                   __builtin_bit_cast(mfma_bf16_4, y), sum, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < 16; i++) d[i] = sum[i];
}
/* D[16, 16] += A[16, 32] B[32, 16] in fp8 (e4m3): FNUZ on gfx942, OCP on gfx950; a and b are two words */
__device__ __forceinline__ void mfma_16x16x32_fp8(float (&d)[4], const uint32_t *a, const uint32_t *b) {
    const words_2 x = {a[0], a[1]}, y = {b[0], b[1]};
    mfma_f32_4 sum = {d[0], d[1], d[2], d[3]};
    sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(__builtin_bit_cast(long, x), __builtin_bit_cast(long, y), sum, 0,
                                                     0, 0);
    d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
}

/* ---- values ---- */

/* 2^x; 0 for -infinity */
__device__ __forceinline__ float exp2_fast(float x) { return __builtin_amdgcn_exp2f(x); }

/* ---- named barriers: AMD has one, so `threads` must be the block ---- */
__device__ __forceinline__ void barrier_sync(int id, int threads) { __syncthreads(); }
#endif
