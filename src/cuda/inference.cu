/*
 * One inference as a list of launches: what src/model says, with what src/cuda has. The same list is captured into a
 * graph or launched directly, so both give the same bits.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_plain.h"
#include "gemm_cublaslt.h"
#include "session.h"
extern "C" {
#include "base/memory.h"
#include "model/stages.h"
}

typedef struct sequence {
    backend_session *s;
    const graph_key *key;
    int stage;
    bool profile, chained; /* chained: the last thing in the stream was a kernel, so the next may overlap it */
    cudaError_t status;
    int step, layer;  /* for traces; -1: none */
    launch_note note; /* what the next launch is */
    int nodes;        /* of the graph before it */
} sequence;

/* For traces: what the next launch does. */
static void describe(sequence *q, const char *name, double rows, double k, double n, double flops, double bytes) {
    q->note.name = name;
    q->note.rows = rows;
    q->note.k = k;
    q->note.n = n;
    q->note.flops = flops;
    q->note.bytes = bytes;
}

static void describe_product(sequence *q, const char *name, double rows, double k, double n) {
    describe(q, name, rows, k, n, 2 * rows * k * n, 2 * (n * k + rows * k + rows * n));
}

static void note_launch(sequence *q) {
    backend_session *s = q->s;
    if (!s->trace) return;
    if (s->note_count == s->note_capacity) {
        q->status = cudaErrorMemoryAllocation;
        return;
    }
    q->note.stage = q->stage;
    q->note.step = q->step;
    q->note.layer = q->layer;
    q->nodes = device_trace_nodes(s->stream);
    if (!q->nodes) device_trace_launch(s->trace, s->note_count);
}

static void note_launched(sequence *q) {
    backend_session *s = q->s;
    if (!s->trace || s->note_count == s->note_capacity) return;
    if (q->nodes)
        q->note.records = device_trace_nodes(s->stream) - q->nodes;
    else
        device_trace_launched(s->trace);
    s->notes[s->note_count++] = q->note;
    memset(&q->note, 0, sizeof q->note);
    q->note.name = "kernel";
}

static void mark(sequence *q, int op) {
    backend_session *s = q->s;
    if (!q->profile || q->status != cudaSuccess || s->marks_used == s->marks_capacity) return;
    s->mark_stage[s->marks_used] = q->stage;
    s->mark_op[s->marks_used] = op;
    q->status = cudaEventRecord(s->marks[s->marks_used++], s->stream);
}

/* `call` is a launch with `dependent` in its place. */
#define LAUNCH(q, op, call)                                                                                            \
    do {                                                                                                               \
        if ((q)->status == cudaSuccess) {                                                                              \
            const bool dependent = (q)->chained && !(q)->profile && (q)->s->engine->overlap;                           \
            (void)dependent;                                                                                           \
            note_launch(q);                                                                                            \
            if ((q)->status == cudaSuccess) (q)->status = (call);                                                      \
            note_launched(q);                                                                                          \
            (q)->chained = true;                                                                                       \
            mark(q, op);                                                                                               \
        }                                                                                                              \
    } while (0)

/* What the kernel after this one will read: at most what L2 holds beside everything else. */
#define NEXT(problem, from, count)                                                                                     \
    do {                                                                                                               \
        const size_t bytes_ = (size_t)(count) * sizeof(__nv_bfloat16), most_ = (size_t)12 << 20;                       \
        (problem).next_weights = (from);                                                                               \
        (problem).next_bytes = (unsigned)(bytes_ < most_ ? bytes_ : most_) / 16 * 16;                                  \
    } while (0)

static int slabs_of(int width) { return (width + GEMM_SLAB - 1) / GEMM_SLAB; }

/* A stage begins: events are nodes of the graph too. */
static void begin_stage(sequence *q, int stage, int event) {
    q->stage = stage;
    q->step = q->layer = -1;
    q->chained = false;
    if (q->status != cudaSuccess) return;
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    q->status = cudaStreamIsCapturing(q->s->stream, &capturing);
    if (q->status == cudaSuccess)
        q->status = cudaEventRecordWithFlags(q->s->events[event], q->s->stream,
                                             capturing == cudaStreamCaptureStatusActive ? cudaEventRecordExternal
                                                                                        : cudaEventRecordDefault);
}

static void copy(sequence *q, const char *name, void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (q->status != cudaSuccess) return;
    describe(q, name, 0, 0, 0, 0, 0);
    note_launch(q);
    if (q->status == cudaSuccess) q->status = cudaMemcpyAsync(to, from, bytes, kind, q->s->stream);
    note_launched(q);
    q->chained = false;
}

static const char *product_name(const sequence *q, gemm_epilogue epilogue, const gemm_problem *p) {
    const bool vit = q->stage == PI0_STAGE_VIT;
    if (epilogue == GEMM_GELU) return "fc1";
    if (epilogue == GEMM_GATED) return "gate_up";
    if (epilogue != GEMM_RESIDUAL) return "qkv";
    if (q->layer < 0) return p->layer_norm ? "projector_linear" : "patches_linear";
    const model_config *c = &q->s->engine->config;
    if (p->k == (vit ? c->vit.mlp : c->language.mlp)) return vit ? "fc2" : "down";
    return vit ? "out_proj" : "o_proj";
}

