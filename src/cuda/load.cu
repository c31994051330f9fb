/*
 * Weights from the checkpoint's tensors into the layout the kernels want, once. Mapped tensors go through two pinned
 * buffers (filled by several threads) and are read over the bus by the packing kernel; synthetic ones are generated in
 * place on the GPU, the same bits.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "elementwise.h"
#include "engine.h"
extern "C" {
#include "base/memory.h"
}

#define VISION   "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define LANGUAGE "paligemma_with_expert.paligemma.model.language_model."
#define EXPERT   "paligemma_with_expert.gemma_expert.model."

enum { PINNED = 2, COPY_THREADS = 6 };
static const size_t PINNED_BYTES = (size_t)48 << 20;

extern "C" void *device_take(device_arena *arena, size_t count, size_t size) {
    const size_t at = arena->used;
    arena->used += (count * size + 255) / 256 * 256;
    return arena->base ? arena->base + at : NULL;
}

static __nv_bfloat16 *take_bf16(device_arena *a, size_t count) {
    return (__nv_bfloat16 *)device_take(a, count, sizeof(__nv_bfloat16));
}
static float *take_f32(device_arena *a, size_t count) { return (float *)device_take(a, count, sizeof(float)); }

static void take_gemma(device_arena *a, cuda_gemma_layer *l, const gemma_config *c, bool adaptive, bool keys_only) {
    const size_t d = c->width, q = (size_t)c->heads * c->head_dim, f = c->mlp;
    l->qkv = take_bf16(a, (q + 2 * c->head_dim) * d);
    if (!keys_only) {
        l->o = take_bf16(a, d * q);
        l->gate_up = take_bf16(a, 2 * f * d);
        l->down = take_bf16(a, d * f);
    }
    if (adaptive) {
        l->modulation1 = take_bf16(a, 3 * d * d);
        l->modulation2 = take_bf16(a, 3 * d * d);
        l->modulation_bias1 = take_f32(a, 3 * d);
        l->modulation_bias2 = take_f32(a, 3 * d);
    } else {
        l->gain1 = take_f32(a, d);
        l->gain2 = take_f32(a, d);
    }
}

static void take_weights(device_arena *a, cuda_weights *w, const model_config *c, int head_padded) {
    const size_t vw = c->vit.width, vm = c->vit.mlp, vq = (size_t)c->vit.heads * head_padded, d = c->expert.width;
    const size_t actions = c->action_dim;
    w->patch = take_bf16(a, vw * 2 * PATCH_K);
    w->patch_bias = take_f32(a, vw);
    w->positions = take_f32(a, (size_t)c->vit.tokens * vw);
    for (int i = 0; i < c->vit.layers; i++) {
        cuda_vit_layer *l = &w->vit[i];
        l->qkv = take_bf16(a, 3 * vq * vw);
        l->out = take_bf16(a, vw * vq);
        l->fc1 = take_bf16(a, vm * vw);
        l->fc2 = take_bf16(a, vw * vm);
        l->qkv_bias = take_f32(a, 3 * vq);
        l->qkv_center = take_f32(a, 3 * vq);
        l->fc1_bias = take_f32(a, vm);
        l->fc1_center = take_f32(a, vm);
        l->out_bias = take_f32(a, vw);
        l->fc2_bias = take_f32(a, vw);
        l->gain1 = take_f32(a, vw);
        l->beta1 = take_f32(a, vw);
        l->gain2 = take_f32(a, vw);
        l->beta2 = take_f32(a, vw);
    }
    w->post_gain = take_f32(a, vw);
    w->post_beta = take_f32(a, vw);
    w->projector = take_bf16(a, (size_t)c->language.width * vw);
    w->projector_bias = take_f32(a, c->language.width);
    w->projector_center = take_f32(a, c->language.width);
    w->embedding = take_bf16(a, (size_t)c->vocabulary * c->language.width);
    const bool adaptive = c->family == PI0_FAMILY_PI05;
    for (int i = 0; i < c->language.layers; i++)
        take_gemma(a, &w->language[i], &c->language, false, i == c->language.layers - 1);
    for (int i = 0; i < c->expert.layers; i++) take_gemma(a, &w->expert[i], &c->expert, adaptive, false);
    if (adaptive) {
        w->final_modulation = take_bf16(a, 3 * d * d);
        w->final_modulation_bias = take_f32(a, 3 * d);
    } else {
        w->final_gain = take_f32(a, d);
    }
    w->action_in = take_bf16(a, d * actions);
    w->action_in_bias = take_f32(a, d);
    w->action_out = take_bf16(a, d * actions);
    w->action_out_bias = take_f32(a, actions);
    w->time_in = take_bf16(a, (adaptive ? 1 : 2) * d * d);
    w->time_in_bias = take_f32(a, d);
    w->time_out = take_bf16(a, d * d);
    w->time_out_bias = take_f32(a, d);
    if (adaptive) {
        w->action_in_f32 = take_f32(a, d * actions);
    } else {
        w->state_proj = take_bf16(a, d * actions);
        w->state_bias = take_f32(a, d);
        w->action_fold = take_f32(a, d * actions);
        w->action_fold_bias = take_f32(a, d);
    }
}

/* ---- one tensor ---- */

