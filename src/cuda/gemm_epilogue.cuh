/*
 * What follows a product, on accumulators as wgmma and mma.sync leave them: a warp holds 16 features x 8 tokens per
 * fragment, lane l features l/4 and l/4 + 8, tokens 2(l%4) and 2(l%4) + 1. A group of 128 threads (64 features) turns
 * 32 tokens at a time through shared memory, so that global memory sees whole rows of features.
 *
 * On AMD a wave holds 32 features x 16 tokens per pair of fragments (gemm_portable.cu): there too a lane has features f
 * and f + 8, here called low and high, and BN / 4 such pairs.
 */
#ifndef PI0_CUDA_GEMM_EPILOGUE_CUH
#define PI0_CUDA_GEMM_EPILOGUE_CUH

#include "common.cuh"
#include "gemm.h"

enum { EPILOGUE_TOKENS = 32, EPILOGUE_ROW = 68 }; /* 64 features and 4 floats of padding: no bank conflicts */
enum { EPILOGUE_STAGING_BYTES = EPILOGUE_TOKENS * EPILOGUE_ROW * 4 };

#ifdef PI0_AMD
/* The low feature of all of a thread's pairs, within the 64. */
__device__ __forceinline__ int pair_feature(int thread) { return thread / 64 * 32 + thread % 16 / 8 * 16 + thread % 8; }
/* The token of pair i, within the tile. */
__device__ __forceinline__ int pair_token(int thread, int i) { return i / 4 * 16 + thread % 64 / 16 * 4 + i % 4; }
/* Where the accumulators of pair i lie. */
template <int BN> __device__ __forceinline__ constexpr int pair_low(int i) { return i; }
template <int BN> __device__ __forceinline__ constexpr int pair_high(int i) { return i + BN / 4; }
#else
__device__ __forceinline__ int pair_feature(int thread) { return thread / 32 * 16 + thread % 32 / 4; }
__device__ __forceinline__ int pair_token(int thread, int i) { return i / 2 * 8 + thread % 4 * 2 + i % 2; }
template <int BN> __device__ __forceinline__ constexpr int pair_low(int i) { return i / 2 * 4 + i % 2; }
template <int BN> __device__ __forceinline__ constexpr int pair_high(int i) { return i / 2 * 4 + i % 2 + 2; }
#endif

/* (r, mean * r) of each of the tile's columns, by `threads` threads. All loads of a batch are under way at once. */
__device__ __forceinline__ void epilogue_column_factors(float2 *factors, const gemm_problem &p, int first_token,
                                                        int tokens, int thread, int threads) {
    for (int i = thread; i < tokens; i += threads) {
        float2 factor = make_float2(p.scale, 0.0f);
        int token = first_token + i;
        if (p.stats && token < p.tokens) {
            float sum = 0.0f, squares = 0.0f;
            for (int first = 0; first < p.stats_slabs; first += 32) {
                float2 v[32];
#pragma unroll
                for (int s = 0; s < 32; s++)
                    v[s] = first + s < p.stats_slabs ? __ldcg(&p.stats[(size_t)(first + s) * p.stats_stride + token])
                                                     : make_float2(0.0f, 0.0f);
#pragma unroll
                for (int s = 0; s < 32; s++) {
                    sum += v[s].x;
                    squares += v[s].y;
                }
            }
            float mean = p.layer_norm ? sum / (float)p.norm_width : 0.0f;
            float r = rsqrtf(fmaxf(squares / (float)p.norm_width - mean * mean, 0.0f) + 1e-6f);
            factor = make_float2(r, mean * r);
        }
        factors[i] = factor;
    }
}

/* What a thread needs of its group besides the accumulators; loaded early, so that nothing waits for it. */
template <gemm_epilogue EPILOGUE, int BN> struct epilogue_values {
    static constexpr int CHUNKS = ceil_div(BN, EPILOGUE_TOKENS);
    float bias_low, bias_high, center_low, center_high;
    float2 turns[EPILOGUE == GEMM_ROPE ? BN / 4 : 1]; /* (cos, sin) of its pair at its tokens */
    /* x, or what stands in its place: up to four chunks */
    float4 old[EPILOGUE == GEMM_RESIDUAL ? 4 * (CHUNKS < 4 ? CHUNKS : 4) : 1];
};

