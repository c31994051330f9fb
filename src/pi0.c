/*
 * The API's body: open, infer, close. Everything that comes from outside is checked here, so that backends need not.
 *
 *     pi0_engine_open    checkpoint -> backend (auto: the first that has a usable device) -> weights on it
 *     pi0_session_open   all memory of one inference
 *     pi0_session_infer  observations -> backend_input (valid tokens only) -> actions
 */
#include "pi0.h"

#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "base/memory.h"
#include "base/struct.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/synthetic.h"

struct pi0_engine {
    const backend *backend;
    backend_engine *implementation;
    checkpoint *checkpoint;
};

struct pi0_session {
    pi0_engine *engine;
    backend_session *implementation;
    pi0_session_options options;
    backend_input *inputs; /* [max_batch] */
    int32_t *tokens;       /* [max_batch, max_prompt_tokens] */
    pi0_timings timings;
};

enum { MAX_BATCH = 1024, MAX_PROMPT_TOKENS = 4096, MAX_HORIZON = 4096, MAX_STEPS = 1000 };

/* In the order in which AUTO tries them. */
static const backend *const backends[] = {
#ifdef PI0_WITH_CUDA
    &cuda_backend,
#endif
#ifdef PI0_WITH_HIP
    &hip_backend,
#endif
    &cpu_backend,
};
enum { BACKEND_COUNT = sizeof backends / sizeof *backends };

int pi0_abi(void) { return PI0_ABI; }
const char *pi0_version(void) { return PI0_VERSION_STRING; }

void pi0_noise(uint64_t seed, float *noise, size_t count) { synthetic_normal("noise", seed, noise, (int64_t)count); }

const char *pi0_stage_name(int stage) {
    static const char *const names[PI0_STAGE_COUNT] = {"ViT", "LLM prefill", "Diffusion", "Other"};
    return stage >= 0 && stage < PI0_STAGE_COUNT ? names[stage] : NULL;
}

const char *pi0_op_name(int op) {
    static const char *const names[PI0_OP_COUNT] = {"GEMM", "attention", "norm", "RoPE", "activation", "other"};
    return op >= 0 && op < PI0_OP_COUNT ? names[op] : NULL;
}

/* ---- devices ---- */

#if !defined(PI0_WITH_CUDA) || !defined(PI0_WITH_HIP)
static void devices_without(pi0_backend id, const char *reason, pi0_device_info *devices, int capacity, int *count) {
    if (*count < capacity) {
        pi0_device_info *d = &devices[*count];
        *d = (pi0_device_info){.struct_size = d->struct_size, .backend = id};
        snprintf(d->reason, sizeof d->reason, "%s", reason);
    }
    ++*count;
}
#endif

pi0_status pi0_devices(pi0_device_info *devices, int capacity, int *count, pi0_error *error) {
    if (!count || capacity < 0 || (capacity && !devices))
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_devices: expected an array and a count to fill");
    for (int i = 0; i < capacity; i++)
        if (devices[i].struct_size != sizeof *devices)
            return error_set(error, PI0_ERROR_ARGUMENT, "pi0_device_info: struct_size is %zu, expected %zu",
                             devices[i].struct_size, sizeof *devices);
    *count = 0;
    for (int i = 0; i < BACKEND_COUNT; i++) backends[i]->devices(devices, capacity, count);
#ifndef PI0_WITH_CUDA
    devices_without(PI0_BACKEND_CUDA, "this build has no CUDA backend", devices, capacity, count);
#endif
#ifndef PI0_WITH_HIP
    devices_without(PI0_BACKEND_HIP, "this build has no HIP backend", devices, capacity, count);
#endif
    return PI0_OK;
}

static bool backend_usable(const backend *backend) {
    pi0_device_info devices[16] = {0};
    int count = 0;
    backend->devices(devices, 16, &count);
    for (int i = 0; i < count && i < 16; i++)
        if (devices[i].usable) return true;
    return false;
}

static const char *backend_name(pi0_backend id) {
    switch (id) {
    case PI0_BACKEND_AUTO:
        return "auto";
    case PI0_BACKEND_CPU:
        return "cpu";
    case PI0_BACKEND_CUDA:
        return "cuda";
    case PI0_BACKEND_HIP:
        return "hip";
    }
    return "?";
}

