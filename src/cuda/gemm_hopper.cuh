/*
 * The Hopper product: wgmma fed by TMA through a ring of shared-memory stages, one persistent block a multiprocessor.
 *
 * - threads: one producer warpgroup (one thread issues copies), CONSUMERS warpgroups that multiply
 * - tile, cooperative: CONSUMERS * GROUPS * 64 features x BN tokens, the warpgroups share a tile
 * - tile, ping-pong: GROUPS * 64 features x BN tokens a warpgroup; one multiplies while the other is in its epilogue
 * - cluster, SHARE_WEIGHTS: two blocks take neighbouring token tiles of the same weights; each loads half of them for
 *   both. SHARE_INPUT: two blocks take neighbouring feature tiles of the same tokens; each loads half of the tokens.
 *   SHARE_K: two blocks take the halves of k of one tile, exchange halves of their sums and finish half of its tokens
 *   each; one tile a cluster
 * - split: 2 halves of k: the block that ends second adds the first one's partial sums (a + b is the same either way
 *   round, so answers do not depend on who is first)
 * - bytes: per BK k-values (tile features + BN) * BK * 2 from L2; weights once from memory; FLOPs 2 * features * tokens
 * * k
 * - bound: tensor cores (gate+up, down); latency of filling and draining one tile a block (all others)
 */
#ifndef PI0_CUDA_GEMM_HOPPER_CUH
#define PI0_CUDA_GEMM_HOPPER_CUH

#include "gemm_epilogue_hopper.cuh"
#include "tensor_map.cuh"
#include "wgmma.cuh"

/* k-blocks of weights asked for ahead of their use, into L2: memory is too far away for the stages to cover. */
enum { LOOKAHEAD = 24 };

typedef enum gemm_share { SHARE_NONE, SHARE_WEIGHTS, SHARE_INPUT, SHARE_K } gemm_share;

struct gemm_geometry {
    int tiles_m, tiles_n; /* the direction that a cluster covers: a multiple of 2 */
    int band;             /* token tiles that are worked on at a time, over all features */
    int k_blocks;         /* of BK */
    int split;
};

