/*
 * Lean epilogues for the large Hopper products, on accumulators as wgmma leaves them: a warp holds 16 features, lane l
 * features l/4 and l/4 + 8 at tokens 2(l%4) and 2(l%4) + 1 of each 8-token fragment.
 *
 * - gate * up: packed pairs go through shared memory as a bf16 tile [token][feature], transposed by stmatrix; two
 *   barriers a tile
 * - residual: x is read and written where the accumulators are (8 features of a token are a whole 32-byte sector), its
 *   old values asked for before the k loop; the operand turns 32 tokens at a time inside a warp
 */
#ifndef PI0_CUDA_GEMM_EPILOGUE_HOPPER_CUH
#define PI0_CUDA_GEMM_EPILOGUE_HOPPER_CUH

#include "gemm_epilogue.cuh"

#ifdef PI0_SM90
/* Four (or COUNT) 8x8 matrices, transposed: lane 8 m + r names where row r of matrix m goes. */
template <int COUNT> __device__ __forceinline__ void store_matrix_transposed(uint32_t shared, const uint32_t (&r)[4]) {
    if constexpr (COUNT == 4)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r[0]),
                     "r"(r[1]), "r"(r[2]), "r"(r[3])
                     : "memory");
    else if constexpr (COUNT == 2)
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared), "r"(r[0]),
                     "r"(r[1])
                     : "memory");
    else
        asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(shared), "r"(r[0]) : "memory");
}

/* One instruction each, so that nothing waits: a branch around a load would make it wait for the one before. */
__device__ __forceinline__ float load_where(const float *from, bool there) {
    float value;
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; mov.f32 %0, 0f00000000; @p ld.global.cg.f32 %0, [%1]; }"
                 : "=f"(value)
                 : "l"(from), "r"((int)there)
                 : "memory");
    return value;
}
__device__ __forceinline__ void store_where(float *to, float value, bool there) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p st.global.cg.f32 [%0], %1; }" ::"l"(to), "f"(value),
                 "r"((int)there)
                 : "memory");
}

/* gelu_tanh with one multiplication less, for products of many elements */
__device__ __forceinline__ float gelu_times(float gate, float up) {
    const float slope = -2.0f * 0.7978845608028654f * 1.4426950408889634f;
    const float power = exp2_fast(gate * (slope + slope * 0.044715f * gate * gate));
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
    return gate * inverse * up;
}

/* GEMM_GATED for one warpgroup: GROUPS * 64 rows of weights, eights of gate and up in turn, give GROUPS * 32 features.
 * Neither bias nor LayerNorm. `staging` holds BN rows of GROUPS * 64 bytes, its 16-byte pieces swizzled. */
template <int GROUPS, int BN>
__device__ __forceinline__ void epilogue_gated(const float (&acc)[GROUPS][BN / 2], const gemm_problem &p,
                                               int first_feature, int first_token, const float2 *factors,
                                               uint8_t *staging, int thread, int barrier) {
    constexpr int FRAGMENTS = BN / 8, PIECES = GROUPS * 4, ROW = PIECES * 16;
    const int warp = thread / 32, lane = thread % 32, t = lane % 4;
    const uint32_t to = shared_address(staging);
    auto place = [&](int row, int piece) {
        return row * ROW + (GROUPS == 2 ? piece ^ (row & 7) : piece ^ (row / 2 & 3)) * 16;
    };
#pragma unroll
    for (int first = 0; first < FRAGMENTS; first += 4) {
        uint32_t packed[GROUPS][4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int f = first + j;
            if (f < FRAGMENTS) {
                const float4 factor = *(const float4 *)(factors + f * 8 + 2 * t);
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    packed[i][j] = pack_bf16(gelu_times(acc[i][f * 4] * factor.x, acc[i][f * 4 + 2] * factor.x),
                                             gelu_times(acc[i][f * 4 + 1] * factor.z, acc[i][f * 4 + 3] * factor.z));
            }
        }
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            if (first + 4 <= FRAGMENTS)
                store_matrix_transposed<4>(to + place(first * 8 + lane, i * 4 + warp), packed[i]);
            else
#pragma unroll
                for (int j = 0; j < FRAGMENTS % 4; j++) {
                    const uint32_t one[4] = {packed[i][j]};
                    store_matrix_transposed<1>(to + place((first + j) * 8 + lane % 8, i * 4 + warp), one);
                }
        }
    }
    barrier_sync(barrier, 128);
    const int features = p.features / 2, piece = thread % PIECES, f = first_feature / 2 + piece * 8;