typedef struct loader {
    const struct checkpoint *checkpoint;
    const backend_engine_options *options;
    cudaStream_t stream;
    unsigned char *pinned[PINNED];
    cudaEvent_t free[PINNED];
    int next;
    unsigned *changed;
    double done, all;
    pi0_error *error;
    pi0_status status; /* of the first failure; later calls do nothing */
} loader;

typedef struct copy_piece {
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
} copy_piece;

static void *copy_thread(void *argument) {
    const copy_piece *piece = (const copy_piece *)argument;
    memcpy(piece->to, piece->from, piece->bytes);
    return NULL;
}

/* memcpy by several threads: one does not keep up with the bus. */
static void copy_wide(unsigned char *to, const void *from, size_t bytes) {
    pthread_t threads[COPY_THREADS];
    copy_piece pieces[COPY_THREADS];
    bool running[COPY_THREADS] = {false};
    const int count = bytes < ((size_t)1 << 20) ? 1 : COPY_THREADS;
    const size_t share = (bytes / count + 63) / 64 * 64;
    for (int i = 0; i < count; i++) {
        const size_t at = share * i < bytes ? share * i : bytes, end = at + share < bytes ? at + share : bytes;
        pieces[i] = {to + at, (const unsigned char *)from + at, end - at};
        if (i + 1 < count) running[i] = pthread_create(&threads[i], NULL, copy_thread, &pieces[i]) == 0;
        if (!running[i]) copy_thread(&pieces[i]);
    }
    for (int i = 0; i < count; i++)
        if (running[i]) pthread_join(threads[i], NULL);
}

static void fail(loader *l, pi0_status status) {
    if (l->status == PI0_OK) l->status = status;
}
static void check(loader *l, cudaError_t status, const char *what) {
    if (status != cudaSuccess && l->status == PI0_OK) l->status = cuda_error(l->error, status, what);
}

