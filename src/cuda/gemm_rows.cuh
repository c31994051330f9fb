/*
 * The Hopper product for small shapes: tokens on wgmma's 64-row side, features as its columns, one tile a block.
 *
 * A small product is mostly beginning and end, so both are short here: the weights' first stages are under way before
 * the predecessor has ended, and the epilogue works on rows of features as the accumulators have them (a norm's factor
 * belongs to a row, two a thread), turned into 16-byte pieces by stmatrix.
 *
 * - grid: tiles of GROUPS * 64 tokens x BN features
 * - block: GROUPS warpgroups that multiply, one warp that fills the ring of 64-value stages
 * - share: neighbouring blocks (a cluster) take token tiles of the same weights (SHARE of them) or feature tiles of the
 *   same tokens (-SHARE of them); each loads its part of what they share for all: with all multiprocessors loading, L2
 *   gives each some 68 bytes a nanosecond, which is less than the tensor cores take
 * - bytes: (GROUPS * 64 + BN) * 128 per stage from L2, the shared operand divided by SHARE; weights once from memory;
 *   FLOPs 2 * features * tokens * k
 * - bound: L2, then shared memory and tensor cores, then the ends
 */
#ifndef PI0_CUDA_GEMM_ROWS_CUH
#define PI0_CUDA_GEMM_ROWS_CUH

#include "common.cuh"
#include "gemm.h"
#include "tensor_map.cuh"
#include "wgmma.cuh"

struct rows_geometry {
    int tiles_m, tiles_n; /* of tokens, of features */
    int band;             /* token tiles that are worked on together, over all features */
    int k_blocks;
};

template <gemm_epilogue EPILOGUE, int GROUPS, int BN, int SHARE> struct rows_shape {
    static constexpr int WEIGHT_SHARERS = SHARE > 1 ? SHARE : 1, INPUT_SHARERS = SHARE < -1 ? -SHARE : 1;
    static constexpr int SHARERS = WEIGHT_SHARERS * INPUT_SHARERS;
    static constexpr int BM = GROUPS * 64, CONSUMERS = GROUPS * 128, THREADS = CONSUMERS + 32;
    static constexpr int STAGE_BYTES = (BM + BN) * 128;
    /* rows of the result in shared memory: bf16 for stmatrix, float32 for sums; strides without bank conflicts */
    static constexpr int HALF_STRIDE = BN * 2 + (BN / 8 % 2 ? 0 : 16);
    static constexpr int SUM_STRIDE = BN * 4 + (BN % 16 ? 0 : 32);
    static constexpr int STAGING_BYTES = BM * (EPILOGUE == GEMM_RESIDUAL ? SUM_STRIDE : HALF_STRIDE);
    static constexpr int FIXED_BYTES = 1024 + 256 + BN * 8;
    static constexpr int FIT = (227 * 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FIT > 10 ? 10 : FIT;
    static constexpr int RING_BYTES = STAGES * STAGE_BYTES > STAGING_BYTES ? STAGES *STAGE_BYTES : STAGING_BYTES;
    static constexpr int SHARED_BYTES = RING_BYTES + FIXED_BYTES;
    static constexpr int PASS_ROWS = CONSUMERS / 8; /* of the residual stream finished at a time */
    static constexpr int PASSES = BM / PASS_ROWS, PIECES = ceil_div(BN / 4, 8);
    static_assert(SHARED_BYTES <= 227 * 1024 && STAGES >= 2, "shared memory");
    static_assert(BN % (8 * WEIGHT_SHARERS) == 0 && BM % (8 * INPUT_SHARERS) == 0, "parts of whole swizzle groups");
    static_assert(BN % 8 == 0 && (EPILOGUE != GEMM_ROPE || BN % 16 == 0), "tile");
};

#ifdef PI0_HOPPER
/* 16 bytes of shared memory: by a pointer whose space the compiler has lost, loads would be generic ones. */
__device__ __forceinline__ float4 rows_read(uint32_t shared) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(shared)
                 : "memory");
    return v;
}
__device__ __forceinline__ uint4 rows_read_bits(uint32_t shared) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(shared)
                 : "memory");
    return v;
}
/* Four (two) 8 x 8 matrices of packed pairs; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void store_matrix_4(uint32_t shared, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}
__device__ __forceinline__ void store_matrix_2(uint32_t shared, uint32_t low, uint32_t high) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(shared), "r"(low), "r"(high)
                 : "memory");
}

/* gelu_tanh with one special function instead of two; error 2^-11 of x, a quarter of bf16's. */
__device__ __forceinline__ float gelu_approximate(float x) {
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x * (0.7978845608028654f + 0.035677408136300125f * x * x)));
    return fmaf(0.5f * x, t, 0.5f * x);
}
/* After the last wgmma: nothing that reads the sums may be moved to before this. */
template <int COUNT> __device__ __forceinline__ void rows_finish(float (&acc)[COUNT]) {
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(acc[i])::"memory");
}

