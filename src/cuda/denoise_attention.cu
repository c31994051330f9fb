/*
 * Attention of the action rows over prefix and suffix, and the little products between two steps.
 */
#include "denoise.cuh"

/*
 * Suffix attention.
 *   grid     x: cluster of blocks that share the keys, y: head, z: observation * row tiles of 16      block 256 threads
 *   before   the predecessor ends: its share of the prefix's keys and values (they do not change over the steps)
 *   scores   warps take a tile of keys each; softmax by 16 threads a row; values: warps share the columns
 *   combine  each block of the cluster finishes head_dim / cluster columns from everyone's partial sums; where there
 * are no clusters these go through memory, and the block that ends last finishes all columns bytes    per head all keys
 * and values from L2 (0.8 MB) bound    latency: five exchanges through shared memory, two cluster barriers
 */
template <int HEAD_DIM, int KEYS> struct suffix_layout {
    static constexpr int ROW = HEAD_DIM * 2; /* bytes of a key */
    static constexpr int SCORES = KEYS + 4;  /* floats a row */
    static constexpr int WEIGHTS = KEYS + 8; /* bf16 a row */
    static constexpr int OUT = HEAD_DIM + 4; /* floats a row */
    static constexpr int K_AT = 0, V_AT = K_AT + KEYS * ROW, Q_AT = V_AT + KEYS * ROW, S_AT = Q_AT + 16 * ROW,
                         P_AT = S_AT + 16 * SCORES * 4, O_AT = P_AT + 16 * WEIGHTS * 2, ROWS_AT = O_AT + 16 * OUT * 4,
                         BYTES = ROWS_AT + 3 * 16 * 4;
};

enum { THREADS = 256, WARPS = THREADS / WARP_LANES };

/*
 * This block's sums to memory; the last block of the head adds up everyone's in order and hands four neighbouring
 * values at a time to `finish`. out [16][out_stride], top and sum [16], scratch [16 * SUFFIX_MOST_BLOCKS]: shared
 * memory.
 */
template <int HEAD_DIM, typename F>
__device__ __forceinline__ void join_through_memory(const suffix_attention_problem &p, const float *out, int out_stride,
                                                    const float *top, const float *sum, float *scratch, int rows,
                                                    int thread, F finish) {
    __shared__ bool last;
    const int split = gridDim.x, unit = blockIdx.z * gridDim.y + blockIdx.y;
    float *parts = p.partial + (size_t)unit * split * SUFFIX_PART, *mine = parts + blockIdx.x * SUFFIX_PART;
    for (int i = thread; i < rows * HEAD_DIM / 4; i += THREADS)
        __stcg((float4 *)mine + i, *(const float4 *)(out + i * 4 / HEAD_DIM * out_stride + i * 4 % HEAD_DIM));
    if (thread < 16) {
        __stcg(mine + 16 * HEAD_DIM + thread, top[thread]);
        __stcg(mine + 16 * HEAD_DIM + 16 + thread, sum[thread]);
    }
    __threadfence();
    __syncthreads();
    if (thread == 0) last = atomicAdd(&p.ticket[unit], 1) == (unsigned)split - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (thread == 0) p.ticket[unit] = 0;
    for (int i = thread; i < 16 * split; i += THREADS) {
        const float *of_row = parts + 16 * HEAD_DIM + i % 16;
        float level = -INFINITY, all = 0.0f;
        for (int r = 0; r < split; r++) level = fmaxf(level, __ldcg(of_row + r * SUFFIX_PART));
        for (int r = 0; r < split; r++)
            all += exp2f(__ldcg(of_row + r * SUFFIX_PART) - level) * __ldcg(of_row + r * SUFFIX_PART + 16);
        scratch[i] = exp2f(__ldcg(of_row + i / 16 * SUFFIX_PART) - level) / all;
    }
    __syncthreads();
    for (int i = thread; i < rows * HEAD_DIM / 4; i += THREADS) {
        const int row = i * 4 / HEAD_DIM;
        float4 v[SUFFIX_MOST_BLOCKS], value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int r = 0; r < SUFFIX_MOST_BLOCKS; r++)
            if (r < split) v[r] = __ldcg((const float4 *)(parts + r * SUFFIX_PART) + i);
#pragma unroll
        for (int r = 0; r < SUFFIX_MOST_BLOCKS; r++)
            if (r < split) {
                const float weight = scratch[r * 16 + row];
                value.x += v[r].x * weight;
                value.y += v[r].y * weight;
                value.z += v[r].z * weight;
                value.w += v[r].w * weight;
            }
        finish(row, i * 4 % HEAD_DIM, value);
    }
}

