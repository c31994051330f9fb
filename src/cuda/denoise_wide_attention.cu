/*
 * Suffix attention for more than 16 rows on Hopper. One kv head: the rows are (token, head) pairs of an observation,
 * and a block's 64 of them share the keys it reads.
 *
 *   grid     x: cluster of blocks that take the key tiles in turn, y: 64 rows (8 tokens of 8 heads), z: observation
 *   block    one warpgroup that multiplies, one warp that copies: 64 keys and values at a time
 *   combine  each block sends its sums of 64 / cluster rows to the block that finishes them (distributed shared memory)
 *   bytes    keys and values of an observation once per 64 rows from L2 (0.8 MB)      FLOPs 4 * rows * keys * 256
 *   bound    latency: two copies, two products, three cluster barriers
 */
#include "denoise_wide.cuh"

enum { HEAD_DIM = 256, KEYS = 64, PART = 64 * 128, TILE_BYTES = 64 * HEAD_DIM * 2, OUT_ROW = HEAD_DIM + 4 };
enum { SHARED_BYTES = 3 * TILE_BYTES + 64 * 16 + 1024 + 64, MOST_BLOCKS = 16 };
static_assert(WIDE_ROWS * OUT_ROW * 4 <= 3 * TILE_BYTES, "sums take the place of queries, keys and values");

__global__ void __launch_bounds__(WIDE_THREADS)
    wide_attention_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                          const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap suffix_k_map,
                          const __grid_constant__ CUtensorMap suffix_v_map,
                          const __grid_constant__ suffix_attention_problem p) {
#ifdef PI0_HOPPER
    extern __shared__ uint8_t shared_raw[];
    uint8_t *memory = (uint8_t *)(((uintptr_t)shared_raw + 1023) & ~(uintptr_t)1023);
    const uint32_t q_at = shared_address(memory), k_at = q_at + TILE_BYTES, v_at = k_at + TILE_BYTES;
    float *sums = (float *)memory;                        /* [piece][row][OUT_ROW] */
    float2 *levels = (float2 *)(memory + 3 * TILE_BYTES); /* [piece][row] (top, sum) */
    float *weights = (float *)(levels + 64);              /* [piece][row] */
    uint64_t *barriers = (uint64_t *)(weights + 64);
    uint64_t *q_full = barriers, *k_full = barriers + 1, *v_full = barriers + 2, *k_empty = barriers + 3,
             *v_empty = barriers + 4;
    const int warp = warp_uniform(threadIdx.x / 32), lane = threadIdx.x % 32, thread = threadIdx.x;
    const int split = gridDim.x, piece = blockIdx.x, b = blockIdx.z, rows = WIDE_ROWS / split;
    if (thread == 0) {
        mbarrier_init(q_full, 1);
        mbarrier_init(k_full, 1);
        mbarrier_init(v_full, 1);
        mbarrier_init(k_empty, 1);
        mbarrier_init(v_empty, 1);
        mbarrier_init_fence();
    }
    cluster_sync();
    grid_launch_next();
    /* the prefix's keys and starts were written long before the predecessor */
    const int start = p.starts[b], prefix = p.starts[b + 1] - start, suffix = p.first_slot + p.horizon;
    const int prefix_tiles = ceil_div(prefix, KEYS), tiles = prefix_tiles + ceil_div(suffix, KEYS);
    const int heads = p.heads, tokens = p.horizon + p.state_rows, first_token = blockIdx.y * (WIDE_ROWS / heads);

    if (warp == 4) {
        auto load_keys = [&](int tile, bool values) {
            const bool of_prefix = tile < prefix_tiles;
            const CUtensorMap *map = of_prefix ? (values ? &v_map : &k_map) : (values ? &suffix_v_map : &suffix_k_map);
            const int row = of_prefix ? start + tile * KEYS : b * p.slots + (tile - prefix_tiles) * KEYS;
            uint64_t *full = values ? v_full : k_full;
            mbarrier_expect(full, TILE_BYTES);
            for (int i = 0; i < 4; i++) tma_load((values ? v_at : k_at) + i * PART, map, i * 64, row, full);
        };
        if (lane == 0 && piece < prefix_tiles) {
            load_keys(piece, false);
            load_keys(piece, true);
        }
        if (piece < tiles) {
            grid_wait();
            if (lane == 0) mbarrier_expect(q_full, TILE_BYTES);
            __syncwarp();
            /* a token's heads are 8 rows in a row; those beyond read as zeros */
            const int token = first_token + lane / 4, row = token < p.horizon ? b * p.horizon + token
                                                            : token < tokens  ? p.action_rows + b
                                                                              : 1 << 26;
            tma_load(q_at + lane % 4 * PART + lane / 4 * 1024, &q_map, lane % 4 * 64, row * heads, q_full);
            if (lane == 0) {
                if (piece >= prefix_tiles) {
                    load_keys(piece, false);
                    load_keys(piece, true);
                }
                int parity = 0;
                for (int tile = piece + split; tile < tiles; tile += split, parity ^= 1) {
                    mbarrier_wait(k_empty, parity);
                    load_keys(tile, false);
                    mbarrier_wait(v_empty, parity);
                    load_keys(tile, true);
                }
            }
        }
        cluster_sync();
        cluster_sync();
        return;
    }
    const int g = lane / 4, t = lane % 4;
    float out[128], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    const float scale = p.scale * 1.4426950408889634f;
#pragma unroll
    for (int i = 0; i < 128; i++) out[i] = 0.0f;
    grid_wait();
    if (piece < tiles) mbarrier_wait(q_full, 0);
    int parity = 0;
    for (int tile = piece; tile < tiles; tile += split, parity ^= 1) {
        float s[KEYS / 2];
        mbarrier_wait(k_full, parity);
        wgmma_fence();
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; d++)
            wgmma<KEYS>::run(s, wgmma_descriptor(q_at + d / 4 * PART + d % 4 * 32),
                             wgmma_descriptor(k_at + d / 4 * PART + d % 4 * 32), d > 0);
        wgmma_commit();
        wgmma_wait<0>();
        if (thread == 0) mbarrier_arrive(k_empty);
        const bool of_prefix = tile < prefix_tiles;
        const int first_key = (of_prefix ? tile : tile - prefix_tiles) * KEYS, keys = of_prefix ? prefix : suffix;
        float high[2] = {top[0], top[1]};
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            const int key = first_key + i / 4 * 8 + 2 * t + i % 2, row = warp * 16 + i / 2 % 2 * 8 + g;
            bool counts = key < keys;
            if (counts && of_prefix && p.key_mask) counts = p.key_mask[start + key];
            /* the state sees the prefix and itself */
            if (!of_prefix && p.state_rows && first_token + row / heads == p.horizon)
                counts = counts && key < p.first_slot;
            s[i] = counts ? s[i] * scale : -INFINITY;
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
            if (tile > piece)
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
        mbarrier_wait(v_full, parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            /* values lie [key][column]: 64-column parts PART bytes apart, 8 keys 1,024 bytes apart */
            const uint64_t values = (uint64_t)(((v_at + k * 2048) & 0x3ffff) >> 4) | ((uint64_t)(PART / 16) << 16) |
                                    (64ull << 32) | (1ull << 62);
            wgmma_ra<HEAD_DIM, 1>::run(out, a[k], values, 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        if (thread == 0) mbarrier_arrive(v_empty);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    }
    cluster_sync(); /* queries, keys and values are read */
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = warp * 16 + r * 8 + g, owner = row / rows, slot = piece * rows + row % rows;
        const uint32_t to = cluster_address(shared_address(sums + slot * OUT_ROW + 2 * t), owner);
#pragma unroll
        for (int i = 0; i < 32; i++)
            asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to + i * 32), "f"(out[i * 4 + r * 2]),
                         "f"(out[i * 4 + r * 2 + 1])
                         : "memory");
        if (t == 0)
            asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(
                             cluster_address(shared_address(levels + slot), owner)),
                         "f"(top[r]), "f"(sum[r])
                         : "memory");
    }
    cluster_sync();
    if (thread < 64) { /* piece thread / rows, row thread % rows */
        float level = -INFINITY, all = 0.0f;
        for (int s = 0; s < split; s++) level = fmaxf(level, levels[s * rows + thread % rows].x);
        for (int s = 0; s < split; s++) {
            const float2 of_piece = levels[s * rows + thread % rows];
            all += exp2_fast(of_piece.x - level) * of_piece.y;
        }
        weights[thread] = all > 0.0f ? exp2_fast(levels[thread].x - level) / all : 0.0f;
    }
    barrier_sync(1, 128);
    for (int i = thread; i < rows * (HEAD_DIM / 4); i += 128) {
        const int local = i / (HEAD_DIM / 4), d = i % (HEAD_DIM / 4) * 4, row = piece * rows + local;
        const int token = first_token + row / heads;
        if (token >= tokens) continue;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int s = 0; s < split; s++) {
            const float w = weights[s * rows + local];
            const float4 more = *(const float4 *)&sums[(s * rows + local) * OUT_ROW + d];
            v = make_float4(v.x + w * more.x, v.y + w * more.y, v.z + w * more.z, v.w + w * more.w);
        }
        const int id = token < p.horizon ? b * p.horizon + token : p.action_rows + b;
        *(uint2 *)&p.out[(size_t)id * p.out_k + row % heads * HEAD_DIM + d] =
            make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    }
