/* pi0 bench --html: the report as one page (src/profile/report_page.h says what the page understands). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/json.h"
#include "profile/kernel_class.h"
#include "profile/report_page.h"

static void set(json_t *object, const char *key, json_t *value) { json_object_set_new(object, key, value); }

static json_t *facts_of(const bench_report *r) {
    const bench_options *o = r->options;
    char shape[160], memory[160], ceilings[200];
    snprintf(shape, sizeof shape, "batch %d, %d cameras (%d masked), %d prompt tokens, horizon %d, %d steps",
             o->batch_size, o->cameras, o->masked_images, o->prompt_tokens, o->horizon, o->num_steps);
    snprintf(memory, sizeof memory, "weights %.2f GB, workspace %.3f GB, host peak %.2f GB",
             (double)r->engine.weights_bytes * 1e-9, (double)r->workspace_bytes * 1e-9,
             (double)r->host_peak_bytes * 1e-9);
    snprintf(ceilings, sizeof ceilings, "%.1f GFLOP/s (%s), %.2f GB/s read", r->ceilings.product_flops * 1e-9,
             r->ceilings.product, r->ceilings.read_bytes * 1e-9);
    const char *const pairs[][2] = {
        {"device", r->engine.device_name},
        {"architecture", r->engine.device_arch},
        {"checkpoint", o->model.checkpoint},
        {"precision", options_precision_name(r->engine.precision)},
        {"problem", shape},
        {"memory", memory},
        {"ceilings", ceilings},
    };
    json_t *facts = json_array();
    size_t count = sizeof pairs / sizeof *pairs - (r->has_ceilings ? 0 : 1);
    for (size_t i = 0; i < count; i++) json_array_append_new(facts, json_pack("[s, s]", pairs[i][0], pairs[i][1]));
    return facts;
}

static json_t *latency_row(const char *name, const latency *l) {
    return json_pack("{s:s, s:f, s:b, s:f, s:f, s:f}", "name", name, "ms", l->p50, "published", 0, "min", l->min, "p90",
                     l->p90, "p99", l->p99);
}

static json_t *latency_rows(const bench_report *r) {
    json_t *rows = json_array();
    json_array_append_new(rows, latency_row("this machine", &r->wall));
    if (r->device.mean > 0) json_array_append_new(rows, latency_row("this device", &r->device));
    for (int i = 0; i < BENCH_PUBLISHED; i++)
        json_array_append_new(rows, json_pack("{s:s, s:f, s:b}", "name", bench_published_rows[i].name, "ms",
                                              bench_published_rows[i].ms, "published", 1));
    return rows;
}

static json_t *published_sweep(void) {
    json_t *h200 = json_array(), *mi350 = json_array();
    for (int i = 0; i < BENCH_PUBLISHED_SWEEP; i++) {
        const bench_published_sweep *row = &bench_published_sweeps[i];
        json_array_append_new(h200, json_pack("{s:i, s:f}", "batch_size", row->batch_size, "ms", row->h200_ms));
        json_array_append_new(mi350, json_pack("{s:i, s:f}", "batch_size", row->batch_size, "ms", row->mi350_ms));
    }
    return json_pack("[{s:s, s:o}, {s:s, s:o}]", "name", "H200 (published)", "rows", h200, "name", "MI350 (published)",
                     "rows", mi350);
}

/* ---- the trace ---- */

static kernel_class class_of(const recorder *recorder, const recorder_event *event) {
    const char *name = recorder_string(recorder, event->name);
    return kernel_classify(name, strlen(name));
}

/* Kernels of one name and shape. */
typedef struct shape_sum {
    uint32_t name;
    int stage;
    double rows, k, n, flops, bytes, ms;
    int calls;
} shape_sum;

enum { MAX_SHAPES = 256 };

static int sum_shapes(const recorder *recorder, shape_sum *shapes) {
    int count = 0;
    for (uint32_t i = 0; i < recorder->event_count; i++) {
        const recorder_event *event = &recorder->events[i];
        double flops = recorder_number(recorder, event, "flops", 0),
               bytes = recorder_number(recorder, event, "bytes", 0);
        if (event->kind != PI0_TRACE_KERNEL || flops <= 0 || bytes <= 0) continue;
        int j = 0;
        while (j < count && (shapes[j].name != event->name || fabs(shapes[j].flops - flops) > 0.5 ||
                             fabs(shapes[j].bytes - bytes) > 0.5))
            j++;
        if (j == MAX_SHAPES) continue;
        if (j == count)
            shapes[count++] = (shape_sum){.name = event->name,
                                          .stage = class_of(recorder, event).stage,
                                          .rows = recorder_number(recorder, event, "rows", 0),
                                          .k = recorder_number(recorder, event, "k", 0),
                                          .n = recorder_number(recorder, event, "n", 0),
                                          .flops = flops,
                                          .bytes = bytes};
        shapes[j].ms += event->duration_us * 1e-3;
        shapes[j].calls++;
    }
    return count;
}