static pi0_status choose_backend(const backend **chosen, pi0_backend asked, pi0_precision precision, pi0_error *error) {
    for (int i = 0; i < BACKEND_COUNT; i++) {
        /* float32 is the CPU's: a GPU computes in bf16 or fp8 */
        if (asked == PI0_BACKEND_AUTO && precision == PI0_PRECISION_F32 && backends[i] != &cpu_backend) continue;
        if (asked == PI0_BACKEND_AUTO ? backend_usable(backends[i]) : backends[i]->id == asked) {
            *chosen = backends[i];
            return PI0_OK;
        }
    }
    return error_set(error, PI0_ERROR_UNSUPPORTED, "backend %s: this build does not have it", backend_name(asked));
}

/* ---- engine ---- */

void pi0_engine_options_default(pi0_engine_options *options) {
    *options = (pi0_engine_options){.struct_size = sizeof *options, .checkpoint = "synthetic:1", .fuse_qkv = true};
}

static pi0_status check_engine_options(const pi0_engine_options *o, pi0_error *error) {
    if (!o->checkpoint)
        return error_set(error, PI0_ERROR_ARGUMENT, "checkpoint is NULL: expected a directory or \"synthetic:SEED\"");
    if (o->threads < 0 || o->threads > 4096)
        return error_set(error, PI0_ERROR_ARGUMENT, "threads is %d, expected 0 (all) to 4096", o->threads);
    if (o->device < 0) return error_set(error, PI0_ERROR_ARGUMENT, "device is %d, expected 0 or more", o->device);
    if ((unsigned)o->precision > PI0_PRECISION_FP8 || (unsigned)o->rope > PI0_ROPE_OPENPI_TORCH_BF16 ||
        (unsigned)o->model > PI0_MODEL_TINY_PI05 || (unsigned)o->kernels > PI0_KERNELS_PORTABLE ||
        (unsigned)o->gemm > PI0_GEMM_OWN || (unsigned)o->attention > PI0_ATTENTION_NAIVE)
        return error_set(error, PI0_ERROR_ARGUMENT, "an engine option has a value outside its enumeration");
    return PI0_OK;
}

static pi0_status check_choices(const backend *backend, const pi0_engine_options *o, pi0_error *error) {
    const char *name = NULL;
    if (o->gemm != PI0_GEMM_AUTO && !(backend->choices & PI0_CHOICE_GEMM)) name = "matrix products (gemm)";
    if (o->attention != PI0_ATTENTION_AUTO && !(backend->choices & PI0_CHOICE_ATTENTION)) name = "attention";
    if (!o->fuse_qkv && !(backend->choices & PI0_CHOICE_FUSE_QKV)) name = "query, key and value products (fuse_qkv)";
    if (!name) return PI0_OK;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "the %s backend has no choice of %s", backend->name, name);
}

pi0_status pi0_engine_open(pi0_engine **result, const pi0_engine_options *options, pi0_error *error) {
    if (!result) return error_set(error, PI0_ERROR_ARGUMENT, "pi0_engine_open: the place for the engine is NULL");
    *result = NULL;
    pi0_engine_options o;
    pi0_engine_options_default(&o);
    if (options) TRY(struct_merge(&o, sizeof o, options, "pi0_engine_options", error));
    TRY(check_engine_options(&o, error));

    pi0_engine *engine = memory_zeroed(1, sizeof *engine);
    if (!engine) return error_memory(error, sizeof *engine, "the engine");
    log_sink log = {o.log, o.log_user};
    pi0_status status = choose_backend(&engine->backend, o.backend, o.precision, error);
    if (status == PI0_OK) status = check_choices(engine->backend, &o, error);
    if (status == PI0_OK) status = checkpoint_open(&engine->checkpoint, o.checkpoint, o.model, &log, error);
    if (status == PI0_OK) {
        backend_engine_options b = {.options = &o, .checkpoint = engine->checkpoint, .log = log};
        status = engine->backend->engine_open(&engine->implementation, &b, error);
    }
    if (status != PI0_OK) {
        pi0_engine_close(&engine);
        return status;
    }
    *result = engine;
    return PI0_OK;
}

