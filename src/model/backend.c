/*
 * The CPU backend: the readable stages, their buffers, and what skipping may leave out (masked cameras, padding).
 * Each observation of a batch goes through ViT and prefill alone, since those are bound by arithmetic; denoising, bound
 * by the bytes of its weights, runs over the whole batch at once.
 */
#include "backend.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "model/stages.h"

struct backend_engine {
    model_weights weights;
    time_mlp_halves halves; /* pi0 */
    void *halves_memory;
    pi0_precision precision;
    pi0_rope rope;
    cpu_isa isa;
    int threads;
    bool plain_attention, separate_products;
};

struct backend_session {
    backend_engine *engine;
    pi0_session_options options;
    ops *ops;
    void *memory;
    size_t bytes;

    int max_prefix; /* rows of the longest prefix */
    int capacity;   /* rows of a cache: prefix, state token, actions */
    rope_table rope;
    vit_buffers vit;
    gemma_buffers language;
    float *embeddings;                  /* [max_prefix, language.width] */
    int *positions;                     /* [max_prefix] */
    float *prefix_cosine, *prefix_sine; /* [max_prefix, head_dim / 2] */
    kv_cache *caches;                   /* [max_batch] */
    uint8_t *key_masks;                 /* [max_batch, capacity] */
    denoise_schedule schedule;
    float *schedule_scratch; /* [3 * steps, D] */
    denoise_buffers denoise;
    const float **states;       /* [max_batch] */
    float *record_embeddings;   /* [max_batch, max_prefix, language.width] */
    float *record_x, *record_v; /* [steps, max_batch, H, A] */
    int last_batch;
};

/* ---- engine ---- */

static void cpu_engine_close(backend_engine *engine) {
    if (!engine) return;
    weights_release(&engine->weights);
    memory_release(engine->halves_memory);
    memory_release(engine);
}

static pi0_status choose_precision(backend_engine *engine, pi0_precision asked, pi0_error *error) {
    if (asked == PI0_PRECISION_FP8)
        return error_set(error, PI0_ERROR_UNSUPPORTED,
                         "precision fp8: expected a GPU backend, the CPU computes in f32 or bf16");
    if (asked == PI0_PRECISION_AUTO)
        asked = engine->isa >= CPU_ISA_AVX512_BF16 ? PI0_PRECISION_BF16 : PI0_PRECISION_F32;
    engine->precision = asked;
    return PI0_OK;
}

static pi0_status split_time_mlp(backend_engine *engine, pi0_error *error) {
    if (engine->weights.config.family != PI0_FAMILY_PI0) return PI0_OK;
    size_t width = (size_t)engine->weights.config.expert.width, bytes = 2 * width * width * sizeof(float);
    engine->halves_memory = memory_allocate(bytes);
    if (!engine->halves_memory) return error_memory(error, bytes, "the halves of action_time_mlp_in");
    engine->halves.action = engine->halves_memory;
    engine->halves.time = engine->halves.action + width * width;
    denoise_split_time_mlp(&engine->weights, &engine->halves);
    return PI0_OK;
}

static pi0_status cpu_engine_open(backend_engine **result, const backend_engine_options *o, pi0_error *error) {
    *result = NULL;
    backend_engine *engine = memory_zeroed(1, sizeof *engine);
    if (!engine) return error_memory(error, sizeof *engine, "the engine");
    engine->isa = o->options->kernels == PI0_KERNELS_PORTABLE ? CPU_ISA_PLAIN : cpu_isa_best();
    engine->rope = o->options->rope;
    engine->threads = o->options->threads;
    engine->plain_attention = o->options->attention == PI0_ATTENTION_NAIVE;
    engine->separate_products = !o->options->fuse_qkv;
    weights_options options = {.keep_f32 = o->options->keep_f32_weights,
                               .threads = o->options->threads,
                               .log = &o->log,
                               .progress = o->options->progress,
                               .progress_user = o->options->progress_user};
    pi0_status status =
        o->options->device == 0
            ? PI0_OK
            : error_set(error, PI0_ERROR_ARGUMENT, "device %d: the CPU backend has device 0 only", o->options->device);
    if (status == PI0_OK) status = choose_precision(engine, o->options->precision, error);
    if (status == PI0_OK) status = weights_load(&engine->weights, o->checkpoint, &options, error);
    if (status == PI0_OK) status = split_time_mlp(engine, error);
    if (status != PI0_OK) {
        cpu_engine_close(engine);
        return status;
    }
    *result = engine;
    return PI0_OK;
}

