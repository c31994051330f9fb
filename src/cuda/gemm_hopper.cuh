/*
 * The Hopper product: wgmma fed by TMA through a ring of shared-memory stages, one persistent block a multiprocessor.
 *
 * - threads: one producer warpgroup (one thread issues copies), CONSUMERS warpgroups that multiply
 * - tile, cooperative: CONSUMERS * GROUPS * 64 features x BN tokens, the warpgroups share a tile
 * - tile, ping-pong: GROUPS * 64 features x BN tokens a warpgroup; one multiplies while the other is in its epilogue
 * - cluster, SHARE_WEIGHTS: two blocks take neighbouring token tiles of the same weights; each loads half of them for
 *   both. SHARE_INPUT: two blocks take neighbouring feature tiles of the same tokens; each loads half of the tokens
 * - split: 2 halves of k: the block that ends second adds the first one's partial sums (a + b is the same either way
 *   round, so answers do not depend on who is first)
 * - bytes: per BK k-values (tile features + BN) * BK * 2 from L2; weights once from memory; FLOPs 2 * features * tokens
 * * k
 * - bound: tensor cores (gate+up, down); latency of filling and draining one tile a block (all others)
 */
#ifndef PI0_CUDA_GEMM_HOPPER_CUH
#define PI0_CUDA_GEMM_HOPPER_CUH

#include "gemm_epilogue.cuh"
#include "wgmma.cuh"

/* k-blocks of weights asked for ahead of their use, into L2: memory is too far away for the stages to cover. */
enum { LOOKAHEAD = 24 };

typedef enum gemm_share { SHARE_NONE, SHARE_WEIGHTS, SHARE_INPUT } gemm_share;

struct gemm_geometry {
    int tiles_m, tiles_n; /* the direction that a cluster covers: a multiple of 2 */
    int band;             /* token tiles that are worked on at a time, over all features */
    int k_blocks;         /* of BK */
    int split;
};

template <int CONSUMERS, int GROUPS, int BN, bool PING_PONG, gemm_share SHARE, int BK> struct gemm_shape {
    static constexpr int CLUSTER = SHARE == SHARE_NONE ? 1 : 2;
    static constexpr int BM = (PING_PONG ? 1 : CONSUMERS) * GROUPS * 64;
    static constexpr int THREADS = (CONSUMERS + 1) * 128;
    static constexpr int ROW = BK * 2; /* bytes of a row in a stage: TMA's swizzle is as wide */
    static constexpr int TOKENS = SHARE == SHARE_INPUT ? round_up(BN, 16) : BN; /* halves of whole swizzle groups */
    static constexpr int STAGE_BYTES = (BM + TOKENS) * ROW;
    static constexpr int FIXED_BYTES = CONSUMERS * (EPILOGUE_STAGING_BYTES + BN * 8) + 1024 + 256;
    static constexpr int FIT = (227 * 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FIT > 12 ? 12 : FIT;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + FIXED_BYTES;
    static constexpr int PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : GROUPS * BN > 350 ? 24 : 40;
    static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : GROUPS * BN > 350 ? 240 : 232;
};

#ifdef PI0_HOPPER
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap *map, int k, int row, uint64_t *barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(map), "r"(k), "r"(row), "r"(shared_address(barrier))
        : "memory");
}
__device__ __forceinline__ void tma_load_multicast(uint32_t to, const CUtensorMap *map, int k, int row,
                                                   uint64_t *barrier, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
                 : "memory");
}
__device__ __forceinline__ void tma_prefetch(const CUtensorMap *map, int k, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(k), "r"(row)
                 : "memory");
}
#endif

