/*
 * The action expert (Gemma 300M) and the Euler integration of the flow from noise (t = 1) to actions (t = 0)
 * (openpi models_pytorch/pi0_pytorch.py: sample_actions, embed_suffix, denoise_step).
 *
 *     per step:  pi0:   tokens = action_time_mlp_out(silu(action_time_mlp_in([action_in_proj(x_t), e(t)])))
 *                pi0.5: tokens = action_in_proj(x_t), and every norm is modulated by e(t)
 *                18 layers over the cached prefix, [state token,] and the H action tokens, which all see each other
 *                x_t += dt * action_out_proj(norm(tokens))
 *
 * What does not change over the steps is computed once: the time vectors when the session opens; pi0's state token,
 * which sees the prefix and itself but no action, once an inference: its keys and values join the cache.
 */
#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "model/stages.h"

static float weight_element(const weight *w, size_t index) {
    return w->dtype == DTYPE_BF16 ? bf16_to_float(((const bf16 *)w->data)[index]) : ((const float *)w->data)[index];
}

void denoise_split_time_mlp(const model_weights *weights, const time_mlp_halves *halves) {
    const weight *mlp = &weights->heads.action_time_mlp_in;
    if (!mlp->data) return;
    size_t width = (size_t)mlp->rows;
    for (size_t row = 0; row < width; row++)
        for (size_t column = 0; column < width; column++) {
            halves->action[row * width + column] = weight_element(mlp, row * 2 * width + column);
            halves->time[row * width + column] = weight_element(mlp, row * 2 * width + width + column);
        }
}

static weight half_weight(const float *data, int width) {
    return (weight){.data = data, .dtype = DTYPE_F32, .rows = width, .cols = width};
}

/* Step times: openpi adds dt in float32 over and over; lerobot computes 1 + k * dt in double. */
void denoise_fill_times(const denoise_schedule *schedule) {
    float t = 1.0f;
    for (int k = 0; k < schedule->steps; k++) {
        schedule->time[k] = schedule->lerobot_time ? (float)(1.0 + k * (-1.0 / schedule->steps)) : t;
        t = t + schedule->dt;
    }
}

/* Sine-cosine embedding of t: periods 0.004 .. 4.0 in geometric steps, in float64 as the reference does. */
void denoise_time_embedding(float *e, float t, int width) {
    int half = width / 2;
    for (int j = 0; j < half; j++) {
        double fraction = half > 1 ? (double)j / (half - 1) : 0.0;
        double period = 0.004 * pow(1000.0, fraction);
        double angle = 1.0 / period * 2.0 * 3.14159265358979323846 * (double)t;
        e[j] = (float)sin(angle);
        e[half + j] = (float)cos(angle);
    }
}

static void modulate(ops *ops, float *modulation, const float *condition, const gemma_norm *norm, int steps) {
    ops_linear_f32(ops, modulation, condition, &norm->dense, norm->dense_bias, steps, false);
}

void denoise_fill_schedule(ops *ops, const model_weights *weights, const time_mlp_halves *halves,
                           const denoise_schedule *schedule, float *scratch) {
    const head_weights *heads = &weights->heads;
    int width = weights->config.expert.width, steps = schedule->steps, layers = weights->config.expert.layers;
    size_t size = (size_t)steps * (size_t)width;
    float *e = scratch, *hidden = scratch + size, *condition = scratch + 2 * size;

    denoise_fill_times(schedule);
    for (int k = 0; k < steps; k++) denoise_time_embedding(e + (size_t)k * (size_t)width, schedule->time[k], width);

    if (weights->config.family == PI0_FAMILY_PI0) {
        weight time_half = half_weight(halves->time, width);
        ops_linear_f32(ops, schedule->time_bias, e, &time_half, heads->action_time_mlp_in_bias, steps, false);
        return;
    }
    ops_linear_f32(ops, hidden, e, &heads->time_mlp_in, heads->time_mlp_in_bias, steps, false);
    ops_silu(ops, hidden, size);
    ops_linear_f32(ops, condition, hidden, &heads->time_mlp_out, heads->time_mlp_out_bias, steps, false);
    ops_silu(ops, condition, size);
    for (int l = 0; l < layers; l++) {
        float *modulation = schedule->modulation + (size_t)(2 * l) * 3 * size;
        modulate(ops, modulation, condition, &weights->expert_layers[l].input_layernorm, steps);
        modulate(ops, modulation + 3 * size, condition, &weights->expert_layers[l].post_attention_layernorm, steps);
    }
    modulate(ops, schedule->modulation + (size_t)(2 * layers) * 3 * size, condition, &weights->expert_norm, steps);
}