/* Returns how many row sums a residual product writes for each row. */
static int launch_product(sequence *q, gemm_epilogue epilogue, const gemm_problem *p) {
    backend_session *s = q->s;
    backend_engine *e = s->engine;
    describe_product(q, product_name(q, epilogue, p), p->tokens, p->k, p->features);
    if (e->blas) {
        LAUNCH(q, PI0_OP_GEMM, gemm_cublaslt_launch(e->blas, epilogue, p, s->sums, s->blas_workspace, s->stream));
        return slabs_of(p->features);
    }
    gemm_plan plan;
    gemm_choice choice = {-1, 1};
    if (e->hopper) choice = gemm_choose(epilogue, p, e->multiprocessors);
    q->status = gemm_plan_make(&plan, epilogue, p, choice, e->multiprocessors, e->encode);
    LAUNCH(q, PI0_OP_GEMM, gemm_launch(epilogue, &plan, dependent, s->stream));
    const int slab = gemm_slab(epilogue, choice);
    return (p->features + slab - 1) / slab;
}

/* Queries, keys and values one after the other (--no-fuse-qkv). */
static void separate_products(sequence *q, gemm_epilogue epilogue, const gemm_problem *p) {
    int ends[3] = {p->features / 3, p->features / 3 * 2, p->features};
    if (epilogue == GEMM_ROPE)
        for (int i = 0; i < 3; i++) ends[i] = (p->heads + i) * p->head_dim - p->first_feature;
    for (int i = 0, first = 0; i < 3; i++) {
        if (ends[i] <= first) continue;
        gemm_problem part = *p;
        part.features = ends[i] - first;
        if (epilogue == GEMM_ROPE) {
            part.first_feature += first;
        } else {
            part.weights += (size_t)first * p->weights_stride;
            part.bias += first;
            part.center += first;
            part.out += first;
        }
        launch_product(q, epilogue, &part);
        first = ends[i];
    }
}

static int product(sequence *q, gemm_epilogue epilogue, gemm_problem *p) {
    backend_session *s = q->s;
    if (q->status != cudaSuccess || p->tokens <= 0) return 0;
    if (p->scale == 0.0f) p->scale = 1.0f;
    p->partial = s->partial;
    p->ticket = s->ticket;
    if (!p->row_period) p->row_period = 1;
    if (!s->engine->separate_qkv || (epilogue != GEMM_ROPE && epilogue != GEMM_STORE))
        return launch_product(q, epilogue, p);
    separate_products(q, epilogue, p);
    return 0;
}

static void attention(sequence *q, const attention_problem *p, int tokens) {
    backend_session *s = q->s;
    if (q->status != cudaSuccess) return;
    const double width = (double)p->heads * p->head_dim, queries = (double)tokens * p->group;
    describe(q, "attention", tokens, p->length, width * p->group, 4 * queries * p->length * width,
             4 * (queries + tokens) * width);
    if (s->engine->plain_attention) {
        LAUNCH(q, PI0_OP_ATTENTION, attention_plain_launch(p, dependent, s->stream));
    } else if (s->engine->hopper && p->head_dim == 256 && p->heads == 1) {
        attention_plan plan;
        q->status = attention_hopper_plan(&plan, p, tokens, s->engine->encode);
        LAUNCH(q, PI0_OP_ATTENTION, attention_hopper_launch(&plan, dependent, s->stream));
    } else if (s->engine->hopper && attention_vit_possible(p)) {
        LAUNCH(q, PI0_OP_ATTENTION, attention_vit_launch(p, s->engine->encode, dependent, s->stream));
    } else {
        LAUNCH(q, PI0_OP_ATTENTION, attention_launch(p, dependent, s->stream));
    }
}