/* Packs tensor `name` as `shape` says; out, stride and layout fields of *p are set by the caller. */
static void pack(loader *l, const char *name, pack_problem p) {
    if (l->status != PI0_OK) return;
    const tensor *t = checkpoint_find(l->checkpoint, name);
    if (!t) {
        fail(l, error_set(l->error, PI0_ERROR_FORMAT, "tensor %s is missing", name));
        return;
    }
    const int64_t elements = tensor_elements(t);
    const int64_t rows = p.rows ? p.rows : t->rank > 1 ? t->shape[0] : 1, cols = elements / rows;
    p.rows = rows;
    p.cols = cols;
    p.changed = p.out_f32 ? NULL : l->changed;
    if (!t->data) {
        p.source = NULL;
        p.key = t->key;
        p.amplitude = t->amplitude;
        p.base = t->base;
        check(l, pack_launch(&p, l->stream), name);
    } else {
        if (t->dtype != DTYPE_BF16 && t->dtype != DTYPE_F16 && t->dtype != DTYPE_F32) {
            fail(l, error_set(l->error, PI0_ERROR_FORMAT, "tensor %s has dtype %s, expected BF16, F16 or F32", name,
                              tensor_dtype_name(t->dtype)));
            return;
        }
        p.dtype = t->dtype;
        const size_t row_bytes = (size_t)cols * tensor_dtype_size(t->dtype);
        const int64_t most = row_bytes > PINNED_BYTES ? 0 : (int64_t)(PINNED_BYTES / row_bytes);
        if (!most) {
            fail(l, error_set(l->error, PI0_ERROR_UNSUPPORTED, "tensor %s has rows of %zu bytes", name, row_bytes));
            return;
        }
        for (int64_t row = 0; row < rows && l->status == PI0_OK; row += most) {
            const int slot = l->next++ % PINNED;
            check(l, cudaEventSynchronize(l->free[slot]), name);
            p.rows = rows - row < most ? rows - row : most;
            p.first_row = row;
            copy_wide(l->pinned[slot], (const unsigned char *)t->data + (size_t)row * row_bytes,
                      (size_t)p.rows * row_bytes);
            p.source = l->pinned[slot];
            check(l, pack_launch(&p, l->stream), name);
            check(l, cudaEventRecord(l->free[slot], l->stream), name);
        }
    }
    l->done += (double)elements;
    const pi0_engine_options *o = l->options->options;
    if (o->progress && l->status == PI0_OK && o->progress(o->progress_user, "loading weights", l->done / l->all))
        fail(l, error_set(l->error, PI0_ERROR_CANCELLED, "loading was cancelled"));
}

static void pack_matrix(loader *l, const char *prefix, const char *name, __nv_bfloat16 *out, int64_t stride,
                        pack_rows mode, int head_dim, int padded, int row_offset) {
    char full[512];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    pack_problem p = {};
    p.out = out;
    p.out_stride = stride;
    p.mode = mode;
    p.head_dim = head_dim;
    p.padded = padded;
    p.row_offset = row_offset;
    pack(l, full, p);
}

static void pack_vector(loader *l, const char *prefix, const char *name, float *out, float add) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    pack_problem p = {};
    p.rows = 1;
    p.out = out;
    p.out_f32 = true;
    p.add = add;
    pack(l, full, p);
}

/* A bias whose rows go where PACK_HEADS puts them. */
static void pack_head_bias(loader *l, const char *prefix, const char *name, float *out, int rows, int head_dim,
                           int padded, int offset) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    pack_problem p = {};
    p.rows = rows;
    p.out = out;
    p.out_stride = 1;
    p.out_f32 = true;
    p.mode = PACK_HEADS;
    p.head_dim = head_dim;
    p.padded = padded;
    p.row_offset = offset;
    pack(l, full, p);
}

