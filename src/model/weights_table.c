/*
 * The table of tensors: every name that inference reads, its shape and the field it belongs to, in the model's order
 * (openpi models_pytorch/{pi0,gemma}_pytorch.py over transformers' PaliGemma and Gemma; the names are those of a state
 * dict). Loading, checking, counting and generating all walk this one table.
 */
#include <stdio.h>

#include "model/weights.h"

#define VISION   "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define LANGUAGE "paligemma_with_expert.paligemma.model.language_model."
#define EXPERT   "paligemma_with_expert.gemma_expert.model."

typedef struct walk {
    weights_visitor visitor;
    void *user;
    pi0_error *error;
    const char *prefix;   /* stands before every name */
    bool without_weights; /* the fields point into a stand-in: hand out NULL */
    bool reference_f32;   /* of the tensors that follow */
} walk;

static pi0_status visit(const walk *walk, const char *name, const char *kind, int rank, const int64_t *shape,
                        weight *matrix, const float **vector) {
    char full_name[200];
    snprintf(full_name, sizeof full_name, "%s%s%s", walk->prefix, name, kind);
    weight_slot slot = {.name = full_name,
                        .rank = rank,
                        .reference_f32 = walk->reference_f32,
                        .matrix = walk->without_weights ? NULL : matrix,
                        .vector = walk->without_weights ? NULL : vector};
    for (int i = 0; i < rank; i++) slot.shape[i] = shape[i];
    return walk->visitor(walk->user, &slot, walk->error);
}

static pi0_status visit_vector(const walk *walk, const char *name, const char *kind, int length, const float **vector) {
    return visit(walk, name, kind, 1, (int64_t[]){length}, NULL, vector);
}

/* NAME.weight [rows, columns] and, where there is a field for it, NAME.bias [rows]. */
static pi0_status visit_linear(const walk *walk, const char *name, int rows, int columns, weight *matrix,
                               const float **bias) {
    TRY(visit(walk, name, ".weight", 2, (int64_t[]){rows, columns}, matrix, NULL));
    return bias ? visit_vector(walk, name, ".bias", rows, bias) : PI0_OK;
}

static pi0_status visit_layer_norm(const walk *walk, const char *name, int width, const float **weight,
                                   const float **bias) {
    TRY(visit_vector(walk, name, ".weight", width, weight));
    return visit_vector(walk, name, ".bias", width, bias);
}

/* A Gemma norm: one gain vector, or with adaRMS a linear layer from the time vector to scale, shift and gate. */
static pi0_status visit_gemma_norm(const walk *walk, const char *name, int width, bool adaptive, gemma_norm *norm) {
    struct walk f32 = *walk;
    f32.reference_f32 = true;
    if (!adaptive) return visit_vector(&f32, name, ".weight", width, &norm->weight);
    char dense[100];
    snprintf(dense, sizeof dense, "%s.dense", name);
    return visit_linear(&f32, dense, 3 * width, width, &norm->dense, &norm->dense_bias);
}

static pi0_status visit_vit_layer(walk *walk, const vit_config *config, int index, vit_layer *layer) {
    int width = config->width, mlp = config->mlp;
    char prefix[120];
    snprintf(prefix, sizeof prefix, VISION "encoder.layers.%d.", index);
    walk->prefix = prefix;
    TRY(visit_layer_norm(walk, "layer_norm1", width, &layer->layer_norm1_weight, &layer->layer_norm1_bias));
    TRY(visit_linear(walk, "self_attn.q_proj", width, width, &layer->q_proj, &layer->q_bias));
    TRY(visit_linear(walk, "self_attn.k_proj", width, width, &layer->k_proj, &layer->k_bias));
    TRY(visit_linear(walk, "self_attn.v_proj", width, width, &layer->v_proj, &layer->v_bias));
    TRY(visit_linear(walk, "self_attn.out_proj", width, width, &layer->out_proj, &layer->out_bias));
    TRY(visit_layer_norm(walk, "layer_norm2", width, &layer->layer_norm2_weight, &layer->layer_norm2_bias));
    TRY(visit_linear(walk, "mlp.fc1", mlp, width, &layer->fc1, &layer->fc1_bias));
    return visit_linear(walk, "mlp.fc2", width, mlp, &layer->fc2, &layer->fc2_bias);
}

static pi0_status visit_vit(walk *walk, const model_config *config, vit_weights *vit) {
    const vit_config *sizes = &config->vit;
    vit_layer nowhere = {0};
    walk->prefix = VISION;
    walk->reference_f32 = true;
    TRY(visit(walk, "embeddings.patch_embedding", ".weight", 4,
              (int64_t[]){sizes->width, 3, sizes->patch_size, sizes->patch_size}, &vit->patch_embedding, NULL));
    TRY(visit_vector(walk, "embeddings.patch_embedding", ".bias", sizes->width, &vit->patch_bias));
    TRY(visit(walk, "embeddings.position_embedding", ".weight", 2, (int64_t[]){sizes->tokens, sizes->width}, NULL,
              &vit->position_embedding));
    walk->reference_f32 = false;
    for (int i = 0; i < sizes->layers; i++)
        TRY(visit_vit_layer(walk, sizes, i, walk->without_weights ? &nowhere : &vit->layers[i]));
    walk->prefix = VISION;
    TRY(visit_layer_norm(walk, "post_layernorm", sizes->width, &vit->post_layernorm_weight, &vit->post_layernorm_bias));
    walk->prefix = "paligemma_with_expert.paligemma.model.";
    return visit_linear(walk, "multi_modal_projector.linear", config->language.width, sizes->width, &vit->projector,
                        &vit->projector_bias);
}

