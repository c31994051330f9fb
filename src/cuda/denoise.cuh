/* What the denoising kernels share: the operand's layout and row factors. */
#ifndef PI0_CUDA_DENOISE_CUH
#define PI0_CUDA_DENOISE_CUH

#include "common.cuh"
#include "denoise.h"
#include "launch.cuh"
#include "matrix.cuh"

/* Where element (row, k) of an operand lies, and the fragment of k-step `step` of row tile `tile`, MATRIX_DEPTH
 * k-values; rows beyond `rows` are not read. */
#ifdef PI0_AMD
__host__ __device__ __forceinline__ size_t operand_offset(int row, int k, int operand_k) {
    return ((size_t)(row / 16) * (operand_k / 32) + k / 32) * 512 + (k % 32 / 8 * 16 + row % 16) * 8 + k % 8;
}
__device__ __forceinline__ void load_operand(uint32_t (&a)[4], const bf16 *operand, int tile, int step, int operand_k,
                                             int rows, int lane) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (tile * 16 + lane % 16 < rows)
        v = __ldcg((const uint4 *)(operand + ((size_t)tile * (operand_k / 32) + step) * 512) + lane);
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
}
#else
__host__ __device__ __forceinline__ size_t operand_offset(int row, int k, int operand_k) {
    return ((size_t)(row / 16) * (operand_k / 16) + k / 16) * 256 + row % 16 / 8 * 128 + (row % 8 * 4 + k % 8 / 2) * 4 +
           k % 16 / 8 * 2 + k % 2;
}

__device__ __forceinline__ void load_operand(uint32_t (&a)[4], const bf16 *operand, int tile, int step, int operand_k,
                                             int rows, int lane) {
    const uint2 *at = (const uint2 *)(operand + ((size_t)tile * (operand_k / 16) + step) * 256) + lane;
    uint2 low = make_uint2(0, 0), high = make_uint2(0, 0);
    if (tile * 16 + lane / 4 < rows) low = __ldcg(at);
    if (tile * 16 + 8 + lane / 4 < rows) high = __ldcg(at + 32);
    a[0] = low.x;
    a[1] = high.x;
    a[2] = low.y;
    a[3] = high.y;
}
#endif

/* Byte offset of 16-byte chunk c of row r in a tile of rows of `row_bytes`, swizzled so that 8 rows never collide. */
__device__ __forceinline__ uint32_t swizzled(int r, int c, int row_bytes) {
    const int mask = row_bytes >= 128 ? 7 : row_bytes / 16 - 1;
    return r * row_bytes + (((c & ~mask) | ((c ^ r) & mask)) * 16);
}

/*
 * Little products end as sums over the warps: each warp leaves its tiles of [16 rows][8 features] in shared memory.
 * `tiles` is where tile 0 of this warp lies; acc is the n-th tile of MATRIX_NARROW features; those from `features` on
 * are left out.
 */
__device__ __forceinline__ void store_partial(float *tiles, int n, const float (&acc)[4], int features, int lane) {
#ifdef PI0_AMD
    const int column = n * 16 + lane / 16 * 4;
    if (column < features)
        *(float4 *)(tiles + column / 8 * 128 + lane % 16 * 8 + column % 8) =
            make_float4(acc[0], acc[1], acc[2], acc[3]);
#else
    *(float2 *)(tiles + n * 128 + lane * 2) = make_float2(acc[0], acc[1]);
    *(float2 *)(tiles + n * 128 + 64 + lane * 2) = make_float2(acc[2], acc[3]);
#endif
}

#ifdef PI0_AMD
/* Weights as operand columns, straight from memory: no value is used twice. 32 k-values from k on of the n-th 16 of
 * `features` features from `weights` on; zeros beyond `k_end`. */
__device__ __forceinline__ void load_weights(uint32_t (&b)[4], const bf16 *weights, int stride, int n, int features,
                                             int k, int k_end, int lane) {
    const int feature = n * 16 + lane % 16, from = k + lane / 16 * 8;
    const uint4 v =
        buffer_load_16(weights, (uint32_t)(feature * stride + from) * 2, feature < features && from < k_end);
    b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
}
#endif

/* Partial sums of squares of ROWS rows into part[256 / ROWS][ROWS]; by the first 256 threads. */
template <int ROWS>
__device__ __forceinline__ void row_factor_parts(float *part, const float *stats, int slabs, int stride, int first_row,
                                                 int rows, int thread) {
    constexpr int PARTS = 256 / ROWS;
    const int row = thread % ROWS;
    float sum = 0.0f;
    if (thread >= 256) return;
    if (first_row + row < rows)
        for (int s = thread / ROWS; s < slabs; s += PARTS) sum += __ldcg(&stats[(size_t)s * stride + first_row + row]);
    part[thread] = sum;
}
template <int ROWS> __device__ __forceinline__ float row_factor(const float *part, int row, int width) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 256 / ROWS; i++) sum += part[i * ROWS + row];
    return rsqrtf(sum / (float)width + 1e-6f);
}
#endif