static void load_vit(loader *l, cuda_weights *w, const vit_config *c, int padded) {
    char prefix[200], full[256];
    const int width = c->width, inner = c->heads * padded;
    for (int half = 0; half < 2; half++) {
        pack_problem p = {};
        p.rows = width;
        p.out = w->patch;
        p.out_stride = 2 * PATCH_K;
        p.column_offset = half * PATCH_K;
        pack(l, VISION "embeddings.patch_embedding.weight", p);
    }
    pack_vector(l, VISION, "embeddings.patch_embedding.bias", w->patch_bias, 0);
    pack_vector(l, VISION, "embeddings.position_embedding.weight", w->positions, 0);
    for (int i = 0; i < c->layers; i++) {
        cuda_vit_layer *v = &w->vit[i];
        snprintf(prefix, sizeof prefix, VISION "encoder.layers.%d.", i);
        const char *names[3] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
        for (int n = 0; n < 3; n++) {
            pack_matrix(l, prefix, names[n], v->qkv, width, PACK_HEADS, c->head_dim, padded, n * inner);
            snprintf(full, sizeof full, "%s.bias", names[n]);
            pack_head_bias(l, prefix, full, v->qkv_bias, width, c->head_dim, padded, n * inner);
        }
        pack_problem p = {};
        p.out = v->out;
        p.out_stride = inner;
        p.column_head_dim = c->head_dim;
        p.column_padded = padded;
        snprintf(full, sizeof full, "%sself_attn.out_proj.weight", prefix);
        pack(l, full, p);
        pack_vector(l, prefix, "self_attn.out_proj.bias", v->out_bias, 0);
        pack_vector(l, prefix, "layer_norm1.weight", v->gain1, 0);
        pack_vector(l, prefix, "layer_norm1.bias", v->beta1, 0);
        pack_vector(l, prefix, "layer_norm2.weight", v->gain2, 0);
        pack_vector(l, prefix, "layer_norm2.bias", v->beta2, 0);
        pack_matrix(l, prefix, "mlp.fc1", v->fc1, width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, prefix, "mlp.fc1.bias", v->fc1_bias, 0);
        pack_matrix(l, prefix, "mlp.fc2", v->fc2, c->mlp, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, prefix, "mlp.fc2.bias", v->fc2_bias, 0);
    }
    pack_vector(l, VISION, "post_layernorm.weight", w->post_gain, 0);
    pack_vector(l, VISION, "post_layernorm.bias", w->post_beta, 0);
}

static void load_gemma(loader *l, cuda_gemma_layer *layers, const gemma_config *c, const char *model, bool adaptive,
                       bool prefix_only) {
    char prefix[200];
    const int width = c->width, queries = c->heads * c->head_dim;
    for (int i = 0; i < c->layers; i++) {
        cuda_gemma_layer *g = &layers[i];
        snprintf(prefix, sizeof prefix, "%slayers.%d.", model, i);
        const bool keys_only = prefix_only && i == c->layers - 1;
        if (!keys_only) pack_matrix(l, prefix, "self_attn.q_proj", g->qkv, width, PACK_ROPE, c->head_dim, 0, 0);
        pack_matrix(l, prefix, "self_attn.k_proj", g->qkv, width, PACK_ROPE, c->head_dim, 0, queries);
        pack_matrix(l, prefix, "self_attn.v_proj", g->qkv, width, PACK_ROPE, c->head_dim, 0, queries + c->head_dim);
        if (!keys_only) {
            pack_matrix(l, prefix, "self_attn.o_proj", g->o, queries, PACK_PLAIN, 0, 0, 0);
            pack_matrix(l, prefix, "mlp.gate_proj", g->gate_up, width, PACK_INTERLEAVE, 0, 0, 0);
            pack_matrix(l, prefix, "mlp.up_proj", g->gate_up, width, PACK_INTERLEAVE, 0, 0, 8);
            pack_matrix(l, prefix, "mlp.down_proj", g->down, c->mlp, PACK_PLAIN, 0, 0, 0);
        }
        if (adaptive) {
            pack_matrix(l, prefix, "input_layernorm.dense", g->modulation1, width, PACK_PLAIN, 0, 0, 0);
            pack_vector(l, prefix, "input_layernorm.dense.bias", g->modulation_bias1, 0);
            pack_matrix(l, prefix, "post_attention_layernorm.dense", g->modulation2, width, PACK_PLAIN, 0, 0, 0);
            pack_vector(l, prefix, "post_attention_layernorm.dense.bias", g->modulation_bias2, 0);
        } else {
            pack_vector(l, prefix, "input_layernorm.weight", g->gain1, 1.0f);
            if (!keys_only) pack_vector(l, prefix, "post_attention_layernorm.weight", g->gain2, 1.0f);
        }
    }
}