void pi0_engine_close(pi0_engine **engine) {
    if (!engine || !*engine) return;
    if ((*engine)->implementation) (*engine)->backend->engine_close((*engine)->implementation);
    checkpoint_close(&(*engine)->checkpoint);
    memory_release(*engine);
    *engine = NULL;
}

pi0_status pi0_engine_describe(const pi0_engine *engine, pi0_engine_info *info, pi0_error *error) {
    if (!engine || !info) return error_set(error, PI0_ERROR_ARGUMENT, "pi0_engine_describe: engine or info is NULL");
    const model_config *c = checkpoint_config(engine->checkpoint);
    pi0_engine_info filled = {.family = c->family,
                              .action_dim = c->action_dim,
                              .image_size = c->vit.image_size,
                              .tokens_per_image = c->vit.tokens,
                              .vocabulary = c->vocabulary,
                              .parameters = checkpoint_parameters(engine->checkpoint),
                              .backend = engine->backend->id,
                              .choices = engine->backend->choices};
    snprintf(filled.layout, sizeof filled.layout, "%s",
             checkpoint_layout_name(checkpoint_get_layout(engine->checkpoint)));
    engine->backend->engine_describe(engine->implementation, &filled);
    return struct_hand_out(info, &filled, sizeof filled, "pi0_engine_info", error);
}

/* ---- session ---- */

void pi0_session_options_default(pi0_session_options *options, const pi0_engine *engine) {
    *options = (pi0_session_options){.struct_size = sizeof *options,
                                     .cameras = 3,
                                     .max_batch = 1,
                                     .max_prompt_tokens = 200,
                                     .horizon = 10,
                                     .num_steps = 10,
                                     .skip_masked_images = true,
                                     .graph = true};
    if (engine) options->lerobot_time = checkpoint_get_layout(engine->checkpoint) == LAYOUT_LEROBOT;
}

static pi0_status check_range(const char *name, int value, int low, int high, pi0_error *error) {
    if (value >= low && value <= high) return PI0_OK;
    return error_set(error, PI0_ERROR_ARGUMENT, "%s is %d, expected %d to %d", name, value, low, high);
}

static pi0_status check_session_options(const pi0_session_options *o, pi0_error *error) {
    TRY(check_range("cameras", o->cameras, 1, PI0_MAX_CAMERAS, error));
    TRY(check_range("max_batch", o->max_batch, 1, MAX_BATCH, error));
    TRY(check_range("max_prompt_tokens", o->max_prompt_tokens, 0, MAX_PROMPT_TOKENS, error));
    TRY(check_range("horizon", o->horizon, 1, MAX_HORIZON, error));
    return check_range("num_steps", o->num_steps, 1, MAX_STEPS, error);
}

pi0_status pi0_session_open(pi0_session **result, pi0_engine *engine, const pi0_session_options *options,
                            pi0_error *error) {
    if (!result || !engine)
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "pi0_session_open: the engine or the place for the session is NULL");
    *result = NULL;
    pi0_session_options o;
    pi0_session_options_default(&o, engine);
    if (options) TRY(struct_merge(&o, sizeof o, options, "pi0_session_options", error));
    TRY(check_session_options(&o, error));
    if (o.trace && !(engine->backend->choices & PI0_CHOICE_TRACE))
        return error_set(error, PI0_ERROR_UNSUPPORTED, "the %s backend records no traces", engine->backend->name);

    pi0_session *session = memory_zeroed(1, sizeof *session);
    if (!session) return error_memory(error, sizeof *session, "a session");
    session->engine = engine;
    session->options = o;
    session->timings.struct_size = sizeof session->timings;
    session->inputs = memory_zeroed((size_t)o.max_batch, sizeof *session->inputs);
    size_t tokens = (size_t)o.max_batch * (size_t)o.max_prompt_tokens;
    session->tokens = memory_zeroed(tokens, sizeof *session->tokens);
    pi0_status status = session->inputs && session->tokens
                            ? PI0_OK
                            : error_memory(error, tokens * sizeof(int32_t), "a session's inputs");
    if (status == PI0_OK)
        status = engine->backend->session_open(&session->implementation, engine->implementation, &o, error);
    if (status != PI0_OK) {
        pi0_session_close(&session);
        return status;
    }
    *result = session;
    return PI0_OK;
}

