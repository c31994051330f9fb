/*
 * y[rows, features] = operand[rows, k] * weights^T for a handful of rows.
 *
 *   grid     x: features / (8 * TILES) * cluster, y: row groups of 16 * ROW_TILES      block 8 warps
 *   cluster  k is split over its blocks (k_chunk each); the sums meet through distributed shared memory, and each block
 *            finishes every cluster-th tile of 8 features
 *   warps    split k_chunk; each multiplies all TILES x ROW_TILES tiles; sums over the warps go through shared memory
 *   AMD      no clusters; weights go straight to registers, AHEAD steps of 32 k-values at a time, 8 waves a block
 *   bytes    weights once from memory, asked for before the predecessor has ended; operand from L2 once per block
 *   bound    memory, if phases follow each other fast enough
 */
#include "denoise.cuh"

enum { THREADS = SKINNY_WARPS * WARP_LANES };

template <skinny_epilogue EPILOGUE, int TILES, int ROW_TILES>
__global__ void __launch_bounds__(THREADS) skinny_kernel(const __grid_constant__ skinny_problem p) {
    constexpr int ROWS = ROW_TILES * 16;
    extern __shared__ __align__(128) uint8_t shared_raw[];
    __shared__ float factor_parts[256];
    __shared__ float factors[ROWS];
    const int thread = threadIdx.x, warp = thread / WARP_LANES, lane = thread % WARP_LANES;
    const int cluster = p.k / p.k_chunk; /* 1: no cluster */
    const int rank = cluster > 1 ? blockIdx.x % cluster : 0;
    const int first_feature = blockIdx.x / cluster * TILES * 8, first_row = blockIdx.y * ROWS;
    const int first_k = rank * p.k_chunk;
    constexpr int WIDE = ceil_div(TILES * 8, MATRIX_NARROW); /* the instruction's tiles */
    float acc[ROW_TILES][WIDE][4];
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) acc[m][n][c] = 0.0f;
#ifndef PI0_AMD
    const int row_bytes = p.k_chunk * 2;
    const uint32_t weights_at = shared_address(shared_raw);

    grid_launch_next();
    {
        const int chunks = p.k_chunk / 8,
                  weights_period = round_up(p.weights_k, 128); /* high and low parts share weights */
#ifdef PI0_SM90
        uint64_t policy;
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
        for (int i = thread; i < TILES * 8 * chunks; i += 256) {
            const int row = i / chunks, c = i % chunks, k = (first_k + c * 8) % weights_period;
            const bool valid = first_feature + row < p.features && k < p.weights_k;
            const bf16 *from = valid ? p.weights + (size_t)(first_feature + row) * p.weights_k + k : p.weights;
            const uint32_t to = weights_at + swizzled(row, c, row_bytes);
#ifdef PI0_SM90
            asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from),
                         "r"(valid ? 16 : 0), "l"(policy)
                         : "memory");
#else
            copy_async_16(to, from, valid);
#endif
        }
        copy_async_commit();
    }
    grid_wait();

    const int steps = p.k_chunk / 128; /* of 16 k-values, per warp */
    const int first_step = first_k / 16 + warp * steps;
    constexpr int STEP_GROUP = ROW_TILES == 1 ? 8 : ROW_TILES == 2 ? 4 : 2;
    uint32_t a[STEP_GROUP][ROW_TILES][4];
    auto load_group = [&](int group) {
#pragma unroll
        for (int s = 0; s < STEP_GROUP; s++)
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++)
                if (group + s < steps)
                    load_operand(a[s][m], p.operand, blockIdx.y * ROW_TILES + m, first_step + group + s, p.operand_k,
                                 p.rows, lane);
    };
    load_group(0);
    if (p.stats)
        row_factor_parts<ROWS>(factor_parts, p.stats, p.stats_slabs, p.stats_stride, first_row, p.rows, thread);
    copy_async_wait<0>();
    __syncthreads();
    if (thread < ROWS) factors[thread] = p.stats ? row_factor<ROWS>(factor_parts, thread, p.norm_width) : 1.0f;
    for (int group = 0; group < steps; group += STEP_GROUP) {
        if (group) load_group(group);
#pragma unroll
        for (int s = 0; s < STEP_GROUP; s += 2) {
            if (group + s >= steps) break;
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                uint32_t b[4];
                const int c = (warp * steps + group + s) * 2 + lane / 8;
                load_matrix_4(b, weights_at + swizzled(n * 8 + lane % 8, c < p.k_chunk / 8 ? c : 0, row_bytes));
#pragma unroll
                for (int m = 0; m < ROW_TILES; m++) mma_bf16(acc[m][n], a[s][m], b[0], b[1]);
                if (s + 1 < STEP_GROUP && group + s + 1 < steps)
#pragma unroll
                    for (int m = 0; m < ROW_TILES; m++) mma_bf16(acc[m][n], a[s + 1][m], b[2], b[3]);
            }
        }
    }
