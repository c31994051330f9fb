/*
 * Attention with mma.sync, one pass over the keys with running maxima (FlashAttention-2's order).
 *
 *   grid    x: tiles of WARPS * 16 query rows; y: heads; z: sequences       block WARPS warps, 16 rows each
 *   memory  the query tile and STAGES stages of KEYS keys and values in shared memory, rows padded by 16 bytes
 *   bytes   q and out once, k and v once per tile (from L2)                  FLOPs 4 * rows * keys * head_dim
 *   bound   tensor cores at mma.sync's rate (about 60 % of wgmma's on Hopper)
 */
#include "attention.h"
#include "common.cuh"
#include "launch.cuh"

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES> struct attention_layout {
    static constexpr int DEPTH = round_up(HEAD_DIM, 16), ROW = DEPTH + 8; /* values per row in shared memory */
    static constexpr int QUERIES = WARPS * 16;
    static constexpr int SHARED_BYTES = (QUERIES + 2 * STAGES * KEYS) * ROW * 2;
};

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES>
__global__ void __launch_bounds__(WARPS * 32) attention_kernel(const attention_problem p) {
    using layout = attention_layout<HEAD_DIM, WARPS, KEYS, STAGES>;
    constexpr int DEPTH = layout::DEPTH, ROW = layout::ROW, QUERIES = layout::QUERIES, CHUNKS = DEPTH / 8;
    constexpr int KEY_TILES = KEYS / 8, OUT_TILES = HEAD_DIM / 8;
    extern __shared__ __align__(16) uint8_t shared_raw[];
    const uint32_t q_at = shared_address(shared_raw), k_at = q_at + QUERIES * ROW * 2,
                   v_at = k_at + STAGES * KEYS * ROW * 2;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    grid_launch_next();
#ifdef PI0_SM90
    if (thread == 0)
        prefetch_share(p.next_weights, p.next_bytes, blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z),
                       gridDim.x * gridDim.y * gridDim.z);
#endif
    grid_wait();
    const int sequence = blockIdx.z, head = blockIdx.y;
    const int start = p.starts ? p.starts[sequence] : sequence * p.length;
    const int keys = p.starts ? p.starts[sequence + 1] - start : p.length;
    const int rows = keys * p.group, first_row = blockIdx.x * QUERIES;
    if (first_row >= rows) return;
    const bf16 *q = p.q + (size_t)(start * p.group + first_row) * p.q_stride + head * HEAD_DIM;
    const bf16 *k = p.k + (size_t)start * p.kv_stride + head * HEAD_DIM;
    const bf16 *v = p.v + (size_t)start * p.kv_stride + head * HEAD_DIM;

    for (int i = thread; i < QUERIES * CHUNKS; i += WARPS * 32) {
        const int row = i / CHUNKS, c = i % CHUNKS;
        const bool valid = first_row + row < rows && c * 8 < HEAD_DIM;
        copy_async_16(q_at + (row * ROW + c * 8) * 2, valid ? q + (size_t)row * p.q_stride + c * 8 : q, valid);
    }
    auto load_keys = [&](int block) {
        const int stage = block % STAGES;
        for (int i = thread; i < KEYS * CHUNKS; i += WARPS * 32) {
            const int row = i / CHUNKS, c = i % CHUNKS, key = block * KEYS + row;
            const bool valid = key < keys && c * 8 < HEAD_DIM;
            const size_t from = valid ? (size_t)key * p.kv_stride + c * 8 : 0;
            const int to = ((stage * KEYS + row) * ROW + c * 8) * 2;
            copy_async_16(k_at + to, k + from, valid);
            copy_async_16(v_at + to, v + from, valid);
        }
        copy_async_commit();
    };
    const int blocks = ceil_div(keys, KEYS);
    for (int block = 0; block < STAGES - 1; block++)
        if (block < blocks)
            load_keys(block);
        else
            copy_async_commit();

    const float scale = p.scale * 1.4426950408889634f;
    float out[OUT_TILES][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < OUT_TILES; i++)
