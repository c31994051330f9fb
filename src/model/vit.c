/*
 * SigLIP So400m/14 and PaliGemma's projector (openpi transformers_replace/models/siglip/modeling_siglip.py).
 *
 *     image [R,R,3] -> 14x14 patches -> linear + position table          [tokens, W]
 *     27 x:  x += out_proj(attention(layer_norm1(x)))                    16 heads of 72, no mask
 *            x += fc2(gelu(fc1(layer_norm2(x))))
 *     post_layernorm -> linear                                           [tokens, language.width]
 *
 * All images of one call share every product; attention stays inside an image. No CLS token, no pooling, no scaling.
 */
#include <math.h>

#include "model/stages.h"

static void vit_attention(ops *ops, const vit_config *c, const vit_buffers *b, int images) {
    attention_shape shape = {.queries = c->tokens,
                             .keys = c->tokens,
                             .heads = c->heads,
                             .kv_heads = c->heads,
                             .head_dim = c->head_dim,
                             .scale = 1.0f / sqrtf((float)c->head_dim)};
    for (int image = 0; image < images; image++) {
        size_t at = (size_t)image * (size_t)c->tokens * (size_t)c->width;
        ops_attention(ops, operand_at(ops, b->attention, at), operand_at(ops, b->q_in, at),
                      operand_at(ops, b->k_in, at), operand_at(ops, b->v_in, at), &shape);
    }
}

static void vit_layer_forward(ops *ops, const vit_config *c, const vit_layer *layer, const vit_buffers *b, int images) {
    int rows = images * c->tokens;
    size_t size = (size_t)rows * (size_t)c->width;

    ops_layer_norm(ops, b->h, b->x, layer->layer_norm1_weight, layer->layer_norm1_bias, rows, c->width);
    ops_linear_many(ops, (float *const[]){b->q, b->k, b->v}, b->h,
                    (const weight *const[]){&layer->q_proj, &layer->k_proj, &layer->v_proj},
                    (const float *const[]){layer->q_bias, layer->k_bias, layer->v_bias}, 3, rows);
    ops_to_operand(ops, b->q_in, b->q, size);
    ops_to_operand(ops, b->k_in, b->k, size);
    ops_to_operand(ops, b->v_in, b->v, size);
    vit_attention(ops, c, b, images);
    ops_linear(ops, b->x, b->attention, &layer->out_proj, layer->out_bias, rows, true);

    ops_layer_norm(ops, b->h, b->x, layer->layer_norm2_weight, layer->layer_norm2_bias, rows, c->width);
    ops_linear_gelu(ops, b->mlp, b->h, &layer->fc1, layer->fc1_bias, rows);
    ops_linear(ops, b->x, b->mlp, &layer->fc2, layer->fc2_bias, rows, true);
}

void vit_forward(ops *ops, const model_config *config, const vit_weights *weights, const vit_image *images, int count,
                 const vit_buffers *b, float *tokens) {
    const vit_config *c = &config->vit;
    int rows = count * c->tokens;
    int patch_values = 3 * c->patch_size * c->patch_size;

    for (int image = 0; image < count; image++) {
        float *patches = b->patches + (size_t)image * (size_t)c->tokens * (size_t)patch_values;
        if (images[image].u8)
            ops_patches_u8(ops, patches, images[image].u8, c->image_size, c->patch_size);
        else if (images[image].f32)
            ops_patches_f32(ops, patches, images[image].f32, c->image_size, c->patch_size);
        else
            for (size_t i = 0; i < (size_t)c->tokens * (size_t)patch_values; i++) patches[i] = -1.0f;
    }
    ops_linear_f32(ops, b->x, b->patches, &weights->patch_embedding, weights->patch_bias, rows, false);
    ops_add_rows(ops, b->x, weights->position_embedding, rows, c->width, c->tokens);

    for (int layer = 0; layer < c->layers; layer++) {
        ops_range_begin(ops, PI0_TRACE_LAYER, "layer", layer);
        vit_layer_forward(ops, c, &weights->layers[layer], b, count);
        ops_range_end(ops);
    }

    ops_layer_norm(ops, b->h, b->x, weights->post_layernorm_weight, weights->post_layernorm_bias, rows, c->width);
    ops_linear(ops, tokens, b->h, &weights->projector, weights->projector_bias, rows, false);
}