/* ---- devices ---- */

static void processor_name(char *name, size_t size) {
    snprintf(name, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(name, size, "%s", colon + 2);
        break;
    }
    fclose(file);
}

/* The instructions that the ops may use, and who multiplies bf16. */
static void describe_features(char *text, size_t size) {
    cpu_isa isa = cpu_isa_best();
    bool hardware = isa >= CPU_ISA_AVX512_BF16;
#ifndef PI0_WITH_ONEDNN
    hardware = false;
#endif
    snprintf(text, size, "%s%s%s%s; bf16 products by %s", isa >= CPU_ISA_AVX2 ? "avx2 fma f16c" : "sse2",
             isa >= CPU_ISA_AVX512 ? " avx512f avx512bw avx512dq avx512vl" : "",
             isa >= CPU_ISA_AVX512_BF16 ? " avx512-bf16" : "", isa >= CPU_ISA_AMX ? " amx-bf16" : "",
             hardware ? "oneDNN" : "float32 kernels on rounded values");
}

static void cpu_devices(pi0_device_info *devices, int capacity, int *count) {
    if (*count < capacity) {
        pi0_device_info *d = &devices[*count];
        d->backend = PI0_BACKEND_CPU;
        d->index = 0;
        processor_name(d->name, sizeof d->name);
        snprintf(d->arch, sizeof d->arch, "%s", cpu_isa_name(cpu_isa_best()));
        describe_features(d->features, sizeof d->features);
        d->memory_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
        d->units = (int)sysconf(_SC_NPROCESSORS_ONLN);
        d->usable = true;
        d->reason[0] = 0;
    }
    ++*count;
}

static void cpu_engine_describe(const backend_engine *engine, pi0_engine_info *info) {
    processor_name(info->device_name, sizeof info->device_name);
    snprintf(info->device_arch, sizeof info->device_arch, "%s", cpu_isa_name(engine->isa));
    info->precision = engine->precision;
    info->weights_bytes = (int64_t)(engine->weights.owned_bytes + engine->weights.mapped_bytes);
}

/* ---- session ---- */

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

static void take_gemma(arena *a, ops *ops, gemma_buffers *b, const gemma_config *c, size_t rows) {
    size_t query = rows * (size_t)c->heads * (size_t)c->head_dim;
    b->q = arena_take(a, query, sizeof(float));
    b->k = arena_take(a, rows * (size_t)c->head_dim, sizeof(float));
    b->v = arena_take(a, rows * (size_t)c->head_dim, sizeof(float));
    b->y = arena_take(a, rows * (size_t)c->width, sizeof(float));
    b->h = arena_take(a, ops_operand_bytes(ops, rows * (size_t)c->width), 1);
    b->q_in = arena_take(a, ops_operand_bytes(ops, query), 1);
    b->attention = arena_take(a, ops_operand_bytes(ops, query), 1);
    b->mlp = arena_take(a, ops_operand_bytes(ops, rows * (size_t)c->mlp), 1);
}

static void take_vit(arena *a, ops *ops, vit_buffers *b, const vit_config *c, size_t rows) {
    size_t size = rows * (size_t)c->width;
    b->patches = arena_take(a, rows * 3 * (size_t)c->patch_size * (size_t)c->patch_size, sizeof(float));
    b->x = arena_take(a, size, sizeof(float));
    b->q = arena_take(a, size, sizeof(float));
    b->k = arena_take(a, size, sizeof(float));
    b->v = arena_take(a, size, sizeof(float));
    b->h = arena_take(a, ops_operand_bytes(ops, size), 1);
    b->q_in = arena_take(a, ops_operand_bytes(ops, size), 1);
    b->k_in = arena_take(a, ops_operand_bytes(ops, size), 1);
    b->v_in = arena_take(a, ops_operand_bytes(ops, size), 1);
    b->attention = arena_take(a, ops_operand_bytes(ops, size), 1);
    b->mlp = arena_take(a, ops_operand_bytes(ops, rows * (size_t)c->mlp), 1);
}