void pi0_session_close(pi0_session **session) {
    if (!session || !*session) return;
    if ((*session)->implementation) (*session)->engine->backend->session_close((*session)->implementation);
    memory_release((*session)->inputs);
    memory_release((*session)->tokens);
    memory_release(*session);
    *session = NULL;
}

/* Observation n of a batch -> backend_input: valid tokens only, all of it checked. */
static pi0_status take_observation(pi0_session *session, const pi0_observation *observation, int n, pi0_error *error) {
    const pi0_session_options *o = &session->options;
    const model_config *c = checkpoint_config(session->engine->checkpoint);
    backend_input *input = &session->inputs[n];
    int32_t *tokens = session->tokens + (size_t)n * (size_t)o->max_prompt_tokens;
    int cameras = 0, count = 0;

    for (int camera = 0; camera < PI0_MAX_CAMERAS; camera++) {
        bool given = observation->images[camera] || observation->float_images[camera];
        if (given && camera >= o->cameras)
            return error_set(error, PI0_ERROR_ARGUMENT,
                             "observation %d has an image in camera slot %d, the session has %d slots", n, camera,
                             o->cameras);
        input->images[camera] = observation->images[camera];
        input->float_images[camera] = observation->float_images[camera];
        cameras += given;
    }
    if (observation->token_count < 0 || (observation->token_count > 0 && !observation->tokens))
        return error_set(error, PI0_ERROR_ARGUMENT,
                         "observation %d: token_count is %d but tokens is NULL or the count negative", n,
                         observation->token_count);
    for (int i = 0; i < observation->token_count; i++) {
        if (observation->token_mask && !observation->token_mask[i]) continue;
        if (observation->tokens[i] < 0 || observation->tokens[i] >= c->vocabulary)
            return error_set(error, PI0_ERROR_ARGUMENT, "observation %d: token %d is id %d, expected 0 to %d", n, i,
                             observation->tokens[i], c->vocabulary - 1);
        if (count == o->max_prompt_tokens)
            return error_set(error, PI0_ERROR_ARGUMENT,
                             "observation %d has more than %d valid tokens, the session's max_prompt_tokens", n,
                             o->max_prompt_tokens);
        tokens[count++] = observation->tokens[i];
    }
    if (!cameras && !count)
        return error_set(error, PI0_ERROR_ARGUMENT, "observation %d has neither an image nor a token", n);
    if (!observation->noise)
        return error_set(error, PI0_ERROR_ARGUMENT, "observation %d: noise is NULL (pi0_noise makes some)", n);
    if (!observation->state && c->family == PI0_FAMILY_PI0)
        return error_set(error, PI0_ERROR_ARGUMENT, "observation %d: state is NULL, pi0 reads it", n);
    input->tokens = tokens;
    input->token_count = count;
    input->state = observation->state;
    input->noise = observation->noise;
    return PI0_OK;
}

pi0_status pi0_session_infer(pi0_session *session, const pi0_observation *observations, int batch, float *actions,
                             pi0_error *error) {
    if (!session || !observations || !actions)
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_session_infer: session, observations or actions is NULL");
    TRY(check_range("batch", batch, 1, session->options.max_batch, error));
    for (int n = 0; n < batch; n++) TRY(take_observation(session, &observations[n], n, error));
    return session->engine->backend->infer(session->implementation, session->inputs, batch, actions, &session->timings,
                                           error);
}

pi0_status pi0_session_timings(const pi0_session *session, pi0_timings *timings, pi0_error *error) {
    if (!session || !timings)
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_session_timings: session or timings is NULL");
    return struct_hand_out(timings, &session->timings, sizeof *timings, "pi0_timings", error);
}

pi0_status pi0_session_read(const pi0_session *session, const char *name, int index, float *values, size_t capacity,
                            size_t *count, pi0_error *error) {
    if (!session || !name || !count)
        return error_set(error, PI0_ERROR_ARGUMENT, "pi0_session_read: session, name or count is NULL");
    if (!session->options.record)
        return error_set(error, PI0_ERROR_ARGUMENT, "stage result \"%s\": the session was not opened with record",
                         name);
    return session->engine->backend->read(session->implementation, name, index, values, capacity, count, error);
}
