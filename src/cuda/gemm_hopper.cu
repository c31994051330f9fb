/*
 * Which Hopper kernel runs which product, and how it is launched. A variant is a tile shape; the choice is by the time
 * a simple model predicts: waves of tiles, each bound by the tensor cores or by L2, and the epilogue where it is
 * exposed.
 */
#include <stdio.h>

#include "gemm_hopper.cuh"
#include "gemm_portable.h"
#include "gemm_rows.h"

typedef struct gemm_variant {
    gemm_epilogue epilogue;
    const void *kernel;
    int bm, bn, bk, threads, shared_bytes;
    gemm_share share;
    bool ping_pong;
    float block_us; /* measured on an H200, all multiprocessors busy: BK k-values of a tile */
    float fixed_us; /* and what a product takes beside that */
} gemm_variant;

#define VARIANT(epilogue, consumers, groups, bn, ping_pong, share, bk, block_us, fixed_us)                             \
    {epilogue,                                                                                                         \
     (const void *)gemm_hopper<epilogue, consumers, groups, bn, ping_pong, share, bk>,                                 \
     gemm_shape<consumers, groups, bn, ping_pong, share, bk, epilogue>::BM,                                            \
     bn,                                                                                                               \
     bk,                                                                                                               \
     gemm_shape<consumers, groups, bn, ping_pong, share, bk, epilogue>::THREADS,                                       \
     gemm_shape<consumers, groups, bn, ping_pong, share, bk, epilogue>::SHARED_BYTES,                                  \
     share,                                                                                                            \
     ping_pong,                                                                                                        \
     block_us,                                                                                                         \
     fixed_us}