static void take_denoise(arena *a, backend_session *s, const model_config *c) {
    size_t batch = (size_t)s->options.max_batch, rows = batch * (size_t)s->options.horizon;
    size_t width = (size_t)c->expert.width, actions = rows * (size_t)c->action_dim;
    denoise_buffers *b = &s->denoise;
    b->x = arena_take(a, rows * width, sizeof(float));
    b->a = arena_take(a, rows * width, sizeof(float));
    b->u = arena_take(a, rows * width, sizeof(float));
    b->velocity = arena_take(a, actions, sizeof(float));
    b->cosine = arena_take(a, rows * (size_t)c->expert.head_dim / 2, sizeof(float));
    b->sine = arena_take(a, rows * (size_t)c->expert.head_dim / 2, sizeof(float));
    take_gemma(a, s->ops, &b->gemma, &c->expert, rows);
    s->states = arena_take(a, batch, sizeof *s->states);

    size_t steps = (size_t)s->options.num_steps;
    bool pi05 = c->family == PI0_FAMILY_PI05;
    s->schedule.time = arena_take(a, steps, sizeof(float));
    s->schedule.time_bias = arena_take(a, pi05 ? 0 : steps * width, sizeof(float));
    s->schedule.modulation =
        arena_take(a, pi05 ? (2 * (size_t)c->expert.layers + 1) * steps * 3 * width : 0, sizeof(float));
    s->schedule_scratch = arena_take(a, 3 * steps * width, sizeof(float));
    s->record_x = arena_take(a, s->options.record ? steps * actions : 0, sizeof(float));
    s->record_v = arena_take(a, s->options.record ? steps * actions : 0, sizeof(float));
}

/* Every buffer of a session; run once to measure and once to place. */
static void take_buffers(arena *a, backend_session *s, const model_config *c) {
    size_t batch = (size_t)s->options.max_batch, prefix = (size_t)s->max_prefix, capacity = (size_t)s->capacity;
    size_t head_dim = (size_t)c->language.head_dim, width = (size_t)c->language.width;

    s->rope.cosine = arena_take(a, capacity * head_dim / 2, sizeof(float));
    s->rope.sine = arena_take(a, capacity * head_dim / 2, sizeof(float));
    s->embeddings = arena_take(a, prefix * width, sizeof(float));
    s->positions = arena_take(a, prefix, sizeof(int));
    s->prefix_cosine = arena_take(a, prefix * head_dim / 2, sizeof(float));
    s->prefix_sine = arena_take(a, prefix * head_dim / 2, sizeof(float));
    s->record_embeddings = arena_take(a, s->options.record ? batch * prefix * width : 0, sizeof(float));

    kv_cache *caches = arena_take(a, batch, sizeof *caches);
    s->key_masks = arena_take(a, batch * capacity, 1);
    size_t cache_bytes = ops_operand_bytes(s->ops, (size_t)c->language.layers * capacity * head_dim);
    size_t panels = ops_attention_panels_bytes(s->ops, s->capacity, 1, c->language.head_dim);
    panels = (panels + 63) / 64 * 64 / sizeof(float);
    for (size_t n = 0; n < batch; n++) {
        operand *keys = arena_take(a, cache_bytes, 1), *values = arena_take(a, cache_bytes, 1);
        float *kept = arena_take(a, (size_t)c->language.layers * panels, sizeof(float));
        if (caches)
            caches[n] = (kv_cache){.keys = keys,
                                   .values = values,
                                   .capacity = s->capacity,
                                   .panels = panels ? kept : NULL,
                                   .panels_floats = panels};
    }
    s->caches = caches;

    /* the ViT is done when prefill begins: both use the same memory */
    arena vit = *a, language = *a;
    take_vit(&vit, s->ops, &s->vit, &c->vit, (size_t)s->options.cameras * (size_t)c->vit.tokens);
    take_gemma(&language, s->ops, &s->language, &c->language, prefix);
    a->used = max_size(vit.used, language.used);
    take_denoise(a, s, c);
}