template <int CONSUMERS, int GROUPS, int BN, bool PING_PONG, gemm_share SHARE, int BK, gemm_epilogue EPILOGUE>
struct gemm_shape {
    static constexpr int CLUSTER = SHARE == SHARE_NONE ? 1 : 2;
    static constexpr int BM = (PING_PONG ? 1 : CONSUMERS) * GROUPS * 64;
    static constexpr int THREADS = (CONSUMERS + 1) * 128;
    static constexpr int ROW = BK * 2; /* bytes of a row in a stage: TMA's swizzle is as wide */
    static constexpr int TOKENS = SHARE == SHARE_INPUT ? round_up(BN, 16) : BN; /* halves of whole swizzle groups */
    static constexpr int STAGE_BYTES = (BM + TOKENS) * ROW;
    /* the residual epilogue of gemm_epilogue_hopper.cuh; the others turn tiles of float32 through shared memory */
    static constexpr bool LEAN = EPILOGUE == GEMM_RESIDUAL && (SHARE == SHARE_K || SHARE == SHARE_INPUT);
    static constexpr int STAGING_BYTES = EPILOGUE == GEMM_GATED ? BN * GROUPS * 64 : EPILOGUE_STAGING_BYTES;
    static constexpr int FIXED_BYTES = CONSUMERS * (STAGING_BYTES + BN * 8) + 1024 + 256;
    static constexpr int FIT = (227 * 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FIT > 12 ? 12 : FIT;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + FIXED_BYTES;
    static constexpr int PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : GROUPS * BN > 350 ? 24 : 40;
    static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : GROUPS * BN > 350 ? 240 : 232;
};

template <gemm_epilogue EPILOGUE, int CONSUMERS, int GROUPS, int BN, bool PING_PONG, gemm_share SHARE, int BK>
__global__ void __launch_bounds__((CONSUMERS + 1) * 128, 1)
    gemm_hopper(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ CUtensorMap input_map,
                const __grid_constant__ gemm_problem p, const gemm_geometry geometry) {
#ifdef PI0_HOPPER
    using shape = gemm_shape<CONSUMERS, GROUPS, BN, PING_PONG, SHARE, BK, EPILOGUE>;
    constexpr int CLUSTER = shape::CLUSTER;
    constexpr int STAGES = shape::STAGES, BM = shape::BM, STAGE_BYTES = shape::STAGE_BYTES, ROW = shape::ROW;
    extern __shared__ uint8_t shared_raw[];
    uint8_t *ring = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    uint8_t *staging = ring + STAGES * STAGE_BYTES;
    float2 *factors = (float2 *)(ring + STAGES * STAGE_BYTES + CONSUMERS * shape::STAGING_BYTES);
    uint64_t *full = (uint64_t *)(factors + CONSUMERS * BN), *empty = full + STAGES;
    __shared__ unsigned order[3];

    const int warpgroup = warp_uniform(threadIdx.x / 128), thread = threadIdx.x % 128;
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], (PING_PONG ? 1 : CONSUMERS) * (SHARE == SHARE_K ? 1 : CLUSTER));
        }
        mbarrier_init_fence();
    }
    if constexpr (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    grid_launch_next();

    const int tiles = geometry.tiles_m * geometry.tiles_n / (SHARE == SHARE_K ? 1 : CLUSTER),
              units = tiles * geometry.split;
    const int first = blockIdx.x / CLUSTER, step = gridDim.x / CLUSTER;
    const int pieces = SHARE == SHARE_K ? 2 : geometry.split, piece = ceil_div(geometry.k_blocks, pieces);
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
                const int part = SHARE == SHARE_K ? rank : unit / tiles, tile = unit % tiles;
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
        staging += consumer * shape::STAGING_BYTES;
        if (PING_PONG) factors += consumer * BN; /* else shared */
        bool waiting = true;
        float acc[GROUPS][BN / 2];
        constexpr int RELEASES = SHARE == SHARE_K ? 1 : CLUSTER;
        auto release = [&](int stage) {
            if constexpr (CLUSTER > 1 && SHARE != SHARE_K)
                mbarrier_arrive_remote(&empty[stage], thread);
            else
                mbarrier_arrive(&empty[stage]);
        };
        int stage = 0, lap = 0, turn = 0; /* where the ring stands */
        /* Ping-pong: a warpgroup multiplies only after the other has taken all stages of its tile. Else it could look
         * at a stage a whole lap early and take the parity of an older fill for its own. */
        if (PING_PONG && consumer == 1) barrier_arrive(4, 256);
        for (int unit = first; unit < units; unit += step, turn ^= 1) {
            const int part = SHARE == SHARE_K ? rank : unit / tiles, tile = unit % tiles;
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
            constexpr bool LEAN = shape::LEAN, STAGED = EPILOGUE != GEMM_GATED && !LEAN;
            /* SHARE_K: what this block finishes of the tile */
            constexpr int KEEP = SHARE == SHARE_K ? ceil_div(BN / 8, 2) : BN / 8;
            const int kept = SHARE == SHARE_K ? rank * KEEP * 8 : 0;
            epilogue_values<STAGED ? EPILOGUE : GEMM_STORE, BN> values[GROUPS];
            constexpr bool EARLY = GROUPS * KEEP <= 17; /* registers for x's old values */
            residual_values<LEAN ? KEEP : 1, EARLY> residual[GROUPS];
            const int end = min(p.tokens, token + BN);
            if constexpr (STAGED)
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    epilogue_prepare<EPILOGUE, BN>(values[i], p, m * BM + group_row + i * 64, token, thread);
            /* positions and weights are older than the predecessor; row sums and x are not */
            if (waiting) grid_wait();
            if constexpr (LEAN)
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    residual_prepare<KEEP, EARLY>(residual[i], p, m * BM + group_row + i * 64, token + kept, end,
                                                  thread);
            /* the first tile's factors can wait until its product is under way */
            const bool late = PING_PONG && waiting && consumer == 0;
            waiting = false;
            if (PING_PONG) {
                if (!late) epilogue_column_factors(factors, p, token, BN, thread, 128);
            } else {
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
                if (kb > k_begin && thread < RELEASES) release(last);
                last = stage;
                if (++stage == STAGES) {
                    stage = 0;
                    lap++;
                }
            }
            if (PING_PONG) barrier_arrive(5 - consumer, 256);
            if constexpr (STAGED)
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    epilogue_fetch_first<EPILOGUE, BN>(values[i], p, m * BM + group_row + i * 64, token, thread);
            if (late) epilogue_column_factors(factors, p, token, BN, thread, 128);
            wgmma_wait<0>();
            if (thread < RELEASES) release(last);

            if (!PING_PONG)
                barrier_sync(6, CONSUMERS * 128); /* the factors are there */
            else
                barrier_sync(barrier, 128);

            bool finish = true;
            if constexpr (EPILOGUE == GEMM_RESIDUAL && SHARE != SHARE_K) {
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
            const int group_feature = m * BM + group_row;
            if constexpr (SHARE == SHARE_K) {
                static_assert(GROUPS == 1, "one group a warpgroup");
                constexpr int REST = BN / 8 - KEEP; /* fragments that block 1 finishes */
                static_assert(CONSUMERS * KEEP * 2048 <= STAGES * STAGE_BYTES, "exchange");
                cluster_sync(); /* both rings are read: their memory takes the other block's sums */
                const uint32_t to =
                    cluster_address(shared_address(ring) + consumer * KEEP * 2048 + thread * 16, 1 - rank);
                auto send = [&](int slot, int j) {
                    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + slot * 2048),
                                 "f"(acc[0][j * 4]), "f"(acc[0][j * 4 + 1]), "f"(acc[0][j * 4 + 2]),
                                 "f"(acc[0][j * 4 + 3])
                                 : "memory");
                };
                if (rank == 0) {
#pragma unroll
                    for (int j = 0; j < REST; j++) send(j, KEEP + j);
                } else {
#pragma unroll
                    for (int j = 0; j < KEEP; j++) send(j, j);
                }
                cluster_sync();
                const float4 *from = (const float4 *)(ring + consumer * KEEP * 2048) + thread;
                float sum[KEEP * 4];
#pragma unroll
                for (int j = 0; j < KEEP; j++) {
                    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (j < REST || rank == 0) v = from[j * 128];
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float mine = rank == 0 ? acc[0][j * 4 + i] : j < REST ? acc[0][(KEEP + j) * 4 + i] : 0.0f;
                        sum[j * 4 + i] = mine + (i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w);
                    }
                }
                epilogue_residual<KEEP, EARLY>(sum, residual[0], p, group_feature, token + kept, end, factors + kept,
                                               staging, thread, barrier);
            } else if (finish) {
                if constexpr (EPILOGUE == GEMM_GATED) {
                    epilogue_gated<GROUPS, BN>(acc, p, group_feature, token, factors, staging, thread, barrier);
                } else {
#pragma unroll
                    for (int i = 0; i < GROUPS; i++) {
                        const int feature = group_feature + i * 64;
                        if (feature >= p.features) continue;
                        if constexpr (LEAN)
                            epilogue_residual<KEEP, EARLY>(acc[i], residual[i], p, feature, token, end, factors,
                                                           staging, thread, barrier);
                        else
                            epilogue_group<EPILOGUE, BN>(acc[i], values[i], p, feature, token, factors,
                                                         (float *)staging, thread, barrier);
                    }
                }
                /* before the next tile's factors and staging */
                if (PING_PONG || EPILOGUE == GEMM_GATED) barrier_sync(barrier, 128);
            }
        }
    }
    if constexpr (SHARE == SHARE_K) {
        if (warpgroup == 0) { /* as the consumers do */
            __syncwarp();
            cluster_sync();
            cluster_sync();
        }
    } else if constexpr (CLUSTER > 1) {
        cluster_sync(); /* a block's memory stays while the other may write to it */
    }
#endif
}
#endif
