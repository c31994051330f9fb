/*
 * Prefix attention with wgmma and TMA: one kv head, so the rows are (token, query head) pairs and keys are read once
 * for all heads of a token.
 *
 *   grid     x: 2 * tiles of 128 rows, z: sequences; the two blocks of a cluster take half of the keys each, so that
 * 788 tokens (49.25 tiles) fill 100 multiprocessors and keys are fetched once per 128 rows block    one producer
 * warpgroup, two warpgroups of 64 rows; blocks of 80 keys through two stages combine  each block finishes 64 rows with
 * the other's partial sums, sent through distributed shared memory bytes    keys and values once per tile from L2 (40
 * MB a layer at 788 tokens)     FLOPs 4 * rows * keys * 256 bound    tensor cores and the softmax between them (no
 * overlap inside a warpgroup, only between the two)
 */
#include "attention.h"
#include "common.cuh"
#include "launch.cuh"
#include "tensor_map.cuh"
#include "wgmma.cuh"

enum { ROWS = 128, KEYS = 80, HEAD_DIM = 256, STAGES = 2 };
enum { Q_BYTES = ROWS * HEAD_DIM * 2, K_BYTES = KEYS * HEAD_DIM * 2, K_PART = KEYS * 128, Q_PART = ROWS * 128 };
enum { SHARED_BYTES = Q_BYTES + STAGES * 2 * K_BYTES + 1024 + 256 };

__global__ void __launch_bounds__(384, 1)
    attention_hopper_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                            const __grid_constant__ CUtensorMap v_map, const __grid_constant__ attention_problem p) {
#ifdef PI0_HOPPER
    extern __shared__ uint8_t shared_raw[];
    uint8_t *memory = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const uint32_t q_at = shared_address(memory), k_at = q_at + Q_BYTES, v_at = k_at + STAGES * K_BYTES;
    uint64_t *barriers = (uint64_t *)(memory + Q_BYTES + STAGES * 2 * K_BYTES);
    uint64_t *q_full = barriers, *k_full = barriers + 1, *k_empty = k_full + STAGES, *v_full = k_empty + STAGES,
             *v_empty = v_full + STAGES;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int g = lane / 4, t = lane % 4, rank = cluster_rank();
    if (threadIdx.x == 0) {
        mbarrier_init(q_full, 1);
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(&k_full[s], 1);
            mbarrier_init(&v_full[s], 1);
            mbarrier_init(&k_empty[s], 2);
            mbarrier_init(&v_empty[s], 2);
        }
        mbarrier_init_fence();
    }
    cluster_sync();
    grid_launch_next();
    grid_wait();

    const int start = p.starts ? p.starts[blockIdx.z] : blockIdx.z * p.length;
    const int keys = p.starts ? p.starts[blockIdx.z + 1] - start : p.length;
    const int rows = keys * p.group, first_row = blockIdx.x / 2 * ROWS;
    const int share = (keys + 1) / 2, first_key = rank * share;
    const int last_key =
        first_row < rows ? min(keys, first_key + share) : first_key; /* tiles beyond the sequence: none */
    const int blocks = ceil_div(last_key - first_key, KEYS);

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 32) prefetch_share(p.next_weights, p.next_bytes, blockIdx.x, gridDim.x);
        if (threadIdx.x == 0 && blocks > 0) {
            mbarrier_expect(q_full, Q_BYTES);
            for (int i = 0; i < 4; i++)
                tma_load(q_at + i * Q_PART, &q_map, i * 64, start * p.group + first_row, q_full);
            for (int n = 0; n < blocks; n++) {
                const int stage = n % STAGES, key = start + first_key + n * KEYS;
                if (n >= STAGES) mbarrier_wait(&k_empty[stage], (n / STAGES - 1) & 1);
                mbarrier_expect(&k_full[stage], K_BYTES);
                for (int i = 0; i < 4; i++)
                    tma_load(k_at + stage * K_BYTES + i * K_PART, &k_map, i * 64, key, &k_full[stage]);
                if (n >= STAGES) mbarrier_wait(&v_empty[stage], (n / STAGES - 1) & 1);
                mbarrier_expect(&v_full[stage], K_BYTES);
                for (int i = 0; i < 4; i++)
                    tma_load(v_at + stage * K_BYTES + i * K_PART, &v_map, i * 64, key, &v_full[stage]);
            }
        }
        __syncwarp();
        cluster_sync();
        cluster_sync();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        const int w = warpgroup - 1;
        float out[128], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
        const float scale = p.scale * 1.4426950408889634f;
#pragma unroll
        for (int i = 0; i < 128; i++) out[i] = 0.0f;
        if (blocks > 0) mbarrier_wait(q_full, 0);
        for (int n = 0; n < blocks; n++) {
            const int stage = n % STAGES, parity = (n / STAGES) & 1;
            float s[KEYS / 2];
            mbarrier_wait(&k_full[stage], parity);
            wgmma_fence();
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 16; d++)
                wgmma<KEYS>::run(s, wgmma_descriptor(q_at + d / 4 * Q_PART + w * 64 * 128 + d % 4 * 32),
                                 wgmma_descriptor(k_at + stage * K_BYTES + d / 4 * K_PART + d % 4 * 32), d > 0);
            wgmma_commit();
            wgmma_wait<0>();
            if (thread == 0) mbarrier_arrive(&k_empty[stage]);
            float high[2] = {top[0], top[1]};
            if (p.key_mask || first_key + (n + 1) * KEYS > last_key) {
#pragma unroll
                for (int i = 0; i < KEYS / 2; i++) {
                    const int key = first_key + n * KEYS + i / 4 * 8 + 2 * t + i % 2;
                    if (key >= last_key || (p.key_mask && !p.key_mask[start + key])) s[i] = -INFINITY;
                }
            }
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) {
                s[i] *= scale;
                high[i / 2 % 2] = fmaxf(high[i / 2 % 2], s[i]);
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 1));
                high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 2));
                const float level = high[r] == -INFINITY ? 0.0f : high[r];
                const float keep = exp2_fast(top[r] - level);
                top[r] = high[r];
                high[r] = level;
                sum[r] *= keep;