/* Images -> rows of the prefix's residual stream. */
static void run_vit(sequence *q) {
    backend_session *s = q->s;
    const backend_engine *e = s->engine;
    const vit_config *c = &e->config.vit;
    const cuda_weights *w = &e->weights;
    const int rows = q->key->images * c->tokens, width = c->width, inner = c->heads * e->head_padded;
    const int stride = s->max_images * c->tokens, parts = q->key->float_images ? 2 : 1;
    if (!rows) return;

    patches_problem patches = {};
    patches.images = s->device.images;
    patches.image_stride = (size_t)c->image_size * c->image_size * 3 * (q->key->float_images ? 4 : 1);
    patches.kinds = s->device.image_kinds;
    patches.count = q->key->images;
    patches.size = c->image_size;
    patches.patch = c->patch_size;
    patches.parts = parts;
    patches.out = s->patches;
    describe(q, "patches", rows, 0, 0, 0, 0);
    LAUNCH(q, PI0_OP_OTHER, patches_launch(&patches, dependent, s->stream));

    gemm_problem p = {};
    p.weights = w->patch;
    p.weights_stride = 2 * PATCH_K;
    p.input = s->patches;
    p.input_stride = p.k = parts * PATCH_K;
    p.features = width;
    p.tokens = rows;
    p.scale = 2.0f / 255.0f;
    p.bias = w->patch_bias;
    p.x = s->vit_x;
    p.operand = s->vit_operand;
    p.gain = w->vit[0].gain1;
    p.stats_out = s->vit_stats;
    p.stats_out_stride = stride;
    p.row_bias = w->positions;
    p.row_period = c->tokens;
    int slabs = product(q, GEMM_RESIDUAL, &p);

    for (int i = 0; i < c->layers; i++) {
        q->layer = i;
        const cuda_vit_layer *l = &w->vit[i];
        gemm_problem norm = {}; /* input: LayerNorm of x */
        norm.input = s->vit_operand;
        norm.input_stride = norm.weights_stride = norm.k = norm.norm_width = width;
        norm.tokens = rows;
        norm.stats = s->vit_stats;
        norm.stats_slabs = slabs;
        norm.stats_stride = stride;
        norm.layer_norm = true;
        gemm_problem residual = {}; /* output: x, and the operand of the next norm */
        residual.features = width;
        residual.tokens = rows;
        residual.x = s->vit_x;
        residual.accumulate = true;
        residual.operand = s->vit_operand;
        residual.stats_out = s->vit_stats;
        residual.stats_out_stride = stride;

        p = norm;
        p.weights = l->qkv;
        p.features = 3 * inner;
        p.bias = l->qkv_bias;
        p.center = l->qkv_center;
        p.out = s->vit_qkv;
        p.out_stride = 3 * inner;
        product(q, GEMM_STORE, &p);

        attention_problem a = {};
        a.q = s->vit_qkv;
        a.k = s->vit_qkv + inner;
        a.v = s->vit_qkv + 2 * inner;
        a.out = s->vit_attention;
        a.q_stride = a.kv_stride = 3 * inner;
        a.out_stride = inner;
        a.group = 1;
        a.heads = c->heads;
        a.head_dim = e->head_padded;
        a.sequences = q->key->images;
        a.length = c->tokens;
        a.scale = 1.0f / sqrtf((float)c->head_dim);
        attention(q, &a, rows);

        p = residual;
        p.weights = l->out;
        p.input = s->vit_attention;
        p.weights_stride = p.input_stride = p.k = inner;
        p.bias = l->out_bias;
        p.gain = l->gain2;
        norm.stats_slabs = product(q, GEMM_RESIDUAL, &p);

        p = norm;
        p.weights = l->fc1;
        p.features = c->mlp;
        p.bias = l->fc1_bias;
        p.center = l->fc1_center;
        p.out = s->vit_mlp;
        p.out_stride = c->mlp;
        product(q, GEMM_GELU, &p);

        p = residual;
        p.weights = l->fc2;
        p.input = s->vit_mlp;
        p.weights_stride = p.input_stride = p.k = c->mlp;
        p.bias = l->fc2_bias;
        p.gain = i + 1 < c->layers ? w->vit[i + 1].gain1 : w->post_gain;
        slabs = product(q, GEMM_RESIDUAL, &p);
    }

    q->layer = -1;
    gemm_problem projector = {};
    projector.weights = w->projector;
    projector.input = s->vit_operand;
    projector.weights_stride = projector.input_stride = projector.k = projector.norm_width = width;
    projector.features = e->config.language.width;
    projector.tokens = rows;
    projector.stats = s->vit_stats;
    projector.stats_slabs = slabs;
    projector.stats_stride = stride;
    projector.layer_norm = true;
    projector.bias = w->projector_bias;
    projector.center = w->projector_center;
    projector.x = s->x;
    projector.operand = s->operand;
    projector.gain = w->language[0].gain1;
    projector.stats_out = s->stats;
    projector.stats_out_stride = s->max_rows;
    projector.row_map = s->device.image_rows;
    projector.row_period = c->tokens;
    product(q, GEMM_RESIDUAL, &projector);
}

