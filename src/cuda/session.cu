/*
 * A session: buffers taken when it opens, one graph per shape of input, input copied to pinned memory and answers back.
 */
#include <stdio.h>
#include <string.h>

#include "gemm_cublaslt.h"
#include "session.h"
extern "C" {
#include "base/clock.h"
#include "base/memory.h"
}

static int round_to(int value, int step) { return (value + step - 1) / step * step; }

static void take_input(input_block *b, unsigned char *base, const backend_session *s, size_t *tables, size_t *all) {
    const pi0_session_options *o = &s->options;
    const model_config *c = &s->engine->config;
    device_arena a = {base, 0};
    const size_t batch = o->max_batch, text = batch * o->max_prompt_tokens,
                 pixels = (size_t)c->vit.image_size * c->vit.image_size;
    b->tokens = (int *)device_take(&a, text + 1, sizeof(int));
    b->text_rows = (int *)device_take(&a, text + 1, sizeof(int));
    b->positions = (int *)device_take(&a, s->max_rows, sizeof(int));
    b->image_rows = (int *)device_take(&a, s->max_images, sizeof(int));
    b->image_kinds = (int *)device_take(&a, s->max_images, sizeof(int));
    b->starts = (int *)device_take(&a, batch + 1, sizeof(int));
    b->prefix_valid = (int *)device_take(&a, batch, sizeof(int));
    b->state = (float *)device_take(&a, batch * c->action_dim, sizeof(float));
    b->noise = (float *)device_take(&a, batch * o->horizon * c->action_dim, sizeof(float));
    b->key_mask = (uint8_t *)device_take(&a, s->max_rows, 1);
    *tables = a.used;
    b->images = (uint8_t *)device_take(&a, (size_t)s->max_images * pixels * 3, sizeof(float));
    *all = a.used;
}

static __nv_bfloat16 *take_bf16(device_arena *a, size_t count) {
    return (__nv_bfloat16 *)device_take(a, count, sizeof(__nv_bfloat16));
}
static float *take_f32(device_arena *a, size_t count) { return (float *)device_take(a, count, sizeof(float)); }

