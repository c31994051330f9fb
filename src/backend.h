/*
 * What a backend does: take weights from a checkpoint, run the three stages, time them. pi0.c checks arguments and
 * picks the backend; a backend may assume that what it is given is valid and within the session's limits.
 */
#ifndef PI0_BACKEND_H
#define PI0_BACKEND_H

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"

/* pi0_observation after the checks: only valid tokens are left, every id is inside the vocabulary. */
typedef struct backend_input {
    const uint8_t *images[PI0_MAX_CAMERAS];     /* uint8 [R,R,3] or NULL */
    const float *float_images[PI0_MAX_CAMERAS]; /* float32 [3,R,R] where images[i] is NULL; NULL in both: masked */
    const int32_t *tokens;                      /* [token_count], 0..max_prompt_tokens */
    int token_count;
    const float *state; /* [A] */
    const float *noise; /* [H,A] */
} backend_input;

typedef struct backend_engine backend_engine; /* each backend defines its own */
typedef struct backend_session backend_session;

typedef struct backend_engine_options {
    const pi0_engine_options
        *options;                 /* as the user gave them; backend and precision AUTO still possible for precision */
    const checkpoint *checkpoint; /* outlives the engine */
    log_sink log;
} backend_engine_options;

typedef struct backend {
    pi0_backend id;
    const char *name; /* "cpu", "cuda", "hip" */

    /* Appends what this machine has to devices[*count..capacity), counting past capacity too. Never fails: a backend
     * that cannot run reports one entry with usable false and the reason. */
    void (*devices)(pi0_device_info *devices, int capacity, int *count);

    pi0_status (*engine_open)(backend_engine **engine, const backend_engine_options *options, pi0_error *error);
    void (*engine_close)(backend_engine *engine);
    /* Fills device_name, device_arch, precision and weights_bytes; pi0.c fills the rest. */
    void (*engine_describe)(const backend_engine *engine, pi0_engine_info *info);

    pi0_status (*session_open)(backend_session **session, backend_engine *engine, const pi0_session_options *options,
                               pi0_error *error);
    void (*session_close)(backend_session *session);

    /* actions float32 [batch,H,A]; fills *timings (stage and op times) itself. Allocates nothing. */
    pi0_status (*infer)(backend_session *session, const backend_input *inputs, int batch, float *actions,
                        pi0_timings *timings, pi0_error *error);

    /* See pi0_session_read. */
    pi0_status (*read)(const backend_session *session, const char *name, int index, float *values, size_t capacity,
                       size_t *count, pi0_error *error);

    unsigned choices; /* PI0_CHOICE_*: pi0.c refuses the others */
} backend;

extern const backend cpu_backend;
#ifdef PI0_WITH_CUDA
extern const backend cuda_backend;
#endif
#ifdef PI0_WITH_HIP
extern const backend hip_backend;
#endif

#endif