static void run_prefill(sequence *q) {
    backend_session *s = q->s;
    const backend_engine *e = s->engine;
    const gemma_config *c = &e->config.language;
    const cuda_weights *w = &e->weights;
    const int rows = q->key->rows, width = c->width, queries = c->heads * c->head_dim;
    int slabs = slabs_of(width); /* of the embeddings */

    if (q->key->text) {
        text_problem text = {};
        text.table = w->embedding;
        text.tokens = s->device.tokens;
        text.rows = s->device.text_rows;
        text.count = q->key->text;
        text.width = width;
        text.scale = (float)sqrt((double)width);
        text.x = s->x;
        text.operand = s->operand;
        text.gain = w->language[0].gain1;
        text.stats = s->stats;
        text.stats_stride = s->max_rows;
        describe(q, "text_embedding", q->key->text, 0, width, 0, 4.0 * q->key->text * width);
        LAUNCH(q, PI0_OP_OTHER, text_launch(&text, dependent, s->stream));
    }
    if (s->options.record)
        copy(q, "record", s->record_embeddings, s->x, (size_t)rows * width * sizeof(float), cudaMemcpyDeviceToDevice);
    for (int i = 0; i < c->layers; i++) {
        q->layer = i;
        const cuda_gemma_layer *l = &w->language[i];
        const bool last = i == c->layers - 1;
        const size_t cache = (size_t)i * s->max_rows * c->head_dim;
        gemm_problem norm = {};
        norm.input = s->operand;
        norm.input_stride = norm.weights_stride = norm.k = norm.norm_width = width;
        norm.tokens = rows;
        norm.stats = s->stats;
        norm.stats_slabs = slabs;
        norm.stats_stride = s->max_rows;
        gemm_problem residual = {};
        residual.features = width;
        residual.tokens = rows;
        residual.x = s->x;
        residual.accumulate = true;
        residual.operand = s->operand;
        residual.stats_out = s->stats;
        residual.stats_out_stride = s->max_rows;

        gemm_problem p = norm;
        p.weights = l->qkv;
        p.first_feature = last ? queries : 0; /* of the last layer only keys and values are read */
        p.features = queries + 2 * c->head_dim - p.first_feature;
        p.q = s->q;
        p.keys = s->keys + cache;
        p.values = s->values + cache;
        p.heads = c->heads;
        p.head_dim = c->head_dim;
        p.rope = s->rope;
        p.positions = s->device.positions;
        product(q, GEMM_ROPE, &p);
        if (last) break;

        attention_problem a = {};
        a.q = s->q;
        a.k = p.keys;
        a.v = p.values;
        a.out = s->attention;
        a.q_stride = a.kv_stride = a.out_stride = c->head_dim;
        a.group = c->heads;
        a.heads = 1;
        a.head_dim = c->head_dim;
        a.sequences = q->key->batch;
        a.starts = s->device.starts;
        a.length = q->key->longest;
        a.key_mask = q->key->masked ? s->device.key_mask : NULL;
        a.scale = 1.0f / sqrtf((float)c->head_dim);
        NEXT(a, l->o, (size_t)width * queries);
        attention(q, &a, rows);

        p = residual;
        p.weights = l->o;
        p.input = s->attention;
        p.weights_stride = p.input_stride = p.k = queries;
        p.gain = l->gain2;
        NEXT(p, l->gate_up, (size_t)2 * c->mlp * width);
        norm.stats_slabs = product(q, GEMM_RESIDUAL, &p);

        p = norm;
        p.weights = l->gate_up;
        p.features = 2 * c->mlp;
        p.out = s->mlp;
        p.out_stride = c->mlp;
        product(q, GEMM_GATED, &p);

        p = residual;
        p.weights = l->down;
        p.input = s->mlp;
        p.weights_stride = p.input_stride = p.k = c->mlp;
        p.gain = w->language[i + 1].gain1;
        NEXT(p, w->language[i + 1].qkv, (size_t)(queries + 2 * c->head_dim) * width);
        slabs = product(q, GEMM_RESIDUAL, &p);
    }
}

/* k of one block and 8-feature tiles per block. Without clusters a block takes all of k. */
static int chunk_of(const backend_engine *e, int k) {
    const int padded = (k + 127) / 128 * 128;
    if (!e->hopper || padded <= 1024) return padded;
    return padded % 1024 ? padded : 1024;
}

/* Vectors of a norm at a step: gain, and with adaRMS the gate of the residual after it. */
typedef struct norm_vectors {
    const float *gain, *gate;
} norm_vectors;

static norm_vectors norm_at(const backend_session *s, const float *gain, int index, int step) {
    const int width = s->engine->config.expert.width;
    if (s->engine->config.family == PI0_FAMILY_PI0) return {gain, NULL};
    const float *m = s->schedule.modulation + ((size_t)index * s->options.num_steps + step) * 3 * width;
    return {m, m + 2 * width};
}

/* Blocks that share the keys of a head: a cluster, or as many as the device has room for, each with 64 keys or more. */
static int suffix_split(const sequence *q, suffix_attention_problem *a) {
    const backend_session *s = q->s;
    if (s->engine->hopper) return s->attention_split;
    const int units = a->heads * a->batch * ((a->horizon + a->state_rows + 15) / 16);
    const int keys = q->key->longest + s->slots, most = keys / 48;
    int split = s->engine->multiprocessors / units;
    if (split > most) split = most;
    if (split > SUFFIX_MOST_BLOCKS) split = SUFFIX_MOST_BLOCKS;
    if (split < 2 || (size_t)units * split * SUFFIX_PART * sizeof(float) > gemm_partial_bytes() || units > GEMM_TICKETS)
        return 1;
    a->partial = s->partial;
    a->ticket = s->ticket;
    return split;
}

static void describe_skinny(sequence *q, skinny_epilogue epilogue, const skinny_problem *p) {
    static const char *const names[] = {"qkv", "gate_up", "o_proj", "action_time_mlp"};
    const bool down = epilogue == SKINNY_RESIDUAL && p->weights_k == q->s->engine->config.expert.mlp;
    describe_product(q, down ? "down" : names[epilogue], p->rows, p->weights_k, p->features);
}