static void take_buffers(device_arena *a, backend_session *s) {
    const pi0_session_options *o = &s->options;
    const model_config *c = &s->engine->config;
    const size_t vit_rows = (size_t)s->max_images * c->vit.tokens, rows = s->max_rows, batch = o->max_batch;
    const size_t inner = (size_t)c->vit.heads * s->engine->head_padded, width = c->language.width;
    const size_t head_dim = c->language.head_dim, queries = c->language.heads * head_dim, steps = o->num_steps;
    const int suffix = s->max_suffix_rows;

    s->patches = take_bf16(a, vit_rows * 2 * PATCH_K);
    s->vit_x = take_f32(a, vit_rows * c->vit.width);
    s->vit_operand = take_bf16(a, vit_rows * c->vit.width);
    s->vit_stats =
        (float2 *)device_take(a, ((c->vit.width + GEMM_SLAB_LEAST - 1) / GEMM_SLAB_LEAST) * vit_rows, sizeof(float2));
    s->vit_qkv = take_bf16(a, vit_rows * 3 * inner);
    s->vit_attention = take_bf16(a, vit_rows * inner);
    s->vit_mlp = take_bf16(a, vit_rows * c->vit.mlp);

    s->x = take_f32(a, rows * width);
    s->record_embeddings = o->record ? take_f32(a, rows * width) : NULL;
    s->operand = take_bf16(a, rows * width);
    s->stats = (float2 *)device_take(a, ((width + GEMM_SLAB_LEAST - 1) / GEMM_SLAB_LEAST) * rows, sizeof(float2));
    s->q = take_bf16(a, rows * queries);
    s->attention = take_bf16(a, rows * queries);
    s->mlp = take_bf16(a, rows * c->language.mlp);
    s->keys = take_bf16(a, c->language.layers * rows * head_dim);
    s->values = take_bf16(a, c->language.layers * rows * head_dim);
    s->partial = (float *)device_take(a, gemm_partial_bytes(), 1);
    if (s->engine->blas) {
        const size_t prefix = rows * 2 * c->language.mlp,
                     vit = vit_rows * (3 * inner > (size_t)c->vit.mlp ? 3 * inner : (size_t)c->vit.mlp);
        s->sums = take_f32(a, prefix > vit ? prefix : vit);
        s->blas_workspace = device_take(a, CUBLASLT_WORKSPACE_BYTES, 1);
    }
    s->ticket = (unsigned *)device_take(a, GEMM_TICKETS, sizeof(unsigned));
    s->rope = (float2 *)device_take(
        a, (size_t)(o->cameras * c->vit.tokens + o->max_prompt_tokens + s->slots) * head_dim / 2, sizeof(float2));
    s->rope_frequency = take_f32(a, head_dim / 2);

    const gemma_config *e = &c->expert;
    const bool pi05 = c->family == PI0_FAMILY_PI05;
    const size_t actions = batch * o->horizon * c->action_dim, expert_queries = (size_t)e->heads * e->head_dim;
    s->schedule.next_bias = take_f32(a, steps * e->width);
    s->schedule.embedding = take_f32(a, steps * e->width);
    s->schedule.hidden = take_f32(a, steps * e->width);
    s->schedule.condition = take_f32(a, steps * e->width);
    s->schedule.out_bias = take_f32(a, steps * c->action_dim);
    s->schedule.modulation = pi05 ? take_f32(a, (2 * e->layers + 1) * steps * 3 * e->width) : NULL;
    s->schedule.shift_qkv = pi05 ? take_f32(a, e->layers * steps * (expert_queries + 2 * e->head_dim)) : NULL;
    s->schedule.shift_gate = pi05 ? take_f32(a, e->layers * steps * 2 * e->mlp) : NULL;
    s->token_x = take_f32(a, (size_t)suffix * e->width);
    s->token_stats = take_f32(a, (size_t)((e->width + SKINNY_SLAB - 1) / SKINNY_SLAB) * suffix);
    s->actions = take_f32(a, (steps + 1) * actions);
    s->velocity = take_f32(a, steps * actions);
    s->token_operand = take_bf16(a, operand_elements(suffix, e->width));
    s->token_q = take_bf16(a, suffix * expert_queries);
    s->token_attention = take_bf16(a, operand_elements(suffix, (int)expert_queries));
    s->token_mlp = take_bf16(a, operand_elements(suffix, e->mlp));
    s->high_low = take_bf16(a, operand_elements(suffix, 2 * round_to(e->width, 128)));
    s->suffix_keys = take_bf16(a, e->layers * batch * s->slots * e->head_dim);
    s->suffix_values = take_bf16(a, e->layers * batch * s->slots * e->head_dim);
    s->exchange = (uint8_t *)device_take(a, s->engine->hopper ? stream_exchange_bytes(s->slots) : 0, 1);
}

extern "C" void cuda_session_close(backend_session *s) {
    if (!s) return;
    engine_use_device(s->engine, NULL); /* where that fails, memory is given back all the same */
    if (s->stream) cudaStreamSynchronize(s->stream);
    for (int i = 0; i < SESSION_GRAPHS; i++)
        if (s->graphs[i].graph) cudaGraphExecDestroy(s->graphs[i].graph);
    for (int i = 0; i < SESSION_EVENTS; i++)
        if (s->events[i]) cudaEventDestroy(s->events[i]);
    for (int i = 0; s->marks && i < s->marks_capacity; i++)
        if (s->marks[i]) cudaEventDestroy(s->marks[i]);
    if (s->device_memory) cudaFree(s->device_memory);
    if (s->host_memory) cudaFreeHost(s->host_memory);
    if (s->stream) cudaStreamDestroy(s->stream);
    device_trace_close(&s->trace);
    memory_release(s->notes);
    memory_release(s->last_starts);
    memory_release(s->marks);
    memory_release(s->mark_stage);
    memory_release(s->mark_op);
    memory_release(s);
}

