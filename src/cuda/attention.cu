/*
 * Attention over matrix.cuh, one pass over the keys with running maxima (FlashAttention-2's order).
 *
 *   grid    x: tiles of WARPS * 16 query rows; y: heads; z: sequences       block WARPS warps, 16 rows each
 *   memory  NVIDIA: the query tile and STAGES stages of KEYS keys and values in shared memory, rows padded by 16 bytes;
 *           AMD: one stage in shared memory, the next one and the queries in registers
 *   bytes   q and out once, k and v once per tile (from L2)                  FLOPs 4 * rows * keys * head_dim
 *   bound   tensor cores at mma.sync's rate (about 60 % of wgmma's on Hopper)
 */
#include "attention.h"
#include "copy_pipeline.cuh"
#include "launch.cuh"
#include "matrix.cuh"

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES> struct attention_layout {
    static constexpr int DEPTH = round_up(HEAD_DIM, 16), ROW = DEPTH + 8; /* values per row in shared memory */
    static constexpr int QUERIES = WARPS * 16, THREADS = WARPS * WARP_LANES, CHUNKS = DEPTH / 8;
    static constexpr int STAGE_BYTES = 2 * KEYS * ROW * 2;              /* keys, then values */
    static constexpr int PIECES = 2 * ceil_div(KEYS * CHUNKS, THREADS); /* first half keys, second half values */
    typedef copy_pipeline<STAGES, STAGE_BYTES, PIECES> pipeline;
    static constexpr int SHARED_QUERIES = pipeline::STAGES > 1 ? QUERIES : 0; /* AMD has one stage */
    static constexpr int SHARED_BYTES = SHARED_QUERIES * ROW * 2 + pipeline::STAGES * STAGE_BYTES;
};

/* The query rows of a warp: step d of DEPTH / MATRIX_DEPTH (and a last one of 16 where that leaves a rest). */
template <int HEAD_DIM, int DEPTH, int ROW> struct query_rows {
#ifdef PI0_AMD
    static constexpr int STEPS = DEPTH / MATRIX_DEPTH;
    matrix_operand<MATRIX_DEPTH> held[STEPS ? STEPS : 1];
    matrix_operand<16> rest;

    __device__ __forceinline__ void fetch(const bf16 *q, int stride, int rows, int warp, int lane) {
        const int row = warp * 16 + lane % 16;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int d = i * 32 + lane / 16 * 8;
            const uint4 v = buffer_load_16(q, (uint32_t)(row * stride + d) * 2, row < rows && d < HEAD_DIM);
            held[i].pairs[0] = v.x, held[i].pairs[1] = v.y, held[i].pairs[2] = v.z, held[i].pairs[3] = v.w;
        }
        const int d = STEPS * 32 + lane / 16 * 4;
        const uint2 v = buffer_load_8(q, (uint32_t)(row * stride + d) * 2, row < rows && d < HEAD_DIM);
        rest.pairs[0] = v.x, rest.pairs[1] = v.y;
    }
    template <int STEP> __device__ __forceinline__ void take(matrix_operand<STEP> &operand, int d, int, int) const {
        if constexpr (STEP == MATRIX_DEPTH)
            operand = held[d / MATRIX_DEPTH];
        else
            operand = rest;
    }
#else
    uint32_t memory;

    template <int STEP>
    __device__ __forceinline__ void take(matrix_operand<STEP> &operand, int d, int warp, int lane) const {
        matrix_load(operand, lane, [&](int row, int k) { return memory + ((warp * 16 + row) * ROW + d + k) * 2; });
    }
