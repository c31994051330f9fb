/*
 * A Chrome trace (ours, PyTorch's for CUDA and ROCm, rocprofv3's) as the analyzer holds it: totals by name, and one
 * small record a kernel for as long as memory allows. Format: "Trace Event Format", Google, 2016: an array of events or
 * an object with "traceEvents"; times are microseconds.
 */
#ifndef PI0_PROFILE_TRACE_H
#define PI0_PROFILE_TRACE_H

#include "base/status.h"
#include "profile/trace_names.h"
#include "profile/trace_source.h"

/* One event with category kernel or gpu. 24 bytes: a trace may hold millions. */
typedef struct trace_kernel {
    double start_us;
    float us;
    uint32_t name;     /* in trace.kernels */
    uint32_t external; /* "External id" of the CPU op that launched it; 0: none */
    uint16_t grid;     /* in trace.grids; 0: not told */
    uint16_t queue;    /* in trace.queues: the device and its stream */
} trace_kernel;

/* A range on the device's side that says what its kernels belong to. */
typedef enum trace_range_kind {
    TRACE_RANGE_STAGE,
    TRACE_RANGE_STEP,
    TRACE_RANGE_LAYER,
    TRACE_RANGE_INFERENCE,
    TRACE_RANGE_KINDS
} trace_range_kind;

typedef struct trace_range {
    double start_us, end_us;
    trace_range_kind kind;
    int stage; /* PI0_STAGE_* of a TRACE_RANGE_STAGE */
} trace_range;

/* A CPU op and what it was called with. */
typedef struct trace_op {
    uint32_t external;
    uint32_t name;   /* in trace.ops */
    uint32_t shapes; /* in trace.shapes; TRACE_NO_NAME: not told */
} trace_op;

enum {
    TRACE_MAX_KERNELS = 4000000, /* records kept; beyond them only totals are */
    TRACE_MAX_OPS = 2000000,
    TRACE_MAX_RANGES = 1000000,
    TRACE_CHUNK = 1 << 16,
};

typedef struct trace {
    trace_names kernels, runtime, ops, shapes, grids, queues; /* counts and times by name where they have a time */
    char *device;                                             /* "NVIDIA H200", or NULL */

    uint64_t kernel_count, copy_count, runtime_count, event_count;
    double kernel_us, kernel_low_us, copy_us, copy_low_us, runtime_us, runtime_low_us;
    double first_us, last_us; /* of kernels: start of the first, end of the last; valid with kernel_count > 0 */
    uint64_t op_event_count;  /* CPU ops */

    trace_kernel **chunks; /* records in order of the file, TRACE_CHUNK each */
    uint32_t chunk_count, chunk_capacity;
    uint32_t record_count; /* kernel_count, or 0 when records_dropped */
    bool records_dropped;

    trace_op *op_events;
    uint32_t op_count, op_capacity;
    bool ops_dropped;
    trace_range *ranges;
    uint32_t range_count, range_capacity;

    /* What was wrong with it; the answer is partial where one of these is set. */
    bool cut_off;              /* ends in the middle */
    char damage[200];          /* where it stops being JSON or gzip, or empty */
    uint64_t impossible_count; /* kernels and calls with a negative, absurd or missing time: left out */
    uint64_t oversized_count;  /* events larger than the buffer may grow: left out */
} trace;

/*
 * Reads everything. PI0_ERROR_FORMAT when it is no trace at all; a trace that is damaged or cut off after its first
 * event is PI0_OK with what came before and the marks above. Give *trace to trace_release in either case.
 */
pi0_status trace_read(trace *trace, trace_source *source, pi0_error *error);
void trace_release(trace *trace);

static inline trace_kernel *trace_record(const trace *trace, uint32_t index) {
    return &trace->chunks[index / TRACE_CHUNK][index % TRACE_CHUNK];
}

#endif