/* One norm at one step: plain RMSNorm has a scale alone, adaRMS scale, shift and the gate of the sublayer's residual.
 */
typedef struct norm_vectors {
    const float *scale, *shift, *gate;
} norm_vectors;

static norm_vectors norm_at(const gemma_norm *norm, const denoise_schedule *schedule, int index, int step, int width) {
    if (norm->weight) return (norm_vectors){.scale = norm->weight};
    const float *m =
        schedule->modulation + ((size_t)index * (size_t)schedule->steps + (size_t)step) * 3 * (size_t)width;
    return (norm_vectors){.scale = m, .shift = m + width, .gate = m + 2 * (size_t)width};
}

/* x += product, or x += product * gate */
static void add_product(ops *ops, float *x, const operand *in, const weight *w, const float *gate, float *y, int rows) {
    if (!gate) {
        ops_linear(ops, x, in, w, NULL, rows, true);
        return;
    }
    ops_linear(ops, y, in, w, NULL, rows, false);
    ops_add_gated(ops, x, y, gate, rows, w->rows);
}

/*
 * All expert layers over `tokens` tokens of each observation (1: the state token, H: the actions), which go into the
 * cache behind `first` suffix rows and attend to everything up to themselves. Leaves the residual stream in b->x.
 */
static void expert_forward(ops *ops, const model_weights *weights, const denoise_schedule *schedule, int step,
                           const denoise_buffers *b, const denoise_problem *problem, int tokens, int first) {
    const gemma_config *c = &weights->config.expert;
    const gemma_buffers *g = &b->gemma;
    int rows = problem->batch * tokens, query_width = c->heads * c->head_dim;

    for (int l = 0; l < c->layers; l++) {
        const gemma_layer *layer = &weights->expert_layers[l];
        norm_vectors norm1 = norm_at(&layer->input_layernorm, schedule, 2 * l, step, c->width);
        norm_vectors norm2 = norm_at(&layer->post_attention_layernorm, schedule, 2 * l + 1, step, c->width);

        ops_range_begin(ops, PI0_TRACE_LAYER, "layer", l);
        ops_rms_norm(ops, g->h, b->x, norm1.scale, norm1.shift, rows, c->width);
        ops_linear_many(ops, (float *const[]){g->q, g->k, g->v}, g->h,
                        (const weight *const[]){&layer->q_proj, &layer->k_proj, &layer->v_proj},
                        (const float *const[]){NULL, NULL, NULL}, 3, rows);
        ops_rope(ops, g->q_in, g->q, b->cosine, b->sine, rows, c->heads, c->head_dim);
        for (int n = 0; n < problem->batch; n++) {
            const kv_cache *cache = &problem->caches[n];
            size_t layer_at = (size_t)l * (size_t)cache->capacity * (size_t)c->head_dim;
            size_t row_at = layer_at + (size_t)(cache->prefix + first) * (size_t)c->head_dim;
            size_t row = (size_t)n * (size_t)tokens, kv = row * (size_t)c->head_dim, half = kv / 2;
            operand *keys = operand_at(ops, cache->keys, layer_at), *values = operand_at(ops, cache->values, layer_at);

            ops_rope(ops, operand_at(ops, cache->keys, row_at), g->k + kv, b->cosine + half, b->sine + half, tokens, 1,
                     c->head_dim);
            ops_to_operand(ops, operand_at(ops, cache->values, row_at), g->v + kv,
                           (size_t)tokens * (size_t)c->head_dim);
            attention_shape shape = {.queries = tokens,
                                     .keys = cache->prefix + first + tokens,
                                     .heads = c->heads,
                                     .kv_heads = 1,
                                     .head_dim = c->head_dim,
                                     .scale = 1.0f / sqrtf((float)c->head_dim),
                                     .key_mask = cache->key_mask};
            if (cache->panels) {
                /* the first pass of an inference packs the prefix, which all later ones find packed */
                bool first_pass = step == 0 && first == 0;
                shape.panels = cache->panels + (size_t)l * cache->panels_floats;
                shape.capacity = cache->capacity;
                shape.packed = first_pass ? 0 : cache->prefix + first;
            }
            size_t query = row * (size_t)query_width;
            ops_attention(ops, operand_at(ops, g->attention, query), operand_at(ops, g->q_in, query), keys, values,
                          &shape);
        }
        add_product(ops, b->x, g->attention, &layer->o_proj, norm1.gate, g->y, rows);

        ops_rms_norm(ops, g->h, b->x, norm2.scale, norm2.shift, rows, c->width);
        ops_linear_gated(ops, g->mlp, g->h, &layer->gate_proj, &layer->up_proj, rows);
        add_product(ops, b->x, g->mlp, &layer->down_proj, norm2.gate, g->y, rows);
        ops_range_end(ops);
    }
}