static pi0_status open_profile(backend_session *s, pi0_error *error) {
    const model_config *c = &s->engine->config;
    s->marks_capacity =
        16 + 7 * (c->vit.layers + c->language.layers) + (s->options.num_steps + 1) * (7 * c->expert.layers + 4);
    s->marks = (cudaEvent_t *)memory_zeroed(s->marks_capacity, sizeof *s->marks);
    s->mark_stage = (int *)memory_zeroed(s->marks_capacity, sizeof *s->mark_stage);
    s->mark_op = (int *)memory_zeroed(s->marks_capacity, sizeof *s->mark_op);
    if (!s->marks || !s->mark_stage || !s->mark_op)
        return error_memory(error, s->marks_capacity * sizeof *s->marks, "profiling events");
    for (int i = 0; i < s->marks_capacity; i++) CUDA_TRY(cudaEventCreate(&s->marks[i]));
    return PI0_OK;
}

static pi0_status open_trace(backend_session *s, pi0_error *error) {
    const model_config *c = &s->engine->config;
    s->note_capacity =
        16 + 7 * (c->vit.layers + c->language.layers) + (s->options.num_steps + 1) * (7 * c->expert.layers + 4);
    s->notes = (launch_note *)memory_zeroed(s->note_capacity, sizeof *s->notes);
    if (!s->notes) return error_memory(error, s->note_capacity * sizeof *s->notes, "a trace's launches");
    return device_trace_open(&s->trace, error);
}

static pi0_status open_buffers(backend_session *s, pi0_error *error) {
    size_t tables, input;
    take_input(&s->host, NULL, s, &tables, &input);
    device_arena measure = {NULL, input};
    take_buffers(&measure, s);
    s->input_bytes = tables;
    s->device_bytes = measure.used;
    const size_t answer =
        (size_t)s->options.max_batch * s->options.horizon * s->engine->config.action_dim * sizeof(float);
    s->host_bytes = input + answer;

    size_t available = 0, all = 0;
    CUDA_TRY(cudaMemGetInfo(&available, &all));
    if (measure.used + ((size_t)32 << 20) > available)
        return error_set(error, PI0_ERROR_MEMORY,
                         "device %d: a session of batch %d needs %zu MB, %zu of %zu MB are free", s->engine->device,
                         s->options.max_batch, measure.used >> 20, available >> 20, all >> 20);
    CUDA_TRY(cudaMalloc((void **)&s->device_memory, measure.used));
    CUDA_TRY(cudaHostAlloc((void **)&s->host_memory, s->host_bytes, cudaHostAllocDefault));
    /* operands are padded with zeros; tickets begin at zero */
    CUDA_TRY(cudaMemsetAsync(s->device_memory, 0, measure.used, s->stream));
    memset(s->host_memory, 0, s->host_bytes);
    device_arena place = {s->device_memory, input};
    take_input(&s->host, s->host_memory, s, &tables, &input);
    take_input(&s->device, s->device_memory, s, &tables, &input);
    take_buffers(&place, s);
    s->host_actions = (float *)(s->host_memory + input);
    return PI0_OK;
}

