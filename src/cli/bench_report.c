/* How `pi0 bench` tells what it found: text, JSON, CSV. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/json.h"

const bench_published bench_published_rows[BENCH_PUBLISHED] = {{"MI300X", 26.1}, {"MI350", 25.3}, {"H200", 25.3}};
const bench_published_sweep bench_published_sweeps[BENCH_PUBLISHED_SWEEP] = {
    {1, 25.3, 23.7}, {2, 34.4, 31.1}, {4, 53.4, 41.4}, {8, 94.1, 59.9}, {16, 175, 101}, {32, 341, 190}, {64, 656, 350}};

static const char *model_name(const bench_report *r) {
    static const char *const names[2][2] = {{"pi0", "tiny-pi0"}, {"pi05", "tiny-pi05"}};
    bool tiny = r->engine.image_size == model_config_tiny(r->engine.family).vit.image_size;
    return names[r->engine.family == PI0_FAMILY_PI05][tiny];
}

static double stage_sum(const bench_report *r) {
    double sum = 0;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) sum += r->stages[stage].ms;
    return sum;
}

static double percent_of(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

/* ---- text ---- */

/* "3.24 billion" */
static const char *count_text(double count, char *text, size_t size) {
    const char *const units[] = {"", " thousand", " million", " billion"};
    int unit = 0;
    for (; count >= 1000 && unit < 3; unit++) count /= 1000;
    snprintf(text, size, "%.3g%s", count, units[unit]);
    return text;
}

static void print_setting(const bench_report *r) {
    const bench_options *o = r->options;
    char count[32];
    printf("%s, %s, %s parameters, %s on %s: %s (%s)\n", model_name(r), o->model.checkpoint,
           count_text((double)r->engine.parameters, count, sizeof count), options_precision_name(r->engine.precision),
           options_backend_name(r->engine.backend), r->engine.device_name, r->engine.device_arch);
    printf("batch %d, %d cameras (%d masked%s), %d prompt tokens: prefix %d, suffix %d; %d action rows, %d steps\n",
           o->batch_size, o->cameras, o->masked_images,
           o->masked_images == 0   ? ""
           : o->skip_masked_images ? ", skipped"
                                   : ", computed",
           o->prompt_tokens, work_prefix_tokens(&r->config, &r->shape), work_suffix_tokens(&r->config, &r->shape),
           o->horizon, o->num_steps);
    printf("%d warm-up, %d timed%s%s\n\n", r->warmup, r->iterations, r->cut_short ? " (--max-seconds reached)" : "",
           r->graph ? ", one graph launch an inference" : "");
}

static void print_latency(const char *what, const latency *l, int batch) {
    printf("%-22s  min %.2f  mean %.2f  p50 %.2f  p90 %.2f  p99 %.2f  std %.2f ms   %.3g Hz\n", what, l->min, l->mean,
           l->p50, l->p90, l->p99, l->std, batch * 1e3 / l->mean);
}

static void print_floor(double ms, double floor_ms) {
    if (isfinite(floor_ms) && floor_ms > 0) printf("  %10.3f  %9.1f %%", floor_ms, percent_of(floor_ms, ms));
    putchar('\n');
}

static void print_stages(const bench_report *r) {
    double sum = stage_sum(r), floors = 0;
    if (r->traced_stages) printf("\nstages of the traced inference");
    printf("\n%-14s  %10s  %7s  %8s  %10s  %11s\n", "stage", "ms", "percent", "calls", "floor ms", "% of floor");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        const bench_stage *s = &r->stages[stage];
        printf("%-14s  %10.3f  %6.1f%%  %8s", pi0_stage_name(stage), s->ms, percent_of(s->ms, sum), "");
        print_floor(s->ms, s->floor_ms);
        floors += s->floor_ms;
        for (int op = 0; op < PI0_OP_COUNT; op++)
            if (s->op_calls[op] > 0)
                printf("  %-12s  %10.3f  %6.1f%%  %8.0f\n", pi0_op_name(op), s->op_ms[op],
                       percent_of(s->op_ms[op], sum), s->op_calls[op]);
    }
    printf("%-14s  %10.3f  %6.1f%%  %8s", "sum", sum, 100.0, "");
    print_floor(sum, floors);
    printf("one denoise step: %.3f ms\n", r->stages[PI0_STAGE_DENOISE].ms / r->options->num_steps);
    if (r->has_ceilings)
        printf("floors from this run's ceilings: %.1f GFLOP/s (%s), %.2f GB/s read\n", r->ceilings.product_flops * 1e-9,
               r->ceilings.product, r->ceilings.read_bytes * 1e-9);
}

