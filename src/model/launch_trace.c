#include "model/launch_trace.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_VALUES = 16, MAX_THREADS = 32 };

static int by_start(const void *a, const void *b) {
    const launch_record *left = a, *right = b;
    if (left->start_ns != right->start_ns) return left->start_ns < right->start_ns ? -1 : 1;
    return left->correlation < right->correlation ? -1 : left->correlation > right->correlation;
}

/* Records of a graph carry no note: they come in the order of the launches, each launch with as many as its note says.
 */
static pi0_status match(launch_trace *t, pi0_error *error) {
    int expected = 0, found = 0, known = 0;
    for (int i = 0; i < t->note_count; i++) expected += t->notes[i].records;
    for (int i = 0; i < t->record_count; i++) {
        const launch_record *r = &t->records[i];
        if (r->kind == LAUNCH_CALL) continue;
        found++;
        known += r->note >= 0 && r->note < t->note_count;
    }
    if (known == found && found > 0) return PI0_OK;
    if (known || found != expected || !found)
        return error_set(error, PI0_ERROR_DEVICE,
                         "the profiler recorded %d kernels and copies of an inference (%d with a launch), expected %d",
                         found, known, expected);
    int note = 0, used = 0;
    for (int i = 0; i < t->record_count; i++) {
        if (t->records[i].kind == LAUNCH_CALL) continue;
        while (used == t->notes[note].records) {
            note++;
            used = 0;
        }
        t->records[i].note = note;
        used++;
    }
    return PI0_OK;
}

/* ---- events ---- */

typedef struct values {
    pi0_trace_value list[MAX_VALUES];
    int count;
} values;

static void add_number(values *v, const char *name, double number) {
    if (number > 0 && v->count < MAX_VALUES) v->list[v->count++] = (pi0_trace_value){.name = name, .number = number};
}
static void add_text(values *v, const char *name, const char *text) {
    if (text && *text && v->count < MAX_VALUES) v->list[v->count++] = (pi0_trace_value){.name = name, .text = text};
}

static void tell(const launch_trace *t, pi0_trace_kind kind, const char *name, int track, uint64_t start, uint64_t end,
                 uint64_t flow, const values *v) {
    const pi0_trace_event event = {.struct_size = sizeof event,
                                   .kind = kind,
                                   .name = name,
                                   .track = track,
                                   .start_us = ((double)(int64_t)(start - t->base_ns)) * 1e-3,
                                   .duration_us = end > start ? (double)(end - start) * 1e-3 : 0,
                                   .flow = flow,
                                   .values = v ? v->list : NULL,
                                   .value_count = v ? v->count : 0};
    t->function(t->user, &event);
}

static void put_dimensions(char *text, size_t size, const int *d) {
    snprintf(text, size, "[%d, %d, %d]", d[0], d[1], d[2]);
}

static void tell_kernel(const launch_trace *t, const launch_record *r, uint64_t start, bool first) {
    static const char *const stages[PI0_STAGE_COUNT] = {"vit", "prefill", "denoise", "other"};
    const launch_note *note = &t->notes[r->note];
    char name[96], grid[48], block[48], cluster[48] = "";
    snprintf(name, sizeof name, "%s_%s", stages[note->stage], note->name);
    put_dimensions(grid, sizeof grid, r->grid);
    put_dimensions(block, sizeof block, r->block);
    if (r->cluster[0] > 1) put_dimensions(cluster, sizeof cluster, r->cluster);
    values v = {.count = 0};
    add_text(&v, "function", r->name);
    add_text(&v, "grid", grid);
    add_text(&v, "block", block);
    add_text(&v, "cluster", cluster);
    add_number(&v, "registers", r->registers);
    add_number(&v, "shared_bytes", (double)r->static_shared + r->dynamic_shared);
    add_number(&v, "graph_node", (double)r->node);
    if (first) { /* what a launch computes stands at its first kernel, once */
        add_number(&v, "rows", note->rows);
        add_number(&v, "k", note->k);
        add_number(&v, "n", note->n);
        add_number(&v, "bytes", note->bytes);
        add_number(&v, "flops", note->flops);
    }
    if (start > r->start_ns) add_number(&v, "early_us", (double)(start - r->start_ns) * 1e-3);
    tell(t, PI0_TRACE_KERNEL, name, r->stream, start, r->end_ns, r->correlation, &v);
}

static void tell_copy(const launch_trace *t, const launch_record *r, uint64_t start) {
    values v = {.count = 0};
    add_number(&v, "bytes", r->bytes);
    add_text(&v, "direction", r->kind == LAUNCH_SET ? "set" : r->direction);
    add_number(&v, "graph_node", (double)r->node);
    tell(t, PI0_TRACE_COPY, t->notes[r->note].name, r->stream, start, r->end_ns, r->correlation, &v);
}

/* A range that is open while records of the same stage, step, layer or launch follow each other. */
typedef struct range {
    int id; /* below 0: not open */
    uint64_t start, end;
} range;

