/*
 * What `pi0 analyze` says about a trace: figures, tables, JSON. Figures the trace cannot give are NaN here, "-" in
 * text and null in JSON.
 */
#ifndef PI0_PROFILE_TRACE_REPORT_H
#define PI0_PROFILE_TRACE_REPORT_H

#include "base/text.h"
#include "profile/trace_stages.h"

/* Time and calls; per inference where a table says so. */
typedef struct trace_cost {
    double ms, calls;
} trace_cost;

typedef struct trace_stage_row {
    bool known;
    double ms, percent, kernels;
    trace_cost ops[PI0_OP_COUNT];
} trace_stage_row;

/* CPU ops of one name with the kernels they launched. */
typedef struct trace_op_row {
    uint32_t name;                       /* in trace.ops */
    uint32_t shapes;                     /* the most frequent ones, in trace.shapes; TRACE_NO_NAME: none told */
    double ms;                           /* of kernels */
    uint64_t calls;                      /* kernels */
    uint32_t first_kernel, kernel_count; /* rows of op_kernels, most time first */
} trace_op_row;

typedef struct trace_op_kernel {
    uint32_t op, kernel; /* names */
    double us;
    uint64_t calls;
} trace_op_kernel;

typedef struct trace_gap {
    double ms;
    uint32_t kernel; /* that comes after it, in the split's order */
} trace_gap;

enum { TRACE_TOP_GAPS = 5, TRACE_MAX_NOTES = 8 };

typedef struct trace_report {
    const char *name; /* the file's */
    trace trace;
    trace_split split;
    double kernel_total_ms, kernel_span_ms, utilization, runtime_total_ms, copy_total_ms;
    double busy_ms, idle_ms; /* of the span, at least one kernel or none running; one device */
    uint64_t gap_count;
    trace_gap gaps[TRACE_TOP_GAPS]; /* the longest first; ms 0: no more */

    /* Per inference, averaged. */
    trace_stage_row stages[PI0_STAGE_COUNT];
    double inference_ms, inference_wall_ms, inference_idle_ms;
    double step_ms, step_min_ms, step_max_ms; /* min and max over single steps */
    /* By library and op: per inference, or of the whole trace where the structure is unknown. */
    trace_cost categories[LIBRARY_COUNT][PI0_OP_COUNT];

    /* Names by time and by calls, most first. */
    uint32_t *kernels_by_time, *kernels_by_calls, *runtime_by_time;
    trace_op_row *ops;
    uint32_t op_count;
    trace_op_kernel *op_kernels;
    uint32_t op_kernel_count;
    double attributed_ms;

    char notes[TRACE_MAX_NOTES][320]; /* what the reader should know: damage, cuts, unknown structure */
    int note_count;
} trace_report;

/* How many rows of each list are shown; 0 or more. */
typedef struct trace_limits {
    int kernels, counts, runtime, ops, kernels_per_op;
} trace_limits;

/* Reads and works out everything. name is borrowed. Give *report to trace_report_release in either case. */
pi0_status trace_report_open(trace_report *report, const char *path, pi0_error *error);
pi0_status trace_report_make(trace_report *report, trace_source *source, const char *name, pi0_error *error);
void trace_report_release(trace_report *report);

void trace_report_text(const trace_report *report, const trace_limits *limits, text_buffer *text);
/* The contract of `analyze --json`. A limit below 0: all rows. */
void trace_report_json(const trace_report *report, const trace_limits *limits, text_buffer *text);

/* Two traces side by side: figures, stages, ops, libraries, and the kernels that differ most. */
void trace_compare_text(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text);
/* {"a": .., "b": .., "stages": [{"name", "a_ms", "b_ms", "delta_ms", "ratio"}], "categories": [..]} with a and b as in
 * trace_report_json. */
void trace_compare_json(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text);

/* One self-contained page; b may be NULL. */
void trace_report_html(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text);

/* Time and calls of an op over all libraries. */
trace_cost trace_report_op(const trace_report *report, int op);

#endif
