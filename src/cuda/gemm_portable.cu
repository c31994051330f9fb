/*
 * The portable product: mma.sync fed by cp.async, sm_80 and later. Same interface and epilogues as gemm_hopper.cuh.
 *
 *   block  WIDE groups of four warps side by side, each GROUPS * 64 features x BN tokens; a warp holds 16 features of
 * each of the 64, so that the accumulators lie as the epilogue wants them, and multiplies GROUPS * 16 x BN at a time
 *   grid   x: tiles, a band of 16 token tiles after the other, tokens first within a band: weights come from memory
 * once a band; z: pieces of k, whose sums meet in `partial`; the block that ends last adds them up in order memory
 * STAGES stages of 64 k-values of both operands, rows of 128 bytes, 16-byte pieces swizzled; epilogue staging over the
 * stages bytes  (features + tokens of a tile) * 128 per 64 k-values from L2; weights once from memory a band FLOPs  2 *
 * features * tokens * k       bound  tensor cores at mma.sync's rate (0.6 of wgmma's on Hopper)
 */
#include <stdio.h>

#include "gemm_epilogue.cuh"
#include "gemm_portable.h"
#include "launch.cuh"
#ifdef PI0_AMD
#include "gemm_portable_amd.cuh"
#endif

/* k-values at a time: rows of 128 bytes, since a multiprocessor asks for whole lines at half the cost of their halves
 */
enum { BK = 64, ROW = BK * 2, CHUNKS = BK / 8, BAND = 16 };

template <int WIDE, int GROUPS, int BN, int STAGES> struct portable_tile {
    static constexpr int THREADS = WIDE * 128, FEATURES = GROUPS * 64, TOKENS = WIDE * BN;
    static constexpr int STAGE_BYTES = (FEATURES + TOKENS) * ROW;
    /* the epilogue takes UNIT tokens of 64 features at a time */
    static constexpr int UNIT = BN % EPILOGUE_TOKENS ? 16 : EPILOGUE_TOKENS, UNITS = GROUPS * (BN / UNIT);
    static constexpr int FACTORS_AT = round_up(WIDE * EPILOGUE_STAGING_BYTES, 128);
    static constexpr int SUMS_AT = round_up(FACTORS_AT + TOKENS * 8, 128);
    static constexpr int EPILOGUE_BYTES = SUMS_AT + (WARP_LANES == 32 ? FEATURES * TOKENS * 4 : 0);
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES > EPILOGUE_BYTES ? STAGES *STAGE_BYTES : EPILOGUE_BYTES;
};

/* Where piece `c` of 8 k-values of a row lies: eight neighbouring rows' pieces fill all banks. */
__device__ __forceinline__ int piece_at(int row, int c) { return row * ROW + (c ^ (row & 7)) * 16; }

/* Whether this block is the last of its tile's pieces of k to come here; what the others wrote is visible then. */
__device__ __forceinline__ bool last_piece(const gemm_problem &p, int tile, int thread) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (thread == 0) last = atomicAdd(&p.ticket[tile], 1) == gridDim.z - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (thread == 0) p.ticket[tile] = 0;
    return true;
}

enum { MOST_PIECES = 4 };

template <gemm_epilogue EPILOGUE, int WIDE, int GROUPS, int BN, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(WIDE * 128, BLOCKS)
    gemm_portable(const __grid_constant__ gemm_problem p, int tiles_m, int tiles_n, int k_blocks) {
    using tile = portable_tile<WIDE, GROUPS, BN, STAGES>;
    extern __shared__ __align__(128) uint8_t shared_raw[];
    const int thread = threadIdx.x;
    const int band = blockIdx.x / (BAND * tiles_m), in_band = blockIdx.x % (BAND * tiles_m);
    const int width = min(BAND, tiles_n - band * BAND);
    const int first_feature = in_band / width * tile::FEATURES;
    const int first_token = (band * BAND + in_band % width) * tile::TOKENS;
    /* this block's piece of k */
    const int share = ceil_div(k_blocks, gridDim.z), first_block = blockIdx.z * share;
    const int blocks = min(share, k_blocks - first_block);

    const uint32_t memory = shared_address(shared_raw);
    float acc[GROUPS][BN / 2];
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int i = 0; i < BN / 2; i++) acc[g][i] = 0.0f;
#ifdef PI0_AMD
    multiply_blocks<WIDE, GROUPS, BN, BK>(acc, p, first_feature, first_token, first_block, blocks, memory, thread);
