/*
 * --record-dir: every request and its answer as files, NNNNNN.msgpack and NNNNNN.response.msgpack, as they went over
 * the wire. A disk that is full costs the record, never the answer.
 */
#ifndef PI0_SERVE_RECORDER_H
#define PI0_SERVE_RECORDER_H

#include <stdatomic.h>

#include "serve/event.h"
#include "serve/metrics.h"

typedef struct recorder {
    const char *folder; /* borrowed; NULL: nothing is recorded */
    atomic_ullong next; /* number of the next request: after those that are there already */
    metrics *metrics;
    const event_log *log;
    atomic_bool failing; /* said once, not for every request */
} recorder;

/* folder may be NULL; else it has to be there. */
pi0_status recorder_open(recorder *recorder, const char *folder, metrics *metrics, const event_log *log,
                         pi0_error *error);
/* Records a request and returns its number. */
unsigned long long recorder_request(recorder *recorder, const void *bytes, size_t size);
void recorder_response(recorder *recorder, unsigned long long number, const void *bytes, size_t size);

#endif
