/*
 * The sizes of a network out of its tensors' shapes. Only the number of vision heads leaves no trace in them: SigLIP
 * So400m (width 1152) has 16, the tiny test model (width 48) has 4.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/internal.h"

#define VISION   "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define LANGUAGE "paligemma_with_expert.paligemma.model.language_model."
#define EXPERT   "paligemma_with_expert.gemma_expert.model."

enum { MAX_LAYERS = 1000, MAX_SIZE = 1 << 24 };

/* Axis `axis` of a tensor with `rank` axes; `otherwise` where there is no such tensor or its size is absurd (the check
 * of all shapes tells what is wrong with it). */
static int size_of(const checkpoint *checkpoint, const char *name, int rank, int axis, int otherwise) {
    const tensor *tensor = checkpoint_find(checkpoint, name);
    if (!tensor || tensor->rank != rank || tensor->shape[axis] < 1 || tensor->shape[axis] > MAX_SIZE) return otherwise;
    return (int)tensor->shape[axis];
}

/* The same for PREFIXlayers.I.NAME, taken from the first layer that has it. */
static int layer_size(const checkpoint *checkpoint, const char *prefix, int layers, const char *name, int axis,
                      int otherwise) {
    int size = 0;
    for (int i = 0; i < layers && !size; i++) {
        char full[200];
        snprintf(full, sizeof full, "%slayers.%d.%s", prefix, i, name);
        size = size_of(checkpoint, full, 2, axis, 0);
    }
    return size ? size : otherwise;
}

/* One more than the highest I in names PREFIXlayers.I.*; a layer left out before it shows up as missing tensors. */
static int count_layers(const checkpoint *checkpoint, const char *prefix) {
    int layers = 0;
    size_t length = strlen(prefix);
    for (size_t i = 0; i < checkpoint->named; i++) {
        const char *name = checkpoint->by_name[i]->canonical;
        if (strncmp(name, prefix, length) || strncmp(name + length, "layers.", 7)) continue;
        name += length + 7;
        char *end;
        if (*name < '0' || *name > '9') continue;
        unsigned long index = strtoul(name, &end, 10);
        if (*end == '.' && index < MAX_LAYERS && (int)index >= layers) layers = (int)index + 1;
    }
    return layers;
}

static int known_vision_heads(int width) { return width == 1152 ? 16 : width == 48 ? 4 : 0; }

static void find_vit(const checkpoint *checkpoint, vit_config *vit) {
    const vit_config full = *vit;
    int layers = count_layers(checkpoint, VISION "encoder.");
    vit->width = size_of(checkpoint, VISION "embeddings.patch_embedding.weight", 4, 0, full.width);
    vit->patch_size = size_of(checkpoint, VISION "embeddings.patch_embedding.weight", 4, 2, full.patch_size);
    vit->tokens = size_of(checkpoint, VISION "embeddings.position_embedding.weight", 2, 0, full.tokens);
    int grid = 1;
    while (grid * grid < vit->tokens) grid++;
    vit->image_size = grid * grid == vit->tokens ? grid * vit->patch_size : 0;
    vit->layers = layers ? layers : full.layers;
    vit->mlp = layer_size(checkpoint, VISION "encoder.", layers, "mlp.fc1.weight", 0, full.mlp);
    vit->heads = known_vision_heads(vit->width);
    vit->head_dim = vit->heads ? vit->width / vit->heads : 0;
}

static void find_gemma(const checkpoint *checkpoint, const char *prefix, int layers, gemma_config *gemma) {
    const gemma_config full = *gemma;
    gemma->layers = layers ? layers : full.layers;
    gemma->width = layer_size(checkpoint, prefix, layers, "self_attn.q_proj.weight", 1, full.width);
    gemma->mlp = layer_size(checkpoint, prefix, layers, "mlp.gate_proj.weight", 0, full.mlp);
    gemma->head_dim = layer_size(checkpoint, prefix, layers, "self_attn.k_proj.weight", 0, full.head_dim);
    int queries = layer_size(checkpoint, prefix, layers, "self_attn.q_proj.weight", 0, full.heads * full.head_dim);
    gemma->heads = queries % gemma->head_dim ? 0 : queries / gemma->head_dim;
}

/* An openpi file does not say which family it is; lerobot's config.json does. */
static pi0_status find_family(checkpoint *checkpoint, bool lenient, pi0_error *error) {
    if (checkpoint->layout == LAYOUT_LEROBOT) return PI0_OK;
    bool pi05 = checkpoint_find(checkpoint, "time_mlp_in.weight");
    bool pi0 =
        checkpoint_find(checkpoint, "action_time_mlp_in.weight") || checkpoint_find(checkpoint, "state_proj.weight");
    if (!pi05 && !pi0 && !lenient)
        return error_set(error, PI0_ERROR_FORMAT,
                         "%.400s: expected 'action_time_mlp_in.weight' (pi0) or 'time_mlp_in.weight' (pi0.5), found "
                         "neither among %zu tensors",
                         checkpoint->path, checkpoint->count);
    checkpoint->config.family = pi05 ? PI0_FAMILY_PI05 : PI0_FAMILY_PI0;
    return PI0_OK;
}

static pi0_status check_sizes(const checkpoint *checkpoint, pi0_error *error) {
    const model_config *config = &checkpoint->config;
    const char *path = checkpoint->path;
    if (!config->vit.image_size)
        return error_set(error, PI0_ERROR_FORMAT, "%.400s: expected a square number of image tokens, found %d", path,
                         config->vit.tokens);
    if (!config->vit.heads)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "%.400s: expected a vision width of 1152 (16 heads) or 48 (4 heads), found %d: the file does "
                         "not say how many heads that has",
                         path, config->vit.width);
    if (!config->language.heads || config->language.head_dim % 2)
        return error_set(error, PI0_ERROR_FORMAT,
                         "%.400s: expected q_proj rows to be a multiple of k_proj rows (%d, one key head, an even "
                         "number)",
                         path, config->language.head_dim);
    if (config->expert.width % 2 || config->expert.width < 4)
        return error_set(error, PI0_ERROR_FORMAT, "%.400s: expected an even expert width, found %d", path,
                         config->expert.width);
    return PI0_OK;
}

pi0_status checkpoint_find_sizes(checkpoint *checkpoint, bool lenient, pi0_error *error) {
    TRY(find_family(checkpoint, lenient, error));
    model_config *config = &checkpoint->config;
    *config = model_config_full(config->family);
    find_vit(checkpoint, &config->vit);
    int language_layers = count_layers(checkpoint, LANGUAGE), expert_layers = count_layers(checkpoint, EXPERT);
    int layers = language_layers > expert_layers ? language_layers : expert_layers;
    find_gemma(checkpoint, LANGUAGE, layers, &config->language);
    find_gemma(checkpoint, EXPERT, layers, &config->expert);
    /* the experts attend to each other: same heads, so what the expert's tensors must look like follows */
    config->expert.heads = config->language.heads;
    config->expert.head_dim = config->language.head_dim;
    config->vocabulary = size_of(checkpoint, CHECKPOINT_EMBEDDING, 2, 0, config->vocabulary);
    config->action_dim = size_of(checkpoint, "action_in_proj.weight", 2, 1, config->action_dim);
    return lenient ? PI0_OK : check_sizes(checkpoint, error);
}