/* (r, mean * r) of two rows of a warp's 16: those of lane / 4 and lane / 4 + 8. */
__device__ __forceinline__ void rows_factors(float2 (&factor)[2], const gemm_problem &p, int first_token, int lane) {
    float sum = 0.0f, squares = 0.0f;
    const int token = first_token + lane % 16;
    if (p.stats && token < p.tokens) {
        for (int first = lane / 16; first < p.stats_slabs; first += 32) {
            float2 v[16];
#pragma unroll
            for (int i = 0; i < 16; i++)
                v[i] = first + i * 2 < p.stats_slabs
                           ? __ldcg(&p.stats[(size_t)(first + i * 2) * p.stats_stride + token])
                           : make_float2(0.0f, 0.0f);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                sum += v[i].x;
                squares += v[i].y;
            }
        }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    squares += __shfl_xor_sync(0xffffffffu, squares, 16);
    const float over = 1.0f / (float)p.norm_width, mean = p.layer_norm ? sum * over : 0.0f;
    float r = rsqrtf(fmaxf(squares * over - mean * mean, 0.0f) + 1e-6f);
    if (!p.stats) r = p.scale;
    const float shift = p.stats ? mean * r : 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        factor[i].x = __shfl_sync(0xffffffffu, r, lane / 4 + i * 8);
        factor[i].y = __shfl_sync(0xffffffffu, shift, lane / 4 + i * 8);
    }
}

/* bf16 results of one warp, 16 tokens x BN features, by way of `staging` (16 rows of HALF_STRIDE bytes). */
template <gemm_epilogue EPILOGUE, int BN, int STRIDE>
__device__ __forceinline__ void rows_store(float (&acc)[BN / 2], const gemm_problem &p, const float2 (&factor)[2],
                                           uint32_t columns, const float4 (&turns)[EPILOGUE == GEMM_ROPE ? BN / 8 : 1],
                                           uint32_t staging, int first_token, int first_feature, int lane) {
    constexpr int FRAGMENTS = BN / 8;
    const int t = lane % 4;
    const uint32_t to = staging + (lane / 8 % 2 * 8 + lane % 8) * STRIDE + lane / 16 * 16;
    const int rows = min(16, p.tokens - first_token);
    /* in parts, so that one is on its way to memory while the next is worked out: all multiprocessors write at once */
    constexpr int PART = 8;
#pragma unroll
    for (int begin = 0; begin < FRAGMENTS; begin += PART) {
        const int end = begin + PART < FRAGMENTS ? begin + PART : FRAGMENTS, count = end - begin;
#pragma unroll
        for (int j = begin; j < end; j += 2) {
            uint32_t packed[4];
#pragma unroll
            for (int f = 0; f < 2 && j + f < end; f++) {
                const float4 c = rows_read(columns + ((j + f) * 8 + 2 * t) * 8); /* bias, center; twice */
                float *a = &acc[(j + f) * 4];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    a[i * 2] = fmaf(a[i * 2], factor[i].x, fmaf(-factor[i].y, c.y, c.x));
                    a[i * 2 + 1] = fmaf(a[i * 2 + 1], factor[i].x, fmaf(-factor[i].y, c.w, c.z));
                    if constexpr (EPILOGUE == GEMM_GELU) {
                        a[i * 2] = gelu_approximate(a[i * 2]);
                        a[i * 2 + 1] = gelu_approximate(a[i * 2 + 1]);
                    }
                }
            }
            if constexpr (EPILOGUE == GEMM_ROPE) {
                float *a = &acc[j * 4], *b = a + 4;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float4 turn = turns[j + i]; /* (cos, sin) of two pairs */
                    const float low0 = a[i * 2] * turn.x - b[i * 2] * turn.y,
                                low1 = a[i * 2 + 1] * turn.z - b[i * 2 + 1] * turn.w;
                    b[i * 2] = b[i * 2] * turn.x + a[i * 2] * turn.y;
                    b[i * 2 + 1] = b[i * 2 + 1] * turn.z + a[i * 2 + 1] * turn.w;
                    a[i * 2] = low0;
                    a[i * 2 + 1] = low1;
                }
            }
#pragma unroll
            for (int f = 0; f < 2 && j + f < end; f++) {
                packed[f * 2] = pack_bf16(acc[(j + f) * 4], acc[(j + f) * 4 + 1]);
                packed[f * 2 + 1] = pack_bf16(acc[(j + f) * 4 + 2], acc[(j + f) * 4 + 3]);
            }
            if (j + 1 < end)
                store_matrix_4(to + j * 16, packed);
            else
                store_matrix_2(to + j * 16, packed[0], packed[1]);
        }
        __syncwarp();