/* Queries, keys and values of a step one after the other. */
static void separate_suffix_products(sequence *q, const skinny_problem *p) {
    for (int i = 0; i < 3; i++) {
        skinny_problem part = *p;
        const int first = i ? (p->heads + i - 1) * p->head_dim : 0;
        part.first_head = i ? p->heads + i - 1 : 0;
        part.features = (i ? 1 : p->heads) * p->head_dim;
        part.weights += (size_t)first * p->weights_k;
        if (part.shift) part.shift += first;
        describe_skinny(q, SKINNY_QKV, &part);
        LAUNCH(q, PI0_OP_GEMM, skinny_launch(SKINNY_QKV, 2, &part, dependent, q->s->stream));
    }
}

/* Whether the steps' products are the wide kernels', whose operands are row-major. */
static bool wide_steps(const backend_engine *e) {
    const gemma_config *c = &e->config.expert;
    return e->hopper && !e->separate_qkv && !e->plain_attention && c->width == 1024 && c->mlp == 4096 &&
           c->heads == 8 && c->head_dim == 256;
}

/* One product of a step; tiles: those of the skinny kernel. */
static void run_product(sequence *q, skinny_epilogue epilogue, int tiles, const skinny_problem *p) {
    const backend_session *s = q->s;
    describe_skinny(q, epilogue, p);
    if (wide_steps(s->engine))
        LAUNCH(q, PI0_OP_GEMM, wide_launch(epilogue, p, s->engine->encode, dependent, s->stream));
    else
        LAUNCH(q, PI0_OP_GEMM, skinny_launch(epilogue, tiles, p, dependent, s->stream));
}

static void run_step(sequence *q, int step) {
    backend_session *s = q->s;
    const backend_engine *e = s->engine;
    const model_config *config = &e->config;
    const gemma_config *c = &config->expert;
    const cuda_weights *w = &e->weights;
    const bool pi0 = config->family == PI0_FAMILY_PI0;
    const int width = c->width, queries = c->heads * c->head_dim, actions = config->action_dim;
    const int action_rows = q->key->batch * s->options.horizon, steps = s->options.num_steps;
    const int state_rows = pi0 && step == 0 ? 1 : 0, rows = action_rows + state_rows * q->key->batch;
    const int qkv_features = queries + 2 * c->head_dim;
    const bool wide = wide_steps(e);

    skinny_problem base = {};
    base.rows = rows;
    base.stats = s->token_stats;
    base.stats_out = s->token_stats;
    base.stats_stride = s->max_suffix_rows;
    base.stats_slabs = (width + SKINNY_SLAB - 1) / SKINNY_SLAB;
    base.norm_width = width;
    base.x = s->token_x;
    base.action_rows = action_rows;
    base.horizon = s->options.horizon;
    base.row_major = wide;

    if (pi0) {
        skinny_problem p = base;
        p.stats = NULL;
        p.weights = w->time_out;
        p.features = p.weights_k = width;
        p.k_chunk = chunk_of(e, width);
        p.k = p.operand_k = 2 * ((width + 127) / 128 * 128);
        if (!e->hopper) p.k_chunk = p.k;
        p.operand = s->high_low;
        p.bias = w->time_out_bias;
        p.state = s->device.state;
        p.state_weights = w->state_proj;
        p.state_bias = w->state_bias;
        p.action_dim = actions;
        p.out = s->token_operand;
        p.out_k = (width + 127) / 128 * 128;
        p.gain = norm_at(s, w->expert[0].gain1, 0, step).gain;
        run_product(q, SKINNY_TOKENS, e->hopper ? 2 : 1, &p);
    }
    for (int i = 0; i < c->layers; i++) {
        q->layer = i;
        const cuda_gemma_layer *l = &w->expert[i];
        const size_t suffix = (size_t)i * q->s->options.max_batch * s->slots * c->head_dim;
        const norm_vectors norm1 = norm_at(s, l->gain1, 2 * i, step), norm2 = norm_at(s, l->gain2, 2 * i + 1, step);
        const float *next_gain = i + 1 < c->layers ? norm_at(s, w->expert[i + 1].gain1, 2 * i + 2, step).gain
                                                   : norm_at(s, w->final_gain, 2 * i + 2, step).gain;
        skinny_problem p = base;
        p.weights = l->qkv;
        p.features = qkv_features;
        p.weights_k = width;
        p.operand = s->token_operand;
        p.k = p.operand_k = (width + 127) / 128 * 128;
        p.k_chunk = p.k;
        p.shift = pi0 ? NULL : s->schedule.shift_qkv + ((size_t)i * steps + step) * qkv_features;
        p.q = s->token_q;
        p.suffix_keys = s->suffix_keys + suffix;
        p.suffix_values = s->suffix_values + suffix;
        p.heads = c->heads;
        p.head_dim = c->head_dim;
        p.slots = s->slots;
        p.first_slot = s->has_state;
        p.rope = s->rope;
        p.prefix_valid = s->device.prefix_valid;
        if (e->separate_qkv)
            separate_suffix_products(q, &p);
        else
            run_product(q, SKINNY_QKV, 2, &p);

        suffix_attention_problem a = {};
        a.q = s->token_q;
        a.keys = s->keys + (size_t)i * s->max_rows * c->head_dim;
        a.values = s->values + (size_t)i * s->max_rows * c->head_dim;
        a.suffix_keys = p.suffix_keys;
        a.suffix_values = p.suffix_values;
        a.starts = s->device.starts;
        a.key_mask = q->key->masked ? s->device.key_mask : NULL;
        a.out = s->token_attention;
        a.out_k = (queries + 127) / 128 * 128;
        a.heads = c->heads;
        a.head_dim = c->head_dim;
        a.slots = s->slots;
        a.first_slot = s->has_state;
        a.horizon = s->options.horizon;
        a.batch = q->key->batch;
        a.action_rows = action_rows;
        a.state_rows = state_rows;
        a.scale = 1.0f / sqrtf((float)c->head_dim);
        const int split = suffix_split(q, &a), most_keys = q->key->longest + s->slots;
        describe(q, "attention", rows, most_keys, queries, 4.0 * rows * most_keys * queries,
                 4.0 * q->key->batch * most_keys * c->head_dim);
        if (e->plain_attention)
            LAUNCH(q, PI0_OP_ATTENTION, suffix_attention_plain_launch(&a, most_keys, dependent, s->stream));
        else if (wide)
            LAUNCH(q, PI0_OP_ATTENTION,
                   wide_attention_launch(&a, q->key->rows, e->multiprocessors, e->encode, dependent, s->stream));
        else
            LAUNCH(q, PI0_OP_ATTENTION, suffix_attention_launch(split, &a, dependent, s->stream));

        p = base;
        p.stats = NULL;
        p.weights = l->o;
        p.features = width;
        p.weights_k = queries;
        p.operand = s->token_attention;
        p.k = p.operand_k = (queries + 127) / 128 * 128;
        p.k_chunk = chunk_of(e, queries);
        p.out = s->token_operand;
        p.out_k = (width + 127) / 128 * 128;
        p.gate = norm1.gate;
        p.gain = norm2.gain;
        run_product(q, SKINNY_RESIDUAL, e->hopper ? 2 : 1, &p);

        p = base;
        p.weights = l->gate_up;
        p.features = 2 * c->mlp;
        p.weights_k = width;
        p.operand = s->token_operand;
        p.k = p.operand_k = (width + 127) / 128 * 128;
        p.k_chunk = p.k;
        p.shift = pi0 ? NULL : s->schedule.shift_gate + ((size_t)i * steps + step) * 2 * c->mlp;
        p.out = s->token_mlp;
        p.out_k = (c->mlp + 127) / 128 * 128;
        run_product(q, SKINNY_GATED, e->hopper ? 8 : 4, &p);

        p = base;
        p.stats = NULL;
        p.weights = l->down;
        p.features = width;
        p.weights_k = c->mlp;
        p.operand = s->token_mlp;
        p.k = p.operand_k = (c->mlp + 127) / 128 * 128;
        p.k_chunk = chunk_of(e, c->mlp);
        p.out = s->token_operand;
        p.out_k = (width + 127) / 128 * 128;
        p.gate = norm2.gate;
        p.gain = next_gain;
        p.row_major = wide && i + 1 < c->layers; /* the heads' kernel reads fragments */
        run_product(q, SKINNY_RESIDUAL, e->hopper ? 4 : 1, &p);
    }
}