#else
    constexpr int STEPS = BK / 16, PAIRS = BN / 16;
    const int group = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
    /* a thread copies one piece of every ROWS_AT_ONCE-th row, features first */
    constexpr int ROWS_AT_ONCE = tile::THREADS / CHUNKS, FEATURE_PARTS = tile::FEATURES / ROWS_AT_ONCE,
                  PARTS = FEATURE_PARTS + tile::TOKENS / ROWS_AT_ONCE;
    static_assert(tile::FEATURES % ROWS_AT_ONCE == 0 && tile::TOKENS % ROWS_AT_ONCE == 0 && PARTS < STEPS * PAIRS,
                  "copies between products");
    const int copy_row = thread / CHUNKS, copy_piece = thread % CHUNKS;
    const uint32_t copy_to = memory + piece_at(copy_row, copy_piece); /* rows at once: a multiple of 8 */
    const bf16 *weights = p.weights + (size_t)(p.first_feature + first_feature + copy_row) * p.weights_stride;
    const bf16 *input = p.input + (size_t)(first_token + copy_row) * p.input_stride;
    const int features_left = p.features - first_feature - copy_row, tokens_left = p.tokens - first_token - copy_row;
    auto copy = [&](int part, int block, int slot) {
        const int k = (first_block + block) * BK + copy_piece * 8;
        const bool there = block < blocks && k < p.k, of_weights = part < FEATURE_PARTS;
        const int row = (of_weights ? part : part - FEATURE_PARTS) * ROWS_AT_ONCE;
        const bool valid = there && row < (of_weights ? features_left : tokens_left);
        const bf16 *from = of_weights ? weights + (size_t)row * p.weights_stride : input + (size_t)row * p.input_stride;
        copy_async_16(copy_to + slot * tile::STAGE_BYTES + part * ROWS_AT_ONCE * ROW, valid ? from + k : p.weights,
                      valid);
    };
    /* fragments: 16 features of each of the groups; 16 tokens */
    const uint32_t a_row = memory + (warp * 16 + lane % 16) * ROW,
                   b_row = memory + (tile::FEATURES + group * BN + lane / 16 * 8 + lane % 8) * ROW;
    const int twist = lane % 8;
    auto load_a = [&](uint32_t(&a)[GROUPS][4], int slot, int step) {
        const uint32_t from = a_row + slot * tile::STAGE_BYTES + ((step * 2 + lane / 16) ^ twist) * 16;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) load_matrix_4(a[g], from + g * 64 * ROW);
    };
    auto load_b = [&](uint32_t(&b)[4], int slot, int step, int pair) {
        load_matrix_4(b, b_row + slot * tile::STAGE_BYTES + pair * 16 * ROW + ((step * 2 + lane / 8 % 2) ^ twist) * 16);
    };

    grid_launch_next();
    grid_wait();
#pragma unroll
    for (int block = 0; block < STAGES - 1; block++) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) copy(i, block, block);
        copy_async_commit();
    }
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    uint32_t a[2][GROUPS][4], b[2][4];
    load_a(a[0], 0, 0);
    load_b(b[0], 0, 0, 0);
    int slot = 0;
    for (int block = 0; block < blocks; block++) {
        const int next_slot = slot + 1 == STAGES ? 0 : slot + 1, last_slot = slot ? slot - 1 : STAGES - 1;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                const int at = step * PAIRS + pair, now = at % 2;
                /* what comes next is on its way while this pair of token tiles is multiplied */
                if (pair + 1 < PAIRS) {
                    load_b(b[1 - now], slot, step, pair + 1);
                } else if (step + 1 < STEPS) {
                    load_b(b[1 - now], slot, step + 1, 0);
                } else {
                    copy_async_wait<STAGES - 2>();
                    __syncthreads(); /* the next stage is there, and nobody reads this one any more */
                    load_a(a[(step + 1) % 2], next_slot, 0);
                    load_b(b[1 - now], next_slot, 0, 0);
                }
                if (pair == 0 && step + 1 < STEPS) load_a(a[(step + 1) % 2], slot, step + 1);
                if (at < PARTS) copy(at, block + STAGES - 1, last_slot);
                if (at + 1 == PARTS) copy_async_commit();
#pragma unroll
                for (int g = 0; g < GROUPS; g++) {
                    mma_bf16(*(float(*)[4])(acc[g] + pair * 8), a[step % 2][g], b[now][0], b[now][1]);
                    mma_bf16(*(float(*)[4])(acc[g] + pair * 8 + 4), a[step % 2][g], b[now][2], b[now][3]);
                }
            }
        slot = next_slot;
    }
    copy_async_wait<0>();
