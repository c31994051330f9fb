/*
 * The three stages of the policy, written once to be read, over the operations of src/cpu. This is the definition that
 * every other backend is held to.
 *
 *     vit_forward       images -> image tokens [images * tokens, language.width]
 *     prefill_forward   prefix embeddings -> keys and values of every layer
 *     denoise_forward   noise, state, keys and values -> actions
 *
 * Sources: openpi models_pytorch/{pi0_pytorch,gemma_pytorch}.py and its transformers replacements of SigLIP and Gemma.
 */
#ifndef PI0_MODEL_STAGES_H
#define PI0_MODEL_STAGES_H

#include "cpu/ops.h"
#include "model/weights.h"

/* ---- vit.c ---- */

/* Scratch of one ViT call over `rows` = images * tokens rows; W: vit.width, M: vit.mlp. */
typedef struct vit_buffers {
    float *patches;              /* [rows, 3 * patch^2] */
    float *x;                    /* [rows, W] residual stream */
    float *q, *k, *v;            /* [rows, W] */
    operand *h;                  /* [rows, W] normalised input of a product */
    operand *q_in, *k_in, *v_in; /* [rows, W] */
    operand *attention;          /* [rows, W] */
    operand *mlp;                /* [rows, M] */
} vit_buffers;

/* One image: uint8 [R,R,3], or float32 [3,R,R] where u8 is NULL; NULL in both: the image of a masked camera, -1
 * everywhere. */
typedef struct vit_image {
    const uint8_t *u8;
    const float *f32;
} vit_image;

void vit_forward(ops *ops, const model_config *config, const vit_weights *weights, const vit_image *images, int count,
                 const vit_buffers *buffers, float *tokens);

/* ---- prefill.c ---- */

/* Keys and values of one observation: per layer [capacity, head_dim], rows in the order prefix, state token (pi0),
 * actions. */
typedef struct kv_cache {
    operand *keys, *values; /* [layers][capacity, head_dim] */
    int capacity;
    int prefix;              /* rows of the prefix */
    int next_position;       /* position of the first suffix token: number of valid prefix tokens */
    const uint8_t *key_mask; /* uint8 [capacity], 0: not to be attended; NULL: all count */
    float *panels;           /* [layers][panels_floats]: for the denoising steps; NULL: none are kept */
    size_t panels_floats;
} kv_cache;

/* Scratch for `rows` tokens of one Gemma; D: width, Q: heads * head_dim, F: mlp. */
typedef struct gemma_buffers {
    float *q;           /* [rows, Q] */
    float *k, *v;       /* [rows, head_dim] */
    float *y;           /* [rows, D] result of a sublayer, where the residual is gated */
    operand *h;         /* [rows, D] */
    operand *q_in;      /* [rows, Q] */
    operand *attention; /* [rows, Q] */
    operand *mlp;       /* [rows, F] */
} gemma_buffers;

/* Cosine and sine by position: float32 [positions, head_dim / 2]. */
typedef struct rope_table {
    float *cosine, *sine;
    int positions;
} rope_table;

/* Angle per position of pair i (dimensions i and i + head_dim / 2). */
float rope_frequency(int i, int head_dim, pi0_rope rope);
void rope_fill(const rope_table *table, int head_dim, pi0_rope rope);

/* x float32 [rows, D]: the prefix embeddings, destroyed. positions [rows]. Fills cache rows 0..rows of every layer. */
void prefill_forward(ops *ops, const model_config *config, const gemma_layer *layers, float *x, const int *positions,
                     const rope_table *rope, const gemma_buffers *buffers, float *cosine, float *sine,
                     const kv_cache *cache);

/* ---- denoise.c ---- */

/* What depends on the step alone; computed when a session opens. D: expert.width. */
typedef struct denoise_schedule {
    int steps;
    bool lerobot_time;
    float dt;
    float *time;       /* [steps] */
    float *time_bias;  /* pi0: [steps, D] time half of action_time_mlp_in, bias included */
    float *modulation; /* pi0.5: [2 * layers + 1][steps, 3D] scale, shift, gate of every norm */
} denoise_schedule;

/* The halves of pi0's action_time_mlp_in: float32 [D, D] each, contiguous. */
typedef struct time_mlp_halves {
    float *action, *time;
} time_mlp_halves;

/* Fills schedule->time; the other fields of the schedule are given. */
void denoise_fill_times(const denoise_schedule *schedule);
/* e float32 [width]: the sine-cosine embedding of time t. */
void denoise_time_embedding(float *e, float t, int width);
void denoise_split_time_mlp(const model_weights *weights, const time_mlp_halves *halves);
/* scratch: float32 [3 * steps, D]. */
void denoise_fill_schedule(ops *ops, const model_weights *weights, const time_mlp_halves *halves,
                           const denoise_schedule *schedule, float *scratch);

typedef struct denoise_buffers {
    float *x;             /* [rows, D] residual stream */
    float *a, *u;         /* [rows, D] */
    float *velocity;      /* [rows, A] */
    float *cosine, *sine; /* [rows, head_dim / 2] */
    gemma_buffers gemma;
} denoise_buffers;

/* One inference of `batch` observations: state [batch][A] (pi0), actions [batch, H, A] holds the noise on entry.
 * record_x, record_v: float32 [steps, batch, H, A] or NULL. */
typedef struct denoise_problem {
    int batch, horizon;
    const float *const *state;
    float *actions;
    float *record_x, *record_v;
    const kv_cache *caches; /* [batch], prefix filled */
} denoise_problem;

void denoise_forward(ops *ops, const model_weights *weights, const time_mlp_halves *halves,
                     const denoise_schedule *schedule, const rope_table *rope, const denoise_buffers *buffers,
                     const denoise_problem *problem);

#endif