#endif
};

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES>
__global__ void __launch_bounds__(WARPS *WARP_LANES) attention_kernel(const attention_problem p) {
    using layout = attention_layout<HEAD_DIM, WARPS, KEYS, STAGES>;
    constexpr int DEPTH = layout::DEPTH, ROW = layout::ROW, QUERIES = layout::QUERIES, CHUNKS = layout::CHUNKS;
    constexpr int KEY_TILES = KEYS / 16, OUT_TILES = ceil_div(HEAD_DIM, 16), WHOLE = HEAD_DIM / 16;
    constexpr int UNROLL_SCORES = MATRIX_SLOTS == 2 ? 4 : DEPTH; /* AMD's queries are in registers: no index */
    extern __shared__ __align__(16) uint8_t shared_raw[];
    const int thread = threadIdx.x, warp = thread / WARP_LANES, lane = thread % WARP_LANES;
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

    query_rows<HEAD_DIM, DEPTH, ROW> queries;
#ifdef PI0_AMD
    queries.fetch(q, p.q_stride, rows - first_row, warp, lane);
#else
    queries.memory = shared_address(shared_raw);
    for (int i = thread; i < QUERIES * CHUNKS; i += layout::THREADS) {
        const int row = i / CHUNKS, c = i % CHUNKS;
        const bool valid = first_row + row < rows && c * 8 < HEAD_DIM;
        copy_async_16(queries.memory + (row * ROW + c * 8) * 2, valid ? q + (size_t)row * p.q_stride + c * 8 : q,
                      valid);
    }
#endif
    auto piece = [&](int block, int i) {
        constexpr int HALF = layout::PIECES / 2;
        const int index = i % HALF * layout::THREADS + thread, row = index / CHUNKS, c = index % CHUNKS;
        const bool of_keys = i < HALF;
        const int key = block * KEYS + row;
        copy_piece part;
        part.there = KEYS * CHUNKS % layout::THREADS == 0 || index < KEYS * CHUNKS;
        part.base = of_keys ? k : v;
        part.offset = (uint32_t)(key * p.kv_stride + c * 8) * 2;
        part.shared = (((of_keys ? 0 : KEYS) + row) * ROW + c * 8) * 2;
        part.valid = key < keys && c * 8 < HEAD_DIM;
        return part;
    };
    const int blocks = ceil_div(keys, KEYS);
    typename layout::pipeline pipeline;
    pipeline.begin(shared_address(shared_raw) + layout::SHARED_QUERIES * ROW * 2, blocks, piece);

    const float scale = p.scale * 1.4426950408889634f;
    float top[MATRIX_SLOTS], sum[MATRIX_SLOTS];
    matrix_tile out[OUT_TILES];
#pragma unroll
    for (int r = 0; r < MATRIX_SLOTS; r++) {
        top[r] = -INFINITY;
        sum[r] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < OUT_TILES; i++) matrix_clear(out[i]);

    for (int block = 0; block < blocks; block++) {
        const uint32_t k_stage = pipeline.next(block, blocks, piece), v_stage = k_stage + KEYS * ROW * 2;
        matrix_tile s[KEY_TILES];
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++) matrix_clear(s[j]);
        auto scores = [&](auto depth, int d) {
            matrix_operand<decltype(depth)::value> a, b;
            queries.take(a, d, warp, lane);
#pragma unroll
            for (int j = 0; j < KEY_TILES; j++) {
                matrix_load(b, lane, [&](int row, int c) { return k_stage + ((j * 16 + row) * ROW + d + c) * 2; });
                matrix_multiply(s[j], a, b);
            }
        };
#pragma unroll UNROLL_SCORES
        for (int d = 0; d + MATRIX_DEPTH <= DEPTH; d += MATRIX_DEPTH) scores(depth_of<MATRIX_DEPTH>(), d);
        if constexpr (DEPTH % MATRIX_DEPTH != 0) scores(depth_of<16>(), DEPTH / MATRIX_DEPTH * MATRIX_DEPTH);
        float high[MATRIX_SLOTS];
#pragma unroll
        for (int r = 0; r < MATRIX_SLOTS; r++) high[r] = top[r];
        if (p.key_mask || (block + 1) * KEYS > keys) {
#pragma unroll
            for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
                for (int e = 0; e < MATRIX_VALUES; e++) {
                    const int key = block * KEYS + j * 16 + matrix_column(lane, e);
                    if (key >= keys || (p.key_mask && !p.key_mask[start + key])) s[j].v[e] = -INFINITY;
                }
        }
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int e = 0; e < MATRIX_VALUES; e++) {
                s[j].v[e] *= scale;
                high[matrix_slot(e)] = fmaxf(high[matrix_slot(e)], s[j].v[e]);
            }
        float keep[MATRIX_SLOTS];