static pi0_status visit_gemma_layer(walk *walk, const gemma_config *config, const char *model, int index, bool adaptive,
                                    gemma_layer *layer) {
    int width = config->width, mlp = config->mlp, queries = config->heads * config->head_dim;
    char prefix[120];
    snprintf(prefix, sizeof prefix, "%slayers.%d.", model, index);
    walk->prefix = prefix;
    TRY(visit_gemma_norm(walk, "input_layernorm", width, adaptive, &layer->input_layernorm));
    TRY(visit_linear(walk, "self_attn.q_proj", queries, width, &layer->q_proj, NULL));
    TRY(visit_linear(walk, "self_attn.k_proj", config->head_dim, width, &layer->k_proj, NULL));
    TRY(visit_linear(walk, "self_attn.v_proj", config->head_dim, width, &layer->v_proj, NULL));
    TRY(visit_linear(walk, "self_attn.o_proj", width, queries, &layer->o_proj, NULL));
    TRY(visit_gemma_norm(walk, "post_attention_layernorm", width, adaptive, &layer->post_attention_layernorm));
    TRY(visit_linear(walk, "mlp.gate_proj", mlp, width, &layer->gate_proj, NULL));
    TRY(visit_linear(walk, "mlp.up_proj", mlp, width, &layer->up_proj, NULL));
    return visit_linear(walk, "mlp.down_proj", width, mlp, &layer->down_proj, NULL);
}

static pi0_status visit_gemma(walk *walk, const gemma_config *config, const char *model, bool adaptive,
                              gemma_layer *layers) {
    gemma_layer nowhere = {0};
    for (int i = 0; i < config->layers; i++)
        TRY(visit_gemma_layer(walk, config, model, i, adaptive, walk->without_weights ? &nowhere : &layers[i]));
    return PI0_OK;
}

static pi0_status visit_heads(walk *walk, const model_config *config, head_weights *heads) {
    int width = config->expert.width, actions = config->action_dim;
    walk->prefix = "";
    walk->reference_f32 = true;
    TRY(visit_linear(walk, "action_in_proj", width, actions, &heads->action_in_proj, &heads->action_in_bias));
    TRY(visit_linear(walk, "action_out_proj", actions, width, &heads->action_out_proj, &heads->action_out_bias));
    if (config->family == PI0_FAMILY_PI05) {
        TRY(visit_linear(walk, "time_mlp_in", width, width, &heads->time_mlp_in, &heads->time_mlp_in_bias));
        return visit_linear(walk, "time_mlp_out", width, width, &heads->time_mlp_out, &heads->time_mlp_out_bias);
    }
    TRY(visit_linear(walk, "state_proj", width, actions, &heads->state_proj, &heads->state_bias));
    TRY(visit_linear(walk, "action_time_mlp_in", width, 2 * width, &heads->action_time_mlp_in,
                     &heads->action_time_mlp_in_bias));
    return visit_linear(walk, "action_time_mlp_out", width, width, &heads->action_time_mlp_out,
                        &heads->action_time_mlp_out_bias);
}

pi0_status weights_visit(const model_config *config, model_weights *weights, weights_visitor visitor, void *user,
                         pi0_error *error) {
    model_weights nowhere = {0};
    walk walk = {.visitor = visitor, .user = user, .error = error, .without_weights = !weights};
    if (!weights) weights = &nowhere;
    bool adaptive = config->family == PI0_FAMILY_PI05;
    TRY(visit_vit(&walk, config, &weights->vit));
    walk.prefix = "";
    TRY(visit(&walk, CHECKPOINT_EMBEDDING, "", 2, (int64_t[]){config->vocabulary, config->language.width},
              &weights->embed_tokens, NULL));
    TRY(visit_gemma(&walk, &config->language, LANGUAGE, false, weights->language_layers));
    TRY(visit_gemma(&walk, &config->expert, EXPERT, adaptive, weights->expert_layers));
    walk.prefix = EXPERT;
    TRY(visit_gemma_norm(&walk, "norm", config->expert.width, adaptive, &weights->expert_norm));
    return visit_heads(&walk, config, &weights->heads);
}

pi0_status weights_visit_unread(const model_config *config, weights_visitor visitor, void *user, pi0_error *error) {
    walk walk = {.visitor = visitor, .user = user, .error = error, .prefix = "", .without_weights = true};
    TRY(visit(&walk, "paligemma_with_expert.gemma_expert.lm_head.weight", "", 2,
              (int64_t[]){config->vocabulary, config->expert.width}, NULL, NULL));
    walk.reference_f32 = true;
    return visit_vector(&walk, WEIGHTS_PREFIX_NORM, "", config->language.width, NULL);
}
