/*
 * Products of the ViT and of the prefix pass: D[feature, token] = sum_k W[feature, k] A[token, k].
 *
 * Weights are the 128-row operand and tokens the columns, so that 788 tokens waste 1.5 % of 4 tiles of 200 instead of
 * 12 % of 7 tiles of 128. Everything that follows a product happens in its epilogue, on accumulators in registers:
 * the norm of the input (its rows' factors commute with the product), bias, GELU, gate * up, RoPE, residual, and the
 * operand and row sums that the next norm needs.
 *
 * Norms without a kernel: the one who writes the residual stream x also writes the operand bf16(x * gain) and, per 64
 * features, each row's sum and sum of squares. The consumer's epilogue applies
 *     RMSNorm    y = r * acc                                r = rsqrt(mean(x^2) + eps)
 *     LayerNorm  y = r * (acc - mean * center[f]) + bias[f]   center = W gain, bias = b + W beta, made at load
 */
#ifndef PI0_CUDA_GEMM_H
#define PI0_CUDA_GEMM_H

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef enum gemm_epilogue {
    GEMM_STORE,    /* out = y                                    ViT qkv */
    GEMM_GELU,     /* out = gelu(y)                              ViT fc1 */
    GEMM_GATED,    /* out = gelu(gate) * up                      prefill gate+up, rows interleaved in eights */
    GEMM_ROPE,     /* q, k, v with RoPE on q and k               prefill qkv, rows interleaved in eights */
    GEMM_RESIDUAL, /* x (+)= y, operand, row sums                o, fc2, down, projector, patches */
    GEMM_EPILOGUES
} gemm_epilogue;

enum { GEMM_SLAB = 64, GEMM_SLAB_LEAST = 48 }; /* features per row sum, where gemm_slab does not say otherwise */

typedef struct gemm_problem {
    /* operands: row-major bf16, rows a multiple of 8 values apart */
    const __nv_bfloat16 *weights; /* [first_feature + features, k] */
    const __nv_bfloat16 *input;   /* [tokens, k] */
    int features, tokens, k;
    int first_feature; /* leading rows of `weights` to leave out (a multiple of 16) */
    int weights_stride, input_stride;

    /* the input's norm: row sums [slabs][stats_stride] of (sum, sum of squares), or NULL: y = scale * acc */
    const float2 *stats;
    int stats_slabs, stats_stride;
    int norm_width;
    bool layer_norm;
    float scale;
    const float *bias;   /* [features] or NULL */
    const float *center; /* [features], LayerNorm only */

    /* GEMM_STORE, GEMM_GELU, GEMM_GATED */
    __nv_bfloat16 *out; /* [tokens, out_stride] */
    int out_stride;

    /* GEMM_ROPE: heads of head_dim, then one of keys, one of values */
    __nv_bfloat16 *q, *keys, *values; /* [tokens, heads * head_dim], [tokens, head_dim] twice */
    int heads, head_dim;
    const float2 *rope;   /* [position][head_dim / 2] (cos, sin) */
    const int *positions; /* [tokens] */

    /* GEMM_RESIDUAL */
    float *x;               /* [rows, features] */
    __nv_bfloat16 *operand; /* [rows, features] = bf16(x * gain), or NULL */
    const float *gain;      /* [features] */
    float2 *stats_out;      /* [slab][stats_out_stride], or NULL */
    int stats_out_stride;
    bool accumulate;       /* x += y, else x = y */
    const float *row_bias; /* [row_period, features] added to row r % row_period, or NULL (position embedding) */
    int row_period;
    const int *row_map; /* token t goes to row row_map[t / row_period] + t % row_period; NULL: row t */

    const void *next_weights; /* what the next kernel will read: asked for into L2, or NULL with next_bytes 0 */
    unsigned next_bytes;

    float *partial;   /* split products: scratch of gemm_partial_bytes() */
    unsigned *ticket; /* [GEMM_TICKETS] zeros; every launch leaves zeros */
} gemm_problem;

enum { GEMM_TICKETS = 4096 };

/* Which kernel runs a problem: an index into the table of gemm_hopper.cu, or the portable one. */
typedef struct gemm_choice {
    int variant; /* -1: portable, its tiles chosen at launch; -2 - i: portable variant i */
    int split;   /* pieces of k: 1 or 2, portable up to 4 */
} gemm_choice;

typedef struct gemm_plan {
    CUtensorMap weights_map, input_map;
    gemm_problem problem;
    gemm_choice choice;
    int tiles_m, tiles_n, band, k_blocks, grid;
} gemm_plan;

#ifdef __cplusplus
extern "C" {
#endif

/* Variants of an epilogue, for benchmarks and tests. */
int gemm_variant_count(gemm_epilogue epilogue);
void gemm_variant_text(gemm_epilogue epilogue, int variant, char *text, size_t size);
size_t gemm_partial_bytes(void);

/* The variant with the least estimated time on `multiprocessors`. */
gemm_choice gemm_choose(gemm_epilogue epilogue, const gemm_problem *problem, int multiprocessors);
/* Whether a variant does such a problem. */
bool gemm_possible(gemm_epilogue epilogue, const gemm_problem *problem, gemm_choice choice, int multiprocessors);
/* Features per row sum that GEMM_RESIDUAL writes. */
int gemm_slab(gemm_epilogue epilogue, gemm_choice choice);
/* Whether this build holds sm_90a code that the current device runs. */
bool gemm_hopper_built(cudaFuncAttributes *attributes);
cudaError_t gemm_portable_setup(void);
/* Raises the kernels' shared memory limits; once per device, before the first launch. */
cudaError_t gemm_setup(void);
/* Encodes the tensor maps. `encode` is cuTensorMapEncodeTiled (CUresult (*)(...)). */
cudaError_t gemm_plan_make(gemm_plan *plan, gemm_epilogue epilogue, const gemm_problem *problem, gemm_choice choice,
                           int multiprocessors, void *encode);
/* dependent: start early and wait for the predecessor inside (programmatic dependent launch). */
cudaError_t gemm_launch(gemm_epilogue epilogue, const gemm_plan *plan, bool dependent, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