#pragma unroll
        for (int first = 0; first < 16 * count; first += 32) {
            const int i = first + lane, row = i / count;
            int c = i - row * count;
            if constexpr (EPILOGUE == GEMM_ROPE) {
                /* first the low halves of all pairs, then the high ones: both are contiguous in a head */
                const bool high = c >= count / 2;
                c -= high ? count / 2 : 0;
                const uint4 v = rows_read_bits(staging + row * STRIDE + (begin + c * 2 + high) * 16);
                const int block = (p.first_feature + first_feature) / 16 + begin / 2 + c, blocks = p.head_dim / 16;
                const int head = block / blocks, d = (block - head * blocks) * 8 + (high ? p.head_dim / 2 : 0);
                const size_t token = first_token + row;
                bf16 *out = head < p.heads ? p.q + (token * p.heads + head) * p.head_dim
                                           : (head == p.heads ? p.keys : p.values) + token * p.head_dim;
                if (row < rows && first_feature + begin * 8 + c * 16 < p.features) __stcg((uint4 *)(out + d), v);
            } else {
                const uint4 v = rows_read_bits(staging + row * STRIDE + (begin + c) * 16);
                if (row < rows && first_feature + (begin + c) * 8 < p.features)
                    __stcg(
                        (uint4 *)(p.out + (size_t)(first_token + row) * p.out_stride + first_feature + (begin + c) * 8),
                        v);
            }
        }
    }
}
#endif

