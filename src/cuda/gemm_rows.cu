/*
 * Tile shapes of gemm_rows.cuh, when they pay, and how they are launched.
 */
#include "gemm_rows.h"

#include <math.h>
#include <stdio.h>

#include "gemm_rows.cuh"
#include "launch.cuh"

typedef void (*rows_kernel)(CUtensorMap, CUtensorMap, gemm_problem, rows_geometry);

typedef struct rows_variant {
    gemm_epilogue epilogue;
    rows_kernel kernel;
    int bm, bn, threads, shared_bytes, share;
    float block_us; /* measured on an H200, all multiprocessors busy: 64 k-values of a tile */
    float fixed_us; /* and what a product takes beside that */
} rows_variant;

#define ROWS(epilogue, groups, bn, share, block_us, fixed_us)                                                          \
    {epilogue,                                                                                                         \
     gemm_rows<epilogue, groups, bn, share>,                                                                           \
     rows_shape<epilogue, groups, bn, share>::BM,                                                                      \
     bn,                                                                                                               \
     rows_shape<epilogue, groups, bn, share>::THREADS,                                                                 \
     rows_shape<epilogue, groups, bn, share>::SHARED_BYTES,                                                            \
     share,                                                                                                            \
     block_us,                                                                                                         \
     fixed_us}

/* clang-format off */
static const rows_variant variants[] = {
    ROWS(GEMM_STORE, 2, 160, 1, 0.373f, 4.6f),
    ROWS(GEMM_STORE, 2, 160, 2, 0.37f, 5.5f),
    ROWS(GEMM_STORE, 3, 112, 1, 0.398f, 4.2f),
    ROWS(GEMM_GELU, 2, 200, 1, 0.47f, 6.1f),
    ROWS(GEMM_GELU, 2, 208, 2, 0.485f, 6.9f),
    ROWS(GEMM_GELU, 3, 136, 1, 0.475f, 5.9f),
    ROWS(GEMM_ROPE, 2, 144, 1, 0.49f, 5),
    ROWS(GEMM_ROPE, 2, 144, -2, 0.41f, 5),
    ROWS(GEMM_RESIDUAL, 2, 56, 1, 0.29f, 4),
    ROWS(GEMM_RESIDUAL, 2, 64, -4, 0.186f, 8),
    ROWS(GEMM_RESIDUAL, 1, 128, 4, 0.178f, 5.5f),
    ROWS(GEMM_RESIDUAL, 2, 120, 1, 0.46f, 6),
    ROWS(GEMM_RESIDUAL, 2, 120, -2, 0.42f, 6),
};
/* clang-format on */
enum { VARIANTS = sizeof variants / sizeof *variants };

static const rows_variant *variant_find(gemm_epilogue epilogue, int index) {
    for (int i = 0; i < VARIANTS; i++)
        if (variants[i].epilogue == epilogue && index-- == 0) return &variants[i];
    return NULL;
}

int gemm_rows_count(gemm_epilogue epilogue) {
    int count = 0;
    for (int i = 0; i < VARIANTS; i++) count += variants[i].epilogue == epilogue;
    return count;
}

void gemm_rows_text(gemm_epilogue epilogue, int variant, char *text, size_t size) {
    const rows_variant *v = variant_find(epilogue, variant);
    char share[32] = "";
    if (v->share > 1) snprintf(share, sizeof share, " weights/%d", v->share);
    if (v->share < -1) snprintf(share, sizeof share, " input/%d", -v->share);
    snprintf(text, size, "rows %dx%d%s", v->bm, v->bn, share);
}

int gemm_rows_slab(gemm_epilogue epilogue, int variant) { return variant_find(epilogue, variant)->bn; }

static int tiles_m_of(const rows_variant *v, int tokens) {
    return round_up(ceil_div(tokens, v->bm), v->share > 1 ? v->share : 1);
}
static int tiles_n_of(const rows_variant *v, int features) {
    return round_up(ceil_div(features, v->bn), v->share < -1 ? -v->share : 1);
}
static int cluster_of(const rows_variant *v) { return v->share < 0 ? -v->share : v->share; }

double gemm_rows_estimate(gemm_epilogue epilogue, int variant, const gemm_problem *p, int multiprocessors) {
    const rows_variant *v = variant_find(epilogue, variant);
    if (epilogue == GEMM_RESIDUAL && (p->stats || p->row_map || p->row_bias)) return INFINITY;
    const int k_blocks = ceil_div(p->k, 64);
    const int units = tiles_m_of(v, p->tokens) * tiles_n_of(v, p->features);
    /* clusters of four do not fit everywhere: 120 blocks of 132 */
    const int at_once = cluster_of(v) == 4 ? multiprocessors * 10 / 11 : multiprocessors;
    return (double)ceil_div(units, at_once) * k_blocks * v->block_us + v->fixed_us;
}

cudaError_t gemm_rows_setup(void) {
    for (int i = 0; i < VARIANTS; i++) {
        cudaError_t status = cudaFuncSetAttribute(
            (const void *)variants[i].kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, variants[i].shared_bytes);
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}

cudaError_t gemm_rows_plan(gemm_plan *plan, gemm_epilogue epilogue, int variant, void *encode) {
    const rows_variant *v = variant_find(epilogue, variant);
    const gemm_problem *p = &plan->problem;
    plan->k_blocks = ceil_div(p->k, 64);
    plan->tiles_m = tiles_m_of(v, p->tokens);
    plan->tiles_n = tiles_n_of(v, p->features);
    plan->grid = plan->tiles_m * plan->tiles_n;
    cudaError_t status = tensor_map_encode(&plan->weights_map, encode, p->weights, p->first_feature + p->features, p->k,
                                           p->weights_stride, v->share > 1 ? v->bn / v->share : v->bn);
    if (status != cudaSuccess) return status;
    return tensor_map_encode(&plan->input_map, encode, p->input, p->tokens, p->k, p->input_stride,
                             v->share < -1 ? v->bm / -v->share : v->bm);
}

cudaError_t gemm_rows_launch(gemm_epilogue epilogue, int variant, const gemm_plan *plan, bool dependent,
                             cudaStream_t stream) {
    const rows_variant *v = variant_find(epilogue, variant);
    /* while the input fits into L2 beside the weights every weight is read once, else in bands */
    const bool small = (size_t)plan->problem.tokens * plan->problem.k * 2 <= (size_t)24 << 20;
    const int columns = plan->tiles_m / (v->share > 1 ? v->share : 1), band = 16 / (v->share > 1 ? v->share : 1);
    const rows_geometry geometry = {plan->tiles_m, plan->tiles_n, small || columns < band ? columns : band,
                                    plan->k_blocks};
    return launch(v->kernel, dim3(plan->grid), v->threads, v->shared_bytes, cluster_of(v), dependent, stream,
                  plan->weights_map, plan->input_map, plan->problem, geometry);
}