/* Before the product. first_feature counts from the problem's first. */
template <gemm_epilogue EPILOGUE, int BN>
__device__ __forceinline__ void epilogue_prepare(epilogue_values<EPILOGUE, BN> &v, const gemm_problem &p,
                                                 int first_feature, int first_token, int thread) {
    const int f_low = first_feature + pair_feature(thread), f_high = f_low + 8;
    v.bias_low = p.bias && f_low < p.features ? __ldg(&p.bias[f_low]) : 0.0f;
    v.bias_high = p.bias && f_high < p.features ? __ldg(&p.bias[f_high]) : 0.0f;
    v.center_low = p.center && f_low < p.features ? __ldg(&p.center[f_low]) : 0.0f;
    v.center_high = p.center && f_high < p.features ? __ldg(&p.center[f_high]) : 0.0f;
    if constexpr (EPILOGUE == GEMM_ROPE) {
        /* 16 packed rows are 8 features i and their partners i + head_dim / 2 */
        const int block16 = (p.first_feature + f_low) / 16, blocks = p.head_dim / 16;
        const int pair = block16 % blocks * 8 + f_low % 8;
#pragma unroll
        for (int i = 0; i < BN / 4; i++) {
            const int token = first_token + pair_token(thread, i);
            v.turns[i] = make_float2(1.0f, 0.0f);
            if (token < p.tokens && block16 / blocks <= p.heads)
                v.turns[i] = __ldg(&p.rope[(size_t)__ldg(&p.positions[token]) * (p.head_dim / 2) + pair]);
        }
    }
}

__device__ __forceinline__ int epilogue_row(const gemm_problem &p, int token) {
    return p.row_map ? __ldg(&p.row_map[token / p.row_period]) + token % p.row_period : token;
}

/* One chunk of the residual stream's old values. The first four after the last product is issued, the others as the
 * group goes on. */
template <gemm_epilogue EPILOGUE, int BN>
__device__ __forceinline__ void epilogue_fetch(epilogue_values<EPILOGUE, BN> &v, const gemm_problem &p, int chunk,
                                               int first_feature, int first_token, int thread) {
    if constexpr (EPILOGUE == GEMM_RESIDUAL) {
        const int f = first_feature + thread % 16 * 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = chunk * EPILOGUE_TOKENS + i * 8 + thread / 16, token = first_token + column;
            float4 &old = v.old[chunk % 4 * 4 + i];
            old = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (column >= BN || token >= p.tokens || f >= p.features) continue;
            if (p.accumulate)
                old = __ldcg((const float4 *)(p.x + (size_t)epilogue_row(p, token) * p.features + f));
            else if (p.row_bias)
                old = __ldg((const float4 *)(p.row_bias + (size_t)(token % p.row_period) * p.features + f));
        }
    }
}
template <gemm_epilogue EPILOGUE, int BN>
__device__ __forceinline__ void epilogue_fetch_first(epilogue_values<EPILOGUE, BN> &v, const gemm_problem &p,
                                                     int first_feature, int first_token, int thread) {
#pragma unroll
    for (int chunk = 0; chunk < epilogue_values<EPILOGUE, BN>::CHUNKS && chunk < 4; chunk++)
        epilogue_fetch<EPILOGUE, BN>(v, p, chunk, first_feature, first_token, thread);
}