template <int HEAD_DIM, int KEYS>
__global__ void __launch_bounds__(THREADS) suffix_attention_kernel(const __grid_constant__ suffix_attention_problem p) {
    using layout = suffix_layout<HEAD_DIM, KEYS>;
    constexpr int CHUNKS = HEAD_DIM / 8, TILES = HEAD_DIM / 16, WARP_TILES = ceil_div(TILES, WARPS);
    constexpr int GROUP = WARP_TILES % MATRIX_GROUP ? 1 : MATRIX_GROUP; /* tiles of values loaded together */
    constexpr int STEP = HEAD_DIM < MATRIX_DEPTH ? 16 : MATRIX_DEPTH;
    extern __shared__ __align__(128) uint8_t shared_raw[];
    const uint32_t at = shared_address(shared_raw);
    float *scores = (float *)(shared_raw + layout::S_AT), *out = (float *)(shared_raw + layout::O_AT);
    bf16 *weights = (bf16 *)(shared_raw + layout::P_AT);
    float *row_top = (float *)(shared_raw + layout::ROWS_AT), *row_sum = row_top + 16, *row_keep = row_sum + 16;
    const int thread = threadIdx.x, warp = thread / WARP_LANES, lane = thread % WARP_LANES;
    const int split = gridDim.x, rank = blockIdx.x, head = blockIdx.y;
    const int b = blockIdx.z % p.batch, tile = blockIdx.z / p.batch;
    grid_launch_next();

    /* starts and the prefix's keys were written long before the predecessor (a full barrier lies between) */
    const int start = p.starts[b], prefix = p.starts[b + 1] - start;
    const int suffix = p.first_slot + p.horizon, all = prefix + suffix;
    const int share = ceil_div(all, split), first = rank * share, last = min(first + share, all);
    auto load_keys = [&](int base, bool of_prefix) {
        for (int i = thread; i < KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, c = i % CHUNKS, key = base + row;
            if ((key < prefix || key >= last) != of_prefix) continue;
            const bool valid = key < last;
            const bf16 *k = p.keys, *v = p.values;
            if (valid) {
                const size_t from =
                    (key < prefix ? (size_t)(start + key) : (size_t)b * p.slots + key - prefix) * HEAD_DIM + c * 8;
                k = (key < prefix ? p.keys : p.suffix_keys) + from;
                v = (key < prefix ? p.values : p.suffix_values) + from;
            }
            const uint32_t to = swizzled(row, c, layout::ROW);
            copy_async_16(at + layout::K_AT + to, k, valid);
            copy_async_16(at + layout::V_AT + to, v, valid);
        }
    };
    load_keys(first, true);
    grid_wait();
    load_keys(first, false);
    /* query rows: action rows of observation b, then its state row */
    const int rows = p.horizon + p.state_rows;
    auto row_id = [&](int i) { return i < p.horizon ? b * p.horizon + i : p.action_rows + b; };
    for (int i = thread; i < 16 * CHUNKS; i += THREADS) {
        const int row = tile * 16 + i / CHUNKS, c = i % CHUNKS;
        const bool valid = row < rows;
        const bf16 *from = valid ? p.q + ((size_t)row_id(row) * p.heads + head) * HEAD_DIM + c * 8 : p.q;
        copy_async_16(at + layout::Q_AT + swizzled(i / CHUNKS, c, layout::ROW), from, valid);
    }
    copy_async_commit();
    if (thread < 16) {
        row_top[thread] = -INFINITY;
        row_sum[thread] = 0.0f;
    }
    const float scale = p.scale * 1.4426950408889634f;
    matrix_tile acc[WARP_TILES];
#pragma unroll
    for (int i = 0; i < WARP_TILES; i++) matrix_clear(acc[i]);

    for (int base = first; base < last; base += KEYS) {
        if (base > first) {
            __syncthreads();
            load_keys(base, true);
            load_keys(base, false);
            copy_async_commit();
        }
        copy_async_wait<0>();
        __syncthreads();
        for (int j = warp; j < KEYS / MATRIX_NARROW; j += WARPS) {
            matrix_tile sums[2]; /* two, so that products need not wait for each other */
            matrix_clear(sums[0]);
            matrix_clear(sums[1]);
#pragma unroll
            for (int d = 0; d < HEAD_DIM / STEP; d++) {
                matrix_operand<STEP> a, k;
                matrix_load(a, lane, [&](int row, int c) {
                    return at + layout::Q_AT + swizzled(row, (d * STEP + c) / 8, layout::ROW) + c % 8 * 2;
                });
                matrix_load(k, lane, [&](int row, int c) {
                    return at + layout::K_AT +
                           swizzled(j * MATRIX_NARROW + row % MATRIX_NARROW, (d * STEP + c) / 8, layout::ROW) +
                           c % 8 * 2;
                });
                matrix_multiply<MATRIX_NARROW>(sums[d % 2], a, k);
            }
#pragma unroll
            for (int e = 0; e < MATRIX_VALUES * MATRIX_NARROW / 16; e++) {
                const int row = matrix_row(lane, matrix_slot(e)), local = j * MATRIX_NARROW + matrix_column(lane, e);
                const int key = base + local;
                bool counts = key < last && (key >= prefix || !p.key_mask || p.key_mask[start + key]);
                /* the state row does not see the actions */
                if (p.state_rows && tile * 16 + row == p.horizon) counts = counts && key < prefix + p.first_slot;
                scores[row * layout::SCORES + local] = counts ? (sums[0].v[e] + sums[1].v[e]) * scale : -INFINITY;
            }
        }
        __syncthreads();
        {
            const int row = thread / 16, part = thread % 16;
            float top = row_top[row];
            float values[ceil_div(KEYS, 16)];
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) {
                values[i] = scores[row * layout::SCORES + i * 16 + part];
                top = fmaxf(top, values[i]);
            }
#pragma unroll
            for (int d = 8; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
            const float level = top == -INFINITY ? 0.0f : top;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) {
                const float e = exp2f(values[i] - level);
                sum += e;
                weights[row * layout::WEIGHTS + i * 16 + part] = __float2bfloat16(e);
            }
#pragma unroll
            for (int d = 8; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            __syncwarp();
            if (part == 0) {
                const float keep = exp2f(row_top[row] - level);
                row_keep[row] = keep;
                row_sum[row] = row_sum[row] * keep + sum;
                row_top[row] = top;
            }
        }
        __syncthreads();
        float keep[MATRIX_SLOTS];
#pragma unroll
        for (int r = 0; r < MATRIX_SLOTS; r++) keep[r] = row_keep[matrix_row(lane, r)];
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++)
#pragma unroll
            for (int e = 0; e < MATRIX_VALUES; e++) acc[i].v[e] *= keep[matrix_slot(e)];
#pragma unroll
        for (int j = 0; j < KEYS / MATRIX_DEPTH; j++) {
            matrix_operand<MATRIX_DEPTH> a;
            matrix_load_narrow(a, lane, [&](int row, int key) {
                return at + layout::P_AT + (row * layout::WEIGHTS + j * MATRIX_DEPTH + key) * 2;
            });
#pragma unroll
            for (int i = 0; i < WARP_TILES; i += GROUP) {
                const int n = warp * WARP_TILES + i;
                if (n >= TILES) break;
                matrix_operand<MATRIX_DEPTH> v[GROUP];
                matrix_load_transposed<MATRIX_DEPTH, GROUP, 16>(v, lane, [&](int key, int column) {
                    const int row = j * MATRIX_DEPTH + key, d = n * 16 + column;
                    return at + layout::V_AT + swizzled(row, d / 8, layout::ROW) + d % 8 * 2;
                });
#pragma unroll
                for (int m = 0; m < GROUP; m++) matrix_multiply(acc[i + m], a, v[m]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WARP_TILES; i++) {
        const int n = warp * WARP_TILES + i / GROUP * GROUP;
        if (n >= TILES) break;
#pragma unroll
        for (int e = 0; e < MATRIX_VALUES; e++)
            out[matrix_row(lane, matrix_slot(e)) * layout::OUT + n * 16 + matrix_spread<GROUP>(matrix_column(lane, e)) +
                i % GROUP] = acc[i].v[e];
    }
    if (p.partial) {
        __syncthreads();
        join_through_memory<HEAD_DIM>(p, out, layout::OUT, row_top, row_sum, scores, min(rows - tile * 16, 16), thread,
                                      [&](int row, int d, float4 v) {
                                          const int id = row_id(tile * 16 + row), feature = head * HEAD_DIM + d;
                                          p.out[operand_offset(id, feature, p.out_k)] = __float2bfloat16(v.x);
                                          p.out[operand_offset(id, feature + 1, p.out_k)] = __float2bfloat16(v.y);
                                          p.out[operand_offset(id, feature + 2, p.out_k)] = __float2bfloat16(v.z);
                                          p.out[operand_offset(id, feature + 3, p.out_k)] = __float2bfloat16(v.w);
                                      });
        return;
    }
#ifdef PI0_SM90
    if (split > 1)
        cluster_sync();
    else
        __syncthreads();
#else
    __syncthreads();
#endif
    const int columns = HEAD_DIM / split;
    for (int i = thread; i < 16 * columns; i += THREADS) {
        const int row = i / columns, d = rank * columns + i % columns;
        if (tile * 16 + row >= rows) continue;
        float value = 0.0f, sum = 0.0f;
#ifdef PI0_SM90
        if (split > 1) {
            float top = -INFINITY;
            for (int r = 0; r < split; r++)
                top = fmaxf(top, cluster_load(cluster_address(at + layout::ROWS_AT + row * 4, r)));
            for (int r = 0; r < split; r++) {
                const float keep = exp2f(cluster_load(cluster_address(at + layout::ROWS_AT + row * 4, r)) - top);
                sum += keep * cluster_load(cluster_address(at + layout::ROWS_AT + (16 + row) * 4, r));
                value += keep * cluster_load(cluster_address(at + layout::O_AT + (row * layout::OUT + d) * 4, r));
            }
        } else
#endif
        {
            value = out[row * layout::OUT + d];
            sum = row_sum[row];
        }
        p.out[operand_offset(row_id(tile * 16 + row), head * HEAD_DIM + d, p.out_k)] = __float2bfloat16(value / sum);
    }
#ifdef PI0_SM90
    if (split > 1) cluster_sync();
#endif
}

/*
 * Between two steps.
 *   grid   x: 64 features of the next step's first product, y: 16 rows        block 256 threads
 *   every block works out the velocity of its 16 rows itself (32 x 1024 weights, fetched before the predecessor ends),
 *   takes the Euler step, and goes on with its features; block x = 0 writes x and v down
 */
enum { HEADS_FEATURES = 64, HEADS_ACTIONS = 32 };

__global__ void __launch_bounds__(THREADS) heads_kernel(const __grid_constant__ heads_problem p) {
    extern __shared__ __align__(128) uint8_t shared_raw[];
    __shared__ float factor_parts[256];
    __shared__ float actions[16][HEADS_ACTIONS];
    const int thread = threadIdx.x, warp = thread / WARP_LANES, lane = thread % WARP_LANES;
    const int first_row = blockIdx.y * 16;
    const int steps = p.operand_k / (MATRIX_DEPTH * WARPS); /* per warp */
    constexpr int WIDE = HEADS_ACTIONS / MATRIX_NARROW;
    grid_launch_next();
#ifndef PI0_AMD
    const int row_bytes = p.operand_k * 2;
    const uint32_t weights_at = shared_address(shared_raw);
    if (p.operand) {
        const int chunks = p.operand_k / 8;
        for (int i = thread; i < HEADS_ACTIONS * chunks; i += THREADS) {
            const int row = i / chunks, c = i % chunks;
            const bool valid = row < p.action_dim && c * 8 < p.width;
            copy_async_16(weights_at + swizzled(row, c, row_bytes),
                          valid ? p.out_weights + (size_t)row * p.width + c * 8 : p.out_weights, valid);
        }
        copy_async_commit();
    }
#endif
    grid_wait();
    if (p.operand) {
        row_factor_parts<16>(factor_parts, p.stats, p.stats_slabs, p.stats_stride, first_row, p.rows, thread);
        float acc[WIDE][4] = {};
        uint32_t a[8][4];
#pragma unroll
        for (int s = 0; s < 8; s++)
            if (s < steps) load_operand(a[s], p.operand, blockIdx.y, warp * steps + s, p.operand_k, p.rows, lane);
        copy_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int s = 0; s < 8; s++) {
            if (s >= steps) break;
#ifdef PI0_AMD
#pragma unroll
            for (int n = 0; n < WIDE; n++) {
                uint32_t b[4];
                load_weights(b, p.out_weights, p.width, n, p.action_dim, (warp * steps + s) * 32, p.width, lane);
                mfma_16x16x32(acc[n], b, a[s]);
            }
#else
#pragma unroll
            for (int n = 0; n < WIDE; n += 2) {
                uint32_t b[4];
                load_matrix_4(b, weights_at + swizzled(n * 8 + lane / 16 * 8 + lane % 8,
                                                       (warp * steps + s) * 2 + lane / 8 % 2, row_bytes));
                mma_bf16(acc[n], a[s], b[0], b[1]);
                mma_bf16(acc[n + 1], a[s], b[2], b[3]);
            }
#endif
        }
        __syncthreads();
        float *partial = (float *)shared_raw; /* [warp][4 tiles][16 rows][8 actions] */
#pragma unroll
        for (int n = 0; n < WIDE; n++) store_partial(partial + warp * 512, n, acc[n], HEADS_ACTIONS, lane);
        __syncthreads();
        for (int i = thread; i < 512; i += THREADS) {
            const int e = i % 128, local = e / 8, row = first_row + local;
            const int d = i / 128 * 8 + e % 8;
            float y = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) y += partial[w * 512 + i];
            float after = 0.0f;
            if (row < p.rows && d < p.action_dim) {
                const float v = y * row_factor<16>(factor_parts, local, p.norm_width) + p.out_bias[d];
                after = __fadd_rn(p.x_before[row * p.action_dim + d], __fmul_rn(p.dt, v));
                if (blockIdx.x == 0) {
                    p.v[row * p.action_dim + d] = v;
                    p.x_after[row * p.action_dim + d] = after;
                }
            }
            actions[local][d] = after;
        }
    } else {
        for (int i = thread; i < 16 * HEADS_ACTIONS; i += THREADS) {
            const int row = first_row + i / HEADS_ACTIONS, d = i % HEADS_ACTIONS;
            actions[i / HEADS_ACTIONS][d] =
                row < p.rows && d < p.action_dim ? p.x_before[row * p.action_dim + d] : 0.0f;
        }
    }
    if (!p.next_weights) return;
    __syncthreads();
    /* thread: one feature, four rows */
    const int f = blockIdx.x * HEADS_FEATURES + thread % HEADS_FEATURES;
    float y[4] = {};
    if (f < p.width) {
        const float bias = p.next_bias[f];
#pragma unroll
        for (int i = 0; i < 4; i++) y[i] = bias;
        for (int d = 0; d < p.action_dim; d++) {
            const float w = p.next_weights[(size_t)f * p.action_dim + d];
#pragma unroll
            for (int i = 0; i < 4; i++) y[i] += w * actions[thread / HEADS_FEATURES * 4 + i][d];
        }
    }
    auto at = [&](int row, int k, int operand_k) {
        return p.row_major ? (size_t)row * operand_k + k : operand_offset(row, k, operand_k);
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int local = thread / HEADS_FEATURES * 4 + i, row = first_row + local;
        const bool valid = row < p.rows && f < p.width;
        if (p.high_low) {
            if (!valid) continue;
            const float h = silu(y[i]);
            const bf16 high = __float2bfloat16(h);
            p.high_low[at(row, f, 2 * p.operand_k)] = high;
            p.high_low[at(row, p.operand_k + f, 2 * p.operand_k)] = __float2bfloat16(h - __bfloat162float(high));
        } else {
            const float v = valid ? y[i] : 0.0f;
            if (valid) {
                p.tokens[(size_t)row * p.width + f] = v;
                p.token_operand[at(row, f, p.operand_k)] = __float2bfloat16(v * p.gain[f]);
            }
            float squares = v * v;
#pragma unroll
            for (int d = 4; d; d /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
            if (lane % 8 == 0 && valid) p.stats_out[(size_t)(f / SKINNY_SLAB) * p.stats_stride + row] = squares;
        }
    }
}

extern "C" size_t operand_elements(int rows, int k) { return (size_t)ceil_div(rows, 16) * round_up(k, 128) * 16; }

cudaError_t skinny_setup(void);
cudaError_t stream_setup(void);
cudaError_t wide_setup(void);

/* keys at once: what shared memory holds (AMD: 64 KB) */
enum { KEYS_MANY = WARP_LANES == 32 ? 112 : 32, KEYS_FEW = WARP_LANES == 32 ? 64 : 32 };

static cudaError_t allow(const void *kernel, int bytes) {
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    int device = 0, major = 0;
    if (status == cudaSuccess) status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (status == cudaSuccess && major == 9)
        status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    return status;
}

extern "C" cudaError_t denoise_setup(void) {
    int device, most, major = 0;
    cudaError_t status = skinny_setup();
    if (status == cudaSuccess) status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(heads_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
    if (status == cudaSuccess)
        status = allow((const void *)suffix_attention_kernel<256, KEYS_FEW>, suffix_layout<256, KEYS_FEW>::BYTES);
    if (status == cudaSuccess)
        status = allow((const void *)suffix_attention_kernel<16, KEYS_FEW>, suffix_layout<16, KEYS_FEW>::BYTES);
    if (status == cudaSuccess && most >= suffix_layout<256, KEYS_MANY>::BYTES)
        status = allow((const void *)suffix_attention_kernel<256, KEYS_MANY>, suffix_layout<256, KEYS_MANY>::BYTES);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (status == cudaSuccess && major == 9) status = stream_setup();
    if (status == cudaSuccess && major == 9) status = wide_setup();
    return status;
}

extern "C" cudaError_t suffix_attention_launch(int split, const suffix_attention_problem *p, bool dependent,
                                               cudaStream_t stream) {
    dim3 grid(split, p->heads, p->batch * ceil_div(p->horizon + p->state_rows, 16));
    const int cluster = p->partial ? 1 : split;
    if (p->head_dim == 256 && cluster == 8)
        return launch(suffix_attention_kernel<256, KEYS_MANY>, grid, THREADS, suffix_layout<256, KEYS_MANY>::BYTES,
                      cluster, dependent, stream, *p);
    if (p->head_dim == 256)
        return launch(suffix_attention_kernel<256, KEYS_FEW>, grid, THREADS, suffix_layout<256, KEYS_FEW>::BYTES,
                      cluster, dependent, stream, *p);
    if (p->head_dim == 16)
        return launch(suffix_attention_kernel<16, KEYS_FEW>, grid, THREADS, suffix_layout<16, KEYS_FEW>::BYTES, cluster,
                      dependent, stream, *p);
    return cudaErrorNotSupported;
}

extern "C" cudaError_t heads_launch(const heads_problem *p, bool dependent, cudaStream_t stream) {
    const int features = p->next_weights ? ceil_div(p->width, HEADS_FEATURES) : 1;
    size_t bytes = WARP_LANES == 32 ? (size_t)HEADS_ACTIONS * p->operand_k * 2 : 0;
    if (bytes < WARPS * 512 * 4) bytes = WARPS * 512 * 4;
    return launch(heads_kernel, dim3(features, ceil_div(p->rows, 16)), THREADS, bytes, 1, dependent, stream, *p);
}
