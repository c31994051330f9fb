/*
 * Keeps the events of one or several inferences (pi0_session_options.trace) until they are written or summed up.
 * Names and texts are interned, so that an inference of 100,000 events takes a few megabytes.
 */
#ifndef PI0_PROFILE_RECORDER_H
#define PI0_PROFILE_RECORDER_H

#include "base/status.h"
#include "profile/trace_names.h"

typedef struct recorder_value {
    uint32_t name, text; /* in recorder.strings; text TRACE_NO_NAME: a number */
    double number;
} recorder_value;

typedef struct recorder_event {
    double start_us, duration_us;
    uint64_t flow;
    uint32_t name, category; /* in recorder.strings; category TRACE_NO_NAME: after its kind */
    uint32_t first_value;
    uint16_t value_count;
    uint8_t kind; /* pi0_trace_kind */
    uint8_t lane; /* set by recorder_sort: events of a track that overlap without nesting lie on several lanes */
    int track;
} recorder_event;

typedef struct recorder {
    trace_names strings;
    recorder_event *events;
    recorder_value *values;
    uint32_t event_count, event_capacity, value_count, value_capacity;
    bool failed; /* out of memory: events were lost */
} recorder;

/* A pi0_trace_function; user is a zeroed recorder or one that recorded before. */
void recorder_event_add(void *user, const pi0_trace_event *event);

/* By start, what contains before what is contained; gives lanes. PI0_ERROR_MEMORY too when events were lost. */
pi0_status recorder_sort(recorder *recorder, pi0_error *error);

static inline const char *recorder_string(const recorder *recorder, uint32_t id) {
    return recorder->strings.names[id].text;
}

/* A number among the values of an event, or `fallback`. */
double recorder_number(const recorder *recorder, const recorder_event *event, const char *name, double fallback);

double recorder_kind_ms(const recorder *recorder, pi0_trace_kind kind); /* the sum over all events of a kind */

void recorder_clear(recorder *recorder);   /* forgets the events, keeps the memory */
void recorder_release(recorder *recorder); /* gives the memory back */

#endif
