/*
 * pi0 bench --profile: traces of one inference. Of several that are recorded the one is kept whose kernels took most
 * nearly the time that an inference takes without recording, so that the trace shows the ordinary case.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/bench.h"
#include "cli/terminal.h"
#include "profile/trace_writer.h"

enum { MOST_CANDIDATES = 50 };
static const double near_enough = 0.005, most_ms = 20e3;

/* Two recorders: the one that the session fills, and the best so far. */
typedef struct candidates {
    recorder current, best;
    pi0_timings timings; /* of the best */
    double wanted_ms, distance, start_ms;
} candidates;

static void record(void *user, const pi0_trace_event *event) {
    candidates *c = user;
    recorder_event_add(&c->current, event);
}

static bool judge(void *user, bool timed, const pi0_timings *timings) {
    candidates *c = user;
    if (!timed) {
        recorder_clear(&c->current);
        return false;
    }
    double kernel_ms = recorder_kind_ms(&c->current, PI0_TRACE_KERNEL);
    double distance = fabs(kernel_ms - c->wanted_ms);
    if (!c->best.event_count || distance < c->distance) {
        recorder worse = c->best;
        c->best = c->current;
        c->current = worse;
        c->distance = distance;
        c->timings = *timings;
    }
    recorder_clear(&c->current);
    return c->distance <= near_enough * c->wanted_ms || clock_ms() - c->start_ms > most_ms;
}

static pi0_status write_trace(const bench *b, bench_trace *trace, const recorder *recorder, pi0_error *error) {
    const bench_report *r = &b->report;
    const bench_options *o = b->options;
    char numbers[6][16];
    const int values[6] = {o->batch_size, o->cameras, o->masked_images, o->prompt_tokens, o->horizon, o->num_steps};
    for (int i = 0; i < 6; i++) snprintf(numbers[i], sizeof numbers[i], "%d", values[i]);
    const char *pairs[] = {"checkpoint",
                           o->model.checkpoint,
                           "family",
                           r->engine.family ? "pi05" : "pi0",
                           "backend",
                           options_backend_name(r->engine.backend),
                           "precision",
                           options_precision_name(r->engine.precision),
                           "graph",
                           trace->graph ? "yes" : "no",
                           "batch_size",
                           numbers[0],
                           "cameras",
                           numbers[1],
                           "masked_images",
                           numbers[2],
                           "prompt_tokens",
                           numbers[3],
                           "horizon",
                           numbers[4],
                           "num_steps",
                           numbers[5],
                           NULL};
    const trace_about about = {
        .device = r->engine.device_name, .stream = bench_on_cpu(b) ? "ops" : "stream", .pairs = pairs};
    const char *kind = bench_on_cpu(b) ? "" : trace->graph ? "_graph" : "_launches";
    int length = snprintf(trace->file, sizeof trace->file, "%s/%s_%s%s.json%s", o->profile_dir,
                          r->engine.family ? "pi05" : "pi0", options_backend_name(r->engine.backend), kind,
                          o->profile_gzip ? ".gz" : "");
    if (length >= (int)sizeof trace->file)
        return error_set(error, PI0_ERROR_IO, "cannot write: the path %s is too long", o->profile_dir);
    return trace_write(recorder, &about, trace->file, error);
}

/* On a CPU every op is in the trace, so the stage table can be that of the very inference in it. */
static void take_traced_stages(bench_report *r, const pi0_timings *t) {
    r->traced_stages = true;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        bench_stage *s = &r->stages[stage];
        if (stage != PI0_STAGE_OTHER) s->ms = 0;
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            s->op_ms[op] = t->op_ms[stage][op];
            s->op_calls[op] = (double)t->op_calls[stage][op];
            s->ms += t->op_ms[stage][op];
        }
    }
}

static pi0_status trace_one(bench *b, candidates *c, bool graph, pi0_error *error) {
    bench_report *r = &b->report;
    bench_settings settings = bench_settings_default(b, b->options->batch_size);
    settings.graph = graph;
    settings.profile = bench_on_cpu(b);
    settings.trace = record;
    settings.trace_user = c;
    settings.warmup = 1;
    settings.iterations = MOST_CANDIDATES;
    c->wanted_ms = r->device.mean > 0 ? r->device.p50 : r->wall.p50;
    c->start_ms = clock_ms();
    bench_series s;
    pi0_status status = bench_measure(&s, b, &settings, judge, c, error);
    bench_series_release(&s);
    TRY(status);
    TRY(recorder_sort(&c->best, error));
    if (!c->best.event_count)
        return error_set(error, PI0_ERROR_DEVICE, "the %s backend recorded nothing",
                         options_backend_name(r->engine.backend));
    bench_trace *trace = &r->traces[r->trace_count++];
    trace->graph = graph;
    trace->kernel_ms = recorder_kind_ms(&c->best, PI0_TRACE_KERNEL);
    if (b->options->profile) TRY(write_trace(b, trace, &c->best, error));
    if (bench_on_cpu(b)) take_traced_stages(r, &c->timings);
    recorder_release(&r->recorder);
    r->recorder = c->best;
    c->best = (recorder){0};
    return PI0_OK;
}

pi0_status bench_trace_run(bench *b, pi0_error *error) {
    pi0_status status = PI0_OK;
    for (int graph = 0; graph <= (int)b->options->graph && status == PI0_OK; graph++) {
        candidates c = {0};
        status = trace_one(b, &c, graph, error);
        recorder_release(&c.current);
        recorder_release(&c.best);
    }
    return status;
}
