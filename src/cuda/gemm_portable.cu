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
    static constexpr int FACTORS_AT = round_up(WIDE * EPILOGUE_STAGING_BYTES, 128);
    static constexpr int EPILOGUE_BYTES = FACTORS_AT + TOKENS * 8;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES > EPILOGUE_BYTES ? STAGES *STAGE_BYTES : EPILOGUE_BYTES;
};

/* Where piece `c` of 8 k-values of a row lies: eight neighbouring rows' pieces fill all banks. */
__device__ __forceinline__ int piece_at(int row, int c) { return row * ROW + (c ^ (row & 7)) * 16; }

/* Adds up what the blocks of a tile have, in the order of their pieces of k; true for the block that goes on. */
template <int COUNT>
__device__ __forceinline__ bool join_pieces(float (&acc)[COUNT], const gemm_problem &p, int tile, int tiles, int thread,
                                            int threads, void *scratch) {
#ifdef PI0_AMD
    bool &last = *(bool *)scratch; /* LDS of its own would cost the CU a block */
#else
    __shared__ bool last;
#endif
    const int pieces = gridDim.z, mine = blockIdx.z;
    float4 *partial = (float4 *)p.partial + thread;
    auto at = [&](int piece, int i) { return ((size_t)(piece * tiles + tile) * (COUNT / 4) + i) * threads; };
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
        __stcg(partial + at(mine, i), make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]));
    __threadfence();
    __syncthreads();
    if (thread == 0) last = atomicAdd(&p.ticket[tile], 1) == (unsigned)pieces - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (thread == 0) p.ticket[tile] = 0;
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int piece = 0; piece < pieces; piece++) {
            const float4 own = make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]);
            const float4 v = piece == mine ? own : __ldcg(partial + at(piece, i));
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        acc[i * 4] = sum.x;
        acc[i * 4 + 1] = sum.y;
        acc[i * 4 + 2] = sum.z;
        acc[i * 4 + 3] = sum.w;
    }
    return true;
}

template <gemm_epilogue EPILOGUE, int WIDE, int GROUPS, int BN, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(WIDE * 128, BLOCKS)
    gemm_portable(const __grid_constant__ gemm_problem p, int tiles_m, int tiles_n, int k_blocks) {
    using tile = portable_tile<WIDE, GROUPS, BN, STAGES>;
    extern __shared__ __align__(128) uint8_t shared_raw[];
    const int thread = threadIdx.x, group = thread / 128;
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
    const int warp = thread / 32 % 4, lane = thread % 32;
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
    if (EPILOGUE == GEMM_RESIDUAL && gridDim.z > 1 &&
        !join_pieces(*(float(*)[GROUPS * BN / 2]) & acc, p, blockIdx.x, gridDim.x, thread, tile::THREADS, shared_raw))
        return;
    float *staging = (float *)(shared_raw + group * EPILOGUE_STAGING_BYTES);
    float2 *factors = (float2 *)(shared_raw + tile::FACTORS_AT);
    epilogue_column_factors(factors, p, first_token, tile::TOKENS, thread, tile::THREADS);
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int feature = first_feature + g * 64, token = first_token + group * BN;
        if (feature >= p.features || token >= p.tokens) break;
        epilogue_values<EPILOGUE, BN> values;
        epilogue_prepare<EPILOGUE, BN>(values, p, feature, token, thread % 128);
        epilogue_fetch_first<EPILOGUE, BN>(values, p, feature, token, thread % 128);
        epilogue_group<EPILOGUE, BN>(acc[g], values, p, feature, token, factors + group * BN, staging, thread % 128,
                                     1 + group);
    }
}

typedef void (*portable_kernel)(gemm_problem, int, int, int);

typedef struct portable_variant {
    int features, tokens, threads, shared_bytes;
    int resident;        /* blocks a multiprocessor holds */
    double full, single; /* products a clock and multiprocessor, with all of them and with one */
    portable_kernel kernels[GEMM_EPILOGUES];
} portable_variant;

#define VARIANT(wide, groups, bn, stages, blocks, full, single)                                                        \
    {                                                                                                                  \
        groups * 64, wide *bn, wide * 128, portable_tile<wide, groups, bn, stages>::SHARED_BYTES, blocks, full,        \
            single, {                                                                                                  \
            gemm_portable<GEMM_STORE, wide, groups, bn, stages, blocks>,                                               \
                gemm_portable<GEMM_GELU, wide, groups, bn, stages, blocks>,                                            \
                gemm_portable<GEMM_GATED, wide, groups, bn, stages, blocks>,                                           \
                gemm_portable<GEMM_ROPE, wide, groups, bn, stages, blocks>,                                            \
                gemm_portable<GEMM_RESIDUAL, wide, groups, bn, stages, blocks>                                         \
        }                                                                                                              \
    }

#ifdef PI0_AMD
/* Rates are estimates: of MFMA's 1,024 a clock, less for what one block a CU cannot hide (the first), and for what L2
 * brings a CU, about 54 bytes a clock (the third wants 48 at full rate, the second 32). */
static const portable_variant variants[] = {
    VARIANT(2, 2, 128, 1, 1, 800, 800),
    VARIANT(1, 2, 128, 1, 2, 850, 500),
    VARIANT(1, 2, 64, 1, 2, 700, 450),
    VARIANT(1, 1, 64, 1, 3, 500, 250),
};
#else
/* Rates are measured (docs/performance.md): only their ratios matter. */
static const portable_variant variants[] = {
    VARIANT(2, 4, 80, 3, 1, 1000, 1000),
    VARIANT(1, 2, 128, 3, 2, 900, 600),
    VARIANT(1, 2, 64, 3, 3, 850, 450),
};
#endif
enum { VARIANTS = sizeof variants / sizeof *variants, MOST_PIECES = 4, LEAST_PIECE = 512 };

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

/* Clocks, roughly: the busiest multiprocessor's tiles, and what a block and a join cost besides. */
static double estimate(const portable_variant *v, const gemm_problem *p, int split, int multiprocessors) {
    const int units = tiles_of(v, p) * split, each = ceil_div(units, multiprocessors);
    const double products = (double)v->features * v->tokens * ceil_div(ceil_div(p->k, BK), split) * BK;
    const double rate = each >= v->resident
                            ? v->full
                            : v->single + (v->full - v->single) * (each - 1) / (v->resident > 1 ? v->resident - 1 : 1);
    const double rounds = ceil_div(each, v->resident);
    return each * products / rate + 4000 * rounds + (split > 1 ? 3000 + 1000 * split : 0);
}

static cudaError_t choose(gemm_epilogue epilogue, const gemm_problem *p, int multiprocessors, int *variant,
                          int *split) {
    double least = 1e300;
    int limit = 0;
    const cudaError_t status = shared_limit(&limit);
    for (int i = 0; i < VARIANTS; i++)
        for (int pieces = 1; pieces <= MOST_PIECES; pieces++) {
            if (!fits(epilogue, p, &variants[i], pieces, limit)) continue;
            const double time = estimate(&variants[i], p, pieces, multiprocessors);
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
