/*
 * The denoising steps: a few rows (10 actions) against all of the expert's weights, ten times over. Bound: reading the
 * weights (0.62 GB a step, 0.14 ms) and the latency of the 92 dependent phases of a step.
 *
 * Each phase is a kernel of about one block a multiprocessor. With programmatic dependent launch the next kernels of
 * the chain are resident before their predecessors end; what they can do without them, fetching their weights (or the
 * prefix's keys and values) into shared memory, they do first. So the read of weights never stops.
 *
 * Rows: action rows b * H + h first; in the first step of pi0 then one state row per observation (B * H + b). The state
 * token sees the prefix and itself alone, so its keys and values hold for all steps; it costs a row of a tile that has
 * six to spare.
 *
 * Operands of the products lie in "fragment order": for every 16 rows and 16 k-values 512 bytes, first rows 0..7 and
 * then rows 8..15, 8 bytes a lane as mma.m16n8k16 wants them; on AMD for every 16 rows and 32 k-values 1024 bytes, 16 a
 * lane (see operand_offset).
 */
#ifndef PI0_CUDA_DENOISE_H
#define PI0_CUDA_DENOISE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

enum { SKINNY_SLAB = 8, SKINNY_WARPS = 8 };

typedef enum skinny_epilogue {
    SKINNY_QKV,      /* RoPE; q to a buffer, k and v behind the prefix's */
    SKINNY_GATED,    /* operand = gelu(gate) * up */
    SKINNY_RESIDUAL, /* x += gate * y; operand = x * gain; row sums of squares */
    SKINNY_TOKENS,   /* pi0: x = y + bias (state rows: state projection); operand and row sums */
} skinny_epilogue;

typedef struct skinny_problem {
    const __nv_bfloat16 *weights; /* [features, weights_k] */
    int features, weights_k;
    int k;       /* of the operand: weights_k, or 2 * weights_k where the operand comes in two parts (high and low) */
    int k_chunk; /* k per block, a multiple of 128; k / k_chunk blocks form a cluster */
    const __nv_bfloat16 *operand; /* fragment order, [rows][operand_k] */
    int operand_k;                /* k rounded up to 128 */
    int rows;

    const float *stats; /* [slabs][stats_stride] sums of squares of the operand's rows (before gain), or NULL */
    int stats_slabs, stats_stride, norm_width;
    const float *shift; /* [features] W * shift of adaRMS, or NULL */

    __nv_bfloat16 *q;                           /* QKV: [rows, heads * head_dim] */
    __nv_bfloat16 *suffix_keys, *suffix_values; /* [batch][slots][head_dim] */
    int heads, head_dim, slots, first_slot;     /* first_slot: slot of action row 0 (1 with a state token) */
    int first_head;                             /* whose weights come first: 0, or where keys or values come alone */
    int horizon, action_rows;                   /* action_rows = batch * horizon; rows beyond are state tokens */
    const float2 *rope;                         /* [position][head_dim / 2] */
    const int *prefix_valid;                    /* [batch] valid prefix tokens: the first suffix position */

    __nv_bfloat16 *out; /* GATED: operand of the next product, fragment order, k = out_k */
    int out_k;
    bool row_major; /* RESIDUAL by the wide kernels: `out` is row-major too, as all their operands are */

    float *x;                           /* RESIDUAL, TOKENS: [rows, features] */
    const float *gate;                  /* [features] or NULL */
    const float *gain;                  /* [features] of the next norm */
    float *stats_out;                   /* [features / 8][stats_stride] */
    const float *bias;                  /* TOKENS: [features] */
    const float *state;                 /* TOKENS: [batch, action_dim] */
    const __nv_bfloat16 *state_weights; /* [features, action_dim] */
    const float *state_bias;
    int action_dim;
} skinny_problem;

/* Attention of one step: per observation and head, 16 rows against prefix and suffix; a cluster splits the keys. */
typedef struct suffix_attention_problem {
    const __nv_bfloat16 *q;                           /* [rows, heads * head_dim] */
    const __nv_bfloat16 *keys, *values;               /* prefix of this layer: [tokens][head_dim] */
    const __nv_bfloat16 *suffix_keys, *suffix_values; /* [batch][slots][head_dim] */
    const int *starts;                                /* [batch + 1] first prefix row of each observation */
    const uint8_t *key_mask;                          /* [tokens] or NULL */
    __nv_bfloat16 *out;                               /* operand of the o-projection, fragment order */
    int out_k;
    int heads, head_dim, slots, first_slot, horizon, batch, action_rows;
    int state_rows; /* 1 in the first step of pi0 */
    float scale;
    /* Where blocks do not form clusters, those that share the keys meet in memory: [(row tile, head)][blocks] of
     * SUFFIX_PART floats, and a zero for each (left zero). NULL: clusters. */
    float *partial;
    unsigned *ticket;
} suffix_attention_problem;

enum { SUFFIX_MOST_BLOCKS = 16, SUFFIX_PART = 16 * 256 + 32 };

