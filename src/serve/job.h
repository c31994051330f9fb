/*
 * One request on its way through the server.
 *
 *     network thread   receives bytes, submits the job, sends the response; a small request that finds the engine idle
 *                      is prepared there and then, while its bytes are in this core's cache
 *     preparer         decodes and prepares the others (images, tokens)
 *     runner           runs it, alone or with others that wait, finishes and encodes the response
 *
 * A job belongs to whoever holds it; the queues hand it over. Only `abandoned` is touched from two sides.
 */
#ifndef PI0_SERVE_JOB_H
#define PI0_SERVE_JOB_H

#include <stdatomic.h>

#include "pi0.h"
#include "policy/value.h"

typedef struct job {
    struct job *next;
    uint64_t connection;  /* whose it is */
    unsigned char *bytes; /* the message, [size]; owned */
    size_t size;
    unsigned long long record; /* number under --record-dir; from the preparer */
    double prev_total_ms;      /* of the connection's previous request; negative: this is its first */
    double received_ms;        /* monotonic clock */
    double deadline_ms;        /* monotonic clock: not worth running later */
    atomic_bool abandoned;     /* the client is gone or was told that time is up: do no more work for it */

    pi0_request *request; /* decoded, points into bytes; or NULL */
    pi0_input *input;     /* from here on: made by the preparer */
    double prepare_ms;

    double infer_ms;            /* the model alone */
    double total_ms;            /* transforms included */
    int batch;                  /* how many ran together */
    bool failed, engine_failed; /* the request could not be answered; because of the engine */
    pi0_error error;            /* where failed */
    wire_buffer response;       /* else: the message to send */
} job;

/* Takes the bytes over. NULL when there is no memory (then they are still the caller's). */
job *job_new(unsigned char *bytes, size_t size);
/* Frees the job and all that it holds; NULL is a no-op. */
void job_free(job *job);

#endif