static void load_heads(loader *l, cuda_weights *w, const model_config *c) {
    const int width = c->expert.width, actions = c->action_dim;
    pack_matrix(l, "", "action_in_proj", w->action_in, actions, PACK_PLAIN, 0, 0, 0);
    pack_vector(l, "", "action_in_proj.bias", w->action_in_bias, 0);
    pack_matrix(l, "", "action_out_proj", w->action_out, width, PACK_PLAIN, 0, 0, 0);
    pack_vector(l, "", "action_out_proj.bias", w->action_out_bias, 0);
    if (c->family == PI0_FAMILY_PI05) {
        pack_matrix(l, EXPERT, "norm.dense", w->final_modulation, width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, EXPERT, "norm.dense.bias", w->final_modulation_bias, 0);
        pack_matrix(l, "", "time_mlp_in", w->time_in, width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, "", "time_mlp_in.bias", w->time_in_bias, 0);
        pack_matrix(l, "", "time_mlp_out", w->time_out, width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, "", "time_mlp_out.bias", w->time_out_bias, 0);
        pack_problem p = {};
        p.rows = width;
        p.out = w->action_in_f32;
        p.out_stride = actions;
        p.out_f32 = true;
        pack(l, "action_in_proj.weight", p);
    } else {
        pack_vector(l, EXPERT, "norm.weight", w->final_gain, 1.0f);
        pack_matrix(l, "", "state_proj", w->state_proj, actions, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, "", "state_proj.bias", w->state_bias, 0);
        pack_matrix(l, "", "action_time_mlp_in", w->time_in, 2 * width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, "", "action_time_mlp_in.bias", w->time_in_bias, 0);
        pack_matrix(l, "", "action_time_mlp_out", w->time_out, width, PACK_PLAIN, 0, 0, 0);
        pack_vector(l, "", "action_time_mlp_out.bias", w->time_out_bias, 0);
    }
}

/* What follows from the weights alone. */
static void derive(loader *l, cuda_weights *w, const model_config *c, int padded) {
    if (l->status != PI0_OK) return;
    const int width = c->vit.width, inner = c->vit.heads * padded, d = c->expert.width;
    const int values = 3 * c->vit.patch_size * c->vit.patch_size;
    check(l, fold_patch_bias(w->patch, 2 * PATCH_K, width, values, w->patch_bias, l->stream), "patch bias");
    for (int i = 0; i < c->vit.layers; i++) {
        cuda_vit_layer *v = &w->vit[i];
        check(
            l,
            fold_layer_norm(v->qkv, width, 3 * inner, width, v->gain1, v->beta1, v->qkv_bias, v->qkv_center, l->stream),
            "LayerNorm");
        check(l,
              fold_layer_norm(v->fc1, width, c->vit.mlp, width, v->gain2, v->beta2, v->fc1_bias, v->fc1_center,
                              l->stream),
              "LayerNorm");
    }
    check(l,
          fold_layer_norm(w->projector, width, c->language.width, width, w->post_gain, w->post_beta, w->projector_bias,
                          w->projector_center, l->stream),
          "LayerNorm");
    if (c->family == PI0_FAMILY_PI0) {
        check(l, fold_action(w->time_in, 2 * d, w->action_in, w->action_fold, d, c->action_dim, l->stream),
              "action_in_proj");
        linear_problem p = {};
        p.x = w->action_in_bias;
        p.weights = w->time_in;
        p.weights_stride = 2 * d;
        p.bias = w->time_in_bias;
        p.y = w->action_fold_bias;
        p.m = 1;
        p.n = d;
        p.k = d;
        check(l, linear_launch(&p, l->stream), "action_in_proj's bias");
    }
}

