/*
 * Attention as it is written down: every score of a row, their softmax, the sum of values. For `--attention naive`:
 * what the fast kernels are compared with, in results and in time.
 *
 *   grid    x: query row, y: head, z: sequence (of the steps: row of an observation, head, observation)   block 256
 * threads memory  the row's scores in shared memory, float32 bytes   every row reads all keys and values from L2 FLOPs
 * 4 * keys * head_dim a row      bound  L2
 */
#include "attention_plain.h"
#include "common.cuh"
#include "denoise.cuh"
#include "launch.cuh"

enum { PLAIN_THREADS = 256, PLAIN_WARPS = PLAIN_THREADS / WARP_LANES };

/* Over the block; everyone gets the result. */
template <typename F> __device__ __forceinline__ float over_block(float v, float *scratch, int thread, F combine) {
#pragma unroll
    for (int d = WARP_LANES / 2; d; d /= 2) v = combine(v, __shfl_xor_sync(~0u, v, d));
    __syncthreads();
    if (thread % WARP_LANES == 0) scratch[thread / WARP_LANES] = v;
    __syncthreads();
    v = scratch[0];
    for (int i = 1; i < PLAIN_WARPS; i++) v = combine(v, scratch[i]);
    return v;
}

/* One row. key(j), value(j): rows of head_dim values, or NULL where the row does not see key j. finish(d, value). */
template <typename KEY, typename VALUE, typename F>
__device__ __forceinline__ void attend(const bf16 *q, int keys, int head_dim, float scale, float *scores, int thread,
                                       KEY key, VALUE value, F finish) {
    __shared__ float scratch[PLAIN_WARPS];
    float top = -INFINITY;
    for (int j = thread; j < keys; j += PLAIN_THREADS) {
        const bf16 *k = key(j);
        float score = 0.0f;
        if (k)
            for (int d = 0; d < head_dim; d++) score += __bfloat162float(q[d]) * __bfloat162float(k[d]);
        scores[j] = k ? score * scale : -INFINITY;
        top = fmaxf(top, scores[j]);
    }
    top = over_block(top, scratch, thread, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0.0f;
    for (int j = thread; j < keys; j += PLAIN_THREADS) {
        scores[j] = top == -INFINITY ? 0.0f : expf(scores[j] - top);
        sum += scores[j];
    }
    sum = over_block(sum, scratch, thread, [](float a, float b) { return a + b; });
    for (int d = thread; d < head_dim; d += PLAIN_THREADS) {
        float y = 0.0f;
        for (int j = 0; j < keys; j++)
            if (scores[j] != 0.0f) y += scores[j] * __bfloat162float(value(j)[d]);
        finish(d, sum > 0.0f ? y / sum : 0.0f);
    }
}

__global__ void __launch_bounds__(PLAIN_THREADS) attention_plain_kernel(const __grid_constant__ attention_problem p) {
    extern __shared__ float scores[];
    grid_launch_next();
    grid_wait();
    const int sequence = blockIdx.z, head = blockIdx.y, row = blockIdx.x;
    const int start = p.starts ? p.starts[sequence] : sequence * p.length;
    const int keys = p.starts ? p.starts[sequence + 1] - start : p.length;
    if (row >= keys * p.group) return;
    const bf16 *q = p.q + ((size_t)start * p.group + row) * p.q_stride + head * p.head_dim;
    bf16 *out = p.out + ((size_t)start * p.group + row) * p.out_stride + head * p.head_dim;
    const size_t first = (size_t)start * p.kv_stride + head * p.head_dim;
    attend(
        q, keys, p.head_dim, p.scale, scores, threadIdx.x,
        [&](int j) -> const bf16 * {
            return p.key_mask && !p.key_mask[start + j] ? NULL : p.k + first + (size_t)j * p.kv_stride;
        },
        [&](int j) { return p.v + first + (size_t)j * p.kv_stride; },
        [&](int d, float y) { out[d] = __float2bfloat16(y); });
}

extern "C" cudaError_t attention_plain_launch(const attention_problem *p, bool dependent, cudaStream_t stream) {
    return launch(attention_plain_kernel, dim3(p->length * p->group, p->heads, p->sequences), PLAIN_THREADS,
                  (size_t)p->length * sizeof(float), 1, dependent, stream, *p);
}

__global__ void __launch_bounds__(PLAIN_THREADS)
    suffix_attention_plain_kernel(const __grid_constant__ suffix_attention_problem p) {
    extern __shared__ float scores[];
    grid_launch_next();
    grid_wait();
    const int b = blockIdx.z, head = blockIdx.y, i = blockIdx.x;
    const int start = p.starts[b], prefix = p.starts[b + 1] - start, all = prefix + p.first_slot + p.horizon;
    const bool state = i >= p.horizon; /* sees the prefix and itself alone */
    const int row = state ? p.action_rows + b : b * p.horizon + i, seen = state ? prefix + p.first_slot : all;
    auto at = [&](const bf16 *of_prefix, const bf16 *of_suffix, int j) {
        return j < prefix ? of_prefix + (size_t)(start + j) * p.head_dim
                          : of_suffix + ((size_t)b * p.slots + j - prefix) * p.head_dim;
    };
    attend(
        p.q + ((size_t)row * p.heads + head) * p.head_dim, seen, p.head_dim, p.scale, scores, threadIdx.x,
        [&](int j) -> const bf16 * {
            return j < prefix && p.key_mask && !p.key_mask[start + j] ? NULL : at(p.keys, p.suffix_keys, j);
        },
        [&](int j) { return at(p.values, p.suffix_values, j); },
        [&](int d, float y) { p.out[operand_offset(row, head * p.head_dim + d, p.out_k)] = __float2bfloat16(y); });
}

extern "C" cudaError_t suffix_attention_plain_launch(const suffix_attention_problem *p, int most_keys, bool dependent,
                                                     cudaStream_t stream) {
    return launch(suffix_attention_plain_kernel, dim3(p->horizon + p->state_rows, p->heads, p->batch), PLAIN_THREADS,
                  (size_t)most_keys * sizeof(float), 1, dependent, stream, *p);
}