template <gemm_epilogue EPILOGUE, int CONSUMERS, int GROUPS, int BN, bool PING_PONG, gemm_share SHARE, int BK>
__global__ void __launch_bounds__((CONSUMERS + 1) * 128, 1)
    gemm_hopper(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ CUtensorMap input_map,
                const __grid_constant__ gemm_problem p, const gemm_geometry geometry) {
#ifdef PI0_HOPPER
    using shape = gemm_shape<CONSUMERS, GROUPS, BN, PING_PONG, SHARE, BK>;
    constexpr int CLUSTER = shape::CLUSTER;
    constexpr int STAGES = shape::STAGES, BM = shape::BM, STAGE_BYTES = shape::STAGE_BYTES, ROW = shape::ROW;
    extern __shared__ uint8_t shared_raw[];
    uint8_t *ring = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    float *staging = (float *)(ring + STAGES * STAGE_BYTES);
    float2 *factors = (float2 *)(ring + STAGES * STAGE_BYTES + CONSUMERS * EPILOGUE_STAGING_BYTES);
    uint64_t *full = (uint64_t *)(factors + CONSUMERS * BN), *empty = full + STAGES;
    __shared__ unsigned order[3];

    const int warpgroup = warp_uniform(threadIdx.x / 128), thread = threadIdx.x % 128;
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], (PING_PONG ? 1 : CONSUMERS) * CLUSTER);
        }
        mbarrier_init_fence();
    }
    if constexpr (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    grid_launch_next();

    const int tiles = geometry.tiles_m * geometry.tiles_n / CLUSTER, units = tiles * geometry.split;
    const int first = blockIdx.x / CLUSTER, step = gridDim.x / CLUSTER;
    const int piece = ceil_div(geometry.k_blocks, geometry.split);
    /* where this block's tile of a unit is, in tiles */
    auto locate = [&](int tile, int &m, int &n) {
        const int rows = SHARE == SHARE_INPUT ? geometry.tiles_m / 2 : geometry.tiles_m;
        const int columns = SHARE == SHARE_WEIGHTS ? geometry.tiles_n / 2 : geometry.tiles_n;
        const int before = tile / (rows * geometry.band), width = min(geometry.band, columns - before * geometry.band);
        tile -= before * rows * geometry.band;
        m = tile / width;
        n = before * geometry.band + tile - m * width;
        if (SHARE == SHARE_INPUT) m = m * 2 + rank;
        if (SHARE == SHARE_WEIGHTS) n = n * 2 + rank;
    };

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(shape::PRODUCER_REGISTERS));
        if (threadIdx.x == 0) {
            const uint32_t base = shared_address(ring);
            int stage = 0, lap = 0, ahead = 0;
            auto load_weights = [&](int to, int m, int kb) {
                const uint32_t at = base + to * STAGE_BYTES;
                if constexpr (SHARE == SHARE_WEIGHTS)
                    tma_load_multicast(at + rank * (BM / 2) * ROW, &weights_map, kb * BK,
                                       p.first_feature + m * BM + rank * (BM / 2), &full[to], 3);
                else
                    tma_load(at, &weights_map, kb * BK, p.first_feature + m * BM, &full[to]);
            };
            for (int unit = first; unit < units; unit += step) {
                const int part = unit / tiles, tile = unit % tiles;
                int m, n;
                locate(tile, m, n);
                const int token = n * BN, k_begin = part * piece, k_end = min(k_begin + piece, geometry.k_blocks);
                if (unit == first) {
                    /* weights do not depend on the predecessor: fetch the first stages of them while it ends, and ask
                     * for the next ones; the blocks of a row of tiles share that */
                    for (; ahead < STAGES && k_begin + ahead < k_end; ahead++) {
                        mbarrier_expect(&full[ahead], STAGE_BYTES);
                        load_weights(ahead, m, k_begin + ahead);
                    }
                    for (int kb = k_begin + ahead + n; kb < min(k_begin + LOOKAHEAD, k_end); kb += geometry.tiles_n)
                        tma_prefetch(&weights_map, kb * BK, p.first_feature + m * BM);
                    grid_wait();
                }
                for (int kb = k_begin; kb < k_end; kb++) {
                    if (ahead > 0) {
                        ahead--;
                    } else {
                        if (lap > 0) mbarrier_wait(&empty[stage], (lap - 1) & 1);
                        mbarrier_expect(&full[stage], STAGE_BYTES);
                        load_weights(stage, m, kb);
                    }
                    const uint32_t to = base + stage * STAGE_BYTES + BM * ROW;
                    if constexpr (SHARE == SHARE_INPUT)
                        tma_load_multicast(to + rank * (shape::TOKENS / 2) * ROW, &input_map, kb * BK,
                                           token + rank * (shape::TOKENS / 2), &full[stage], 3);
                    else
                        tma_load(to, &input_map, kb * BK, token, &full[stage]);
                    if (++stage == STAGES) {
                        stage = 0;
                        lap++;
                    }
                }
            }
            if (first >= units) grid_wait();
        } else if (threadIdx.x == 32) {
            prefetch_share(p.next_weights, p.next_bytes, blockIdx.x, gridDim.x);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::CONSUMER_REGISTERS));
        const int consumer = warpgroup - 1, barrier = 1 + consumer;
        staging += consumer * (EPILOGUE_STAGING_BYTES / 4);
        if (PING_PONG) factors += consumer * BN; /* else shared */
        bool waiting = true;
        float acc[GROUPS][BN / 2];
        auto release = [&](int stage) {
            if constexpr (CLUSTER > 1)
                mbarrier_arrive_remote(&empty[stage], thread);
            else
                mbarrier_arrive(&empty[stage]);
        };
        int stage = 0, lap = 0, turn = 0; /* where the ring stands */
        /* Ping-pong: a warpgroup multiplies only after the other has taken all stages of its tile. Else it could look
         * at a stage a whole lap early and take the parity of an older fill for its own. */
        if (PING_PONG && consumer == 1) barrier_arrive(4, 256);
        for (int unit = first; unit < units; unit += step, turn ^= 1) {
            const int part = unit / tiles, tile = unit % tiles;
            int m, n;
            locate(tile, m, n);
            const int token = n * BN, k_begin = part * piece, k_end = min(k_begin + piece, geometry.k_blocks);
            if (PING_PONG && turn != consumer) {
                stage += k_end - k_begin;
                lap += stage / STAGES;
                stage %= STAGES;
                continue;
            }
            const int group_row = PING_PONG ? 0 : consumer * GROUPS * 64;
            epilogue_values<EPILOGUE, BN> values[GROUPS];
#pragma unroll
            for (int i = 0; i < GROUPS; i++)
                epilogue_prepare<EPILOGUE, BN>(values[i], p, m * BM + group_row + i * 64, token, thread);
            /* positions and weights are older than the predecessor; row sums are not */
            if (waiting) grid_wait();
            waiting = false;
            if (PING_PONG)
                epilogue_column_factors(factors, p, token, BN, thread, 128);
            else {
                if (unit != first) barrier_sync(6, CONSUMERS * 128); /* nobody reads the last tile's */
                epilogue_column_factors(factors, p, token, BN, consumer * 128 + thread, CONSUMERS * 128);
            }
            if (PING_PONG) barrier_sync(4 + consumer, 256);
            int last = stage;
            for (int kb = k_begin; kb < k_end; kb++) {
                mbarrier_wait(&full[stage], lap & 1);
                const uint32_t at = shared_address(ring) + stage * STAGE_BYTES;
                const uint32_t a = wgmma_low(at + group_row * ROW), b = wgmma_low(at + BM * ROW);
                wgmma_fence();
#pragma unroll
                for (int k = 0; k < BK / 16; k++)
#pragma unroll
                    for (int i = 0; i < GROUPS; i++)
                        wgmma<BN>::run(acc[i], wgmma_descriptor_of<ROW>(a + i * 4 * ROW + k * 2),
                                       wgmma_descriptor_of<ROW>(b + k * 2), kb > k_begin || k > 0);
                wgmma_commit();
                wgmma_wait<1>();
                /* the stage before this one is read */
                if (kb > k_begin && thread < CLUSTER) release(last);
                last = stage;
                if (++stage == STAGES) {
                    stage = 0;
                    lap++;
                }
            }
            if (PING_PONG) barrier_arrive(5 - consumer, 256);
#pragma unroll
            for (int i = 0; i < GROUPS; i++)
                epilogue_fetch_first<EPILOGUE, BN>(values[i], p, m * BM + group_row + i * 64, token, thread);
            wgmma_wait<0>();
            if (thread < CLUSTER) release(last);

            if (!PING_PONG) barrier_sync(6, CONSUMERS * 128); /* the factors are there */

            bool finish = true;
            if constexpr (EPILOGUE == GEMM_RESIDUAL) {
                if (geometry.split == 2) {
                    const int slot = (m * geometry.tiles_n + n) * CONSUMERS + consumer;
                    float4 *partial = (float4 *)p.partial + (size_t)slot * (GROUPS * BN / 8) * 128 + thread;
                    if (thread == 0) order[consumer] = atomicAdd(&p.ticket[slot * 2], 1u);
                    barrier_sync(barrier, 128);
                    finish = order[consumer] == 1;
                    if (!finish) {
#pragma unroll
                        for (int i = 0; i < GROUPS; i++)
#pragma unroll
                            for (int j = 0; j < BN / 8; j++)
                                __stcg(partial + (i * (BN / 8) + j) * 128,
                                       make_float4(acc[i][j * 4], acc[i][j * 4 + 1], acc[i][j * 4 + 2],
                                                   acc[i][j * 4 + 3]));
                        __threadfence();
                        barrier_sync(barrier, 128);
                        if (thread == 0)
                            asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(&p.ticket[slot * 2 + 1])
                                         : "memory");
                    } else {
                        if (thread == 0) {
                            unsigned ready;
                            do {
                                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                                             : "=r"(ready)
                                             : "l"(&p.ticket[slot * 2 + 1])
                                             : "memory");
                            } while (!ready);
                            p.ticket[slot * 2] = 0; /* as the next launch expects them */
                            p.ticket[slot * 2 + 1] = 0;
                        }
                        barrier_sync(barrier, 128);
#pragma unroll
                        for (int i = 0; i < GROUPS; i++)
#pragma unroll
                            for (int j = 0; j < BN / 8; j++) {
                                const float4 v = __ldcg(partial + (i * (BN / 8) + j) * 128);
                                acc[i][j * 4] += v.x;
                                acc[i][j * 4 + 1] += v.y;
                                acc[i][j * 4 + 2] += v.z;
                                acc[i][j * 4 + 3] += v.w;
                            }
                    }
                }
            }
            if (finish) {
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    if (m * BM + group_row + i * 64 < p.features)
                        epilogue_group<EPILOGUE, BN>(acc[i], values[i], p, m * BM + group_row + i * 64, token, factors,
                                                     staging, thread, barrier);
                /* before the next tile's factors */
                if (PING_PONG) barrier_sync(barrier, 128);
            }
        }
    }
    if constexpr (CLUSTER > 1) cluster_sync(); /* a block's memory stays while the other may write to it */
#endif
}
#endif