#else
    if (p.stats)
        row_factor_parts<ROWS>(factor_parts, p.stats, p.stats_slabs, p.stats_stride, first_row, p.rows, thread);
    __syncthreads();
    if (thread < ROWS) factors[thread] = p.stats ? row_factor<ROWS>(factor_parts, thread, p.norm_width) : 1.0f;
    const int weights_period = round_up(p.weights_k, 128); /* high and low parts share weights */
    const bf16 *weights = p.weights + (size_t)first_feature * p.weights_k;
    const int features = min(TILES * 8, p.features - first_feature);
    const int steps = p.k_chunk / 32, share = ceil_div(steps, SKINNY_WARPS), end = min(steps, (warp + 1) * share);
    constexpr int AHEAD = ROW_TILES + WIDE > 4 ? 2 : 4;
    for (int group = warp * share; group < end; group += AHEAD) {
        uint32_t a[AHEAD][ROW_TILES][4], b[AHEAD][WIDE][4];
#pragma unroll
        for (int s = 0; s < AHEAD; s++) {
            const int step = first_k / 32 + group + s, k = step * 32 % weights_period;
            const bool there = group + s < end;
#pragma unroll
            for (int n = 0; n < WIDE; n++)
                load_weights(b[s][n], weights, p.weights_k, n, there ? features : 0, k, p.weights_k, lane);
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++)
                load_operand(a[s][m], p.operand, blockIdx.y * ROW_TILES + m, step, p.operand_k, there ? p.rows : 0,
                             lane);
        }
#pragma unroll
        for (int s = 0; s < AHEAD; s++)
#pragma unroll
            for (int n = 0; n < WIDE; n++)
#pragma unroll
                for (int m = 0; m < ROW_TILES; m++) mfma_16x16x32(acc[m][n], b[s][n], a[s][m]);
    }
#endif
    __syncthreads();                   /* the weights' memory becomes scratch */
    float *sums = (float *)shared_raw; /* [warp][m][n][16 rows][8 features] */
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
            store_partial(sums + (warp * ROW_TILES + m) * TILES * 128, n, acc[m][n], TILES * 8, lane);
    __syncthreads();

    /* Element e of a tile: row e / 8, feature e % 8. Thread `thread` sums elements thread, thread + THREADS, .. */
    constexpr int ELEMENTS = ROW_TILES * TILES * 128;
    auto summed = [&](int e) {
        float v = 0.0f;
#pragma unroll
        for (int w = 0; w < SKINNY_WARPS; w++) v += sums[w * ELEMENTS + e];
        return v;
    };
    auto row_of = [](int e) { return e / 8; }; /* e below 128 */
    auto feature_of = [](int e) { return e % 8; };

    if constexpr (EPILOGUE == SKINNY_QKV || EPILOGUE == SKINNY_GATED) {
        /* tiles come in pairs: gate and up, or the two halves of a RoPE pair */
        for (int i = thread; i < ELEMENTS / 2; i += THREADS) {
            const int e = i % 128, pair = i / 128 % (TILES / 2), m = i / 128 / (TILES / 2);
            const int at = (m * TILES + pair * 2) * 128 + e, local = m * 16 + row_of(e), row = first_row + local;
            const int packed = first_feature + pair * 16 + feature_of(e);
            if (row >= p.rows || packed >= p.features) continue;
            float low = summed(at) * factors[local], high = summed(at + 128) * factors[local];
            if (p.shift) {
                low += p.shift[packed];
                high += p.shift[packed + 8];
            }
            if constexpr (EPILOGUE == SKINNY_GATED) {
                const int f = packed / 16 * 8 + packed % 8;
                p.out[operand_offset(row, f, p.out_k)] = __float2bfloat16(gelu_tanh(low) * high);
            } else {
                const int half = p.head_dim / 2, head = packed / p.head_dim + p.first_head;
                const int d = packed % p.head_dim / 16 * 8 + packed % 8;
                const bool state = row >= p.action_rows;
                const int b = state ? row - p.action_rows : row / p.horizon;
                const int slot = state ? 0 : p.first_slot + row % p.horizon;
                if (head <= p.heads) {
                    const float2 turn = __ldg(&p.rope[(size_t)(p.prefix_valid[b] + slot) * half + d]);
                    const float x = low * turn.x - high * turn.y;
                    high = high * turn.x + low * turn.y;
                    low = x;
                }
                bf16 *to = head < p.heads ? p.q + ((size_t)row * p.heads + head) * p.head_dim
                                          : (head == p.heads ? p.suffix_keys : p.suffix_values) +
                                                ((size_t)b * p.slots + slot) * p.head_dim;
                to[d] = __float2bfloat16(low);
                to[d + half] = __float2bfloat16(high);
            }
        }
    } else {
#ifdef PI0_SM90
        uint32_t sums_at = 0;
        if (cluster > 1) {
            /* block sums where warp 0's part lies: only the thread that reads an element there writes it */
            for (int e = thread; e < ELEMENTS; e += THREADS) sums[e] = summed(e);
            sums_at = shared_address(sums);
            cluster_sync();
        }
#endif
        for (int i = thread; i < ELEMENTS; i += THREADS) {
            const int e = i % 128, n = i / 128 % TILES, m = i / 128 / TILES;
            if (n % cluster != rank) continue;
            const int at = (m * TILES + n) * 128 + e, local = m * 16 + row_of(e), row = first_row + local;
            const int f = first_feature + n * 8 + feature_of(e);
            float y = 0.0f;
#ifdef PI0_SM90
            if (cluster > 1)
                for (int r = 0; r < cluster; r++) y += cluster_load(cluster_address(sums_at + at * 4, r));
            else
#endif
                y = summed(at);
            float v = 0.0f;
            const bool valid = row < p.rows && f < p.features;
            if (valid) {
                if constexpr (EPILOGUE == SKINNY_RESIDUAL) {
                    if (p.gate) y *= p.gate[f];
                    v = __ldcg(&p.x[(size_t)row * p.features + f]) + y;
                } else if (row < p.action_rows) {
                    v = y + p.bias[f];
                } else {
                    v = p.state_bias[f];
                    for (int d = 0; d < p.action_dim; d++)
                        v += __bfloat162float(p.state_weights[(size_t)f * p.action_dim + d]) *
                             p.state[(row - p.action_rows) * p.action_dim + d];
                }
                p.x[(size_t)row * p.features + f] = v;
                p.out[operand_offset(row, f, p.out_k)] = __float2bfloat16(v * p.gain[f]);
            }
            float squares = v * v; /* eight neighbours have the same row */
#pragma unroll
            for (int d = 1; d < 8; d *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
            if (lane % 8 == 0 && valid) p.stats_out[(size_t)(f / SKINNY_SLAB) * p.stats_stride + row] = squares;
        }
#ifdef PI0_SM90
        if (cluster > 1) cluster_sync(); /* sums stay until every block has read them */
#endif
    }
}

