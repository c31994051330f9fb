/*
 * From what a GPU's profiler recorded of one inference to the events of pi0_session_options.trace: which record belongs
 * to which launch, ranges of stages, steps, layers and ops around them, arrows from API calls. Knows no GPU library.
 */
#ifndef PI0_MODEL_LAUNCH_TRACE_H
#define PI0_MODEL_LAUNCH_TRACE_H

#include "base/status.h"

/* What a backend put into the stream, in order. Numbers that mean nothing for it are 0. */
typedef struct launch_note {
    const char *name;       /* "qkv", static */
    int stage, step, layer; /* PI0_STAGE_*; step and layer -1: none */
    int parts;              /* steps that this one launch computes; 0 or 1: it is none or part of one */
    int records;            /* kernels, copies and memsets it is made of; 0: not known, the records tell */
    double rows, k, n, bytes, flops;
} launch_note;

typedef enum launch_record_kind { LAUNCH_KERNEL, LAUNCH_COPY, LAUNCH_SET, LAUNCH_CALL } launch_record_kind;

/* What the profiler recorded. Times are nanoseconds on one clock. */
typedef struct launch_record {
    launch_record_kind kind;
    uint64_t start_ns, end_ns;
    uint32_t correlation; /* the same number: a call and what it started */
    int note;             /* index of its launch_note; below 0: by order */
    const char *name;     /* of the kernel's function or of the call */
    int stream, thread;   /* thread: of a call */
    uint64_t node;        /* of a graph, or 0 */
    int grid[3], block[3], cluster[3], registers, static_shared, dynamic_shared;
    double bytes;          /* copied or set */
    const char *direction; /* of a copy: "host to device" */
} launch_record;

typedef struct launch_trace {
    launch_record *records; /* will be sorted by start */
    int record_count;
    const launch_note *notes;
    int note_count;
    uint64_t begin_ns, end_ns; /* of the call on the host's side */
    uint64_t base_ns;          /* times of events count from here */
    pi0_trace_function function;
    void *user;
} launch_trace;

/*
 * Tells everything. A kernel that was resident before its predecessor ended is shown from that end on, `early_us` says
 * how much earlier it came: so kernels of a stream do not overlap and their times add up. PI0_ERROR_DEVICE when the
 * records do not fit the notes: nothing has been told then.
 */
pi0_status launch_trace_tell(launch_trace *trace, pi0_error *error);

#endif
