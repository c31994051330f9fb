/*
 * What `pi0 bench` measures, and how it is told: bench_measure.c runs inferences, bench_ladder.c and bench_trace.c do
 * so under other settings, bench.c puts them together into a report, bench_report.c and bench_page.c tell it.
 */
#ifndef PI0_CLI_BENCH_H
#define PI0_CLI_BENCH_H

#include "cli/options.h"
#include "model/config.h"
#include "profile/ceilings.h"
#include "profile/latency.h"
#include "profile/memory_use.h"
#include "profile/recorder.h"

enum { BENCH_MAX_SWEEP = 32, BENCH_MAX_LADDER = 12, BENCH_MAX_TRACES = 2 };

typedef struct bench_options {
    common_options common;
    model_options model;
    int batch_size, warmup, iterations; /* warmup, iterations -1: by backend */
    double max_seconds;                 /* 0: no limit; below: by backend */
    int num_steps, horizon, prompt_tokens, cameras, masked_images;
    bool skip_masked_images, graph, fuse_qkv;
    int timing; /* 0 wall, else device */
    /* On the command line, not by the environment: then a backend without such a choice refuses. */
    bool timing_asked, no_graph_asked;
    int gemm;      /* pi0_gemm */
    int attention; /* pi0_attention */
    bool ladder, profile, profile_gzip;
    const char *profile_dir;
    option_ints batch_sweep;
    const char *csv, *html;
} bench_options;

typedef struct bench_stage {
    double ms, floor_ms; /* floor_ms NAN: no ceilings for this backend */
    double op_ms[PI0_OP_COUNT];
    double op_calls[PI0_OP_COUNT]; /* an inference */
} bench_stage;

typedef struct bench_sweep_row {
    int batch_size;
    double ms; /* median */
} bench_sweep_row;

typedef struct bench_ladder_row {
    char step[160];
    double ms; /* median */
} bench_ladder_row;

typedef struct bench_trace {
    char file[512]; /* empty: not written */
    bool graph;
    double kernel_ms; /* the sum over the inference in the trace */
} bench_trace;

typedef struct bench_report {
    const bench_options *options;
    pi0_engine_info engine;
    model_config config;
    work_shape shape;
    int warmup, iterations; /* that ran */
    bool graph, cut_short;
    latency wall, device; /* device.mean 0: no device timer */
    bench_stage stages[PI0_STAGE_COUNT];
    bool traced_stages; /* stages are those of the traced inference, not means */
    bool has_ceilings;
    ceilings ceilings;
    int64_t workspace_bytes, host_peak_bytes;
    bench_sweep_row sweep[BENCH_MAX_SWEEP];
    int sweep_count;
    bench_ladder_row ladder[BENCH_MAX_LADDER];
    int ladder_count;
    bench_trace traces[BENCH_MAX_TRACES];
    int trace_count;
    recorder recorder; /* the last trace's events, for the page; empty without one */
} bench_report;

typedef struct bench {
    bench_options *options;
    bench_report report;
    memory_use memory;
    pi0_engine *engine;
} bench;

static inline bool bench_on_cpu(const bench *b) { return b->report.engine.backend == PI0_BACKEND_CPU; }

/* ---- bench_measure.c ---- */

/* What differs between the series of one run; the rest is in bench_options. */
typedef struct bench_settings {
    int batch, warmup, iterations;
    bool graph, skip_masked_images, profile;
    pi0_trace_function trace;
    void *trace_user;
} bench_settings;

/* What a series of inferences gave. */
typedef struct bench_series {
    double *wall_ms, *device_ms; /* [iterations] */
    int warmup, iterations;      /* that ran */
    bool cut_short;
    pi0_timings sum; /* of stage and op times and calls */
} bench_series;

/* Told after each inference, of the warm-up too; true after a timed one: enough. */
typedef bool (*bench_after)(void *user, bool timed, const pi0_timings *timings);

/* As the options say, for one batch size. */
bench_settings bench_settings_default(const bench *b, int batch);
/* Opens what a series needs, runs it, closes it again; after may be NULL. Release the series in either case. */
pi0_status bench_measure(bench_series *series, bench *b, const bench_settings *settings, bench_after after, void *user,
                         pi0_error *error);
void bench_series_release(bench_series *series);

/* Opens b->engine, or opens it anew. */
pi0_status bench_open_engine(bench *b, const pi0_engine_options *options, pi0_error *error);
/* As the command line asks. */
pi0_engine_options bench_engine_options(bench *b);

/* ---- bench_ladder.c, bench_trace.c ---- */

/* From everything off to everything on, one feature a row. Leaves another engine open than it found. */
pi0_status bench_ladder_run(bench *b, pi0_error *error);
/* Traces an inference as often as the backend has ways to launch it, and writes them if asked to. */
pi0_status bench_trace_run(bench *b, pi0_error *error);

/* ---- bench_report.c, bench_page.c ---- */

/* The published report's figures: pi0, batch 1, three cameras, 20 prompt tokens, 10 steps. */
typedef struct bench_published {
    const char *name;
    double ms;
} bench_published;
typedef struct bench_published_sweep {
    int batch_size;
    double h200_ms, mi350_ms;
} bench_published_sweep;
enum { BENCH_PUBLISHED = 3, BENCH_PUBLISHED_SWEEP = 7 };
extern const bench_published bench_published_rows[BENCH_PUBLISHED];
extern const bench_published_sweep bench_published_sweeps[BENCH_PUBLISHED_SWEEP];

void bench_print_text(const bench_report *report);
/* The contract of --json; NULL: out of memory. The caller's to json_decref. */
struct json_t *bench_report_json(const bench_report *report);
pi0_status bench_write_csv(const bench_report *report, const char *path, pi0_error *error);
pi0_status bench_write_page(const bench_report *report, const char *path, pi0_error *error);

#endif