#pragma unroll
                for (int i = 0; i < 64; i++) out[i / 2 * 4 + r * 2 + i % 2] *= keep;
            }
            uint32_t a[KEYS / 16][4];
#pragma unroll
            for (int i = 0; i < KEYS / 2; i += 2) {
                const float low = exp2_fast(s[i] - high[i / 2 % 2]), up = exp2_fast(s[i + 1] - high[i / 2 % 2]);
                sum[i / 2 % 2] += low + up;
                a[i / 8][i / 2 % 4] = pack_bf16(low, up);
            }
            mbarrier_wait(&v_full[stage], parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) {
                /* values lie [key][column]: 64-column parts K_PART bytes apart, 8 keys 1,024 bytes apart */
                const uint64_t b = (uint64_t)(((v_at + stage * K_BYTES + k * 2048) & 0x3ffff) >> 4) |
                                   ((uint64_t)(K_PART / 16) << 16) | (64ull << 32) | (1ull << 62);
                wgmma_ra<HEAD_DIM, 1>::run(out, a[k], b, 1);
            }
            wgmma_commit();
            wgmma_wait<0>();
            if (thread == 0) mbarrier_arrive(&v_empty[stage]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        }
        cluster_sync(); /* nobody reads keys any more: their memory takes the partial sums */
        const uint32_t exchange = k_at;
        if (w != rank) {
            const uint32_t to = cluster_address(exchange + thread * 16, 1 - rank);
#pragma unroll
            for (int i = 0; i < 32; i++)
                asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + i * 2048), "f"(out[i * 4]),
                             "f"(out[i * 4 + 1]), "f"(out[i * 4 + 2]), "f"(out[i * 4 + 3])
                             : "memory");
            asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + 32 * 2048), "f"(top[0]),
                         "f"(top[1]), "f"(sum[0]), "f"(sum[1])
                         : "memory");
        }
        cluster_sync();
        if (w == rank) {
            const float4 *from = (const float4 *)(memory + Q_BYTES) + thread;
            const float4 rest = from[32 * 128];
            const float other_top[2] = {rest.x, rest.y}, other_sum[2] = {rest.z, rest.w};
            float mine[2], theirs[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float high = fmaxf(top[r], other_top[r]), level = high == -INFINITY ? 0.0f : high;
                mine[r] = exp2_fast(top[r] - level);
                theirs[r] = exp2_fast(other_top[r] - level);
                const float all = sum[r] * mine[r] + other_sum[r] * theirs[r], over = all > 0.0f ? 1.0f / all : 0.0f;
                mine[r] *= over;
                theirs[r] *= over;
            }
            const int row = first_row + rank * 64 + warp * 16 + g;
            bf16 *to = p.out + ((size_t)start * p.group + row) * p.out_stride + 2 * t;
#pragma unroll
            for (int i = 0; i < 32; i++) {
                const float4 v = from[i * 128];
                if (row < rows)
                    *(uint32_t *)(to + i * 8) =
                        pack_bf16(out[i * 4] * mine[0] + v.x * theirs[0], out[i * 4 + 1] * mine[0] + v.y * theirs[0]);
                if (row + 8 < rows)
                    *(uint32_t *)(to + 8 * p.out_stride + i * 8) = pack_bf16(
                        out[i * 4 + 2] * mine[1] + v.z * theirs[1], out[i * 4 + 3] * mine[1] + v.w * theirs[1]);
            }
        }
    }
#endif
}

extern "C" cudaError_t attention_hopper_plan(attention_plan *plan, const attention_problem *p, int tokens,
                                             void *encode) {
    plan->problem = *p;
    cudaError_t status =
        cudaFuncSetAttribute(attention_hopper_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    if (status != cudaSuccess) return status;
    status = tensor_map_encode(&plan->q_map, encode, p->q, (int64_t)tokens * p->group, HEAD_DIM, p->q_stride, ROWS);
    if (status == cudaSuccess)
        status = tensor_map_encode(&plan->k_map, encode, p->k, tokens, HEAD_DIM, p->kv_stride, KEYS);
    if (status != cudaSuccess) return status;
    return tensor_map_encode(&plan->v_map, encode, p->v, tokens, HEAD_DIM, p->kv_stride, KEYS);
}

extern "C" cudaError_t attention_hopper_launch(const attention_plan *plan, bool dependent, cudaStream_t stream) {
    const attention_problem *p = &plan->problem;
    return launch(attention_hopper_kernel, dim3(2 * ceil_div(p->length * p->group, ROWS), 1, p->sequences), 384,
                  SHARED_BYTES, 2, dependent, stream, plan->q_map, plan->k_map, plan->v_map, *p);
}