/* Rows of the RoPE table for `tokens` suffix tokens of each observation, from suffix index `first` on. */
static void gather_positions(const rope_table *rope, const denoise_buffers *b, const denoise_problem *problem,
                             int tokens, int first, int head_dim) {
    size_t half = (size_t)head_dim / 2, count = (size_t)tokens * half;
    for (int n = 0; n < problem->batch; n++) {
        size_t at = (size_t)(problem->caches[n].next_position + first) * half;
        memcpy(b->cosine + (size_t)n * count, rope->cosine + at, count * sizeof(float));
        memcpy(b->sine + (size_t)n * count, rope->sine + at, count * sizeof(float));
    }
}

/* Suffix tokens of step `step` from x_t into b->x. */
static void embed_actions(ops *ops, const model_weights *weights, const time_mlp_halves *halves,
                          const denoise_schedule *schedule, int step, const denoise_buffers *b, const float *actions,
                          int rows) {
    const head_weights *heads = &weights->heads;
    int width = weights->config.expert.width;
    if (weights->config.family == PI0_FAMILY_PI05) {
        ops_linear_f32(ops, b->x, actions, &heads->action_in_proj, heads->action_in_bias, rows, false);
        return;
    }
    weight action_half = half_weight(halves->action, width);
    ops_linear_f32(ops, b->a, actions, &heads->action_in_proj, heads->action_in_bias, rows, false);
    ops_linear_f32(ops, b->u, b->a, &action_half, schedule->time_bias + (size_t)step * (size_t)width, rows, false);
    ops_silu(ops, b->u, (size_t)rows * (size_t)width);
    ops_linear_f32(ops, b->x, b->u, &heads->action_time_mlp_out, heads->action_time_mlp_out_bias, rows, false);
}

void denoise_forward(ops *ops, const model_weights *weights, const time_mlp_halves *halves,
                     const denoise_schedule *schedule, const rope_table *rope, const denoise_buffers *b,
                     const denoise_problem *problem) {
    const model_config *config = &weights->config;
    const head_weights *heads = &weights->heads;
    int rows = problem->batch * problem->horizon, first = 0;
    size_t size = (size_t)rows * (size_t)config->action_dim;

    if (config->family == PI0_FAMILY_PI0) {
        ops_range_begin(ops, PI0_TRACE_OP, "state token", -1);
        for (int n = 0; n < problem->batch; n++)
            ops_linear_f32(ops, b->x + (size_t)n * (size_t)config->expert.width, problem->state[n], &heads->state_proj,
                           heads->state_bias, 1, false);
        gather_positions(rope, b, problem, 1, 0, config->expert.head_dim);
        expert_forward(ops, weights, schedule, 0, b, problem, 1, 0);
        ops_range_end(ops);
        first = 1;
    }

    gather_positions(rope, b, problem, problem->horizon, first, config->expert.head_dim);
    for (int step = 0; step < schedule->steps; step++) {
        if (problem->record_x) memcpy(problem->record_x + (size_t)step * size, problem->actions, size * sizeof(float));

        ops_range_begin(ops, PI0_TRACE_STEP, "step", step);
        embed_actions(ops, weights, halves, schedule, step, b, problem->actions, rows);
        expert_forward(ops, weights, schedule, step, b, problem, problem->horizon, first);
        norm_vectors norm =
            norm_at(&weights->expert_norm, schedule, 2 * config->expert.layers, step, config->expert.width);
        ops_rms_norm_f32(ops, b->a, b->x, norm.scale, norm.shift, rows, config->expert.width);
        ops_linear_f32(ops, b->velocity, b->a, &heads->action_out_proj, heads->action_out_bias, rows, false);

        if (problem->record_v) memcpy(problem->record_v + (size_t)step * size, b->velocity, size * sizeof(float));
        ops_euler(ops, problem->actions, b->velocity, schedule->dt, size);
        ops_range_end(ops);
    }
}