static const gemm_variant variants[] = {
    VARIANT(GEMM_STORE, 3, 1, 112, false, SHARE_NONE, 64, 0.46f, 5),
    VARIANT(GEMM_STORE, 2, 2, 112, false, SHARE_NONE, 64, 0.61f, 5),
    VARIANT(GEMM_STORE, 2, 2, 160, true, SHARE_NONE, 64, 0.49f, 5),
    VARIANT(GEMM_GELU, 2, 2, 112, false, SHARE_NONE, 64, 0.65f, 8),
    VARIANT(GEMM_GELU, 2, 1, 256, false, SHARE_NONE, 64, 0.75f, 8),
    VARIANT(GEMM_GELU, 2, 2, 160, true, SHARE_NONE, 64, 0.50f, 9),
    VARIANT(GEMM_GATED, 2, 2, 200, true, SHARE_NONE, 64, 0.54f, 8),
    VARIANT(GEMM_GATED, 2, 2, 200, true, SHARE_INPUT, 64, 0.535f, 8),
    VARIANT(GEMM_GATED, 2, 2, 184, true, SHARE_INPUT, 64, 0.508f, 8),
    VARIANT(GEMM_GATED, 2, 2, 160, true, SHARE_INPUT, 64, 0.433f, 8),
    VARIANT(GEMM_GATED, 2, 2, 136, true, SHARE_INPUT, 64, 0.383f, 8),
    VARIANT(GEMM_ROPE, 2, 1, 136, false, SHARE_NONE, 64, 0.40f, 8),
    VARIANT(GEMM_ROPE, 2, 1, 104, false, SHARE_NONE, 64, 0.37f, 8),
    VARIANT(GEMM_RESIDUAL, 2, 1, 104, false, SHARE_NONE, 64, 0.37f, 5),
    VARIANT(GEMM_RESIDUAL, 2, 1, 104, false, SHARE_WEIGHTS, 64, 0.33f, 7),
    VARIANT(GEMM_RESIDUAL, 2, 1, 112, false, SHARE_NONE, 64, 0.41f, 5),
    VARIANT(GEMM_RESIDUAL, 2, 1, 136, false, SHARE_NONE, 64, 0.43f, 5),
    VARIANT(GEMM_RESIDUAL, 2, 1, 200, false, SHARE_NONE, 64, 0.50f, 7),
    VARIANT(GEMM_RESIDUAL, 2, 1, 200, false, SHARE_INPUT, 64, 0.49f, 8),
    VARIANT(GEMM_RESIDUAL, 2, 1, 200, false, SHARE_K, 64, 0.49f, 6),
    VARIANT(GEMM_RESIDUAL, 2, 1, 136, false, SHARE_K, 64, 0.38f, 6),
    VARIANT(GEMM_RESIDUAL, 3, 1, 80, false, SHARE_NONE, 64, 0.40f, 5),
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static const gemm_variant *variant_find(gemm_epilogue epilogue, int index) {
    for (int i = 0; i < VARIANTS; i++)
        if (variants[i].epilogue == epilogue && index-- == 0) return &variants[i];
    return NULL;
}

/* Variants of this table; behind them come those of gemm_rows.cu. */
static int own_count(gemm_epilogue epilogue) {
    int count = 0;
    for (int i = 0; i < VARIANTS; i++) count += variants[i].epilogue == epilogue;
    return count;
}

extern "C" int gemm_variant_count(gemm_epilogue epilogue) { return own_count(epilogue) + gemm_rows_count(epilogue); }

/* Index among gemm_rows.cu's variants, negative for others. */
static int rows_index(gemm_epilogue epilogue, gemm_choice choice) { return choice.variant - own_count(epilogue); }

extern "C" int gemm_slab(gemm_epilogue epilogue, gemm_choice choice) {
    const int rows = rows_index(epilogue, choice);
    return rows < 0 ? GEMM_SLAB : gemm_rows_slab(epilogue, rows);
}

extern "C" void gemm_variant_text(gemm_epilogue epilogue, int variant, char *text, size_t size) {
    const gemm_variant *v = variant_find(epilogue, variant);
    if (variant >= own_count(epilogue))
        gemm_rows_text(epilogue, variant - own_count(epilogue), text, size);
    else if (variant == -1)
        snprintf(text, size, "portable");
    else if (!v)
        gemm_portable_text(-2 - variant, text, size);
    else
        snprintf(text, size, "%dx%dx%d%s%s", v->bm, v->bn, v->bk, v->ping_pong ? " ping-pong" : "",
                 v->share == SHARE_WEIGHTS ? " weights shared"
                 : v->share == SHARE_INPUT ? " input shared"
                 : v->share == SHARE_K     ? " k shared"
                                           : "");
}

static int tiles_m_of(const gemm_variant *v, int features) {
    return round_up(ceil_div(features, v->bm), v->share == SHARE_INPUT ? 2 : 1);
}
static int tiles_n_of(const gemm_variant *v, int tokens) {
    return round_up(ceil_div(tokens, v->bn), v->share == SHARE_WEIGHTS ? 2 : 1);
}

/* While the input fits into L2, every weight is read once, by all token tiles at the same time. A larger input is taken
 * in bands, so that what the multiprocessors hold of both at a time is about square. */
static int band_of(const gemm_variant *v, const gemm_problem *p, int tiles_n) {
    const int columns = v->share == SHARE_WEIGHTS ? tiles_n / 2 : tiles_n;
    if ((size_t)p->tokens * p->k * 2 <= (size_t)28 << 20) return columns;
    const int most = v->share == SHARE_WEIGHTS ? 4 : 8;
    return ceil_div(columns, ceil_div(columns, most));
}

/* Microseconds, roughly: what matters is the order of the variants. */
static double estimate(const gemm_variant *v, const gemm_problem *p, int split, int multiprocessors) {
    if (v->share == SHARE_K) split = 2;
    const int units = tiles_m_of(v, p->features) * tiles_n_of(v, p->tokens) * split;
    const double blocks = (double)ceil_div(units, multiprocessors) * ceil_div(ceil_div(p->k, v->bk), split);
    return blocks * v->block_us + v->fixed_us + (split > 1 && v->share != SHARE_K ? 4 : 0);
}

extern "C" bool gemm_possible(gemm_epilogue epilogue, const gemm_problem *problem, gemm_choice choice,
                              int multiprocessors) {
    const int rows = rows_index(epilogue, choice);
    if (rows >= 0) return choice.split == 1 && gemm_rows_estimate(epilogue, rows, problem, multiprocessors) < 1e30;
    const gemm_variant *v = variant_find(epilogue, choice.variant);
    if (choice.variant < -1) return gemm_portable_fits(epilogue, problem, -2 - choice.variant, choice.split);
    if (epilogue == GEMM_GATED && (problem->bias || problem->layer_norm) && v) return false;
    const bool lean = v && epilogue == GEMM_RESIDUAL && (v->share == SHARE_K || v->share == SHARE_INPUT);
    if (lean && (problem->row_map || problem->row_bias)) return false;
    if (v && v->share == SHARE_K)
        return choice.split == 1 && problem->k >= 512 &&
               tiles_m_of(v, problem->features) * tiles_n_of(v, problem->tokens) * 2 <= multiprocessors;
    if (choice.split == 1 || !v) return choice.split == 1;
    return choice.split == 2 && epilogue == GEMM_RESIDUAL && problem->k >= 512 && problem->partial &&
           tiles_m_of(v, problem->features) * tiles_n_of(v, problem->tokens) * 2 <= multiprocessors;
}

extern "C" gemm_choice gemm_choose(gemm_epilogue epilogue, const gemm_problem *problem, int multiprocessors) {
    gemm_choice best = {-1, 1};
    double least = 1e30;
    for (int i = 0; i < own_count(epilogue); i++) {
        const gemm_variant *v = variant_find(epilogue, i);
        for (int split = 1; split <= (epilogue == GEMM_RESIDUAL ? 2 : 1); split++) {
            if (!gemm_possible(epilogue, problem, {i, split}, multiprocessors)) continue;
            const double time = estimate(v, problem, split, multiprocessors);
            if (time < least) {
                least = time;
                best.variant = i;
                best.split = split;
            }
        }
    }
    for (int i = 0; i < gemm_rows_count(epilogue); i++) {
        const double time = gemm_rows_estimate(epilogue, i, problem, multiprocessors);
        if (time < least) {
            least = time;
            best.variant = own_count(epilogue) + i;
            best.split = 1;
        }
    }
    return best;
}

/* A split product fits in one wave: at most 160 tiles of 128 x 256. */
extern "C" size_t gemm_partial_bytes(void) { return (size_t)160 * 128 * 256 * sizeof(float); }

extern "C" bool gemm_hopper_built(cudaFuncAttributes *attributes) {
    const bool built =
        cudaFuncGetAttributes(attributes, variants[0].kernel) == cudaSuccess && attributes->binaryVersion == 90;
    cudaGetLastError();
    return built;
}

extern "C" cudaError_t gemm_setup(void) {
    for (int i = 0; i < VARIANTS; i++) {
        cudaError_t status = cudaFuncSetAttribute(variants[i].kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  variants[i].shared_bytes);
        if (status != cudaSuccess) return status;
    }
    return gemm_rows_setup();
}

extern "C" cudaError_t gemm_plan_make(gemm_plan *plan, gemm_epilogue epilogue, const gemm_problem *problem,
                                      gemm_choice choice, int multiprocessors, void *encode) {
    const gemm_variant *v = variant_find(epilogue, choice.variant);
    plan->problem = *problem;
    plan->choice = choice;
    plan->grid = multiprocessors;
    if (rows_index(epilogue, choice) >= 0) return gemm_rows_plan(plan, epilogue, rows_index(epilogue, choice), encode);
    if (!v) return cudaSuccess;
    plan->k_blocks = ceil_div(problem->k, v->bk);
    plan->tiles_m = tiles_m_of(v, problem->features);
    plan->tiles_n = tiles_n_of(v, problem->tokens);
    plan->band = band_of(v, problem, plan->tiles_n);
    const int units = plan->tiles_m * plan->tiles_n * (v->share == SHARE_K ? 2 : choice.split);
    const int most = v->share == SHARE_NONE ? multiprocessors : multiprocessors / 2 * 2;
    plan->grid = units < most ? units : most;
    cudaError_t status =
        tensor_map_encode(&plan->weights_map, encode, problem->weights, problem->first_feature + problem->features,
                          problem->k, problem->weights_stride, v->share == SHARE_WEIGHTS ? v->bm / 2 : v->bm, v->bk);
    if (status != cudaSuccess) return status;
    return tensor_map_encode(&plan->input_map, encode, problem->input, problem->tokens, problem->k,
                             problem->input_stride, v->share == SHARE_INPUT ? round_up(v->bn, 16) / 2 : v->bn, v->bk);
}

extern "C" cudaError_t gemm_launch(gemm_epilogue epilogue, const gemm_plan *plan, bool dependent, cudaStream_t stream) {
    const gemm_variant *v = variant_find(epilogue, plan->choice.variant);
    const int rows = rows_index(epilogue, plan->choice);
    if (rows >= 0) return gemm_rows_launch(epilogue, rows, plan, dependent, stream);
    if (!v)
        return gemm_portable_launch(epilogue, &plan->problem, -2 - plan->choice.variant, plan->choice.split, plan->grid,
                                    dependent, stream);
    gemm_geometry geometry = {plan->tiles_m, plan->tiles_n, plan->band, plan->k_blocks, plan->choice.split};
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(plan->grid);
    config.blockDim = dim3(v->threads);
    config.dynamicSmemBytes = v->shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (dependent) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (v->share != SHARE_NONE) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs].val.clusterDim.x = 2;
        attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
        config.numAttrs++;
    }
    void *arguments[] = {(void *)&plan->weights_map, (void *)&plan->input_map, (void *)&plan->problem, &geometry};
    return cudaLaunchKernelExC(&config, v->kernel, arguments);
}