#endif
    __syncthreads();
#ifdef PI0_AMD
    finish_tile<EPILOGUE, WIDE, GROUPS, BN>(acc, p, first_feature, first_token, shared_raw,
                                            (float2 *)(shared_raw + tile::FACTORS_AT), thread);
#else
    /* Accumulators wait in memory, a thread's own: in shared memory, or in `partial` where they are pieces. So the
     * epilogue is a loop over one short piece of code: written out for all of them, fetching it took longer than
     * running it. */
    constexpr int UNIT = tile::UNIT, VALUES = UNIT / 2;
    const bool pieces = EPILOGUE == GEMM_RESIDUAL && gridDim.z > 1;
    const size_t piece_stride = (size_t)gridDim.x * (tile::FEATURES * tile::TOKENS / 4);
    float4 *sums = (float4 *)(shared_raw + tile::SUMS_AT) + thread;
    if (pieces)
        sums = (float4 *)p.partial + piece_stride * blockIdx.z +
               (size_t)blockIdx.x * (tile::FEATURES * tile::TOKENS / 4) + thread;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int u = 0; u < BN / UNIT; u++) {
            float values[VALUES];
#pragma unroll
            for (int i = 0; i < UNIT / 4; i++) {
                values[pair_low<UNIT>(i)] = acc[g][pair_low<BN>(u * (UNIT / 4) + i)];
                values[pair_high<UNIT>(i)] = acc[g][pair_high<BN>(u * (UNIT / 4) + i)];
            }
#pragma unroll
            for (int v = 0; v < VALUES / 4; v++)
                sums[((g * (BN / UNIT) + u) * (VALUES / 4) + v) * tile::THREADS] =
                    make_float4(values[v * 4], values[v * 4 + 1], values[v * 4 + 2], values[v * 4 + 3]);
        }
    if (pieces && !last_piece(p, blockIdx.x, thread)) return;
    sums -= pieces ? piece_stride * blockIdx.z : 0;

    float *staging = (float *)(shared_raw + group * EPILOGUE_STAGING_BYTES);
    float2 *factors = (float2 *)(shared_raw + tile::FACTORS_AT);
    epilogue_column_factors(factors, p, first_token, tile::TOKENS, thread, tile::THREADS);
    __syncthreads();
    epilogue_values<EPILOGUE, UNIT> values, next;
    auto feature_of = [&](int unit) { return first_feature + unit / (BN / UNIT) * 64; };
    auto token_of = [&](int unit) { return group * BN + unit % (BN / UNIT) * UNIT; };
    auto prepare = [&](int unit) {
        epilogue_prepare<EPILOGUE, UNIT>(next, p, feature_of(unit), first_token + token_of(unit), thread % 128);
        epilogue_fetch_first<EPILOGUE, UNIT>(next, p, feature_of(unit), first_token + token_of(unit), thread % 128);
    };
    prepare(0);