/* step -1: noise becomes the first tokens; otherwise velocity and Euler step `step`, then the next step's tokens. */
static void run_heads(sequence *q, int step) {
    backend_session *s = q->s;
    const backend_engine *e = s->engine;
    const model_config *config = &e->config;
    const cuda_weights *w = &e->weights;
    const bool pi0 = config->family == PI0_FAMILY_PI0;
    const int width = config->expert.width, actions = config->action_dim, steps = s->options.num_steps;
    const int rows = q->key->batch * s->options.horizon, next = step + 1;
    const size_t size = (size_t)s->options.max_batch * s->options.horizon * actions;

    heads_problem p = {};
    p.rows = rows;
    p.row_major = wide_steps(e);
    p.width = width;
    p.action_dim = actions;
    p.operand_k = (width + 127) / 128 * 128;
    p.stats_stride = s->max_suffix_rows;
    p.norm_width = width;
    p.x_before = step < 0 ? s->actions : s->actions + step * size;
    if (step >= 0) {
        p.operand = s->token_operand;
        p.stats = s->token_stats;
        p.stats_slabs = (width + SKINNY_SLAB - 1) / SKINNY_SLAB;
        p.out_weights = w->action_out;
        p.out_bias = s->schedule.out_bias + (size_t)step * actions;
        p.x_after = s->actions + next * size;
        p.v = s->velocity + step * size;
        p.dt = s->dt;
    }
    if (next < steps) {
        p.next_weights = pi0 ? w->action_fold : w->action_in_f32;
        p.next_bias = pi0 ? s->schedule.next_bias + (size_t)next * width : w->action_in_bias;
        p.high_low = pi0 ? s->high_low : NULL;
        p.tokens = s->token_x;
        p.token_operand = s->token_operand;
        p.gain = norm_at(s, NULL, 0, next).gain;
        p.stats_out = s->token_stats;
    }
    /* the first call stands between prefill and steps as a full barrier: steps fetch keys before they wait */
    if (step < 0) q->chained = false;
    q->layer = -1;
    describe(q, "heads", rows, 0, 0, 0, 0);
    LAUNCH(q, PI0_OP_OTHER, heads_launch(&p, dependent, s->stream));
}