template <gemm_epilogue EPILOGUE, int GROUPS, int BN, int SHARE>
__global__ void __launch_bounds__(GROUPS * 128 + 32, 1)
    gemm_rows(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ CUtensorMap input_map,
              const __grid_constant__ gemm_problem p, const rows_geometry geometry) {
#ifdef PI0_HOPPER
    using shape = rows_shape<EPILOGUE, GROUPS, BN, SHARE>;
    constexpr int STAGES = shape::STAGES, BM = shape::BM, STAGE_BYTES = shape::STAGE_BYTES,
                  CONSUMERS = shape::CONSUMERS, SHARERS = shape::SHARERS;
    extern __shared__ uint8_t shared_raw[];
    uint8_t *ring = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    float2 *columns = (float2 *)(ring + shape::RING_BYTES); /* of the tile's features: (bias, center or gain) */
    uint64_t *full = (uint64_t *)(columns + BN), *empty = full + STAGES;

    const uint32_t columns_at = shared_address(columns);
    const int warp = warp_uniform(threadIdx.x / 32), lane = threadIdx.x % 32;
    const int rank = SHARERS > 1 ? cluster_rank() : 0, tile = blockIdx.x / SHARERS;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], GROUPS * SHARERS);
        }
        mbarrier_init_fence();
    }
    if constexpr (SHARERS > 1)
        cluster_sync();
    else
        __syncthreads();
    grid_launch_next();

    /* in tiles that a cluster covers together; `before`: token tiles of earlier bands */
    const int rows_m = geometry.tiles_m / shape::WEIGHT_SHARERS, rows_n = geometry.tiles_n / shape::INPUT_SHARERS;
    const int before = tile / (geometry.band * rows_n) * geometry.band, inside = tile - before * rows_n;
    const int width = min(geometry.band, rows_m - before), column = inside / width;
    const int m = (before + inside - column * width) * shape::WEIGHT_SHARERS + (SHARE > 1 ? rank : 0);
    const int n = column * shape::INPUT_SHARERS + (SHARE < -1 ? rank : 0), first_token = m * BM, first_feature = n * BN;
    const int count = geometry.k_blocks;

    if (warp == CONSUMERS / 32) {
        if (lane == 0) {
            const uint32_t base = shared_address(ring);
            const int ahead = min(STAGES, count), weights_row = p.first_feature + first_feature;
            auto load_weights = [&](int stage, int k_block) {
                constexpr int ROWS = BN / shape::WEIGHT_SHARERS;
                const uint32_t to = base + stage * STAGE_BYTES + BM * 128;
                mbarrier_expect(&full[stage], STAGE_BYTES);
                if constexpr (SHARE > 1)
                    tma_load_multicast(to + rank * ROWS * 128, &weights_map, k_block * 64, weights_row + rank * ROWS,
                                       &full[stage], (1 << SHARERS) - 1);
                else
                    tma_load(to, &weights_map, k_block * 64, weights_row, &full[stage]);
            };
            auto load_input = [&](int stage, int k_block) {
                constexpr int ROWS = BM / shape::INPUT_SHARERS;
                const uint32_t to = base + stage * STAGE_BYTES;
                if constexpr (SHARE < -1)
                    tma_load_multicast(to + rank * ROWS * 128, &input_map, k_block * 64, first_token + rank * ROWS,
                                       &full[stage], (1 << SHARERS) - 1);
                else
                    tma_load(to, &input_map, k_block * 64, first_token, &full[stage]);
            };
            prefetch_map(&input_map); /* else it would be fetched while all wait for the input */
            for (int s = 0; s < ahead; s++) load_weights(s, s);
            grid_wait();
            for (int s = 0; s < ahead; s++) load_input(s, s);
            if (p.next_bytes) prefetch_share(p.next_weights, p.next_bytes, blockIdx.x, gridDim.x);
            int stage = 0, parity = 0;
            for (int i = ahead; i < count; i++) {
                mbarrier_wait(&empty[stage], parity);
                load_weights(stage, i);
                load_input(stage, i);
                if (++stage == STAGES) {
                    stage = 0;
                    parity ^= 1;
                }
            }
        }
        if constexpr (SHARERS > 1) cluster_sync();
    } else {
        const int group = warp / 4, warp_row = first_token + warp * 16;
        for (int i = threadIdx.x; i < BN; i += CONSUMERS) {
            const bool there = first_feature + i < p.features;
            const float bias = there && p.bias ? __ldg(&p.bias[first_feature + i]) : 0.0f;
            if constexpr (EPILOGUE == GEMM_RESIDUAL)
                columns[i] = make_float2(bias, there && p.operand ? __ldg(&p.gain[first_feature + i]) : 0.0f);
            else
                columns[i] = make_float2(bias, there && p.center ? __ldg(&p.center[first_feature + i]) : 0.0f);
        }
        float4 turns[EPILOGUE == GEMM_ROPE ? BN / 8 : 1];
        if constexpr (EPILOGUE == GEMM_ROPE) {
            /* 16 packed rows of weights are 8 features i and their partners i + head_dim / 2 */
            const int blocks = p.head_dim / 16;
            int positions[2];
#pragma unroll
            for (int i = 0; i < 2; i++)
                positions[i] = __ldg(&p.positions[min(warp_row + lane / 4 + i * 8, p.tokens - 1)]);
#pragma unroll
            for (int j = 0; j < BN / 16; j++) {
                const int block = (p.first_feature + first_feature) / 16 + j, head = block / blocks;
                const int pair = (block - head * blocks) * 8 + lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < 2; i++)
                    turns[j * 2 + i] =
                        head <= p.heads ? __ldg((const float4 *)&p.rope[(size_t)positions[i] * (p.head_dim / 2) + pair])
                                        : make_float4(1.0f, 0.0f, 1.0f, 0.0f);
            }
        }
        grid_wait();
        float2 factor[2];
        rows_factors(factor, p, warp_row, lane);
        /* where this thread finishes: rows eight threads wide, every eighth piece of four features */
        const int row = threadIdx.x / 8, part = threadIdx.x % 8, finish = first_token + row;
        constexpr bool FETCH_EARLY =
            EPILOGUE == GEMM_RESIDUAL && BN / 2 + shape::PASSES * shape::PIECES * 4 <= (GROUPS == 1 ? 128 : 80);
        float4 old[shape::PASSES][shape::PIECES];
        auto fetch = [&]() {
#pragma unroll
            for (int pass = 0; pass < shape::PASSES; pass++)
#pragma unroll
                for (int i = 0; i < shape::PIECES; i++) {
                    const int token = finish + pass * shape::PASS_ROWS, c = (i * 8 + part) * 4;
                    old[pass][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (p.accumulate && token < p.tokens && c < BN && first_feature + c < p.features)
                        old[pass][i] = __ldcg((const float4 *)(p.x + (size_t)token * p.features + first_feature + c));
                }
        };
        if constexpr (FETCH_EARLY) fetch();

        float acc[BN / 2];
        const uint32_t base = wgmma_low(shared_address(ring));
        int stage = 0, parity = 0;
        for (int i = 0; i < count; i++) {
            mbarrier_wait(&full[stage], parity);
            const uint32_t at = base + stage * (STAGE_BYTES / 16), a = at + group * 512, b = at + BM * 8;
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++)
                wgmma<BN>::run(acc, wgmma_descriptor_of(a + k * 2), wgmma_descriptor_of(b + k * 2), i > 0 || k > 0);
            wgmma_commit();
            wgmma_wait<1>();
            /* the stage before this one is read */
            uint64_t *last = &empty[stage == 0 ? STAGES - 1 : stage - 1];
            if constexpr (SHARERS > 1) {
                if (i > 0 && threadIdx.x % 128 < SHARERS) mbarrier_arrive_remote(last, threadIdx.x % 128);
            } else {
                if (i > 0 && threadIdx.x % 128 == 0) mbarrier_arrive(last);
            }
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        rows_finish(acc);
        if constexpr (SHARERS > 1)
            cluster_arrive(); /* met at the end: a block stays while others arrive at its barriers */
        if constexpr (EPILOGUE != GEMM_RESIDUAL) {
            barrier_sync(1, CONSUMERS); /* the ring is read: its memory takes the result */
            rows_store<EPILOGUE, BN, shape::HALF_STRIDE>(acc, p, factor, columns_at, turns,
                                                         shared_address(ring) + warp * 16 * shape::HALF_STRIDE,
                                                         warp_row, first_feature, lane);
        } else {
            constexpr int PASSES = shape::PASSES, PIECES = shape::PIECES, PASS_ROWS = shape::PASS_ROWS,
                          STRIDE = shape::SUM_STRIDE;
            if constexpr (!FETCH_EARLY) fetch();
            barrier_sync(1, CONSUMERS); /* the ring is read */
            {
                /* lanes trade halves of a pair: even ones take four features of row l / 4, odd ones of l / 4 + 8 */
                const int t = lane % 4;
                const uint32_t to = shared_address(ring) + (warp * 16 + lane / 4 + t % 2 * 8) * STRIDE + t / 2 * 16;
#pragma unroll
                for (int j = 0; j < BN / 8; j++) {
                    const float *a = &acc[j * 4];
                    const float x = __shfl_xor_sync(0xffffffffu, t % 2 ? a[0] : a[2], 1);
                    const float y = __shfl_xor_sync(0xffffffffu, t % 2 ? a[1] : a[3], 1);
                    const float4 v = t % 2 ? make_float4(x, y, a[2], a[3]) : make_float4(a[0], a[1], x, y);
                    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + j * 32), "f"(v.x), "f"(v.y),
                                 "f"(v.z), "f"(v.w)
                                 : "memory");
                }
            }
            barrier_sync(1, CONSUMERS);