#pragma unroll 1
    for (int unit = 0; unit < tile::UNITS; unit++) {
        values = next;
        if (unit + 1 < tile::UNITS) prepare(unit + 1);
        if (feature_of(unit) >= p.features || first_token + token_of(unit) >= p.tokens) continue;
        float4 of_piece[MOST_PIECES][VALUES / 4];
#pragma unroll
        for (int piece = 0; piece < (EPILOGUE == GEMM_RESIDUAL ? MOST_PIECES : 1); piece++)
#pragma unroll
            for (int v = 0; v < VALUES / 4; v++)
                if (piece == 0 || piece < (int)gridDim.z)
                    of_piece[piece][v] = sums[piece * piece_stride + (unit * (VALUES / 4) + v) * tile::THREADS];
        float part[VALUES];
#pragma unroll
        for (int v = 0; v < VALUES / 4; v++) {
            float4 sum = of_piece[0][v];
#pragma unroll
            for (int piece = 1; piece < (EPILOGUE == GEMM_RESIDUAL ? MOST_PIECES : 1); piece++)
                if (piece < (int)gridDim.z)
                    sum = make_float4(sum.x + of_piece[piece][v].x, sum.y + of_piece[piece][v].y,
                                      sum.z + of_piece[piece][v].z, sum.w + of_piece[piece][v].w);
            part[v * 4] = sum.x;
            part[v * 4 + 1] = sum.y;
            part[v * 4 + 2] = sum.z;
            part[v * 4 + 3] = sum.w;
        }
        epilogue_group<EPILOGUE, UNIT>(part, values, p, feature_of(unit), first_token + token_of(unit),
                                       factors + token_of(unit), staging, thread % 128, 1 + group);
    }
#endif
}

typedef void (*portable_kernel)(gemm_problem, int, int, int);

typedef struct portable_variant {
    int features, tokens, threads, shared_bytes;
    int resident;                 /* blocks a multiprocessor holds */
    double full_ns, single_ns;    /* a k-value, with all of them and with one */
    double fixed_ns, residual_ns; /* the rest of a block's life, and with the residual's epilogue */
    portable_kernel kernels[GEMM_EPILOGUES];
} portable_variant;

#define VARIANT(wide, groups, bn, stages, blocks, full_ns, single_ns, fixed_ns, residual_ns)                           \
    {                                                                                                                  \
        groups * 64, wide *bn, wide * 128, portable_tile<wide, groups, bn, stages>::SHARED_BYTES, blocks, full_ns,     \
            single_ns, fixed_ns, residual_ns, {                                                                        \
            gemm_portable<GEMM_STORE, wide, groups, bn, stages, blocks>,                                               \
                gemm_portable<GEMM_GELU, wide, groups, bn, stages, blocks>,                                            \
                gemm_portable<GEMM_GATED, wide, groups, bn, stages, blocks>,                                           \
                gemm_portable<GEMM_ROPE, wide, groups, bn, stages, blocks>,                                            \
                gemm_portable<GEMM_RESIDUAL, wide, groups, bn, stages, blocks>                                         \
        }                                                                                                              \
    }

#ifdef PI0_AMD
/* Estimates: of MFMA's 1,024 a clock, less for what one block a CU cannot hide (the first), and for what L2 brings a
 * CU, about 54 bytes a clock (the third wants 48 at full rate, the second 32). */
static const portable_variant variants[] = {
    VARIANT(2, 2, 128, 1, 1, 24.1, 24.1, 10000, 20000),
    VARIANT(1, 2, 128, 1, 2, 22.7, 19.3, 9000, 16000),
    VARIANT(1, 2, 64, 1, 2, 13.8, 10.7, 7000, 12000),
    VARIANT(1, 1, 64, 1, 3, 14.5, 9.6, 5000, 8000),
};
#else
/* Measured with check_cuda. */
static const portable_variant variants[] = {
    VARIANT(2, 4, 80, 3, 1, 25.5, 25.5, 11000, 25000),
    VARIANT(1, 2, 128, 3, 2, 22.0, 14.7, 10500, 19000),
    VARIANT(1, 2, 64, 3, 3, 19.0, 17.0, 6500, 10500),
};
#endif
enum { VARIANTS = sizeof variants / sizeof *variants, LEAST_PIECE = 512 };

extern "C" int gemm_portable_variants(void) { return VARIANTS; }

extern "C" void gemm_portable_text(int variant, char *text, size_t size) {
    const portable_variant *v = &variants[variant];
    snprintf(text, size, "%s %dx%d", WARP_LANES == 64 ? "MFMA" : "mma.sync", v->features, v->tokens);
}

static int tiles_of(const portable_variant *v, const gemm_problem *p) {
    return ceil_div(p->features, v->features) * ceil_div(p->tokens, v->tokens);
}

