/*
 * The Hopper product: wgmma fed by TMA through a ring of shared-memory stages, one persistent block a multiprocessor.
 *
 *   threads   one producer warpgroup (one thread issues copies), CONSUMERS warpgroups that multiply
 *   tile      cooperative: CONSUMERS * GROUPS * 64 features x BN tokens, the warpgroups share a tile
 *             ping-pong:   GROUPS * 64 features x BN tokens a warpgroup; one multiplies while the other is in its
 * epilogue cluster   CLUSTER 2: two blocks take neighbouring token tiles of the same weights; each loads half of them
 * for both split     2 halves of k: the block that ends second adds the first one's partial sums (a + b is the same
 * either way round, so answers do not depend on who is first) bytes     per 64 k-values (tile features + BN) * 128 from
 * L2; weights once from memory; FLOPs 2 * features * tokens * k bound     tensor cores (prefill), L2 to shared memory
 * for small tiles (o, fc2)
 */
#ifndef PI0_CUDA_GEMM_HOPPER_CUH
#define PI0_CUDA_GEMM_HOPPER_CUH

#include "gemm_epilogue.cuh"
#include "wgmma.cuh"

struct gemm_geometry {
    int tiles_m, tiles_n; /* tiles_n a multiple of CLUSTER */
    int k_blocks;         /* of 64 */
    int split;
};