#pragma unroll
            for (int pass = 0; pass < PASSES; pass++) {
                const int token = finish + pass * PASS_ROWS;
                const uint32_t from = shared_address(ring) + (pass * PASS_ROWS + row) * STRIDE + part * 16;
                float sum = 0.0f, squares = 0.0f;
#pragma unroll
                for (int i = 0; i < PIECES; i++) {
                    const int c = (i * 8 + part) * 4, f = first_feature + c;
                    const bool there = c < BN && f < p.features && token < p.tokens; /* no branches around loads */
                    const float4 low = rows_read(columns_at + c * 8), high = rows_read(columns_at + c * 8 + 16);
                    float4 v = rows_read(from + i * 128);
                    const float4 o = old[pass][i];
                    v = make_float4(fmaf(v.x, p.scale, low.x) + o.x, fmaf(v.y, p.scale, low.z) + o.y,
                                    fmaf(v.z, p.scale, high.x) + o.z, fmaf(v.w, p.scale, high.z) + o.w);
                    const size_t at = (size_t)token * p.features + f;
                    if (there) __stcg((float4 *)(p.x + at), v);
                    if (there && p.operand)
                        __stcg((uint2 *)(p.operand + at),
                               make_uint2(pack_bf16(v.x * low.y, v.y * low.w), pack_bf16(v.z * high.y, v.w * high.w)));
                    sum += there ? v.x + v.y + v.z + v.w : 0.0f;
                    squares += there ? v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w : 0.0f;
                }
                if (p.stats_out) {
#pragma unroll
                    for (int distance = 4; distance; distance /= 2) {
                        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                        squares += __shfl_xor_sync(0xffffffffu, squares, distance);
                    }
                    if (part == 0 && token < p.tokens && first_feature < p.features)
                        p.stats_out[(size_t)n * p.stats_out_stride + token] = make_float2(sum, squares);
                }
            }
        }
        if constexpr (SHARERS > 1) cluster_wait();
    }
#endif
}
#endif
