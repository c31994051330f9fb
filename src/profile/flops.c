#include "profile/flops.h"

int work_prefix_tokens(const model_config *c, const work_shape *s) {
    return s->cameras * c->vit.tokens + s->prompt_tokens;
}

int work_suffix_tokens(const model_config *c, const work_shape *s) {
    return s->horizon + (c->family == PI0_FAMILY_PI0 ? 1 : 0);
}

/* Weights of one Gemma layer: q and o, k and v of one head, gate, up and down. */
static double gemma_layer_weights(const gemma_config *g) {
    double q = (double)g->heads * g->head_dim;
    return 2 * g->width * q + 2.0 * g->width * g->head_dim + 3.0 * g->width * g->mlp;
}

/* q k^T and p v of one layer. */
static double attention_flops(double queries, double keys, double heads, double head_dim) {
    return 4 * queries * keys * heads * head_dim;
}

/* The rows of one step: the state token's keys and values stay the same, so that it need not be run again. */
static double step_rows(const model_config *c, const work_shape *s) {
    if (s->reference || c->family == PI0_FAMILY_PI05) return work_suffix_tokens(c, s);
    return s->horizon + 1.0 / s->steps;
}

static work vit_linear(const model_config *c, double images) {
    const vit_config *v = &c->vit;
    double weights = (4.0 * v->width * v->width + 2.0 * v->width * v->mlp) * v->layers;
    double biases = (5.0 * v->width + v->mlp) * v->layers;
    return (work){.flops = 2 * images * v->tokens * weights, .weights = weights + biases};
}

static work prefill_linear(const model_config *c, const work_shape *s) {
    const gemma_config *g = &c->language;
    double last = s->reference ? gemma_layer_weights(g) : 2.0 * g->width * g->head_dim;
    double weights = gemma_layer_weights(g) * (g->layers - 1) + last, rows = work_prefix_tokens(c, s);
    return (work){.flops = 2 * weights * rows * s->batch,
                  .weights = weights,
                  .cache = 2.0 * g->layers * g->head_dim * rows * s->batch};
}

static work heads(const model_config *c, const work_shape *s) {
    double d = c->expert.width, a = c->action_dim, rows = s->horizon;
    double flops = 2 * rows * (a * d + d * a), weights = 2 * a * d + d + a; /* action_in_proj, action_out_proj */
    if (c->family == PI0_FAMILY_PI0) {
        /* state_proj, action_time_mlp_in on action and time, action_time_mlp_out */
        weights += a * d + d + 2 * d * d + d + d * d + d;
        flops += s->reference ? 2 * (rows * 3 * d * d + a * d) : 2 * rows * 2 * d * d;
    } else if (s->reference) {
        /* time_mlp_in and _out, and the modulation of every norm, for one row: the time */
        double norms = 2.0 * c->expert.layers + 1;
        weights += 2 * (d * d + d) + norms * 3 * (d * d + d);
        flops += 2 * (2 * d * d + norms * 3 * d * d) / s->batch;
    }
    return (work){.flops = flops * s->batch, .weights = weights};
}

work work_of_part(const model_config *c, const work_shape *s, work_part part) {
    const vit_config *v = &c->vit;
    const gemma_config *language = &c->language, *expert = &c->expert;
    double images = (double)s->cameras * s->batch, prefix = work_prefix_tokens(c, s);
    double keys = prefix + work_suffix_tokens(c, s), patch = 3.0 * v->patch_size * v->patch_size;
    switch (part) {
    case WORK_PATCHES: /* bias and position table beside the convolution */
        return (work){.flops = 2 * images * v->tokens * patch * v->width,
                      .weights = (patch + 1 + v->tokens) * v->width};
    case WORK_VIT_LINEAR:
        return vit_linear(c, images);
    case WORK_VIT_ATTENTION:
        return (work){.flops = images * v->layers * attention_flops(v->tokens, v->tokens, v->heads, v->head_dim)};
    case WORK_PROJECTOR:
        return (work){.flops = 2 * images * v->tokens * v->width * language->width,
                      .weights = (v->width + 1.0) * language->width};
    case WORK_PREFILL_LINEAR:
        return prefill_linear(c, s);
    case WORK_PREFILL_ATTENTION:
        return (work){.flops = (language->layers - (s->reference ? 0 : 1)) * s->batch *
                               attention_flops(prefix, prefix, language->heads, language->head_dim)};
    case WORK_EXPERT_LINEAR: {
        double weights = gemma_layer_weights(expert) * expert->layers;
        return (work){.flops = 2 * weights * step_rows(c, s) * s->batch, .weights = weights};
    }
    case WORK_EXPERT_ATTENTION:
        return (work){.flops = s->batch * expert->layers *
                               attention_flops(step_rows(c, s), keys, expert->heads, expert->head_dim),
                      .cache = 2.0 * expert->layers * expert->head_dim * prefix * s->batch};
    case WORK_HEADS:
        return heads(c, s);
    case WORK_PART_COUNT:
        break;
    }
    return (work){0};
}

work work_of_stage(const model_config *c, const work_shape *s, int stage) {
    static const int stage_of[WORK_PART_COUNT] = {
        [WORK_PATCHES] = PI0_STAGE_VIT,
        [WORK_VIT_LINEAR] = PI0_STAGE_VIT,
        [WORK_VIT_ATTENTION] = PI0_STAGE_VIT,
        [WORK_PROJECTOR] = PI0_STAGE_VIT,
        [WORK_PREFILL_LINEAR] = PI0_STAGE_PREFILL,
        [WORK_PREFILL_ATTENTION] = PI0_STAGE_PREFILL,
        [WORK_EXPERT_LINEAR] = PI0_STAGE_DENOISE,
        [WORK_EXPERT_ATTENTION] = PI0_STAGE_DENOISE,
        [WORK_HEADS] = PI0_STAGE_DENOISE,
    };
    work total = {0};
    double times = stage == PI0_STAGE_DENOISE ? s->steps : 1;
    for (int part = 0; part < WORK_PART_COUNT; part++) {
        if (stage_of[part] != stage) continue;
        work one = work_of_part(c, s, (work_part)part);
        total.flops += one.flops * times;
        total.weights += one.weights * times;
        total.cache += one.cache * times;
    }
    return total;
}