#pragma unroll
    for (int row = thread / PIECES; row < BN; row += 128 / PIECES) {
        const int token = first_token + row;
        if (token < p.tokens && f < features)
            __stcg((uint4 *)(p.out + (size_t)token * p.out_stride + f), *(const uint4 *)(staging + place(row, piece)));
    }
}

/* What a residual epilogue needs beside the accumulators; FRAGMENTS of 8 tokens. EARLY: x's old values are asked for
 * before the k loop, all in registers; else four fragments at a time in the epilogue. Tokens are rows: neither row_map
 * nor row_bias. */
template <int FRAGMENTS, bool EARLY> struct residual_values {
    float old[EARLY ? FRAGMENTS * 4 : 16]; /* of x, in the accumulators' order */
    float bias[2], center[2], gain[2];
};

template <int COUNT, int VALUES>
__device__ __forceinline__ void residual_fetch(float (&old)[VALUES], const gemm_problem &p, int f, int first_token,
                                               int end, int t) {
#pragma unroll
    for (int i = 0; i < COUNT * 2; i++) {
        const int token = first_token + i / 2 * 8 + 2 * t + i % 2;
        const float *from = p.x + (size_t)token * p.features + f;
#pragma unroll
        for (int high = 0; high < 2; high++)
            old[i / 2 * 4 + high * 2 + i % 2] =
                load_where(from + high * 8, p.accumulate && token < end && f + high * 8 < p.features);
    }
}

/* After the predecessor has written x. Tokens from `end` on are not there. */
template <int FRAGMENTS, bool EARLY>
__device__ __forceinline__ void residual_prepare(residual_values<FRAGMENTS, EARLY> &v, const gemm_problem &p,
                                                 int first_feature, int first_token, int end, int thread) {
    const int lane = thread % 32, first = first_feature + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int high = 0; high < 2; high++) {
        const int f = first + high * 8;
        v.bias[high] = p.bias && f < p.features ? __ldg(p.bias + f) : 0.0f;
        v.center[high] = p.center && f < p.features ? __ldg(p.center + f) : 0.0f;
        v.gain[high] = p.operand && f < p.features ? __ldg(p.gain + f) : 0.0f;
    }
    if constexpr (EARLY) residual_fetch<FRAGMENTS>(v.old, p, first, first_token, end, lane % 4);
}

/* Sums of COUNT values (a multiple of 8) over the 8 lanes that differ in bits 2 to 4; a lane ends with COUNT / 8 of
 * them, from `first` on. */
template <int COUNT> __device__ __forceinline__ int sum_over_rows(float (&v)[COUNT], int lane) {
    int first = 0;
#pragma unroll
    for (int bit = 16, count = COUNT / 2; bit >= 4; bit /= 2, count /= 2) {
        const bool upper = lane & bit;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++)
            if (i < count) {
                const float give = upper ? v[i] : v[i + count];
                v[i] = (upper ? v[i + count] : v[i]) + __shfl_xor_sync(0xffffffffu, give, bit);
            }
        first += upper ? count : 0;
    }
    return first;
}

/* GEMM_RESIDUAL for one warpgroup of 64 features. `staging`: EPILOGUE_STAGING_BYTES, shared by the four warps; factors
 * count from first_token. Ends with all of the group past the last read of `staging` but for the row sums. */