static pi0_status open_session(backend_session *s, pi0_error *error) {
    const pi0_session_options *o = &s->options;
    const model_config *c = &s->engine->config;
    TRY(engine_use_device(s->engine, error));
    s->has_state = c->family == PI0_FAMILY_PI0;
    s->slots = o->horizon + s->has_state;
    s->max_images = o->max_batch * o->cameras;
    const int64_t rows = (int64_t)o->max_batch * (o->cameras * c->vit.tokens + o->max_prompt_tokens);
    const int64_t suffix = (int64_t)o->max_batch * (o->horizon + 1);
    if (rows * c->language.mlp > ((int64_t)1 << 40) || rows > (1 << 24) || suffix > (1 << 20))
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "a batch of %d with %d cameras, %d tokens and horizon %d is too large", o->max_batch,
                         o->cameras, o->max_prompt_tokens, o->horizon);
    s->max_rows = (int)rows;
    s->max_suffix_rows = round_to((int)suffix, 16);
    s->dt = (float)(-1.0 / o->num_steps);
    s->attention_split = s->engine->hopper ? 8 : 1;
    s->last_starts = (int *)memory_zeroed(o->max_batch + 1, sizeof(int));
    if (!s->last_starts) return error_memory(error, (o->max_batch + 1) * sizeof(int), "a session");
    CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    for (int i = 0; i < SESSION_EVENTS; i++) CUDA_TRY(cudaEventCreate(&s->events[i]));
    if (o->profile) TRY(open_profile(s, error));
    if (o->trace) TRY(open_trace(s, error));
    TRY(open_buffers(s, error));
    return inference_schedule(s, error);
}

extern "C" pi0_status cuda_session_open(backend_session **result, backend_engine *engine,
                                        const pi0_session_options *options, pi0_error *error) {
    *result = NULL;
    backend_session *s = (backend_session *)memory_zeroed(1, sizeof *s);
    if (!s) return error_memory(error, sizeof *s, "a session");
    s->engine = engine;
    s->options = *options;
    const pi0_status status = open_session(s, error);
    if (status != PI0_OK) {
        cuda_session_close(s);
        return status;
    }
    *result = s;
    return PI0_OK;
}

/* ---- one inference ---- */

/* Tables and images into pinned memory; returns what the launches depend on. */
static graph_key take_inputs(backend_session *s, const backend_input *inputs, int batch) {
    const pi0_session_options *o = &s->options;
    const model_config *c = &s->engine->config;
    input_block *b = &s->host;
    graph_key key;
    memset(&key, 0, sizeof key);
    key.batch = batch;
    for (int n = 0; n < batch; n++)
        for (int camera = 0; camera < o->cameras; camera++)
            key.float_images |= !inputs[n].images[camera] && inputs[n].float_images[camera];
    const size_t pixels = (size_t)c->vit.image_size * c->vit.image_size * 3,
                 stride = pixels * (key.float_images ? 4 : 1);
    const size_t actions = (size_t)o->horizon * c->action_dim;
    int row = 0;
    for (int n = 0; n < batch; n++) {
        const backend_input *in = &inputs[n];
        const int start = row;
        int valid = 0;
        b->starts[n] = start;
        for (int camera = 0; camera < o->cameras; camera++) {
            const bool given = in->images[camera] || in->float_images[camera];
            if (!given && o->skip_masked_images) continue;
            uint8_t *to = b->images + key.images * stride;
            b->image_rows[key.images] = row;
            b->image_kinds[key.images] = in->images[camera] ? IMAGE_U8 : given ? IMAGE_F32 : IMAGE_MASKED;
            if (in->images[camera])
                memcpy(to, in->images[camera], pixels);
            else if (given)
                memcpy(to, in->float_images[camera], pixels * sizeof(float));
            key.images++;
            key.masked |= !given;
            for (int i = 0; i < c->vit.tokens; i++, row++) {
                b->key_mask[row] = given;
                b->positions[row] = valid;
                valid += given;
            }
        }
        for (int i = 0; i < in->token_count; i++, row++) {
            b->tokens[key.text] = in->tokens[i];
            b->text_rows[key.text++] = row;
            b->key_mask[row] = 1;
            b->positions[row] = valid++;
        }
        b->prefix_valid[n] = valid;
        if (row - start > key.longest) key.longest = row - start;
        if (in->state) memcpy(b->state + (size_t)n * c->action_dim, in->state, c->action_dim * sizeof(float));
        memcpy(b->noise + n * actions, in->noise, actions * sizeof(float));
    }
    b->starts[batch] = row;
    key.rows = row;
    memcpy(s->last_starts, b->starts, (batch + 1) * sizeof(int));
    return key;
}