static void cpu_session_close(backend_session *session) {
    if (!session) return;
    ops_close(&session->ops);
    memory_release(session->memory);
    memory_release(session);
}

static pi0_status open_ops(backend_session *s, const model_config *c, pi0_error *error) {
    int columns = max_int(max_int(c->language.mlp, c->vit.mlp), max_int(c->expert.mlp, 3 * c->expert.width));
    ops_options options = {
        .precision = s->engine->precision,
        .isa = s->engine->isa,
        .threads = s->engine->threads,
        .max_rows = max_int(max_int(s->max_prefix, s->options.cameras * c->vit.tokens),
                            max_int(s->options.max_batch * s->options.horizon, s->options.num_steps)),
        .max_columns = columns,
        .max_keys = s->capacity,
        .max_heads = max_int(c->language.heads, c->vit.heads),
        .max_kv_columns = max_int(c->language.head_dim, c->vit.width),
        .plain_attention = s->engine->plain_attention,
        .separate_products = s->engine->separate_products,
    };
    return ops_open(&s->ops, &options, error);
}

static pi0_status cpu_session_open(backend_session **result, backend_engine *engine, const pi0_session_options *options,
                                   pi0_error *error) {
    *result = NULL;
    const model_config *c = &engine->weights.config;
    backend_session *s = memory_zeroed(1, sizeof *s);
    if (!s) return error_memory(error, sizeof *s, "a session");
    s->engine = engine;
    s->options = *options;
    s->max_prefix = options->cameras * c->vit.tokens + options->max_prompt_tokens;
    s->capacity = s->max_prefix + 1 + options->horizon;
    s->rope.positions = s->capacity;
    s->schedule.steps = options->num_steps;
    s->schedule.lerobot_time = options->lerobot_time;
    s->schedule.dt = (float)(-1.0 / options->num_steps);

    pi0_status status = open_ops(s, c, error);
    if (status == PI0_OK) {
        arena measure = {0};
        take_buffers(&measure, s, c);
        size_t available = memory_available();
        if (measure.used > available)
            status = error_set(error, PI0_ERROR_MEMORY, "a session of %d x %d rows needs %zu MB, %zu MB are available",
                               options->max_batch, s->capacity, measure.used >> 20, available >> 20);
        else if (!(s->memory = memory_allocate(measure.used)))
            status = error_memory(error, measure.used, "a session's buffers");
        s->bytes = measure.used;
    }
    if (status != PI0_OK) {
        cpu_session_close(s);
        return status;
    }
    arena place = {.base = s->memory, .capacity = s->bytes};
    take_buffers(&place, s, c);
    rope_fill(&s->rope, c->language.head_dim, engine->rope);
    ops_trace(s->ops, options->trace, options->trace_user);
    denoise_fill_schedule(s->ops, &engine->weights, &engine->halves, &s->schedule, s->schedule_scratch);
    *result = s;
    return PI0_OK;
}

/* ---- inference ---- */

static bool camera_valid(const backend_input *input, int camera) {
    return input->images[camera] || input->float_images[camera];
}

static void stage_begin(ops *ops, int stage) {
    ops_profile_stage(ops, stage);
    ops_range_begin(ops, PI0_TRACE_STAGE, pi0_stage_name(stage), -1);
}