static void print_sweep(const bench_report *r) {
    if (r->sweep_count == 0) return;
    printf("\n%6s  %12s  %12s  %18s  %18s\n", "batch", "ms", "samples/s", "H200 published ms", "MI350 published ms");
    for (int i = 0; i < r->sweep_count; i++) {
        const bench_sweep_row *row = &r->sweep[i];
        printf("%6d  %12.2f  %12.3f", row->batch_size, row->ms, row->batch_size * 1e3 / row->ms);
        for (int j = 0; j < BENCH_PUBLISHED_SWEEP; j++)
            if (bench_published_sweeps[j].batch_size == row->batch_size)
                printf("  %18.1f  %18.1f", bench_published_sweeps[j].h200_ms, bench_published_sweeps[j].mi350_ms);
        putchar('\n');
    }
    if (r->sweep_count) printf("published: pi0, bf16, three cameras, 10 steps; not measured here\n");
}

static double ladder_delta(const bench_report *r, int row) {
    return row ? r->ladder[row].ms - r->ladder[row - 1].ms : 0;
}

static void print_ladder(const bench_report *r) {
    if (r->ladder_count) printf("\n%12s  %12s  ladder: each row turns on one feature more\n", "ms", "delta ms");
    for (int i = 0; i < r->ladder_count; i++) {
        printf("%12.2f  ", r->ladder[i].ms);
        if (i)
            printf("%+12.2f  + %s\n", ladder_delta(r, i), r->ladder[i].step);
        else
            printf("%12s  %s\n", "", r->ladder[i].step);
    }
}

static void print_traces(const bench_report *r) {
    for (int i = 0; i < r->trace_count; i++)
        if (r->traces[i].file[0])
            printf("%strace: %s (kernels %.3f ms)\n", i ? "" : "\n", r->traces[i].file, r->traces[i].kernel_ms);
}

void bench_print_text(const bench_report *r) {
    print_setting(r);
    bool device = r->options->timing && r->device.mean > 0;
    print_latency("end to end", device ? &r->device : &r->wall, r->options->batch_size);
    if (device)
        print_latency("  by the host's clock", &r->wall, r->options->batch_size);
    else if (r->device.mean > 0)
        print_latency("  on the device", &r->device, r->options->batch_size);
    printf("%-22s ", "published, pi0 batch 1");
    for (int i = 0; i < BENCH_PUBLISHED; i++)
        printf("%s %s %.1f ms", i ? "," : "", bench_published_rows[i].name, bench_published_rows[i].ms);
    printf(" (not measured here)\n");
    print_stages(r);
    print_sweep(r);
    print_ladder(r);
    print_traces(r);
    printf("\nmemory: weights %.3f GB, workspace %.3f GB, host peak %.3f GB\n", (double)r->engine.weights_bytes * 1e-9,
           (double)r->workspace_bytes * 1e-9, (double)r->host_peak_bytes * 1e-9);
}

/* ---- JSON ---- */

static json_t *latency_json(const latency *l) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "min", l->min, "mean", l->mean, "std", l->std, "p50", l->p50,
                     "p90", l->p90, "p99", l->p99);
}

static json_t *stage_json(const bench_report *r, int stage) {
    const bench_stage *s = &r->stages[stage];
    json_t *ops = json_array();
    for (int op = 0; op < PI0_OP_COUNT; op++)
        json_array_append_new(ops, json_pack("{s:s, s:f, s:I}", "name", pi0_op_name(op), "ms", s->op_ms[op], "calls",
                                             (json_int_t)llround(s->op_calls[op])));
    return json_pack("{s:s, s:f, s:f, s:o, s:o}", "name", pi0_stage_name(stage), "ms", s->ms, "percent",
                     percent_of(s->ms, stage_sum(r)), "floor_ms", json_number(s->floor_ms), "ops", ops);
}

static void set(json_t *object, const char *key, json_t *value) { json_object_set_new(object, key, value); }

static json_t *traces_json(const bench_report *r) {
    json_t *traces = json_array();
    for (int i = 0; i < r->trace_count; i++)
        json_array_append_new(traces, json_pack("{s:s, s:b, s:f}", "file", r->traces[i].file, "graph",
                                                r->traces[i].graph, "kernel_ms", r->traces[i].kernel_ms));
    return traces;
}

