/*
 * Conversions, embeddings, packing: memory-bound kernels, one thread a few values.
 */
#include <cuda_fp16.h>

#include "common.cuh"
#include "elementwise.h"
#include "launch.cuh"

extern "C" {
#include "checkpoint/tensor.h"
}

/* grid: one block per patch (image, token); reads 588 pixels, writes parts * PATCH_K values. */
__global__ void __launch_bounds__(128) patches_kernel(const patches_problem p) {
    grid_launch_next();
    grid_wait();
    const int grid = p.size / p.patch, tokens = grid * grid;
    const int image = blockIdx.x / tokens, token = blockIdx.x % tokens;
    const int kind = p.kinds[image], top = token / grid * p.patch, left = token % grid * p.patch;
    const uint8_t *pixels = p.images + image * p.image_stride;
    const float *values = (const float *)pixels;
    bf16 *out = p.out + (size_t)blockIdx.x * p.parts * PATCH_K;
    const int area = p.patch * p.patch;
    for (int i = threadIdx.x; i < PATCH_K; i += blockDim.x) {
        float high = 0.0f, low = 0.0f;
        if (i < 3 * area) {
            const int channel = i / area, y = top + i % area / p.patch, x = left + i % p.patch;
            if (kind == IMAGE_U8) {
                high = (float)pixels[(y * p.size + x) * 3 + channel] - 128.0f;
            } else if (kind == IMAGE_F32) {
                const float v = (values[(channel * p.size + y) * p.size + x] - 1.0f / 255.0f) * 127.5f;
                high = __bfloat162float(__float2bfloat16(v));
                low = v - high;
            } else {
                high = -128.0f; /* x = -1 */
            }
        }
        out[i] = __float2bfloat16(high);
        if (p.parts > 1) out[PATCH_K + i] = __float2bfloat16(low);
    }
}

extern "C" cudaError_t patches_launch(const patches_problem *p, bool dependent, cudaStream_t stream) {
    const int grid = p->size / p->patch;
    return launch(patches_kernel, dim3(p->count * grid * grid), 128, 0, 1, dependent, stream, *p);
}

/* grid: one block per token; a warp takes 64 features at a time (the slabs of the row sums). */
__global__ void __launch_bounds__(256) text_kernel(const text_problem p) {
    grid_launch_next();
    grid_wait();
    const int row = p.rows[blockIdx.x], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bf16 *from = p.table + (size_t)p.tokens[blockIdx.x] * p.width;
    for (int slab = warp; slab * 64 < p.width; slab += 8) {
        float sum = 0.0f, squares = 0.0f;
        const int f = slab * 64 + lane * 2;
        if (f < p.width) {
            const size_t at = (size_t)row * p.width + f;
            const float a = __bfloat162float(from[f]) * p.scale, b = __bfloat162float(from[f + 1]) * p.scale;
            *(float2 *)(p.x + at) = make_float2(a, b);
            *(uint32_t *)(p.operand + at) = pack_bf16(a * p.gain[f], b * p.gain[f + 1]);
            sum = a + b;
            squares = a * a + b * b;
        }
        for (int d = 16; d; d /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
            squares += __shfl_xor_sync(0xffffffffu, squares, d);
        }
        if (lane == 0) p.stats[(size_t)slab * p.stats_stride + row] = make_float2(sum, squares);
    }
}

extern "C" cudaError_t text_launch(const text_problem *p, bool dependent, cudaStream_t stream) {
    return launch(text_kernel, dim3(p->count), 256, 0, 1, dependent, stream, *p);
}

/* Element i of a synthetic stream (golden/synthetic.py), float32 before rounding. */
__device__ __forceinline__ float synthetic_value(uint64_t key, float amplitude, float base, uint64_t i) {
    uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const float unit = __fsub_rn((float)(uint32_t)(z >> 40) * 0x1p-23f, 1.0f);
    return __fadd_rn(base, __fmul_rn(amplitude, unit));
}

__device__ __forceinline__ int64_t packed_row(const pack_problem &p, int64_t r) {
    switch (p.mode) {
    case PACK_INTERLEAVE:
        return r / 8 * 16 + r % 8 + p.row_offset;
    case PACK_ROPE: {
        const int64_t head = r / p.head_dim;
        const int d = (int)(r % p.head_dim), half = p.head_dim / 2;
        return head * p.head_dim + d % half / 8 * 16 + d / half * 8 + d % 8 + p.row_offset;
    }
    case PACK_HEADS:
        return r / p.head_dim * p.padded + r % p.head_dim + p.row_offset;
    default:
        return r + p.row_offset;
    }
}

/* Thread: WIDTH neighbouring columns of one row. */
template <int WIDTH> __global__ void __launch_bounds__(256) pack_kernel(const pack_problem p) {
    const int64_t groups = p.cols / WIDTH, i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= p.rows * groups) return;
    const int64_t row = i / groups, column = i % groups * WIDTH, at = row * p.cols + column;
    float values[WIDTH];
    if (!p.source) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            values[j] = __bfloat162float(
                __float2bfloat16(synthetic_value(p.key, p.amplitude, p.base, (uint64_t)(p.first + at + j))));
    } else if (p.dtype == DTYPE_BF16) {
        bf16 raw[WIDTH];
        if constexpr (WIDTH == 8)
            *(uint4 *)raw = *(const uint4 *)((const bf16 *)p.source + at);
        else
            raw[0] = ((const bf16 *)p.source)[at];
#pragma unroll
        for (int j = 0; j < WIDTH; j++) values[j] = __bfloat162float(raw[j]);
    } else if (p.dtype == DTYPE_F32) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) values[j] = ((const float *)p.source)[at + j];
    } else {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) values[j] = __half2float(((const __half *)p.source)[at + j]);
    }
    const int64_t to_row = packed_row(p, p.first_row + row);
    int64_t to_column = column;
    if (p.column_head_dim) to_column = column / p.column_head_dim * p.column_padded + column % p.column_head_dim;
    const int64_t to = to_row * p.out_stride + to_column + p.column_offset;
    unsigned changed = 0;
    if (p.out_f32) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) ((float *)p.out)[to + j] = values[j] + p.add;
    } else {
        bf16 rounded[WIDTH];
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            rounded[j] = __float2bfloat16(values[j]);
            changed += __bfloat162float(rounded[j]) != values[j];
        }
        if (WIDTH == 8 && to % 8 == 0) {
            *(uint4 *)((bf16 *)p.out + to) = *(const uint4 *)rounded;
        } else {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) ((bf16 *)p.out)[to + j] = rounded[j];
        }
    }
    if (changed && p.changed) atomicAdd(p.changed, changed);
}