/* Image tokens of one observation into s->embeddings; returns their rows and marks which are to be attended to. */
static int run_vit(backend_session *s, const backend_input *input, uint8_t *key_mask) {
    const model_config *c = &s->engine->weights.config;
    vit_image images[PI0_MAX_CAMERAS];
    int count = 0;
    for (int camera = 0; camera < s->options.cameras; camera++) {
        bool valid = camera_valid(input, camera);
        if (!valid && s->options.skip_masked_images) continue;
        memset(key_mask + count * c->vit.tokens, valid, (size_t)c->vit.tokens);
        images[count++] = (vit_image){input->images[camera], input->float_images[camera]};
    }
    if (count) vit_forward(s->ops, c, &s->engine->weights.vit, images, count, &s->vit, s->embeddings);
    return count * c->vit.tokens;
}

static void run_prefill(backend_session *s, const backend_input *input, int n, int image_rows) {
    const model_weights *w = &s->engine->weights;
    const model_config *c = &w->config;
    kv_cache *cache = &s->caches[n];
    uint8_t *key_mask = s->key_masks + (size_t)n * (size_t)s->capacity;
    int rows = image_rows + input->token_count, valid = 0;

    /* the square root in float32: openpi multiplies in float32 by 45.254834 */
    float scale = (float)__builtin_sqrt((double)c->language.width);
    ops_embed(s->ops, s->embeddings + (size_t)image_rows * (size_t)c->language.width, &w->embed_tokens, input->tokens,
              input->token_count, scale);
    memset(key_mask + image_rows, 1, (size_t)(s->capacity - image_rows));
    for (int row = 0; row < rows; row++) {
        s->positions[row] = valid; /* rows that are masked take no position; theirs is never used */
        valid += key_mask[row];
    }
    cache->prefix = rows;
    cache->next_position = valid;
    cache->key_mask = valid == rows ? NULL : key_mask;
    if (s->options.record)
        memcpy(s->record_embeddings + (size_t)n * (size_t)s->max_prefix * (size_t)c->language.width, s->embeddings,
               (size_t)rows * (size_t)c->language.width * sizeof(float));
    prefill_forward(s->ops, c, w->language_layers, s->embeddings, s->positions, &s->rope, &s->language,
                    s->prefix_cosine, s->prefix_sine, cache);
}

static pi0_status cpu_infer(backend_session *s, const backend_input *inputs, int batch, float *actions,
                            pi0_timings *timings, pi0_error *error) {
    (void)error;
    const model_config *c = &s->engine->weights.config;
    double stage_ms[PI0_STAGE_COUNT] = {0};
    double start = clock_ms();
    ops_profile(s->ops, s->options.profile || s->options.trace);
    ops_profile_reset(s->ops);
    ops_range_begin(s->ops, PI0_TRACE_API, "pi0_session_infer", -1);
    ops_range_begin(s->ops, PI0_TRACE_INFERENCE, "inference", -1);

    size_t size = (size_t)s->options.horizon * (size_t)c->action_dim;
    for (int n = 0; n < batch; n++) {
        double begin = clock_ms();
        stage_begin(s->ops, PI0_STAGE_VIT);
        int image_rows = run_vit(s, &inputs[n], s->key_masks + (size_t)n * (size_t)s->capacity);
        ops_range_end(s->ops);
        double middle = clock_ms();
        stage_begin(s->ops, PI0_STAGE_PREFILL);
        run_prefill(s, &inputs[n], n, image_rows);
        ops_range_end(s->ops);
        stage_ms[PI0_STAGE_VIT] += middle - begin;
        stage_ms[PI0_STAGE_PREFILL] += clock_ms() - middle;
        s->states[n] = inputs[n].state;
        memmove(actions + (size_t)n * size, inputs[n].noise, size * sizeof(float));
    }

    double begin = clock_ms();
    stage_begin(s->ops, PI0_STAGE_DENOISE);
    denoise_problem problem = {.batch = batch,
                               .horizon = s->options.horizon,
                               .state = s->states,
                               .actions = actions,
                               .record_x = s->options.record ? s->record_x : NULL,
                               .record_v = s->options.record ? s->record_v : NULL,
                               .caches = s->caches};
    denoise_forward(s->ops, &s->engine->weights, &s->engine->halves, &s->schedule, &s->rope, &s->denoise, &problem);
    ops_range_end(s->ops);
    double end = clock_ms();
    ops_range_end(s->ops);
    ops_range_end(s->ops);
    stage_ms[PI0_STAGE_DENOISE] = end - begin;
    s->last_batch = batch;

    timings->total_ms = end - start;
    timings->device_ms = 0;
    stage_ms[PI0_STAGE_OTHER] =
        timings->total_ms - stage_ms[PI0_STAGE_VIT] - stage_ms[PI0_STAGE_PREFILL] - stage_ms[PI0_STAGE_DENOISE];
    memcpy(timings->stage_ms, stage_ms, sizeof stage_ms);
    ops_profile_read(s->ops, timings);
    timings->workspace_bytes = (int64_t)(s->bytes + ops_scratch_bytes(s->ops));
    return PI0_OK;
}

