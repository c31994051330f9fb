/*
 * The prefix pass of Gemma 2B (openpi transformers_replace/models/gemma/modeling_gemma.py): image and text tokens,
 * every valid token seeing every valid token, only to fill the cache of keys and values that denoising reads.
 *
 *     18 x:  h = rms_norm(x); q, k, v = linear(h); k = rope(k); cache += k, v
 *            x += o_proj(attention(rope(q), k, v))                       8 query heads, one kv head, of 256
 *            x += down_proj(gelu(gate_proj(h')) * up_proj(h')),          h' = rms_norm(x)
 *
 * Nobody reads what comes after the last layer's keys and values, so it is not computed.
 */
#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "model/stages.h"

float rope_frequency(int i, int head_dim, pi0_rope rope) {
    /* the reference's order of float32 roundings: at position 787 one ulp of the frequency is 5e-5 rad */
    float frequency = 1.0f / powf(MODEL_ROPE_THETA, (float)(2 * i) / (float)head_dim);
    return rope == PI0_ROPE_OPENPI_TORCH_BF16 ? bf16_round(frequency) : frequency;
}

void rope_fill(const rope_table *table, int head_dim, pi0_rope rope) {
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float frequency = rope_frequency(i, head_dim, rope);
        for (int position = 0; position < table->positions; position++) {
            float angle = (float)position * frequency;
            table->cosine[(size_t)position * (size_t)half + (size_t)i] = (float)cos((double)angle);
            table->sine[(size_t)position * (size_t)half + (size_t)i] = (float)sin((double)angle);
        }
    }
}

void prefill_forward(ops *ops, const model_config *config, const gemma_layer *layers, float *x, const int *positions,
                     const rope_table *rope, const gemma_buffers *b, float *cosine, float *sine,
                     const kv_cache *cache) {
    const gemma_config *c = &config->language;
    int rows = cache->prefix, half = c->head_dim / 2;
    size_t layer_size = (size_t)cache->capacity * (size_t)c->head_dim;
    attention_shape shape = {.queries = rows,
                             .keys = rows,
                             .heads = c->heads,
                             .kv_heads = 1,
                             .head_dim = c->head_dim,
                             .scale = 1.0f / sqrtf((float)c->head_dim),
                             .key_mask = cache->key_mask};
    for (int row = 0; row < rows; row++) {
        size_t at = (size_t)positions[row] * (size_t)half, bytes = (size_t)half * sizeof(float);
        memcpy(cosine + (size_t)row * (size_t)half, rope->cosine + at, bytes);
        memcpy(sine + (size_t)row * (size_t)half, rope->sine + at, bytes);
    }

    for (int l = 0; l < c->layers; l++) {
        const gemma_layer *layer = &layers[l];
        bool last = l == c->layers - 1;
        operand *keys = operand_at(ops, cache->keys, (size_t)l * layer_size);
        operand *values = operand_at(ops, cache->values, (size_t)l * layer_size);

        ops_range_begin(ops, PI0_TRACE_LAYER, "layer", l);
        ops_rms_norm(ops, b->h, x, layer->input_layernorm.weight, NULL, rows, c->width);
        ops_linear_many(ops, (float *const[]){b->k, b->v, b->q}, b->h,
                        (const weight *const[]){&layer->k_proj, &layer->v_proj, &layer->q_proj},
                        (const float *const[]){NULL, NULL, NULL}, last ? 2 : 3, rows);
        ops_rope(ops, keys, b->k, cosine, sine, rows, 1, c->head_dim);
        ops_to_operand(ops, values, b->v, (size_t)rows * (size_t)c->head_dim);
        if (last) {
            ops_range_end(ops);
            break;
        }

        ops_rope(ops, b->q_in, b->q, cosine, sine, rows, c->heads, c->head_dim);
        ops_attention(ops, b->attention, b->q_in, keys, values, &shape);
        ops_linear(ops, x, b->attention, &layer->o_proj, NULL, rows, true);

        ops_rms_norm(ops, b->h, x, layer->post_attention_layernorm.weight, NULL, rows, c->width);
        ops_linear_gated(ops, b->mlp, b->h, &layer->gate_proj, &layer->up_proj, rows);
        ops_linear(ops, x, b->mlp, &layer->down_proj, NULL, rows, true);
        ops_range_end(ops);
    }
}