extern "C" cudaError_t pack_launch(const pack_problem *p, cudaStream_t stream) {
    const bool wide = p->cols % 8 == 0 && (!p->column_head_dim || p->column_head_dim % 8 == 0);
    const int64_t threads = p->rows * p->cols / (wide ? 8 : 1);
    const dim3 grid((unsigned)((threads + 255) / 256));
    if (wide) return launch(pack_kernel<8>, grid, 256, 0, 1, false, stream, *p);
    return launch(pack_kernel<1>, grid, 256, 0, 1, false, stream, *p);
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

/* grid: x 8 columns n, y rows m; a warp sums over k. */
__global__ void __launch_bounds__(256) linear_kernel(const linear_problem p) {
    const int n = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, m = blockIdx.y;
    if (n >= p.n) return;
    float sum = 0.0f;
    for (int k = lane; k < p.k; k += 32)
        sum += p.x[m * p.x_stride + k] * __bfloat162float(p.weights[n * p.weights_stride + k]);
    sum = warp_sum(sum);
    if (lane) return;
    if (p.bias) sum += p.bias[n];
    if (n < p.ones) sum += 1.0f;
    p.y[m * p.y_stride + n] = p.silu ? silu(sum) : sum;
}

extern "C" cudaError_t linear_launch(const linear_problem *p, cudaStream_t stream) {
    return launch(linear_kernel, dim3(ceil_div(p->n, 8), p->m), 256, 0, 1, false, stream, *p);
}

__global__ void __launch_bounds__(256)
    fold_layer_norm_kernel(const bf16 *weights, int64_t stride, int rows, int k, const float *gain, const float *beta,
                           float *bias, float *center) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float with_gain = 0.0f, with_beta = 0.0f;
    for (int i = lane; i < k; i += 32) {
        const float w = __bfloat162float(weights[row * stride + i]);
        with_gain += w * gain[i];
        with_beta += w * beta[i];
    }
    with_gain = warp_sum(with_gain);
    with_beta = warp_sum(with_beta);
    if (lane) return;
    bias[row] += with_beta;
    center[row] = with_gain;
}

extern "C" cudaError_t fold_layer_norm(const bf16 *weights, int64_t stride, int rows, int k, const float *gain,
                                       const float *beta, float *bias, float *center, cudaStream_t stream) {
    return launch(fold_layer_norm_kernel, dim3(ceil_div(rows, 8)), 256, 0, 1, false, stream, weights, stride, rows, k,
                  gain, beta, bias, center);
}

__global__ void __launch_bounds__(256)
    fold_patch_bias_kernel(const bf16 *weights, int64_t stride, int rows, int k, float *bias) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int i = lane; i < k; i += 32) sum += __bfloat162float(weights[row * stride + i]);
    sum = warp_sum(sum);
    if (lane == 0) bias[row] += sum / 255.0f;
}

extern "C" cudaError_t fold_patch_bias(const bf16 *weights, int64_t stride, int rows, int k, float *bias,
                                       cudaStream_t stream) {
    return launch(fold_patch_bias_kernel, dim3(ceil_div(rows, 8)), 256, 0, 1, false, stream, weights, stride, rows, k,
                  bias);
}

__global__ void __launch_bounds__(256)
    fold_action_kernel(const bf16 *weights, int64_t stride, const bf16 *in, float *out, int width, int action_dim) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= width * action_dim) return;
    const int f = i / action_dim, d = i % action_dim;
    double sum = 0.0;
    for (int j = 0; j < width; j++)
        sum += (double)__bfloat162float(weights[f * stride + j]) * (double)__bfloat162float(in[j * action_dim + d]);
    out[i] = (float)sum;
}

extern "C" cudaError_t fold_action(const bf16 *weights, int64_t stride, const bf16 *in, float *out, int width,
                                   int action_dim, cudaStream_t stream) {
    return launch(fold_action_kernel, dim3(ceil_div(width * action_dim, 256)), 256, 0, 1, false, stream, weights,
                  stride, in, out, width, action_dim);
}

__global__ void __launch_bounds__(256)
    rope_table_kernel(float2 *table, const float *frequency, int positions, int half) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= positions * half) return;
    const float angle = __fmul_rn((float)(i / half), frequency[i % half]);
    double s, c;
    sincos((double)angle, &s, &c);
    table[i] = make_float2((float)c, (float)s);
}

extern "C" cudaError_t rope_table_launch(float2 *table, const float *frequency, int positions, int half,
                                         cudaStream_t stream) {
    return launch(rope_table_kernel, dim3(ceil_div(positions * half, 256)), 256, 0, 1, false, stream, table, frequency,
                  positions, half);
}
