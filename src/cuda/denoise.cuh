/* What the denoising kernels share: the operand's layout and row factors. */
#ifndef PI0_CUDA_DENOISE_CUH
#define PI0_CUDA_DENOISE_CUH

#include "common.cuh"
#include "denoise.h"
#include "launch.cuh"

/* Where element (row, k) of an operand lies. */
__host__ __device__ __forceinline__ size_t operand_offset(int row, int k, int operand_k) {
    return ((size_t)(row / 16) * (operand_k / 16) + k / 16) * 256 + row % 16 / 8 * 128 + (row % 8 * 4 + k % 8 / 2) * 4 +
           k % 16 / 8 * 2 + k % 2;
}

/* A fragment of k-step `step` of row tile `tile`; rows beyond `rows` are not read. */
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

/* Byte offset of 16-byte chunk c of row r in a tile of rows of `row_bytes`, swizzled so that 8 rows never collide. */
__device__ __forceinline__ uint32_t swizzled(int r, int c, int row_bytes) {
    const int mask = row_bytes >= 128 ? 7 : row_bytes / 16 - 1;
    return r * row_bytes + (((c & ~mask) | ((c ^ r) & mask)) * 16);
}

/* Partial sums of squares of ROWS rows into part[SKINNY_STATS_PARTS or fewer][ROWS]; 256 threads. */
template <int ROWS>
__device__ __forceinline__ void row_factor_parts(float *part, const float *stats, int slabs, int stride, int first_row,
                                                 int rows, int thread) {
    constexpr int PARTS = 256 / ROWS;
    const int row = thread % ROWS;
    float sum = 0.0f;
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