template <int FRAGMENTS, bool EARLY>
__device__ __forceinline__ void epilogue_residual(float (&acc)[FRAGMENTS * 4],
                                                  residual_values<FRAGMENTS, EARLY> &values, const gemm_problem &p,
                                                  int first_feature, int first_token, int end, const float2 *factors,
                                                  uint8_t *staging, int thread, int barrier) {
    constexpr int SUMS = round_up(FRAGMENTS * 4, 8), WARP_BYTES = 4 * SUMS * 4 > 1024 ? 4 * SUMS * 4 : 1024;
    static_assert(4 * WARP_BYTES <= EPILOGUE_STAGING_BYTES, "staging");
    const int warp = thread / 32, lane = thread % 32, t = lane % 4;
    const int f = first_feature + warp * 16 + lane / 4, warp_feature = first_feature + warp * 16;
    const bool there[2] = {f < p.features, f + 8 < p.features};
    barrier_sync(barrier, 128); /* the last tile's row sums are read */
    uint8_t *own = staging + warp * WARP_BYTES;
    const uint32_t to = shared_address(own);
    /* 32 tokens of 16 features: rows of 32 bytes, their halves swapped in every second four rows */
    auto place = [](int row, int half) { return row * 32 + (half ^ (row / 4 & 1)) * 16; };
    float sums[SUMS];
#pragma unroll
    for (int i = FRAGMENTS * 4; i < SUMS; i++) sums[i] = 0.0f;
#pragma unroll
    for (int first = 0; first < FRAGMENTS; first += 4) {
        if constexpr (!EARLY) residual_fetch<4>(values.old, p, f, first_token + first * 8, end, t);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int n = first + j;
            if (n < FRAGMENTS) {
                const float4 factor = *(const float4 *)(factors + n * 8 + 2 * t);
                uint32_t packed[4];
#pragma unroll
                for (int high = 0; high < 2; high++) {
                    float *v = &acc[n * 4 + high * 2];
                    const float *old = &values.old[(EARLY ? n : j) * 4 + high * 2];
                    v[0] = v[0] * factor.x - factor.y * values.center[high] + values.bias[high] + old[0];
                    v[1] = v[1] * factor.z - factor.w * values.center[high] + values.bias[high] + old[1];
                    packed[high] = pack_bf16(v[0] * values.gain[high], v[1] * values.gain[high]);
                }
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int token = first_token + n * 8 + 2 * t + c;
                    const float low = there[0] ? acc[n * 4 + c] : 0.0f, up = there[1] ? acc[n * 4 + 2 + c] : 0.0f;
                    sums[(n * 2 + c) * 2] = low + up;
                    sums[(n * 2 + c) * 2 + 1] = low * low + up * up;
                    float *x = p.x + (size_t)token * p.features + f;
                    store_where(x, low, there[0] && token < end);
                    store_where(x + 8, up, there[1] && token < end);
                }
                if (p.operand) store_matrix_transposed<2>(to + place(j * 8 + lane % 8, lane / 8 & 1), packed);
            }
        }
        if (p.operand) {
            __syncwarp();
            const int token = first_token + first * 8 + lane;
            if (first * 8 + lane < FRAGMENTS * 8 && token < end) {
                uint4 *out = (uint4 *)(p.operand + (size_t)token * p.features + warp_feature);
                if (warp_feature < p.features) __stcg(out, *(const uint4 *)(own + place(lane, 0)));
                if (warp_feature + 8 < p.features) __stcg(out + 1, *(const uint4 *)(own + place(lane, 1)));
            }
            __syncwarp();
        }
    }
    if (!p.stats_out) return;
    const int from = sum_over_rows(sums, lane);
    float *part = (float *)own + t * SUMS + from;
#pragma unroll
    for (int i = 0; i < SUMS / 8; i++) part[i] = sums[i];
    barrier_sync(barrier, 128);
    for (int i = thread; i < FRAGMENTS * 8; i += 128) {
        const int token = first_token + i;
        if (token >= end || first_feature >= p.features) continue;
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float2 v =
                *(const float2 *)(staging + w * WARP_BYTES + ((i % 8 / 2) * SUMS + (i / 8 * 2 + i % 2) * 2) * 4);
            sum.x += v.x;
            sum.y += v.y;
        }
        __stcg(&p.stats_out[(size_t)(first_feature / GEMM_SLAB) * p.stats_out_stride + token], sum);
    }
}
#endif
#endif