#pragma unroll
        for (int r = 0; r < MATRIX_SLOTS; r++) {
            high[r] = matrix_row_max(high[r]);
            const float base = high[r] == -INFINITY ? 0.0f : high[r];
            keep[r] = exp2_fast(top[r] - base);
            top[r] = high[r];
            high[r] = base;
            sum[r] *= keep[r];
        }
#pragma unroll
        for (int i = 0; i < OUT_TILES; i++)
#pragma unroll
            for (int e = 0; e < MATRIX_VALUES; e++) out[i].v[e] *= keep[matrix_slot(e)];
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int e = 0; e < MATRIX_VALUES; e++) {
                s[j].v[e] = exp2_fast(s[j].v[e] - high[matrix_slot(e)]);
                sum[matrix_slot(e)] += s[j].v[e];
            }
#pragma unroll
        for (int j = 0; j < KEYS / MATRIX_DEPTH; j++) {
            matrix_operand<MATRIX_DEPTH> a;
            matrix_narrow(a, &s[j * (MATRIX_DEPTH / 16)]);
            auto values = [&](auto group, auto columns, int i) {
                constexpr int GROUP = decltype(group)::value, COLUMNS = decltype(columns)::value;
                matrix_operand<MATRIX_DEPTH> b[GROUP];
                matrix_load_transposed<MATRIX_DEPTH, GROUP, COLUMNS>(b, lane, [&](int key, int column) {
                    return v_stage + ((j * MATRIX_DEPTH + key) * ROW + i * 16 + column) * 2;
                });
#pragma unroll
                for (int n = 0; n < GROUP; n++) matrix_multiply<COLUMNS>(out[i + n], a, b[n]);
            };
#pragma unroll
            for (int i = 0; i + MATRIX_GROUP <= WHOLE; i += MATRIX_GROUP)
                values(depth_of<MATRIX_GROUP>(), depth_of<16>(), i);
#pragma unroll
            for (int i = WHOLE / MATRIX_GROUP * MATRIX_GROUP; i < WHOLE; i++) values(depth_of<1>(), depth_of<16>(), i);
            if constexpr (OUT_TILES > WHOLE) values(depth_of<1>(), depth_of<8>(), WHOLE);
        }
    }
#pragma unroll
    for (int r = 0; r < MATRIX_SLOTS; r++) {
        sum[r] = matrix_row_sum(sum[r]);
        const float over = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
        const int row = first_row + warp * 16 + matrix_row(lane, r);
        if (row >= rows) continue;
        bf16 *to = p.out + ((size_t)start * p.group + row) * p.out_stride + head * HEAD_DIM;
#pragma unroll
        for (int i = 0; i + MATRIX_GROUP <= WHOLE; i += MATRIX_GROUP)
            matrix_store_row<MATRIX_GROUP>(to + i * 16, &out[i], r, lane, over);
#pragma unroll
        for (int i = WHOLE / MATRIX_GROUP * MATRIX_GROUP; i < WHOLE; i++)
            matrix_store_row<1>(to + i * 16, &out[i], r, lane, over);
        if constexpr (OUT_TILES > WHOLE) matrix_store_row<1, 8>(to + WHOLE * 16, &out[WHOLE], r, lane, over);
    }
}

template <int HEAD_DIM, int WARPS, int KEYS, int STAGES>
static cudaError_t launch_sized(const attention_problem *p, bool dependent, cudaStream_t stream) {
    using layout = attention_layout<HEAD_DIM, WARPS, KEYS, STAGES>;
    dim3 grid(ceil_div(p->length * p->group, layout::QUERIES), p->heads, p->sequences);
    return launch(attention_kernel<HEAD_DIM, WARPS, KEYS, STAGES>, grid, layout::THREADS, layout::SHARED_BYTES, 1,
                  dependent, stream, *p);
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