json_t *bench_report_json(const bench_report *r) {
    const bench_options *o = r->options;
    json_t *root = json_object(), *stages = json_array(), *sweep = json_array(), *ladder = json_array();
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) json_array_append_new(stages, stage_json(r, stage));
    for (int i = 0; i < r->sweep_count; i++)
        json_array_append_new(sweep,
                              json_pack("{s:i, s:f, s:f}", "batch_size", r->sweep[i].batch_size, "ms", r->sweep[i].ms,
                                        "samples_per_s", r->sweep[i].batch_size * 1e3 / r->sweep[i].ms));
    for (int i = 0; i < r->ladder_count; i++)
        json_array_append_new(ladder, json_pack("{s:s, s:f, s:f}", "step", r->ladder[i].step, "ms", r->ladder[i].ms,
                                                "delta_ms", ladder_delta(r, i)));
    set(root, "model", json_string(model_name(r)));
    set(root, "checkpoint", json_string(o->model.checkpoint));
    set(root, "parameters", json_integer(r->engine.parameters));
    set(root, "precision", json_string(options_precision_name(r->engine.precision)));
    set(root, "backend", json_string(options_backend_name(r->engine.backend)));
    set(root, "device", json_pack("{s:s, s:s}", "name", r->engine.device_name, "arch", r->engine.device_arch));
    set(root, "batch_size", json_integer(o->batch_size));
    set(root, "cameras", json_integer(o->cameras));
    set(root, "prompt_tokens", json_integer(o->prompt_tokens));
    set(root, "prefix_tokens", json_integer(work_prefix_tokens(&r->config, &r->shape)));
    set(root, "suffix_tokens", json_integer(work_suffix_tokens(&r->config, &r->shape)));
    set(root, "horizon", json_integer(o->horizon));
    set(root, "num_steps", json_integer(o->num_steps));
    set(root, "graph", json_boolean(r->graph));
    set(root, "warmup", json_integer(r->warmup));
    set(root, "iterations", json_integer(r->iterations));
    set(root, "latency_ms", latency_json(&r->wall));
    set(root, "throughput_hz", json_real(o->batch_size * 1e3 / r->wall.mean));
    if (r->device.mean > 0) set(root, "device_ms", latency_json(&r->device));
    set(root, "stages", stages);
    set(root, "memory_bytes",
        json_pack("{s:I, s:I, s:I}", "weights", (json_int_t)r->engine.weights_bytes, "workspace",
                  (json_int_t)r->workspace_bytes, "host_peak", (json_int_t)r->host_peak_bytes));
    set(root, "sweep", sweep);
    set(root, "ladder", ladder);
    if (o->profile) set(root, "traces", traces_json(r));
    return root;
}

/* ---- CSV ---- */

static void put_number(text_buffer *text, double number, const char *after) {
    if (isfinite(number)) text_put_number(text, number);
    text_put(text, after);
}

static void put_latency(text_buffer *text, const char *section, const latency *l) {
    const char *const names[] = {"min", "mean", "std", "p50", "p90", "p99"};
    const double values[] = {l->min, l->mean, l->std, l->p50, l->p90, l->p99};
    for (int i = 0; i < 6; i++) {
        text_put_format(text, "%s,%s,", section, names[i]);
        put_number(text, values[i], ",,,\n");
    }
}

pi0_status bench_write_csv(const bench_report *r, const char *path, pi0_error *error) {
    text_buffer text = {0};
    double sum = stage_sum(r);
    text_put(&text, "section,name,ms,percent,floor_ms,calls\n");
    put_latency(&text, "latency", &r->wall);
    if (r->device.mean > 0) put_latency(&text, "device", &r->device);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        const bench_stage *s = &r->stages[stage];
        text_put_format(&text, "stage,%s,", pi0_stage_name(stage));
        put_number(&text, s->ms, ",");
        put_number(&text, percent_of(s->ms, sum), ",");
        put_number(&text, s->floor_ms, ",\n");
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            text_put_format(&text, "%s,%s,", pi0_stage_name(stage), pi0_op_name(op));
            put_number(&text, s->op_ms[op], ",");
            put_number(&text, percent_of(s->op_ms[op], sum), ",,");
            put_number(&text, s->op_calls[op], "\n");
        }
    }
    for (int i = 0; i < r->sweep_count; i++) {
        text_put_format(&text, "sweep,batch %d,", r->sweep[i].batch_size);
        put_number(&text, r->sweep[i].ms, ",,,\n");
    }
    for (int i = 0; i < r->ladder_count; i++) {
        text_put_format(&text, "ladder,\"%s\",", r->ladder[i].step);
        put_number(&text, r->ladder[i].ms, ",,,\n");
    }
    pi0_status status = text.failed ? error_memory(error, text.capacity, "the CSV table")
                                    : file_write(path, text.bytes, text.size, error);
    memory_release(text.bytes);
    return status;
}