static pi0_status capture(backend_session *s, const graph_key *key, cudaGraphExec_t *result, pi0_error *error) {
    cudaGraph_t graph = NULL;
    CUDA_TRY(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal));
    const pi0_status launched = inference_launch(s, key, false, error);
    const cudaError_t ended = cudaStreamEndCapture(s->stream, &graph);
    if (launched != PI0_OK || ended != cudaSuccess) {
        if (graph) cudaGraphDestroy(graph);
        return launched != PI0_OK ? launched : cuda_error(error, ended, "the inference cannot be captured in a graph");
    }
    const cudaError_t status = cudaGraphInstantiate(result, graph, 0);
    cudaGraphDestroy(graph);
    if (status != cudaSuccess) return cuda_error(error, status, "cudaGraphInstantiate");
    const cudaError_t uploaded = cudaGraphUpload(*result, s->stream);
    if (uploaded != cudaSuccess) return cuda_error(error, uploaded, "cudaGraphUpload");
    return PI0_OK;
}

/* The graph of this shape: kept, or captured in the place of the one not used for longest. */
static pi0_status find_graph(backend_session *s, const graph_key *key, cudaGraphExec_t *graph, pi0_error *error) {
    graph_entry *oldest = &s->graphs[0];
    for (int i = 0; i < SESSION_GRAPHS; i++) {
        graph_entry *entry = &s->graphs[i];
        /* a traced graph's notes are kept for one graph only */
        if (entry->graph && memcmp(&entry->key, key, sizeof *key) == 0 &&
            (!s->trace || memcmp(&s->notes_key, key, sizeof *key) == 0)) {
            entry->used = ++s->clock;
            *graph = entry->graph;
            return PI0_OK;
        }
        if (entry->used < oldest->used) oldest = entry;
    }
    if (oldest->graph) cudaGraphExecDestroy(oldest->graph);
    memset(oldest, 0, sizeof *oldest);
    TRY(capture(s, key, &oldest->graph, error));
    oldest->key = s->notes_key = *key;
    oldest->used = ++s->clock;
    *graph = oldest->graph;
    return PI0_OK;
}

static pi0_status read_timings(backend_session *s, pi0_timings *timings, pi0_error *error) {
    static const int stage_of[SESSION_EVENTS - 1] = {PI0_STAGE_OTHER, PI0_STAGE_VIT, PI0_STAGE_PREFILL,
                                                     PI0_STAGE_DENOISE};
    memset(timings->stage_ms, 0, sizeof timings->stage_ms);
    memset(timings->op_ms, 0, sizeof timings->op_ms);
    memset(timings->op_calls, 0, sizeof timings->op_calls);
    float ms = 0;
    CUDA_TRY(cudaEventElapsedTime(&ms, s->events[0], s->events[SESSION_EVENTS - 1]));
    timings->device_ms = ms;
    for (int i = 0; i + 1 < SESSION_EVENTS; i++) {
        CUDA_TRY(cudaEventElapsedTime(&ms, s->events[i], s->events[i + 1]));
        timings->stage_ms[stage_of[i]] += ms;
    }
    for (int i = 1; s->options.profile && i < s->marks_used; i++) {
        CUDA_TRY(cudaEventElapsedTime(&ms, s->marks[i - 1], s->marks[i]));
        timings->op_ms[s->mark_stage[i]][s->mark_op[i]] += ms;
        timings->op_calls[s->mark_stage[i]][s->mark_op[i]]++;
    }
    return PI0_OK;
}