typedef void (*skinny_function)(skinny_problem);

template <skinny_epilogue EPILOGUE, int TILES> static skinny_function by_rows(int row_tiles) {
    return row_tiles == 1   ? skinny_kernel<EPILOGUE, TILES, 1>
           : row_tiles == 2 ? skinny_kernel<EPILOGUE, TILES, 2>
                            : skinny_kernel<EPILOGUE, TILES, 4>;
}

static skinny_function find(skinny_epilogue epilogue, int tiles, int row_tiles) {
    switch (epilogue) {
    case SKINNY_QKV:
        return tiles == 2 ? by_rows<SKINNY_QKV, 2>(row_tiles) : by_rows<SKINNY_QKV, 4>(row_tiles);
    case SKINNY_GATED:
        return tiles == 4 ? by_rows<SKINNY_GATED, 4>(row_tiles) : by_rows<SKINNY_GATED, 8>(row_tiles);
    case SKINNY_RESIDUAL:
        return tiles == 1   ? by_rows<SKINNY_RESIDUAL, 1>(row_tiles)
               : tiles == 2 ? by_rows<SKINNY_RESIDUAL, 2>(row_tiles)
                            : by_rows<SKINNY_RESIDUAL, 4>(row_tiles);
    case SKINNY_TOKENS:
        return tiles == 1 ? by_rows<SKINNY_TOKENS, 1>(row_tiles) : by_rows<SKINNY_TOKENS, 2>(row_tiles);
    }
    return NULL;
}

static size_t shared_bytes(int tiles, int row_tiles, int k_chunk) {
    const size_t weights = WARP_LANES == 32 ? (size_t)tiles * 8 * k_chunk * 2 : 0,
                 scratch = (size_t)SKINNY_WARPS * tiles * row_tiles * 512;
    return weights > scratch ? weights : scratch;
}

cudaError_t skinny_setup(void) {
    const struct {
        skinny_epilogue epilogue;
        int tiles;
    } all[] = {{SKINNY_QKV, 2},      {SKINNY_QKV, 4},      {SKINNY_GATED, 4},  {SKINNY_GATED, 8}, {SKINNY_RESIDUAL, 1},
               {SKINNY_RESIDUAL, 2}, {SKINNY_RESIDUAL, 4}, {SKINNY_TOKENS, 1}, {SKINNY_TOKENS, 2}};
    int device, most;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    for (const auto &kind : all)
        for (int row_tiles = 1; row_tiles <= 4 && status == cudaSuccess; row_tiles *= 2)
            status = cudaFuncSetAttribute((const void *)find(kind.epilogue, kind.tiles, row_tiles),
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, most - 4096);
    return status;
}

extern "C" cudaError_t skinny_launch(skinny_epilogue epilogue, int tiles, const skinny_problem *p, bool dependent,
                                     cudaStream_t stream) {
    /* AMD's 64 KB hold the sums of two row tiles */
    const int row_tiles = p->rows <= 16 ? 1 : p->rows <= 32 || WARP_LANES == 64 ? 2 : 4, cluster = p->k / p->k_chunk;
    dim3 grid(ceil_div(p->features, tiles * 8) * cluster, ceil_div(p->rows, row_tiles * 16));
    return launch(find(epilogue, tiles, row_tiles), grid, THREADS, shared_bytes(tiles, row_tiles, p->k_chunk), cluster,
                  dependent, stream, *p);
}
