/*
 * The model's weights as the readable CPU stages use them. Matrices stay as the checkpoint holds them, [out, in]
 * row-major, bf16 (mapped from the file where it is bf16 already) or float32; vectors are widened to float32, they are
 * small. Field names are the checkpoint's words; the shape stands beside each field.
 */
#ifndef PI0_MODEL_WEIGHTS_H
#define PI0_MODEL_WEIGHTS_H

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"

/* A matrix [rows = out, cols = in]; row r starts at data + r * cols elements. */
typedef struct weight {
    const void *data;
    tensor_dtype dtype; /* DTYPE_BF16 or DTYPE_F32 */
    int rows, cols;
} weight;

/* W: vit.width, M: vit.mlp */
typedef struct vit_layer {
    const float *layer_norm1_weight, *layer_norm1_bias; /* [W] */
    weight q_proj, k_proj, v_proj, out_proj;            /* [W, W] */
    const float *q_bias, *k_bias, *v_bias, *out_bias;   /* [W] */
    const float *layer_norm2_weight, *layer_norm2_bias; /* [W] */
    weight fc1;                                         /* [M, W] */
    const float *fc1_bias;                              /* [M] */
    weight fc2;                                         /* [W, M] */
    const float *fc2_bias;                              /* [W] */
} vit_layer;

typedef struct vit_weights {
    weight patch_embedding;                                   /* [W, 3*14*14], columns (channel, row, col) */
    const float *patch_bias;                                  /* [W] */
    const float *position_embedding;                          /* [tokens, W] */
    vit_layer *layers;                                        /* [vit.layers] */
    const float *post_layernorm_weight, *post_layernorm_bias; /* [W] */
    weight projector;                                         /* [language.width, W] */
    const float *projector_bias;                              /* [language.width] */
} vit_weights;

/* A Gemma norm: out = n * (1 + weight), or with adaRMS out = n * (1 + scale) + shift, [scale, shift, gate] = dense *
 * cond + bias */
typedef struct gemma_norm {
    const float *weight;     /* [D]; NULL with adaRMS */
    struct weight dense;     /* [3D, D]; data NULL without adaRMS */
    const float *dense_bias; /* [3D] */
} gemma_norm;

/* D: width, F: mlp, Q: heads * head_dim, K: head_dim (one kv head) */
typedef struct gemma_layer {
    gemma_norm input_layernorm;
    weight q_proj;         /* [Q, D] */
    weight k_proj, v_proj; /* [K, D] */
    weight o_proj;         /* [D, Q] */
    gemma_norm post_attention_layernorm;
    weight gate_proj, up_proj; /* [F, D] */
    weight down_proj;          /* [D, F] */
} gemma_layer;

/* A: action_dim, D: expert.width. Members of the other family have data NULL. */
typedef struct head_weights {
    weight action_in_proj;       /* [D, A] */
    const float *action_in_bias; /* [D] */
    weight action_out_proj;      /* [A, D] */
    const float *action_out_bias;
    weight state_proj; /* pi0: [D, A] */
    const float *state_bias;
    weight action_time_mlp_in; /* pi0: [D, 2D]: action half, then time half */
    const float *action_time_mlp_in_bias;
    weight action_time_mlp_out; /* pi0: [D, D] */
    const float *action_time_mlp_out_bias;
    weight time_mlp_in; /* pi0.5: [D, D] */
    const float *time_mlp_in_bias;
    weight time_mlp_out; /* pi0.5: [D, D] */
    const float *time_mlp_out_bias;
} head_weights;

typedef struct model_weights {
    model_config config;
    vit_weights vit;
    weight embed_tokens;          /* [vocabulary, language.width] */
    gemma_layer *language_layers; /* [language.layers]; the last layer's q, o and MLP are never read */
    gemma_layer *expert_layers;   /* [expert.layers] */
    gemma_norm expert_norm;
    head_weights heads;
    size_t owned_bytes;  /* memory taken for converted or generated values */
    size_t mapped_bytes; /* used in place in the mapped files */
    void *memory;        /* the block behind converted values */
} model_weights;

typedef struct weights_options {
    bool keep_f32; /* float32 matrices stay float32 */
    int threads;
    const log_sink *log;
    pi0_progress_function progress;
    void *progress_user;
} weights_options;

/* Loads from an open checkpoint, which must outlive *weights. Generates synthetic tensors with all threads. Says before
 * taking memory if there is not enough. */
pi0_status weights_load(model_weights *weights, const checkpoint *checkpoint, const weights_options *options,
                        pi0_error *error);
void weights_release(model_weights *weights);

/* What inference needs, one call per tensor in the model's order: canonical name, shape, whether the run-time type of
 * the reference is float32 (norms, heads, patch embedding: spec/model 8), and where it belongs: exactly one of matrix
 * and vector is set; both point into `weights`, which must have its layer arrays allocated (or be NULL: then both are
 * NULL). */
typedef struct weight_slot {
    const char *name; /* valid during the call */
    int rank;
    int64_t shape[4];
    bool reference_f32;
    weight *matrix;
    const float **vector;
} weight_slot;
typedef pi0_status (*weights_visitor)(void *user, const weight_slot *slot, pi0_error *error);
pi0_status weights_visit(const model_config *config, model_weights *weights, weights_visitor visitor, void *user,
                         pi0_error *error);

/* What openpi's strict loader wants in a file beyond that, and inference never reads: the expert's lm_head and the
 * prefix's final norm, which is counted among the parameters all the same. matrix and vector are NULL. */
#define WEIGHTS_PREFIX_NORM "paligemma_with_expert.paligemma.model.language_model.norm.weight"
pi0_status weights_visit_unread(const model_config *config, weights_visitor visitor, void *user, pi0_error *error);

#endif