#pragma unroll
        for (int c = 0; c < 4; c++) out[i][c] = 0.0f;

    for (int block = 0; block < blocks; block++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); /* this block is there, and the last one's stage is free */
        if (block + STAGES - 1 < blocks)
            load_keys(block + STAGES - 1);
        else
            copy_async_commit();
        const uint32_t k_stage = k_at + block % STAGES * KEYS * ROW * 2,
                       v_stage = v_at + block % STAGES * KEYS * ROW * 2;
        float s[KEY_TILES][4];
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) s[j][c] = 0.0f;
#pragma unroll 4
        for (int d = 0; d < DEPTH / 16; d++) {
            uint32_t a[4];
            load_matrix_4(a, q_at + ((warp * 16 + lane % 16) * ROW + d * 16 + lane / 16 * 8) * 2);
#pragma unroll
            for (int j = 0; j < KEY_TILES; j += 2) {
                uint32_t b[4];
                load_matrix_4(b, k_stage + ((j * 8 + lane / 16 * 8 + lane % 8) * ROW + d * 16 + lane / 8 % 2 * 8) * 2);
                mma_bf16(s[j], a, b[0], b[1]);
                mma_bf16(s[j + 1], a, b[2], b[3]);
            }
        }
        float high[2] = {top[0], top[1]};
        if (p.key_mask || (block + 1) * KEYS > keys) {
#pragma unroll
            for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int key = block * KEYS + j * 8 + 2 * t + c % 2;
                    if (key >= keys || (p.key_mask && !p.key_mask[start + key])) s[j][c] = -INFINITY;
                }
        }
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] *= scale;
                high[c / 2] = fmaxf(high[c / 2], s[j][c]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 1));
            high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 2));
            const float base = high[r] == -INFINITY ? 0.0f : high[r];
            const float keep = exp2_fast(top[r] - base);
            top[r] = high[r];
            high[r] = base;
            sum[r] *= keep;
#pragma unroll
            for (int i = 0; i < OUT_TILES; i++) {
                out[i][r * 2] *= keep;
                out[i][r * 2 + 1] *= keep;
            }
        }
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] = exp2_fast(s[j][c] - high[c / 2]);
                sum[c / 2] += s[j][c];
            }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const uint32_t a[4] = {pack_bf16(s[2 * j][0], s[2 * j][1]), pack_bf16(s[2 * j][2], s[2 * j][3]),
                                   pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]),
                                   pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
            for (int i = 0; i < OUT_TILES; i += 2) {
                const uint32_t at = v_stage + ((j * 16 + lane % 16) * ROW + i * 8) * 2;
                if (i + 1 < OUT_TILES) {
                    uint32_t b[4];
                    load_matrix_4_transposed(b, at + lane / 16 * 16);
                    mma_bf16(out[i], a, b[0], b[1]);
                    mma_bf16(out[i + 1 < OUT_TILES ? i + 1 : i], a, b[2], b[3]);
                } else {
                    uint32_t b[2];
                    load_matrix_2_transposed(b, at);
                    mma_bf16(out[i], a, b[0], b[1]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        const float over = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
        const int row = first_row + warp * 16 + g + r * 8;
        if (row >= rows) continue;
        bf16 *to = p.out + ((size_t)start * p.group + row) * p.out_stride + head * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < OUT_TILES; i++)
            *(uint32_t *)(to + i * 8 + 2 * t) = pack_bf16(out[i][r * 2] * over, out[i][r * 2 + 1] * over);
    }
}

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES>
static cudaError_t launch_sized(const attention_problem *p, bool dependent, cudaStream_t stream) {
    using layout = attention_layout<HEAD_DIM, WARPS, KEYS, STAGES>;
    dim3 grid(ceil_div(p->length * p->group, layout::QUERIES), p->heads, p->sequences);
    return launch(attention_kernel<HEAD_DIM, WARPS, KEYS, STAGES>, grid, WARPS * 32, layout::SHARED_BYTES, 1, dependent,
                  stream, *p);
}

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES> static cudaError_t setup_sized(void) {
    return cudaFuncSetAttribute(attention_kernel<HEAD_DIM, WARPS, KEYS, STAGES>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                attention_layout<HEAD_DIM, WARPS, KEYS, STAGES>::SHARED_BYTES);
}

extern "C" cudaError_t attention_setup(void) {
    cudaError_t status = setup_sized<16, 4, 64, 2>();
    if (status == cudaSuccess) status = setup_sized<72, 4, 64, 4>();
    if (status == cudaSuccess) status = setup_sized<256, 4, 32, 2>();
    return status;
}

extern "C" cudaError_t attention_launch(const attention_problem *p, bool dependent, cudaStream_t stream) {
    switch (p->head_dim) {
    case 16:
        return launch_sized<16, 4, 64, 2>(p, dependent, stream);
    case 72:
        return launch_sized<72, 4, 64, 4>(p, dependent, stream);
    case 256:
        return launch_sized<256, 4, 32, 2>(p, dependent, stream);
    default:
        return cudaErrorNotSupported;
    }
}