/* One 64-feature group; acc[pair_low(i)], acc[pair_high(i)] are pair i of BN / 4. */
template <gemm_epilogue EPILOGUE, int BN>
__device__ __forceinline__ void epilogue_group(const float (&acc)[BN / 2], epilogue_values<EPILOGUE, BN> &values,
                                               const gemm_problem &p, int first_feature, int first_token,
                                               const float2 *factors, float *staging, int thread, int barrier) {
    const int feature = pair_feature(thread);
    const int half = EPILOGUE == GEMM_ROPE ? p.head_dim / 2 : 0;

#pragma unroll
    for (int chunk = 0; chunk < ceil_div(BN, EPILOGUE_TOKENS); chunk++) {
        barrier_sync(barrier, 128); /* the last chunk's rows are read */
#pragma unroll
        for (int n = 0; n < EPILOGUE_TOKENS / 4; n++) {
            const int i = chunk * (EPILOGUE_TOKENS / 4) + n;
            if (i < BN / 4) {
                const int column = pair_token(thread, i);
                const float2 factor = factors[column];
                float low = acc[pair_low<BN>(i)] * factor.x - factor.y * values.center_low + values.bias_low;
                float high = acc[pair_high<BN>(i)] * factor.x - factor.y * values.center_high + values.bias_high;
                float *row = staging + (column - chunk * EPILOGUE_TOKENS) * EPILOGUE_ROW;
                if constexpr (EPILOGUE == GEMM_GATED) {
                    row[feature / 16 * 8 + feature % 8] = gelu_tanh(low) * high;
                } else {
                    if constexpr (EPILOGUE == GEMM_GELU) {
                        low = gelu_tanh(low);
                        high = gelu_tanh(high);
                    }
                    if constexpr (EPILOGUE == GEMM_ROPE) {
                        const float2 turn = values.turns[i];
                        const float a = low * turn.x - high * turn.y;
                        high = high * turn.x + low * turn.y;
                        low = a;
                    }
                    row[feature] = low;
                    row[feature + 8] = high;
                }
            }
        }
        barrier_sync(barrier, 128);
        const int tokens = min(EPILOGUE_TOKENS, BN - chunk * EPILOGUE_TOKENS);
        const int base = first_token + chunk * EPILOGUE_TOKENS;
        if constexpr (EPILOGUE == GEMM_RESIDUAL) {
            const int f = first_feature + thread % 16 * 4;
            const bool valid = f < p.features;
            float4 gain = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
            if (valid && p.operand) gain = __ldg((const float4 *)(p.gain + f));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                const int column = i * 8 + thread / 16, token = base + column;
                const bool there = column < tokens && token < p.tokens && valid;
                const int row = there ? epilogue_row(p, token) : 0;
                if (there) {
                    const float4 old = values.old[chunk % 4 * 4 + i];
                    v = *(const float4 *)(staging + (i * 8 + thread / 16) * EPILOGUE_ROW + thread % 16 * 4);
                    v = make_float4(v.x + old.x, v.y + old.y, v.z + old.z, v.w + old.w);
                    const size_t at = (size_t)row * p.features + f;
                    __stcg((float4 *)(p.x + at), v);
                    if (p.operand)
                        __stcg((uint2 *)(p.operand + at), make_uint2(pack_bf16(v.x * gain.x, v.y * gain.y),
                                                                     pack_bf16(v.z * gain.z, v.w * gain.w)));
                }
                if (p.stats_out) {
                    float sum = v.x + v.y + v.z + v.w, squares = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
#pragma unroll
                    for (int distance = 8; distance; distance /= 2) {
                        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                        squares += __shfl_xor_sync(0xffffffffu, squares, distance);
                    }
                    if (thread % 16 == 0 && there)
                        __stcg(&p.stats_out[(size_t)(f / GEMM_SLAB) * p.stats_out_stride + row],
                               make_float2(sum, squares));
                }
            }
            if (chunk + 4 < epilogue_values<EPILOGUE, BN>::CHUNKS)
                epilogue_fetch<EPILOGUE, BN>(values, p, chunk + 4, first_feature, first_token, thread);
        } else {
            constexpr int LANES = EPILOGUE == GEMM_GATED ? 4 : 8; /* of 8 features each, per token */
#pragma unroll
            for (int i = 0; i < EPILOGUE_TOKENS * LANES / 128; i++) {
                const int column = i * (128 / LANES) + thread / LANES, token = base + column, part = thread % LANES;
                if (column >= tokens || token >= p.tokens) continue;
                const float *row = staging + column * EPILOGUE_ROW;
                if constexpr (EPILOGUE == GEMM_ROPE) {
                    /* lanes 0..3: the low halves of the four warps' pairs, 4..7 the high ones */
                    const float4 *v = (const float4 *)(row + part % 4 * 16 + part / 4 * 8);
                    const int block = (p.first_feature + first_feature) / 16 + part % 4;
                    if (first_feature + part % 4 * 16 >= p.features) continue;
                    const int to = block / (p.head_dim / 16), d = block % (p.head_dim / 16) * 8 + part / 4 * half;
                    bf16 *out = to < p.heads ? p.q + ((size_t)token * p.heads + to) * p.head_dim
                                             : (to == p.heads ? p.keys : p.values) + (size_t)token * p.head_dim;
                    __stcg((uint4 *)(out + d), make_uint4(pack_bf16(v[0].x, v[0].y), pack_bf16(v[0].z, v[0].w),
                                                          pack_bf16(v[1].x, v[1].y), pack_bf16(v[1].z, v[1].w)));
                } else {
                    const int f = (EPILOGUE == GEMM_GATED ? first_feature / 2 : first_feature) + part * 8;
                    const int features = EPILOGUE == GEMM_GATED ? p.features / 2 : p.features;
                    if (f >= features) continue;
                    const float4 *v = (const float4 *)(row + part * 8);
                    __stcg((uint4 *)(p.out + (size_t)token * p.out_stride + f),
                           make_uint4(pack_bf16(v[0].x, v[0].y), pack_bf16(v[0].z, v[0].w), pack_bf16(v[1].x, v[1].y),
                                      pack_bf16(v[1].z, v[1].w)));
                }
            }
        }
    }
}
#endif