static pi0_status roofline_of(const bench_report *r, json_t **roofline, pi0_error *error) {
    shape_sum *shapes = memory_allocate(MAX_SHAPES * sizeof *shapes);
    if (!shapes) return error_memory(error, MAX_SHAPES * sizeof *shapes, "the roofline");
    int count = sum_shapes(&r->recorder, shapes);
    json_t *ops = json_array();
    for (int i = 0; i < count; i++) {
        const shape_sum *s = &shapes[i];
        char name[128];
        snprintf(name, sizeof name, "%s %.0fx%.0fx%.0f", recorder_string(&r->recorder, s->name), s->rows, s->k, s->n);
        if (s->ms > 0)
            json_array_append_new(ops, json_pack("{s:s, s:i, s:i, s:f, s:f, s:f}", "name", name, "stage",
                                                 s->stage < 0 ? PI0_STAGE_OTHER : s->stage, "calls", s->calls, "ms",
                                                 s->ms, "flops", s->flops, "bytes", s->bytes));
    }
    memory_release(shapes);
    *roofline =
        json_pack("{s:o, s:o, s:o}", "flops_per_s", json_number(r->has_ceilings ? r->ceilings.product_flops : NAN),
                  "bytes_per_s", json_number(r->has_ceilings ? r->ceilings.read_bytes : NAN), "ops", ops);
    return PI0_OK;
}

/* Tracks of the page are pairs of a kind's group and its number, in order of appearance. */
typedef struct page_tracks {
    struct {
        int group, track, lane;
    } known[64];
    int count;
    json_t *names;
} page_tracks;

static int track_of(page_tracks *tracks, const recorder_event *event, bool cpu) {
    int group = event->kind == PI0_TRACE_API ? 1 : event->kind == PI0_TRACE_THREAD ? 2 : 0;
    for (int i = 0; i < tracks->count; i++)
        if (tracks->known[i].group == group && tracks->known[i].track == event->track &&
            tracks->known[i].lane == event->lane)
            return i;
    if (tracks->count == 64) return -1;
    const char *const names[] = {cpu ? "ops" : "stream", "host calls", "thread"};
    char name[64];
    snprintf(name, sizeof name, event->lane ? "%s %d, %d" : "%s %d", names[group], event->track, event->lane);
    json_array_append_new(tracks->names, json_string(name));
    tracks->known[tracks->count].group = group;
    tracks->known[tracks->count].track = event->track;
    tracks->known[tracks->count].lane = event->lane;
    return tracks->count++;
}

static double rounded(double us) { return round(us * 1e3) * 1e-3; }

static json_t *timeline_of(const bench_report *r) {
    const recorder *recorder = &r->recorder;
    page_tracks tracks = {.names = json_array()};
    json_t *names = json_array(), *events = json_array();
    bool few = recorder->event_count <= REPORT_PAGE_MAX_EVENTS;
    for (uint32_t i = 0; i < recorder->strings.count; i++)
        json_array_append_new(names, json_string(recorder_string(recorder, i)));
    for (uint32_t i = 0; i < recorder->event_count && json_array_size(events) < REPORT_PAGE_MAX_EVENTS; i++) {
        const recorder_event *event = &recorder->events[i];
        bool leaf = event->kind == PI0_TRACE_KERNEL || event->kind == PI0_TRACE_THREAD;
        if (event->kind == PI0_TRACE_THREAD && !few) continue;
        int track = track_of(&tracks, event, r->engine.backend == PI0_BACKEND_CPU);
        if (track < 0) continue;
        json_array_append_new(events, json_pack("[i, f, f, i, i]", track,
                                                rounded(event->start_us - recorder->events[0].start_us),
                                                rounded(event->duration_us), (int)event->name,
                                                leaf ? class_of(recorder, event).op : REPORT_PAGE_RANGE));
    }
    return json_pack("{s:o, s:o, s:o}", "tracks", tracks.names, "names", names, "events", events);
}

/* ---- the page ---- */

static pi0_status page_data(const bench_report *r, json_t *page, pi0_error *error) {
    json_t *report = bench_report_json(r);
    char title[200], text[256];
    snprintf(title, sizeof title, "%s on %s", json_string_value(json_object_get(report, "model")),
             r->engine.device_name);
    set(page, "title", json_string(title));
    set(page, "subtitle", json_string("pi0 bench: one inference from host images to host actions"));
    set(page, "facts", facts_of(r));
    set(page, "batch_size", json_integer(r->options->batch_size));
    snprintf(text, sizeof text,
             "Median of %d inferences after %d to warm up; the line goes from the fastest to the 99th percentile. "
             "Published: pi0, batch 1, three cameras, 20 prompt tokens, 10 steps; not measured here.",
             r->iterations, r->warmup);
    set(page, "latency_text", json_string(text));
    set(page, "latency", latency_rows(r));
    set(page, "stages_text",
        json_string(r->traced_stages ? "Of the inference in the timeline, by kind of op."
                                     : "Mean over all timed inferences, by kind of op."));
    const char *const shared[] = {"stages", "ladder", "sweep"};
    for (int i = 0; i < 3; i++) json_object_set(page, shared[i], json_object_get(report, shared[i]));
    json_decref(report);
    set(page, "published_sweep", published_sweep());
    if (!r->recorder.event_count) return PI0_OK;
    json_t *roofline = NULL;
    TRY(roofline_of(r, &roofline, error));
    set(page, "roofline", roofline);
    set(page, "timeline", timeline_of(r));
    return PI0_OK;
}

pi0_status bench_write_page(const bench_report *r, const char *path, pi0_error *error) {
    json_t *page = json_object();
    text_buffer text = {0};
    pi0_status status = page ? page_data(r, page, error) : error_memory(error, sizeof *page, "the page");
    char *json = status == PI0_OK ? json_dumps(page, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    if (json) report_page_put(&text, json_string_value(json_object_get(page, "title")), json, strlen(json));
    if (status == PI0_OK && (!json || text.failed)) status = error_memory(error, text.capacity, "the page");
    if (status == PI0_OK) status = file_write(path, text.bytes, text.size, error);
    json_decref(page);
    free(json);
    memory_release(text.bytes);
    return status;
}