typedef struct ranges {
    const launch_trace *trace;
    range stage, step, layer, note;
    int stream;
} ranges;

static void close_range(const ranges *all, range *range, pi0_trace_kind kind, const char *name, bool numbered) {
    if (range->id < 0) return;
    char text[64];
    snprintf(text, sizeof text, numbered ? "%s %d" : "%s", name, range->id);
    tell(all->trace, kind, text, all->stream, range->start, range->end, 0, NULL);
    range->id = -1;
}

/* One launch that computes several steps shows them as equal parts, and says so. */
static void tell_parts(const ranges *all, const launch_note *note, const range *r) {
    values v = {.count = 0};
    add_text(&v, "times", "equal parts of one kernel, not measured one by one");
    for (int i = 0; i < note->parts; i++) {
        char name[32];
        snprintf(name, sizeof name, "step %d", i);
        const uint64_t length = r->end - r->start, parts = (uint64_t)note->parts, part = (uint64_t)i;
        tell(all->trace, PI0_TRACE_STEP, name, all->stream, r->start + length * part / parts,
             r->start + length * (part + 1) / parts, 0, &v);
    }
}

static void close_note(ranges *all) {
    if (all->note.id < 0) return;
    const launch_note *note = &all->trace->notes[all->note.id];
    if (note->parts > 1) tell_parts(all, note, &all->note);
    close_range(all, &all->note, PI0_TRACE_OP, note->name, false);
}

static void extend(range *range, int id, uint64_t start, uint64_t end) {
    if (id < 0) return;
    if (range->id < 0) {
        range->id = id;
        range->start = start;
    }
    range->end = end;
}

/* note NULL: the end. */
static void follow(ranges *all, int index, uint64_t start, uint64_t end) {
    const launch_note *note = index < 0 ? NULL : &all->trace->notes[index];
    const int stage = note ? note->stage : -1;
    const bool other_stage = all->stage.id != stage, other_step = other_stage || all->step.id != note->step,
               other_layer = other_step || all->layer.id != note->layer;
    if (all->note.id != index) close_note(all);
    if (other_layer) close_range(all, &all->layer, PI0_TRACE_LAYER, "layer", true);
    if (other_step) close_range(all, &all->step, PI0_TRACE_STEP, "step", true);
    if (other_stage && all->stage.id >= 0)
        close_range(all, &all->stage, PI0_TRACE_STAGE, pi0_stage_name(all->stage.id), false);
    if (!note) return;
    extend(&all->stage, note->stage, start, end);
    extend(&all->step, note->step, start, end);
    extend(&all->layer, note->layer, start, end);
    extend(&all->note, index, start, end);
}

static void tell_device(const launch_trace *t) {
    ranges all = {t, {.id = -1}, {.id = -1}, {.id = -1}, {.id = -1}, 0};
    uint64_t first = 0, last = 0;
    int before = -1;
    for (int i = 0; i < t->record_count; i++) {
        const launch_record *r = &t->records[i];
        if (r->kind == LAUNCH_CALL) continue;
        uint64_t start = r->start_ns > last ? r->start_ns : last;
        const uint64_t end = r->end_ns > start ? r->end_ns : start;
        if (!first) first = start;
        all.stream = r->stream;
        follow(&all, r->note, start, end);
        if (r->kind == LAUNCH_KERNEL)
            tell_kernel(t, r, start, r->note != before);
        else
            tell_copy(t, r, start);
        before = r->note;
        last = end;
    }
    follow(&all, -1, 0, 0);
    tell(t, PI0_TRACE_INFERENCE, "inference", all.stream, first, last, UINT64_MAX, NULL);
}

/* Threads come with large numbers of the system's: here they count from 0 in the order in which they call. */
static int thread_index(int *threads, int *count, int thread) {
    for (int i = 0; i < *count; i++)
        if (threads[i] == thread) return i;
    if (*count == MAX_THREADS) return MAX_THREADS - 1;
    threads[*count] = thread;
    return (*count)++;
}

static void tell_calls(const launch_trace *t) {
    int threads[MAX_THREADS], count = 0;
    tell(t, PI0_TRACE_API, "pi0_session_infer", 0, t->begin_ns, t->end_ns, UINT64_MAX, NULL);
    for (int i = 0; i < t->record_count; i++) {
        const launch_record *r = &t->records[i];
        if (r->kind != LAUNCH_CALL || r->start_ns < t->begin_ns || r->end_ns > t->end_ns) continue;
        tell(t, PI0_TRACE_API, r->name ? r->name : "call", thread_index(threads, &count, r->thread), r->start_ns,
             r->end_ns, r->correlation, NULL);
    }
}

pi0_status launch_trace_tell(launch_trace *t, pi0_error *error) {
    qsort(t->records, (size_t)t->record_count, sizeof *t->records, by_start);
    TRY(match(t, error));
    tell_calls(t);
    tell_device(t);
    return PI0_OK;
}