#endif
}

cudaError_t wide_attention_setup(void) {
    cudaError_t status =
        cudaFuncSetAttribute(wide_attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    return status == cudaSuccess
               ? cudaFuncSetAttribute(wide_attention_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)
               : status;
}

extern "C" cudaError_t wide_attention_launch(const suffix_attention_problem *p, int prefix_rows, int multiprocessors,
                                             void *encode, bool dependent, cudaStream_t stream) {
    if (p->head_dim != HEAD_DIM || p->heads != 8) return cudaErrorNotSupported;
    const int tiles = ceil_div((p->horizon + p->state_rows) * p->heads, WIDE_ROWS), units = tiles * p->batch;
    const int rows = (p->action_rows + (p->state_rows ? p->batch : 0)) * p->heads;
    int split = MOST_BLOCKS;
    while (split > 1 && units * split > multiprocessors) split /= 2;
    const int suffix = p->batch * p->slots;
    CUtensorMap maps[5];
    const struct {
        const void *base;
        int rows, box_rows;
    } of[5] = {{p->q, rows, 8},
               {p->keys, prefix_rows, KEYS},
               {p->values, prefix_rows, KEYS},
               {p->suffix_keys, suffix, KEYS},
               {p->suffix_values, suffix, KEYS}};
    for (int i = 0; i < 5; i++) {
        const cudaError_t status =
            tensor_map_encode(&maps[i], encode, of[i].base, of[i].rows, HEAD_DIM, HEAD_DIM, of[i].box_rows);
        if (status != cudaSuccess) return status;
    }
    return launch(wide_attention_kernel, dim3(split, tiles, p->batch), WIDE_THREADS, SHARED_BYTES, split, dependent,
                  stream, maps[0], maps[1], maps[2], maps[3], maps[4], *p);
}