template <int CONSUMERS, int GROUPS, int BN, bool PING_PONG, int CLUSTER> struct gemm_shape {
    static constexpr int BM = (PING_PONG ? 1 : CONSUMERS) * GROUPS * 64;
    static constexpr int THREADS = (CONSUMERS + 1) * 128;
    static constexpr int STAGE_BYTES = (BM + BN) * 128;
    static constexpr int FIXED_BYTES = CONSUMERS * (EPILOGUE_STAGING_BYTES + BN * 8) + 1024 + 256;
    static constexpr int FIT = (227 * 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FIT > 8 ? 8 : FIT;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + FIXED_BYTES;
    static constexpr int PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 24;
    static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 240;
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
#endif

template <gemm_epilogue EPILOGUE, int CONSUMERS, int GROUPS, int BN, bool PING_PONG, int CLUSTER>
__global__ void __launch_bounds__((CONSUMERS + 1) * 128, 1)
    gemm_hopper(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ CUtensorMap input_map,
                const __grid_constant__ gemm_problem p, const gemm_geometry geometry) {
#ifdef PI0_HOPPER
    using shape = gemm_shape<CONSUMERS, GROUPS, BN, PING_PONG, CLUSTER>;
    constexpr int STAGES = shape::STAGES, BM = shape::BM, STAGE_BYTES = shape::STAGE_BYTES;
    extern __shared__ uint8_t shared_raw[];
    uint8_t *ring = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    float *staging = (float *)(ring + STAGES * STAGE_BYTES);
    float2 *factors = (float2 *)(ring + STAGES * STAGE_BYTES + CONSUMERS * EPILOGUE_STAGING_BYTES);
    uint64_t *full = (uint64_t *)(factors + CONSUMERS * BN), *empty = full + STAGES;
    __shared__ unsigned order[3];

    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
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

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(shape::PRODUCER_REGISTERS));
        if (threadIdx.x == 0) {
            int n = 0, ahead = 0;
            uint32_t base = shared_address(ring);
            auto load_weights = [&](int stage, int m, int kb) {
                if constexpr (CLUSTER > 1)
                    tma_load_multicast(base + stage * STAGE_BYTES + rank * (BM / CLUSTER) * 128, &weights_map, kb * 64,
                                       p.first_feature + m * BM + rank * (BM / CLUSTER), &full[stage],
                                       (uint16_t)((1 << CLUSTER) - 1));
                else
                    tma_load(base + stage * STAGE_BYTES, &weights_map, kb * 64, p.first_feature + m * BM, &full[stage]);
            };
            for (int unit = first; unit < units; unit += step) {
                const int part = unit / tiles, tile = unit % tiles;
                const int columns = geometry.tiles_n / CLUSTER;
                const int m = tile / columns, token = (tile % columns * CLUSTER + rank) * BN;
                const int k_begin = part * piece, k_end = min(k_begin + piece, geometry.k_blocks);
                if (unit == first) {
                    /* weights do not depend on the predecessor: fetch the first stages of them while it ends */
                    for (; ahead < STAGES && k_begin + ahead < k_end; ahead++) {
                        mbarrier_expect(&full[ahead], STAGE_BYTES);
                        load_weights(ahead, m, k_begin + ahead);
                    }
                    grid_wait();
                }
                for (int kb = k_begin; kb < k_end; kb++, n++) {
                    const int stage = n % STAGES;
                    if (n >= ahead) {
                        if (n >= STAGES) mbarrier_wait(&empty[stage], (n / STAGES - 1) & 1);
                        mbarrier_expect(&full[stage], STAGE_BYTES);
                        load_weights(stage, m, kb);
                    }
                    tma_load(base + stage * STAGE_BYTES + BM * 128, &input_map, kb * 64, token, &full[stage]);
                }
            }
            if (first >= units) grid_wait();
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(shape::CONSUMER_REGISTERS));
        const int consumer = warpgroup - 1, barrier = 1 + consumer;
        staging += consumer * (EPILOGUE_STAGING_BYTES / 4);
        factors += consumer * BN;
        grid_wait();
        float acc[GROUPS][BN / 2];
        int n = 0, turn = 0;
        /* Ping-pong: a warpgroup multiplies only after the other has taken all stages of its tile. Else it could look
         * at a stage a whole lap early and take the parity of an older fill for its own. */
        if (PING_PONG && consumer == 1) barrier_arrive(4, 256);
        for (int unit = first; unit < units; unit += step, turn ^= 1) {
            const int part = unit / tiles, tile = unit % tiles;
            const int columns = geometry.tiles_n / CLUSTER;
            const int m = tile / columns, token = (tile % columns * CLUSTER + rank) * BN;
            const int k_begin = part * piece, k_end = min(k_begin + piece, geometry.k_blocks);
            if (PING_PONG && turn != consumer) {
                n += k_end - k_begin;
                continue;
            }
            if (PING_PONG) barrier_sync(4 + consumer, 256);
            const int group_row = PING_PONG ? 0 : consumer * GROUPS * 64;
            for (int kb = k_begin; kb < k_end; kb++, n++) {
                const int stage = n % STAGES;
                mbarrier_wait(&full[stage], (n / STAGES) & 1);
                const uint32_t at = shared_address(ring) + stage * STAGE_BYTES;
                const uint64_t a = wgmma_descriptor(at + group_row * 128), b = wgmma_descriptor(at + BM * 128);
                wgmma_fence();
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int i = 0; i < GROUPS; i++)
                        wgmma<BN>::run(acc[i], a + i * 512 + k * 2, b + k * 2, kb > k_begin || k > 0);
                wgmma_commit();
                wgmma_wait<1>();
                if (kb > k_begin && thread < CLUSTER) { /* the stage before this one is read */
                    if constexpr (CLUSTER > 1)
                        mbarrier_arrive_remote(&empty[(n - 1) % STAGES], thread);
                    else
                        mbarrier_arrive(&empty[(n - 1) % STAGES]);
                }
            }
            if (PING_PONG) barrier_arrive(5 - consumer, 256);
            wgmma_wait<0>();
            if (thread < CLUSTER) {
                if constexpr (CLUSTER > 1)
                    mbarrier_arrive_remote(&empty[(n - 1) % STAGES], thread);
                else
                    mbarrier_arrive(&empty[(n - 1) % STAGES]);
            }

            bool finish = true;
            if constexpr (EPILOGUE == GEMM_RESIDUAL) {
                if (geometry.split == 2) {
                    const int slot = (m * geometry.tiles_n + token / BN) * CONSUMERS + consumer;
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
                epilogue_column_factors(factors, p, token, BN, thread, 128);
#pragma unroll
                for (int i = 0; i < GROUPS; i++)
                    if (m * BM + group_row + i * 64 < p.features)
                        epilogue_group<EPILOGUE, BN>(acc[i], p, m * BM + group_row + i * 64, token, factors, staging,
                                                     thread, barrier);
                barrier_sync(barrier, 128); /* before the next tile's factors */
            }
        }
    }
    if constexpr (CLUSTER > 1) cluster_sync(); /* a block's memory stays while the other may write to it */
#endif
}
#endif