static pi0_status check_memory(const backend_engine *engine, size_t bytes, pi0_error *error) {
    size_t available = 0, all = 0;
    CUDA_TRY(cudaMemGetInfo(&available, &all));
    if (bytes + ((size_t)64 << 20) > available)
        return error_set(error, PI0_ERROR_MEMORY, "device %d (%s): the weights need %zu MB, %zu of %zu MB are free",
                         engine->device, engine->name, bytes >> 20, available >> 20, all >> 20);
    return PI0_OK;
}

static pi0_status open_loader(loader *l, pi0_error *error) {
    CUDA_TRY(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaMalloc((void **)&l->changed, sizeof *l->changed));
    CUDA_TRY(cudaMemsetAsync(l->changed, 0, sizeof *l->changed, l->stream));
    if (checkpoint_get_layout(l->checkpoint) == LAYOUT_SYNTHETIC) return PI0_OK;
    for (int i = 0; i < PINNED; i++) {
        CUDA_TRY(cudaHostAlloc((void **)&l->pinned[i], PINNED_BYTES, cudaHostAllocDefault));
        CUDA_TRY(cudaEventCreateWithFlags(&l->free[i], cudaEventDisableTiming));
    }
    return PI0_OK;
}

static void close_loader(loader *l) {
    for (int i = 0; i < PINNED; i++) {
        if (l->free[i]) cudaEventDestroy(l->free[i]);
        if (l->pinned[i]) cudaFreeHost(l->pinned[i]);
    }
    if (l->changed) cudaFree(l->changed);
    if (l->stream) cudaStreamDestroy(l->stream);
}

static pi0_status load_all(backend_engine *engine, loader *l, pi0_error *error) {
    const model_config *c = &engine->config;
    cuda_weights *w = &engine->weights;
    TRY(open_loader(l, error));
    /* padding of heads and patches must be zero */
    CUDA_TRY(cudaMemsetAsync(engine->memory, 0, engine->bytes, l->stream));
    load_vit(l, w, &c->vit, engine->head_padded);
    pack_matrix(l, "paligemma_with_expert.paligemma.model.", "multi_modal_projector.linear", w->projector, c->vit.width,
                PACK_PLAIN, 0, 0, 0);
    pack_vector(l, "paligemma_with_expert.paligemma.model.", "multi_modal_projector.linear.bias", w->projector_bias, 0);
    pack_problem embedding = {};
    embedding.out = w->embedding;
    embedding.out_stride = c->language.width;
    pack(l, CHECKPOINT_EMBEDDING, embedding);
    load_gemma(l, w->language, &c->language, LANGUAGE, false, true);
    load_gemma(l, w->expert, &c->expert, EXPERT, c->family == PI0_FAMILY_PI05, false);
    load_heads(l, w, c);
    derive(l, w, c, engine->head_padded);
    if (l->status != PI0_OK) {
        cudaStreamSynchronize(l->stream);
        return l->status;
    }
    unsigned changed = 0;
    CUDA_TRY(cudaMemcpyAsync(&changed, l->changed, sizeof changed, cudaMemcpyDeviceToHost, l->stream));
    CUDA_TRY(cudaStreamSynchronize(l->stream));
    if (changed)
        log_message(&l->options->log, PI0_LOG_WARNING, "%u weights are no bf16 numbers and were rounded", changed);
    return PI0_OK;
}

extern "C" pi0_status engine_load(backend_engine *engine, const backend_engine_options *options, pi0_error *error) {
    const model_config *c = &engine->config;
    device_arena measure = {};
    take_weights(&measure, &engine->weights, c, engine->head_padded);
    engine->bytes = measure.used;
    TRY(check_memory(engine, measure.used, error));
    CUDA_TRY(cudaMalloc(&engine->memory, measure.used));
    device_arena place = {(unsigned char *)engine->memory, 0};
    take_weights(&place, &engine->weights, c, engine->head_padded);

    loader l = {};
    l.checkpoint = options->checkpoint;
    l.options = options;
    l.error = error;
    l.all = (double)checkpoint_parameters(options->checkpoint);
    const pi0_status status = load_all(engine, &l, error);
    close_loader(&l);
    return status;
}
