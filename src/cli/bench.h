/* What `pi0 bench` measures, and how it is told: bench.c fills a report, bench_report.c prints it. */
#ifndef PI0_CLI_BENCH_H
#define PI0_CLI_BENCH_H

#include "cli/options.h"
#include "model/config.h"
#include "profile/ceilings.h"
#include "profile/latency.h"

enum { BENCH_MAX_SWEEP = 32 };

typedef struct bench_options {
    common_options common;
    model_options model;
    int batch_size, warmup, iterations; /* warmup, iterations -1: by backend */
    double max_seconds;                 /* 0: no limit; below: by backend */
    int num_steps, horizon, prompt_tokens, cameras, masked_images;
    bool skip_masked_images, graph, fuse_qkv;
    int timing;        /* 0 wall, else device */
    bool timing_asked; /* on the command line: then a backend without a device timer refuses; not by the environment */
    int gemm;          /* pi0_gemm */
    int attention;
    option_ints batch_sweep;
    const char *csv;
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

typedef struct bench_report {
    const bench_options *options;
    pi0_engine_info engine;
    model_config config;
    work_shape shape;
    int warmup, iterations; /* that ran */
    bool graph, cut_short;
    latency wall, device; /* device.mean 0: no device timer */
    bench_stage stages[PI0_STAGE_COUNT];
    bool has_ceilings;
    ceilings ceilings;
    int64_t workspace_bytes, host_peak_bytes;
    bench_sweep_row sweep[BENCH_MAX_SWEEP];
    int sweep_count;
} bench_report;

void bench_print_text(const bench_report *report);
int bench_print_json(const bench_report *report);
pi0_status bench_write_csv(const bench_report *report, const char *path, pi0_error *error);

#endif