/* Bytes of shared memory that a block of the current device may have; AMD's variants fit gfx942's. */
static cudaError_t shared_limit(int *bytes) {
    *bytes = 64 * 1024;
    if (WARP_LANES == 64) return cudaSuccess;
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess) return status;
    return cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

static bool fits(gemm_epilogue epilogue, const gemm_problem *p, const portable_variant *v, int split, int limit) {
    if (v->shared_bytes > limit) return false;
    if (split == 1) return true;
    const int tiles = tiles_of(v, p), k_blocks = ceil_div(p->k, BK), share = ceil_div(k_blocks, split);
    return epilogue == GEMM_RESIDUAL && p->partial && p->ticket && tiles <= GEMM_TICKETS && share * BK >= LEAST_PIECE &&
           (split - 1) * share < k_blocks &&
           (size_t)tiles * split * v->features * v->tokens * sizeof(float) <= gemm_partial_bytes();
}

extern "C" bool gemm_portable_fits(gemm_epilogue epilogue, const gemm_problem *p, int variant, int split) {
    int limit = 0;
    return shared_limit(&limit) == cudaSuccess && fits(epilogue, p, &variants[variant], split, limit);
}

/* Microseconds on an H200, roughly; only the order matters. The busiest multiprocessor's tiles share it, as many at a
 * time as it holds. */
static double estimate(gemm_epilogue epilogue, const portable_variant *v, const gemm_problem *p, int split,
                       int multiprocessors) {
    const int units = tiles_of(v, p) * split, each = ceil_div(units, multiprocessors);
    const int k = ceil_div(ceil_div(p->k, BK), split) * BK;
    const double fixed_ns = epilogue == GEMM_RESIDUAL ? v->residual_ns : v->fixed_ns;
    const double share = v->resident > 1 ? (double)(each - 1) / (v->resident - 1) : 1;
    const double ns = each >= v->resident ? (v->full_ns * k + fixed_ns) * each / v->resident
                                          : (v->single_ns + (v->full_ns - v->single_ns) * share) * k + fixed_ns;
    return ns * 1e-3 + (split > 1 ? 2 + split : 0);
}

static cudaError_t choose(gemm_epilogue epilogue, const gemm_problem *p, int multiprocessors, int *variant,
                          int *split) {
    double least = 1e300;
    int limit = 0;
    const cudaError_t status = shared_limit(&limit);
    for (int i = 0; i < VARIANTS; i++)
        for (int pieces = 1; pieces <= MOST_PIECES; pieces++) {
            if (!fits(epilogue, p, &variants[i], pieces, limit)) continue;
            const double time = estimate(epilogue, &variants[i], p, pieces, multiprocessors);
            if (time >= least) continue;
            least = time;
            *variant = i;
            *split = pieces;
        }
    return status != cudaSuccess || *variant >= 0 ? status : cudaErrorNotSupported;
}

extern "C" cudaError_t gemm_portable_setup(void) {
    int limit = 0;
    cudaError_t status = shared_limit(&limit);
    for (int i = 0; i < VARIANTS; i++)
        for (int e = 0; e < GEMM_EPILOGUES && status == cudaSuccess && variants[i].shared_bytes <= limit; e++)
            status = cudaFuncSetAttribute((const void *)variants[i].kernels[e],
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, variants[i].shared_bytes);
    return status;
}

extern "C" cudaError_t gemm_portable_launch(gemm_epilogue epilogue, const gemm_problem *p, int variant, int split,
                                            int multiprocessors, bool dependent, cudaStream_t stream) {
    if (variant < 0) {
        const cudaError_t status = choose(epilogue, p, multiprocessors, &variant, &split);
        if (status != cudaSuccess) return status;
    }
    const portable_variant *v = &variants[variant];
    const int tiles_m = ceil_div(p->features, v->features), tiles_n = ceil_div(p->tokens, v->tokens);
    return launch(v->kernels[epilogue], dim3(tiles_m * tiles_n, 1, split), v->threads, v->shared_bytes, 1, dependent,
                  stream, *p, tiles_m, tiles_n, ceil_div(p->k, BK));
}