extern "C" pi0_status cuda_infer(backend_session *s, const backend_input *inputs, int batch, float *actions,
                                 pi0_timings *timings, pi0_error *error) {
    const double begin = clock_ms();
    TRY(engine_use_device(s->engine, error));
    if (s->trace) device_trace_begin(s->trace);
    const graph_key key = take_inputs(s, inputs, batch);
    if (s->options.graph && !s->options.profile) {
        cudaGraphExec_t graph;
        TRY(find_graph(s, &key, &graph, error));
        CUDA_TRY(cudaGraphLaunch(graph, s->stream));
    } else {
        TRY(inference_launch(s, &key, s->options.profile, error));
    }
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    if (s->trace)
        TRY(device_trace_end(s->trace, s->notes, s->note_count, s->options.trace, s->options.trace_user, error));
    memcpy(actions, s->host_actions, (size_t)batch * s->options.horizon * s->engine->config.action_dim * sizeof(float));
    s->last = key;
    TRY(read_timings(s, timings, error));
    timings->total_ms = clock_ms() - begin;
    double known = 0;
    for (int i = 0; i < PI0_STAGE_COUNT; i++)
        if (i != PI0_STAGE_OTHER) known += timings->stage_ms[i];
    timings->stage_ms[PI0_STAGE_OTHER] = timings->total_ms - known;
    timings->workspace_bytes = (int64_t)(s->device_bytes + s->host_bytes);
    return PI0_OK;
}

/* ---- stage results ---- */

static pi0_status read_f32(const backend_session *s, const float *from, size_t count, float *to, pi0_error *error) {
    CUDA_TRY(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return PI0_OK;
}

static pi0_status read_bf16(const backend_session *s, const __nv_bfloat16 *from, size_t count, float *to,
                            pi0_error *error) {
    uint16_t *raw = (uint16_t *)memory_allocate(count * sizeof *raw);
    if (!raw) return error_memory(error, count * sizeof *raw, "a stage result");
    cudaError_t status = cudaMemcpyAsync(raw, from, count * sizeof *raw, cudaMemcpyDeviceToHost, s->stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(s->stream);
    for (size_t i = 0; status == cudaSuccess && i < count; i++) {
        const uint32_t bits = (uint32_t)raw[i] << 16;
        memcpy(&to[i], &bits, sizeof bits);
    }
    memory_release(raw);
    CUDA_TRY(status);
    return PI0_OK;
}

extern "C" pi0_status cuda_read(const backend_session *s, const char *name, int index, float *values, size_t capacity,
                                size_t *count, pi0_error *error) {
    const model_config *c = &s->engine->config;
    if (index < 0 || index >= s->last.batch)
        return error_set(error, PI0_ERROR_ARGUMENT, "observation %d: the last inference had %d", index, s->last.batch);
    TRY(engine_use_device(s->engine, error));
    const size_t start = s->last_starts[index], rows = s->last_starts[index + 1] - start;
    size_t piece, pieces, stride;
    const float *f32 = NULL;
    const __nv_bfloat16 *narrow = NULL;
    if (!strcmp(name, "prefix_embeddings")) {
        piece = rows * c->language.width;
        pieces = 1;
        stride = 0;
        f32 = s->record_embeddings + start * c->language.width;
    } else if (!strcmp(name, "prefix_keys") || !strcmp(name, "prefix_values")) {
        piece = rows * c->language.head_dim;
        pieces = c->language.layers;
        stride = (size_t)s->max_rows * c->language.head_dim;
        narrow = (name[7] == 'k' ? s->keys : s->values) + start * c->language.head_dim;
    } else if (!strcmp(name, "x") || !strcmp(name, "v")) {
        piece = (size_t)s->options.horizon * c->action_dim;
        pieces = s->options.num_steps;
        stride = s->options.max_batch * piece;
        f32 = (name[0] == 'x' ? s->actions : s->velocity) + index * piece;
    } else {
        return error_set(error, PI0_ERROR_ARGUMENT, "there is no stage result \"%s\"", name);
    }
    *count = piece * pieces;
    for (size_t i = 0; values && i < pieces && i * piece < capacity; i++) {
        const size_t want = capacity - i * piece < piece ? capacity - i * piece : piece;
        if (f32)
            TRY(read_f32(s, f32 + i * stride, want, values + i * piece, error));
        else
            TRY(read_bf16(s, narrow + i * stride, want, values + i * piece, error));
    }
    return PI0_OK;
}