/* Whether all steps can be one kernel. */
static bool steps_fit(const backend_session *s, const graph_key *key) {
    const backend_engine *e = s->engine;
    const gemma_config *c = &e->config.expert;
    return e->hopper && !e->plain_attention && !e->separate_qkv && key->batch == 1 && c->width == 1024 &&
           c->mlp == 4096 && c->heads == 8 && c->head_dim == 256 && e->config.action_dim == 32 &&
           c->layers <= STREAM_MAX_LAYERS && stream_fits(key->rows, s->slots, e->multiprocessors);
}

static void run_steps(sequence *q) {
    backend_session *s = q->s;
    const backend_engine *e = s->engine;
    const cuda_weights *w = &e->weights;
    const bool pi0 = e->config.family == PI0_FAMILY_PI0;
    const int width = e->config.expert.width, actions = e->config.action_dim;

    stream_problem p = {};
    for (int i = 0; i < e->config.expert.layers; i++) {
        const cuda_gemma_layer *l = &w->expert[i];
        p.layers[i] = {l->qkv, l->o, l->gate_up, l->down, l->gain1, l->gain2};
    }
    p.layer_count = e->config.expert.layers;
    p.steps = s->options.num_steps;
    p.horizon = s->options.horizon;
    p.prefix = q->key->rows;
    p.keys = s->keys;
    p.values = s->values;
    p.cache_stride = (size_t)s->max_rows * e->config.expert.head_dim;
    p.key_mask = q->key->masked ? s->device.key_mask : NULL;
    p.prefix_valid = s->device.prefix_valid;
    p.rope = s->rope;
    p.state_keys = s->suffix_keys;
    p.state_values = s->suffix_values;
    p.actions = s->actions;
    p.velocity = s->velocity;
    p.action_stride = (size_t)s->options.max_batch * s->options.horizon * actions;
    p.next_weights = pi0 ? w->action_fold : w->action_in_f32;
    p.next_bias = pi0 ? s->schedule.next_bias : w->action_in_bias;
    p.next_bias_stride = pi0 ? width : 0;
    if (pi0) {
        p.time_out = w->time_out;
        p.time_out_bias = w->time_out_bias;
        p.state = s->device.state;
        p.state_weights = w->state_proj;
        p.state_bias = w->state_bias;
        p.final_gain = w->final_gain;
    } else {
        p.modulation = s->schedule.modulation;
        p.shift_qkv = s->schedule.shift_qkv;
        p.shift_gate = s->schedule.shift_gate;
    }
    p.out_weights = w->action_out;
    p.out_bias = s->schedule.out_bias;
    p.dt = s->dt;
    p.exchange = s->exchange;
    p.inflight = 2;
    q->chained = false;
    const gemma_config *c = &e->config.expert;
    const double layer = (double)width * (2 * (c->heads + 1) * c->head_dim + 3 * c->mlp) * p.layer_count,
                 keys = (double)p.layer_count * (p.prefix + p.horizon) * c->head_dim;
    describe(q, "steps", p.horizon, 0, 0, p.steps * (2 * p.horizon * layer + 4 * p.horizon * keys * c->heads),
             p.steps * (2 * layer + 4 * keys));
    q->note.parts = p.steps;
    LAUNCH(q, PI0_OP_GEMM, stream_launch(&p, s->stream));
}

extern "C" pi0_status inference_launch(backend_session *s, const graph_key *key, bool profile, pi0_error *error) {
    sequence q = {s, key, PI0_STAGE_OTHER, profile, false, cudaSuccess, -1, -1, {}, 0};
    s->note_count = 0;
    s->marks_used = 0;
    const vit_config *vit = &s->engine->config.vit;
    const size_t image_bytes = (size_t)vit->image_size * vit->image_size * 3 * (key->float_images ? 4 : 1);
    const size_t noise = (size_t)key->batch * s->options.horizon * s->engine->config.action_dim * sizeof(float);

    begin_stage(&q, PI0_STAGE_OTHER, 0);
    mark(&q, PI0_OP_OTHER);
    copy(&q, "input", s->device.tokens, s->host.tokens, s->input_bytes + key->images * image_bytes,
         cudaMemcpyHostToDevice);
    copy(&q, "noise", s->actions, s->device.noise, noise, cudaMemcpyDeviceToDevice);
    mark(&q, PI0_OP_OTHER);
    begin_stage(&q, PI0_STAGE_VIT, 1);
    run_vit(&q);
    begin_stage(&q, PI0_STAGE_PREFILL, 2);
    run_prefill(&q);
    begin_stage(&q, PI0_STAGE_DENOISE, 3);
    if (steps_fit(s, key)) {
        run_steps(&q);
    } else {
        run_heads(&q, -1);
        for (int step = 0; step < s->options.num_steps; step++) {
            q.step = step;
            run_step(&q, step);
            run_heads(&q, step);
        }
    }
    begin_stage(&q, PI0_STAGE_OTHER, 4);
    copy(&q, "actions", s->host_actions,
         s->actions +
             (size_t)s->options.num_steps * s->options.max_batch * s->options.horizon * s->engine->config.action_dim,
         noise, cudaMemcpyDeviceToHost);
    mark(&q, PI0_OP_OTHER);
    CUDA_TRY(q.status);
    return PI0_OK;
}