/* ---- stage results ---- */

static size_t copy_rows(float *values, size_t capacity, size_t at, const float *from, size_t count) {
    if (values && at < capacity)
        memcpy(values + at, from, (at + count > capacity ? capacity - at : count) * sizeof(float));
    return at + count;
}

static size_t read_steps(const backend_session *s, const float *record, int index, float *values, size_t capacity) {
    size_t size = (size_t)s->options.horizon * (size_t)s->engine->weights.config.action_dim, at = 0;
    for (int step = 0; step < s->options.num_steps; step++)
        at = copy_rows(values, capacity, at, record + ((size_t)step * (size_t)s->last_batch + (size_t)index) * size,
                       size);
    return at;
}

static size_t read_cache(const backend_session *s, const operand *rows, const kv_cache *cache, float *values,
                         size_t capacity) {
    const gemma_config *c = &s->engine->weights.config.language;
    size_t size = (size_t)cache->prefix * (size_t)c->head_dim, at = 0;
    for (int layer = 0; layer < c->layers; layer++, at += size) {
        if (!values || at >= capacity) continue;
        const operand *from = operand_at(s->ops, rows, (size_t)layer * (size_t)cache->capacity * (size_t)c->head_dim);
        ops_from_operand(s->ops, values + at, from, at + size > capacity ? capacity - at : size);
    }
    return at;
}

static pi0_status cpu_read(const backend_session *s, const char *name, int index, float *values, size_t capacity,
                           size_t *count, pi0_error *error) {
    if (index < 0 || index >= s->last_batch)
        return error_set(error, PI0_ERROR_ARGUMENT, "stage result of observation %d: the last inference had %d", index,
                         s->last_batch);
    const kv_cache *cache = &s->caches[index];
    size_t width = (size_t)s->engine->weights.config.language.width;
    if (!strcmp(name, "prefix_embeddings"))
        *count = copy_rows(values, capacity, 0, s->record_embeddings + (size_t)index * (size_t)s->max_prefix * width,
                           (size_t)cache->prefix * width);
    else if (!strcmp(name, "prefix_keys"))
        *count = read_cache(s, cache->keys, cache, values, capacity);
    else if (!strcmp(name, "prefix_values"))
        *count = read_cache(s, cache->values, cache, values, capacity);
    else if (!strcmp(name, "x"))
        *count = read_steps(s, s->record_x, index, values, capacity);
    else if (!strcmp(name, "v"))
        *count = read_steps(s, s->record_v, index, values, capacity);
    else
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "stage result \"%s\": expected prefix_embeddings, prefix_keys, prefix_values, x or v", name);
    return PI0_OK;
}

const backend cpu_backend = {
    .id = PI0_BACKEND_CPU,
    .name = "cpu",
    .devices = cpu_devices,
    .engine_open = cpu_engine_open,
    .engine_close = cpu_engine_close,
    .engine_describe = cpu_engine_describe,
    .session_open = cpu_session_open,
    .session_close = cpu_session_close,
    .infer = cpu_infer,
    .read = cpu_read,
    .choices = PI0_CHOICE_ATTENTION | PI0_CHOICE_FUSE_QKV | PI0_CHOICE_TRACE,
};