/* Between steps: final norm, action_out_proj, Euler step, and the first product of the next step. */
typedef struct heads_problem {
    /* velocity; operand NULL in the first call of an inference */
    const __nv_bfloat16 *operand; /* [rows][operand_k], fragment order */
    int operand_k;
    const float *stats;
    int stats_slabs, stats_stride, norm_width;
    const __nv_bfloat16 *out_weights; /* [action_dim, width] */
    const float *out_bias;            /* [action_dim], W * shift added for adaRMS */
    const float *x_before;            /* [rows, action_dim] */
    float *x_after, *v;               /* [rows, action_dim] */
    float dt;
    /* next step; next_weights NULL after the last */
    const float *next_weights; /* [width, action_dim] float32: pi0 action_time_mlp_in(action half) * action_in_proj */
    bool row_major;            /* what the next step reads is for the wide kernels */
    const float *next_bias;    /* [width]: pi0 the rest of action_time_mlp_in at that time; pi0.5 action_in_proj's */
    __nv_bfloat16 *high_low;   /* pi0: silu(...) in two bf16 parts, fragment order, k = 2 * operand_k */
    float *tokens;             /* pi0.5: x of the first layer [rows, width], with operand and row sums */
    __nv_bfloat16 *token_operand;
    const float *gain;
    float *stats_out;
    int rows, width, action_dim;
} heads_problem;

/* All steps of one observation in one kernel (denoise_stream.cu): width 1024, mlp 4096, 8 heads of 256, 32 actions. */
enum { STREAM_MAX_LAYERS = 24 };
typedef struct stream_layer {
    const __nv_bfloat16 *qkv, *o, *gate_up, *down; /* as in engine.h */
    const float *gain1, *gain2;                    /* [width]; adaRMS: NULL */
} stream_layer;

typedef struct stream_problem {
    stream_layer layers[STREAM_MAX_LAYERS];
    int layer_count, steps, horizon;
    int prefix;                         /* keys of the prefix */
    const __nv_bfloat16 *keys, *values; /* [layers][prefix, head_dim], layers cache_stride elements apart */
    size_t cache_stride;
    const uint8_t *key_mask;                  /* [prefix] or NULL */
    const int *prefix_valid;                  /* [1] */
    const float2 *rope;                       /* [position][head_dim / 2] */
    __nv_bfloat16 *state_keys, *state_values; /* pi0: [layers][head_dim], written in the first step */
    float *actions, *velocity;                /* [steps + 1] and [steps] of [horizon, 32], action_stride apart */
    size_t action_stride;
    const float *next_weights, *next_bias; /* as in heads_problem; biases of steps lie next_bias_stride apart */
    size_t next_bias_stride;
    const __nv_bfloat16 *time_out; /* pi0: action_time_mlp_out [width, width]; NULL: pi0.5 */
    const float *time_out_bias;
    const float *state, *state_bias; /* pi0 */
    const __nv_bfloat16 *state_weights;
    const __nv_bfloat16 *out_weights;                 /* [32, width] */
    const float *out_bias;                            /* [steps, 32] */
    const float *final_gain;                          /* pi0 */
    const float *modulation, *shift_qkv, *shift_gate; /* pi0.5: see session.h */
    float dt;
    uint8_t *exchange; /* stream_exchange_bytes */
    int inflight;      /* chunks of weights a block has under way at once */
} stream_problem;

#ifdef __cplusplus
extern "C" {
#endif
/* Bytes of exchange memory for up to `rows` suffix rows (state included); 0 where the kernel cannot run. */
size_t stream_exchange_bytes(int rows);
/* Whether one kernel can do it: rows as above, `prefix` keys, a device with that many multiprocessors. */
bool stream_fits(int prefix, int rows, int multiprocessors);
cudaError_t stream_launch(const stream_problem *problem, cudaStream_t stream);
/* Elements of an operand of `rows` rows. */
size_t operand_elements(int rows, int k);
cudaError_t denoise_setup(void);
/* tiles: 8-feature tiles per block (1, 2, 4 or 8). */
cudaError_t skinny_launch(skinny_epilogue epilogue, int tiles, const skinny_problem *problem, bool dependent,
                          cudaStream_t stream);
/* split: blocks that share the keys of a head: a cluster (1, 2, 4, 8; 16 on Hopper), or up to SUFFIX_MOST_BLOCKS with
 * `partial`. */
cudaError_t suffix_attention_launch(int split, const suffix_attention_problem *problem, bool dependent,
                                    cudaStream_t stream);
/*
 * The same for more than 16 rows on Hopper, with wgmma (denoise_wide.cu): operands, `q` and `out` row-major. `encode`
 * is cuTensorMapEncodeTiled. Features, k: the expert of 1024 (see wide_launch); others: cudaErrorNotSupported.
 */
cudaError_t wide_launch(skinny_epilogue epilogue, const skinny_problem *problem, void *encode, bool dependent,
                        cudaStream_t stream);
/* prefix_rows: rows of `keys`, of all observations. 8 heads of 256. */
cudaError_t wide_attention_launch(const suffix_attention_problem *problem, int prefix_rows, int multiprocessors,
                                  void *encode, bool dependent, cudaStream_t stream);
cudaError_t heads_launch(const heads_problem *problem, bool dependent, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
