/*
 * pi0 bench --ladder: what each feature is worth. The first row has everything off; each row after it turns one feature
 * on, and the last row has what the command line asks for (and a precision below it, where there is one). Every row is
 * measured; a feature that the backend has no choice of has no row.
 */
#include <omp.h>
#include <stdio.h>

#include "cli/bench.h"
#include "cli/terminal.h"

/* One combination of features. */
typedef struct rung {
    pi0_engine_options engine;
    bool graph, skip_masked_images;
} rung;

/* A feature: what its row is called, what its absence is called, whether this machine and problem have it, and how a
 * rung gets or loses it. */
typedef struct feature {
    const char *name, *without;
    bool (*present)(const bench *b);
    void (*set)(rung *to, const rung *all_on, bool on);
} feature;

static bool has_threads(const bench *b) {
    int threads = b->options->common.threads ? b->options->common.threads : omp_get_num_procs();
    return bench_on_cpu(b) && threads > 1;
}
static bool has_graph(const bench *b) { return b->report.engine.choices & PI0_CHOICE_GRAPH && b->options->graph; }
static bool has_attention(const bench *b) {
    return b->report.engine.choices & PI0_CHOICE_ATTENTION && b->options->attention == PI0_ATTENTION_AUTO;
}
static bool has_fused_qkv(const bench *b) {
    return b->report.engine.choices & PI0_CHOICE_FUSE_QKV && b->options->fuse_qkv;
}
static bool has_own_gemm(const bench *b) {
    return b->report.engine.choices & PI0_CHOICE_GEMM && b->options->gemm != PI0_GEMM_CUBLASLT;
}
static bool has_masked(const bench *b) { return b->options->masked_images > 0 && b->options->skip_masked_images; }
static bool has_lower_precision(const bench *b) {
    int asked = b->options->common.precision;
    if (bench_on_cpu(b)) return asked == PI0_PRECISION_AUTO || asked == PI0_PRECISION_BF16;
    return asked == PI0_PRECISION_AUTO || asked == PI0_PRECISION_FP8;
}

static void set_threads(rung *to, const rung *all_on, bool on) { to->engine.threads = on ? all_on->engine.threads : 1; }
static void set_graph(rung *to, const rung *all_on, bool on) { to->graph = on && all_on->graph; }
static void set_attention(rung *to, const rung *all_on, bool on) {
    to->engine.attention = on ? all_on->engine.attention : PI0_ATTENTION_NAIVE;
}
static void set_fused_qkv(rung *to, const rung *all_on, bool on) {
    to->engine.fuse_qkv = on && all_on->engine.fuse_qkv;
}
static void set_own_gemm(rung *to, const rung *all_on, bool on) {
    to->engine.gemm = on ? all_on->engine.gemm : PI0_GEMM_CUBLASLT;
}
static void set_skipping(rung *to, const rung *all_on, bool on) {
    to->skip_masked_images = on && all_on->skip_masked_images;
}
static void set_lower_precision(rung *to, const rung *all_on, bool on) {
    bool cpu = to->engine.backend == PI0_BACKEND_CPU;
    to->engine.precision = on ? all_on->engine.precision : cpu ? PI0_PRECISION_F32 : PI0_PRECISION_BF16;
}

/* In the order in which they are turned on. */
static const feature features[] = {
    {"all threads", "one thread", has_threads, set_threads},
    {"graph", "no graph", has_graph, set_graph},
    {"attention kernel", "naive attention", has_attention, set_attention},
    {"fused QKV", "separate QKV", has_fused_qkv, set_fused_qkv},
    {"own GEMM kernels", "cuBLASLt", has_own_gemm, set_own_gemm},
    {"masked images skipped", "masked images computed", has_masked, set_skipping},
    {NULL, NULL, has_lower_precision, set_lower_precision}, /* called after the precision */
};
enum { FEATURE_COUNT = sizeof features / sizeof *features };

static bool same_engine(const pi0_engine_options *a, const pi0_engine_options *b) {
    return a->threads == b->threads && a->attention == b->attention && a->fuse_qkv == b->fuse_qkv &&
           a->gemm == b->gemm && a->precision == b->precision;
}

static pi0_status measure_rung(bench *b, const rung *rung, pi0_engine_options *open, const char *step,
                               pi0_error *error) {
    if (!b->engine || !same_engine(open, &rung->engine)) {
        TRY(bench_open_engine(b, &rung->engine, error));
        *open = rung->engine;
    }
    bench_series s;
    bench_settings settings = bench_settings_default(b, b->options->batch_size);
    settings.graph = rung->graph;
    settings.skip_masked_images = rung->skip_masked_images;
    pi0_status status = bench_measure(&s, b, &settings, NULL, NULL, error);
    if (status == PI0_OK) {
        bench_ladder_row *row = &b->report.ladder[b->report.ladder_count++];
        snprintf(row->step, sizeof row->step, "%s", step);
        row->ms = latency_of(s.wall_ms, (size_t)s.iterations).p50;
    }
    bench_series_release(&s);
    return status;
}

/* "f32, one thread, naive attention" */
static void name_start(const bench *b, const rung *off, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "%s", options_precision_name(off->engine.precision));
    for (int i = 0; i < FEATURE_COUNT && used < size; i++)
        if (features[i].without && features[i].present(b))
            used += (size_t)snprintf(text + used, size - used, ", %s", features[i].without);
}

pi0_status bench_ladder_run(bench *b, pi0_error *error) {
    rung all_on = {.engine = bench_engine_options(b),
                   .graph = b->options->graph,
                   .skip_masked_images = b->options->skip_masked_images};
    all_on.engine.backend = b->report.engine.backend;
    all_on.engine.precision = b->report.engine.precision;
    if (has_lower_precision(b)) all_on.engine.precision = bench_on_cpu(b) ? PI0_PRECISION_BF16 : PI0_PRECISION_FP8;
    rung rung = all_on;
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (features[i].present(b)) features[i].set(&rung, &all_on, false);
    pi0_engine_options open = {0};
    pi0_engine_close(&b->engine);
    char name[sizeof b->report.ladder->step];
    name_start(b, &rung, name, sizeof name);
    TRY(measure_rung(b, &rung, &open, name, error));
    for (int i = 0; i < FEATURE_COUNT; i++) {
        if (!features[i].present(b)) continue;
        features[i].set(&rung, &all_on, true);
        bool precision = !features[i].name;
        snprintf(name, sizeof name, "%s", precision ? options_precision_name(rung.engine.precision) : features[i].name);
        pi0_status status = measure_rung(b, &rung, &open, name, error);
        if (precision && status == PI0_ERROR_UNSUPPORTED && error) {
            terminal_warning("the ladder has no row for %s: %s", name, error->message);
            status = PI0_OK;
        }
        TRY(status);
    }
    return PI0_OK;
}
