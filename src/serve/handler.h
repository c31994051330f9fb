/* What the server does with a request: decode, prepare, infer, finish, encode. Knows nothing of sockets or queues. */
#ifndef PI0_SERVE_HANDLER_H
#define PI0_SERVE_HANDLER_H

#include "serve/cameras.h"
#include "serve/job.h"
#include "serve/recorder.h"

typedef struct handler handler;

typedef struct handler_options {
    pi0_engine *engine; /* borrowed, as is the policy */
    const pi0_policy *policy;
    int batch;     /* most requests of one inference */
    int num_steps; /* 0: the policy's */
    bool seeded;   /* the same noise for every request: normal("noise", seed); else each draws its own */
    uint64_t seed;
    const char *record_dir; /* NNNNNN.msgpack and NNNNNN.response.msgpack; or NULL */
    cameras *cameras;       /* borrowed; NULL: images are not shown */
    metrics *metrics;
    event_log log;
} handler_options;

pi0_status handler_open(handler **handler, const handler_options *options, pi0_error *error);
void handler_close(handler **handler);

/* Decodes the message, or marks the job failed; true: the rest of handler_prepare takes a fraction of a millisecond.
 * Leaves alone what may take longer. */
bool handler_decode_quickly(handler *handler, job *job);
/* The preparer's part: turns the message into an input, or marks the job failed. */
void handler_prepare(handler *handler, job *job);
/* The runner's part, for jobs that were prepared: fills response, or marks them failed. count <= batch. */
void handler_run(handler *handler, job *const *jobs, int count);
/* One inference on an empty scene, so that the first request is not the slow one. */
pi0_status handler_warm_up(handler *handler, pi0_error *error);

#endif