/* ---- the schedule ---- */

static void linear(backend_session *s, cudaError_t *status, const float *x, int64_t x_stride,
                   const __nv_bfloat16 *weights, int64_t weights_stride, const float *bias, float *y, int n, int k,
                   int ones, bool silu) {
    if (*status != cudaSuccess) return;
    linear_problem p = {};
    p.x = x;
    p.x_stride = x_stride;
    p.weights = weights;
    p.weights_stride = weights_stride;
    p.bias = bias;
    p.y = y;
    p.y_stride = n;
    p.m = s->options.num_steps;
    p.n = n;
    p.k = k;
    p.ones = ones;
    p.silu = silu;
    *status = linear_launch(&p, s->stream);
}

static cudaError_t modulate(backend_session *s) {
    const backend_engine *e = s->engine;
    const gemma_config *c = &e->config.expert;
    const cuda_weights *w = &e->weights;
    device_schedule *d = &s->schedule;
    const int width = c->width, steps = s->options.num_steps, qkv = (c->heads + 2) * c->head_dim;
    const size_t size = (size_t)steps * 3 * width;
    cudaError_t status = cudaSuccess;
    linear(s, &status, d->embedding, width, w->time_in, width, w->time_in_bias, d->hidden, width, width, 0, true);
    linear(s, &status, d->hidden, width, w->time_out, width, w->time_out_bias, d->condition, width, width, 0, true);
    for (int i = 0; i < c->layers; i++) {
        const cuda_gemma_layer *l = &w->expert[i];
        float *m1 = d->modulation + (size_t)(2 * i) * size, *m2 = m1 + size;
        linear(s, &status, d->condition, width, l->modulation1, width, l->modulation_bias1, m1, 3 * width, width, width,
               false);
        linear(s, &status, d->condition, width, l->modulation2, width, l->modulation_bias2, m2, 3 * width, width, width,
               false);
        linear(s, &status, m1 + width, 3 * width, l->qkv, width, NULL, d->shift_qkv + (size_t)i * steps * qkv, qkv,
               width, 0, false);
        linear(s, &status, m2 + width, 3 * width, l->gate_up, width, NULL,
               d->shift_gate + (size_t)i * steps * 2 * c->mlp, 2 * c->mlp, width, 0, false);
    }
    float *last = d->modulation + (size_t)(2 * c->layers) * size;
    linear(s, &status, d->condition, width, w->final_modulation, width, w->final_modulation_bias, last, 3 * width,
           width, width, false);
    linear(s, &status, last + width, 3 * width, w->action_out, width, w->action_out_bias, d->out_bias,
           e->config.action_dim, width, 0, false);
    return status;
}

extern "C" pi0_status inference_schedule(backend_session *s, pi0_error *error) {
    const backend_engine *e = s->engine;
    const cuda_weights *w = &e->weights;
    const int width = e->config.expert.width, steps = s->options.num_steps, half = e->config.language.head_dim / 2;
    float *host = (float *)memory_zeroed((size_t)steps * (width + 1) + half, sizeof(float));
    if (!host) return error_memory(error, (size_t)steps * width * sizeof(float), "the schedule");
    denoise_schedule times = {};
    times.steps = steps;
    times.lerobot_time = s->options.lerobot_time;
    times.dt = s->dt;
    times.time = host + (size_t)steps * width;
    denoise_fill_times(&times);
    for (int i = 0; i < steps; i++) denoise_time_embedding(host + (size_t)i * width, times.time[i], width);
    float *frequency = times.time + steps;
    for (int i = 0; i < half; i++) frequency[i] = rope_frequency(i, 2 * half, e->rope);

    cudaError_t status = cudaMemcpyAsync(s->schedule.embedding, host, (size_t)steps * width * sizeof(float),
                                         cudaMemcpyHostToDevice, s->stream);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(s->rope_frequency, frequency, half * sizeof(float), cudaMemcpyHostToDevice, s->stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(s->stream);
    memory_release(host);
    const int positions = s->options.cameras * e->config.vit.tokens + s->options.max_prompt_tokens + s->slots;
    if (status == cudaSuccess) status = rope_table_launch(s->rope, s->rope_frequency, positions, half, s->stream);
    if (status == cudaSuccess && e->config.family == PI0_FAMILY_PI0) {
        linear(s, &status, s->schedule.embedding, width, w->time_in + width, 2 * width, w->action_fold_bias,
               s->schedule.next_bias, width, width, 0, false);
        for (int i = 0; i < steps && status == cudaSuccess; i++)
            status = cudaMemcpyAsync(s->schedule.out_bias + (size_t)i * e->config.action_dim, w->action_out_bias,
                                     e->config.action_dim * sizeof(float), cudaMemcpyDeviceToDevice, s->stream);
    } else if (status == cudaSuccess) {
        status = modulate(s);
    }
    if (status == cudaSuccess) status = cudaStreamSynchronize(s->stream);
    CUDA_TRY(status);
    return PI0_OK;
}
