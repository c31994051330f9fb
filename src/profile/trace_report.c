/* The figures of a trace report. */
#include "profile/trace_report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Pauses shorter than this are the rounding of time stamps. */
#define CLOCK_US 0.002

static const double unknown = (double)NAN;

__attribute__((format(printf, 2, 3))) static void note(trace_report *report, const char *format, ...) {
    if (report->note_count == TRACE_MAX_NOTES) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report->notes[report->note_count++], sizeof report->notes[0], format, arguments);
    va_end(arguments);
}

static pi0_status no_memory(pi0_error *error) { return error_memory(error, 1 << 20, "a trace's report"); }

/* ---- names by time and calls ------------------------------------------------------------------------------------- */

typedef struct rank {
    double key, second;
    uint32_t id;
} rank;

static int by_rank(const void *a, const void *b) {
    const rank *left = a, *right = b;
    if (left->key > right->key || left->key < right->key) return left->key > right->key ? -1 : 1;
    if (left->second > right->second || left->second < right->second) return left->second > right->second ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static pi0_status rank_names(const trace_names *names, bool by_calls, uint32_t **order, pi0_error *error) {
    rank *ranks = memory_allocate((names->count + 1) * sizeof *ranks);
    *order = memory_allocate((names->count + 1) * sizeof **order);
    if (!ranks || !*order) {
        memory_release(ranks);
        return no_memory(error);
    }
    for (uint32_t i = 0; i < names->count; i++) {
        double us = trace_name_us(&names->names[i]), calls = (double)names->names[i].calls;
        ranks[i] = (rank){by_calls ? calls : us, by_calls ? us : calls, i};
    }
    qsort(ranks, names->count, sizeof *ranks, by_rank);
    for (uint32_t i = 0; i < names->count; i++) (*order)[i] = ranks[i].id;
    memory_release(ranks);
    return PI0_OK;
}

/* ---- CPU ops ----------------------------------------------------------------------------------------------------- */

/* Sums keyed by a pair of names: open addressing, grown at half full. */
typedef struct pair_sum {
    uint64_t key; /* op << 32 | kernel or shapes */
    double us;
    uint64_t calls; /* 0: empty slot */
} pair_sum;

typedef struct pair_table {
    pair_sum *slots;
    uint32_t slot_count, used;
} pair_table;

static pair_sum *pair_slot(const pair_table *table, uint64_t key) {
    uint32_t slot = (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (table->slot_count - 1);
    while (table->slots[slot].calls && table->slots[slot].key != key) slot = (slot + 1) & (table->slot_count - 1);
    return &table->slots[slot];
}

static pi0_status pair_add(pair_table *table, uint64_t key, double us, pi0_error *error) {
    if (table->used * 2 >= table->slot_count) {
        pair_table larger = {.slot_count = table->slot_count ? table->slot_count * 2 : 1024, .used = table->used};
        larger.slots = memory_zeroed(larger.slot_count, sizeof *larger.slots);
        if (!larger.slots) return no_memory(error);
        for (uint32_t i = 0; i < table->slot_count; i++)
            if (table->slots[i].calls) *pair_slot(&larger, table->slots[i].key) = table->slots[i];
        memory_release(table->slots);
        *table = larger;
    }
    pair_sum *slot = pair_slot(table, key);
    if (!slot->calls) {
        slot->key = key;
        table->used++;
    }
    slot->us += us;
    slot->calls++;
    return PI0_OK;
}

static int by_external(const void *a, const void *b) {
    const trace_op *left = a, *right = b;
    return left->external < right->external ? -1 : left->external > right->external;
}

/* The op with an External id; ops come by it. */
static const trace_op *find_op(const trace *trace, uint32_t external) {
    uint32_t low = 0, high = trace->op_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (trace->op_events[middle].external < external)
            low = middle + 1;
        else
            high = middle;
    }
    return low < trace->op_count && trace->op_events[low].external == external ? &trace->op_events[low] : NULL;
}

static int by_op_then_time(const void *a, const void *b) {
    const trace_op_kernel *left = a, *right = b;
    if (left->op != right->op) return left->op < right->op ? -1 : 1;
    if (left->us > right->us || left->us < right->us) return left->us > right->us ? -1 : 1;
    return left->kernel < right->kernel ? -1 : left->kernel > right->kernel;
}

static int by_op_time(const void *a, const void *b) {
    const trace_op_row *left = a, *right = b;
    if (left->ms > right->ms || left->ms < right->ms) return left->ms > right->ms ? -1 : 1;
    return left->name < right->name ? -1 : left->name > right->name;
}

static pi0_status collect_ops(trace_report *report, pair_table *kernels, pair_table *shapes, pi0_error *error) {
    const trace *trace = &report->trace;
    for (uint32_t i = 0; i < trace->record_count; i++) {
        const trace_kernel *kernel = trace_record(trace, i);
        const trace_op *op = kernel->external ? find_op(trace, kernel->external) : NULL;
        if (!op) continue;
        TRY(pair_add(kernels, (uint64_t)op->name << 32 | kernel->name, (double)kernel->us, error));
        if (op->shapes != TRACE_NO_NAME) TRY(pair_add(shapes, (uint64_t)op->name << 32 | op->shapes, 0, error));
    }
    return PI0_OK;
}

static pi0_status list_ops(trace_report *report, const pair_table *kernels, const pair_table *shapes,
                           pi0_error *error) {
    report->op_kernels = memory_allocate(((size_t)kernels->used + 1) * sizeof *report->op_kernels);
    report->ops = memory_allocate(((size_t)report->trace.ops.count + 1) * sizeof *report->ops);
    uint64_t *most = memory_zeroed((size_t)report->trace.ops.count + 1, sizeof *most);
    uint32_t *shape = memory_allocate(((size_t)report->trace.ops.count + 1) * sizeof *shape);
    if (!report->op_kernels || !report->ops || !most || !shape) {
        memory_release(most);
        memory_release(shape);
        return no_memory(error);
    }
    for (uint32_t i = 0; i < kernels->slot_count; i++) {
        const pair_sum *sum = &kernels->slots[i];
        if (sum->calls)
            report->op_kernels[report->op_kernel_count++] =
                (trace_op_kernel){(uint32_t)(sum->key >> 32), (uint32_t)sum->key, sum->us, sum->calls};
    }
    if (report->op_kernel_count)
        qsort(report->op_kernels, report->op_kernel_count, sizeof *report->op_kernels, by_op_then_time);
    for (uint32_t i = 0; i < shapes->slot_count; i++) {
        const pair_sum *sum = &shapes->slots[i];
        uint32_t op = (uint32_t)(sum->key >> 32), text = (uint32_t)sum->key;
        if (!sum->calls || sum->calls < most[op] || (sum->calls == most[op] && text > shape[op])) continue;
        most[op] = sum->calls;
        shape[op] = text;
    }
    for (uint32_t i = 0; i < report->op_kernel_count;) {
        trace_op_row row = {.name = report->op_kernels[i].op, .first_kernel = i};
        for (; i < report->op_kernel_count && report->op_kernels[i].op == row.name; i++) {
            row.ms += report->op_kernels[i].us * 1e-3;
            row.calls += report->op_kernels[i].calls;
        }
        row.kernel_count = i - row.first_kernel;
        row.shapes = most[row.name] ? shape[row.name] : TRACE_NO_NAME;
        report->attributed_ms += row.ms;
        report->ops[report->op_count++] = row;
    }
    if (report->op_count) qsort(report->ops, report->op_count, sizeof *report->ops, by_op_time);
    memory_release(most);
    memory_release(shape);
    return PI0_OK;
}

static pi0_status make_ops(trace_report *report, pi0_error *error) {
    trace *trace = &report->trace;
    pair_table kernels = {0}, shapes = {0};
    if (trace->op_count) qsort(trace->op_events, trace->op_count, sizeof *trace->op_events, by_external);
    pi0_status status = collect_ops(report, &kernels, &shapes, error);
    if (status == PI0_OK) status = list_ops(report, &kernels, &shapes, error);
    memory_release(kernels.slots);
    memory_release(shapes.slots);
    return status;
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static void keep_gap(trace_report *report, double ms, uint32_t kernel) {
    report->gap_count++;
    trace_gap gap = {ms, kernel};
    for (int i = 0; i < TRACE_TOP_GAPS; i++) {
        if (gap.ms <= report->gaps[i].ms) continue;
        trace_gap swap = report->gaps[i];
        report->gaps[i] = gap;
        gap = swap;
    }
}

/* Idle time between kernels first..end-1, where none runs; sums over devices. */
static double idle_between(trace_report *report, uint32_t first, uint32_t end, bool keep_gaps) {
    double idle = 0, reached = 0, begun = 0;
    for (uint32_t i = first; i < end; i++) {
        const trace_kernel *kernel = trace_split_kernel(&report->split, &report->trace, i);
        double stop = kernel->start_us + (double)kernel->us;
        bool restart = i == first || kernel->start_us < begun; /* the next device's kernels begin */
        if (!restart && kernel->start_us > reached + CLOCK_US) {
            idle += kernel->start_us - reached;
            if (keep_gaps) keep_gap(report, (kernel->start_us - reached) * 1e-3, i);
        }
        if (restart || stop > reached) reached = stop;
        begun = kernel->start_us;
    }
    return idle * 1e-3;
}

static void total_figures(trace_report *report) {
    const trace *trace = &report->trace;
    report->kernel_total_ms = (trace->kernel_us + trace->kernel_low_us) * 1e-3;
    report->copy_total_ms = (trace->copy_us + trace->copy_low_us) * 1e-3;
    report->runtime_total_ms = trace->runtime_count ? (trace->runtime_us + trace->runtime_low_us) * 1e-3 : unknown;
    report->kernel_span_ms = trace->kernel_count ? (trace->last_us - trace->first_us) * 1e-3 : unknown;
    report->utilization =
        trace->kernel_count && report->kernel_span_ms > 0 ? report->kernel_total_ms / report->kernel_span_ms : unknown;
    report->busy_ms = report->idle_ms = unknown;
    if (!trace->record_count) return;
    report->idle_ms = idle_between(report, 0, report->split.count, true);
    report->busy_ms = report->kernel_span_ms - report->idle_ms;
    if (report->busy_ms < 0) report->busy_ms = report->idle_ms = unknown; /* several devices */
}

static void add_category(trace_report *report, const trace_kernel *kernel, double weight) {
    kernel_class class = report->split.classes[kernel->name];
    trace_cost *cost = &report->categories[class.library][class.op];
    cost->ms += (double)kernel->us * 1e-3 * weight;
    cost->calls += weight;
}

static void stage_figures(trace_report *report) {
    const trace_split *split = &report->split;
    report->inference_ms = report->inference_wall_ms = report->inference_idle_ms = unknown;
    report->step_ms = report->step_min_ms = report->step_max_ms = unknown;
    if (split->inference_count == 0) {
        for (uint32_t i = 0; i < report->trace.kernels.count; i++) {
            const trace_name *name = &report->trace.kernels.names[i];
            trace_cost *cost = &report->categories[split->classes[i].library][split->classes[i].op];
            cost->ms += trace_name_us(name) * 1e-3;
            cost->calls += (double)name->calls;
        }
        return;
    }
    double weight = 1.0 / split->inference_count;
    report->inference_ms = report->inference_wall_ms = report->inference_idle_ms = 0;
    for (uint32_t k = 0; k < split->inference_count; k++) {
        const trace_inference *inference = &split->inferences[k];
        double from = trace_split_kernel(split, &report->trace, inference->first)->start_us, to = from;
        for (uint32_t i = inference->first; i < inference->end; i++) {
            const trace_kernel *kernel = trace_split_kernel(split, &report->trace, i);
            int stage = split->stages[i] < PI0_STAGE_COUNT ? split->stages[i] : PI0_STAGE_OTHER;
            trace_stage_row *row = &report->stages[stage];
            trace_cost *op = &row->ops[split->classes[kernel->name].op];
            double ms = (double)kernel->us * 1e-3 * weight;
            row->ms += ms;
            row->kernels += weight;
            op->ms += ms;
            op->calls += weight;
            report->inference_ms += ms;
            add_category(report, kernel, weight);
            if (kernel->start_us + (double)kernel->us > to) to = kernel->start_us + (double)kernel->us;
        }
        report->inference_wall_ms += (to - from) * 1e-3 * weight;
        report->inference_idle_ms += idle_between(report, inference->first, inference->end, false) * weight;
    }
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        trace_stage_row *row = &report->stages[stage];
        row->known = split->stage_known[stage];
        row->percent = report->inference_ms > 0 ? 100 * row->ms / report->inference_ms : unknown;
        row->kernels = round(row->kernels * 1e6) * 1e-6;
    }
}

static void step_figures(trace_report *report) {
    const trace_split *split = &report->split;
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t k = 0; k < split->inference_count; k++) {
        const trace_inference *inference = &split->inferences[k];
        for (uint32_t s = 0; s < inference->step_count; s++, count++) {
            const trace_step *step = &split->steps[inference->step_first + s];
            double ms = 0;
            for (uint32_t i = step->first; i < step->end; i++)
                ms += (double)trace_split_kernel(split, &report->trace, i)->us * 1e-3;
            sum += ms;
            if (count == 0 || ms < report->step_min_ms) report->step_min_ms = ms;
            if (count == 0 || ms > report->step_max_ms) report->step_max_ms = ms;
        }
    }
    if (count)
        report->step_ms = sum / count;
    else if (split->inference_count && split->denoise_steps > 0 && !split->expert_layers)
        report->step_ms = report->stages[PI0_STAGE_DENOISE].ms / split->denoise_steps;
}

static void make_notes(trace_report *report) {
    const trace *trace = &report->trace;
    const trace_split *split = &report->split;
    if (trace->damage[0])
        note(report, "%s; only what came before is counted", trace->damage);
    else if (trace->cut_off)
        note(report, "the file ends in the middle; only what is there is counted");
    if (trace->impossible_count)
        note(report, "%llu events with a negative, absurd or missing time are left out",
             (unsigned long long)trace->impossible_count);
    if (trace->oversized_count)
        note(report, "%llu events larger than 16 MiB are left out", (unsigned long long)trace->oversized_count);
    if (trace->kernels.overflow) note(report, "more than half a million kernel names: the rarer ones share one row");
    if (trace->ops_dropped) note(report, "more CPU ops than are kept: those beyond are not linked to their kernels");
    if (trace->records_dropped)
        note(report, "%llu kernels: totals only, no stages, ops and gaps (the limit for those is %d)",
             (unsigned long long)trace->kernel_count, TRACE_MAX_KERNELS);
    else if (trace->kernel_count == 0)
        note(report, "no kernels: no event is complete (ph X) and of category kernel or gpu");
    else if (split->inference_count == 0)
        note(report, "unknown structure: %s; stages are not told", split->reason ? split->reason : "no stages");
    else if (!split->complete)
        note(report, "less than one whole inference: stages are what is there");
    if (split->left_out)
        note(report, "%u inferences that are there only in part are left out of stages and categories",
             split->left_out);
}

pi0_status trace_report_make(trace_report *report, trace_source *source, const char *name, pi0_error *error) {
    *report = (trace_report){.name = name};
    TRY(trace_read(&report->trace, source, error));
    TRY(trace_split_find(&report->split, &report->trace, error));
    TRY(rank_names(&report->trace.kernels, false, &report->kernels_by_time, error));
    TRY(rank_names(&report->trace.kernels, true, &report->kernels_by_calls, error));
    TRY(rank_names(&report->trace.runtime, false, &report->runtime_by_time, error));
    TRY(make_ops(report, error));
    total_figures(report);
    stage_figures(report);
    step_figures(report);
    make_notes(report);
    return PI0_OK;
}

pi0_status trace_report_open(trace_report *report, const char *path, pi0_error *error) {
    *report = (trace_report){.name = path};
    trace_source *source;
    pi0_status status = trace_source_open(&source, path, error);
    if (status == PI0_OK) status = trace_report_make(report, source, path, error);
    trace_source_close(&source);
    return status == PI0_OK ? PI0_OK : error_prefix(error, status, "%s", strcmp(path, "-") ? path : "standard input");
}

void trace_report_release(trace_report *report) {
    trace_release(&report->trace);
    trace_split_release(&report->split);
    memory_release(report->kernels_by_time);
    memory_release(report->kernels_by_calls);
    memory_release(report->runtime_by_time);
    memory_release(report->ops);
    memory_release(report->op_kernels);
    *report = (trace_report){0};
}

trace_cost trace_report_op(const trace_report *report, int op) {
    trace_cost sum = {0};
    for (int library = 0; library < LIBRARY_COUNT; library++) {
        sum.ms += report->categories[library][op].ms;
        sum.calls += report->categories[library][op].calls;
    }
    return sum;
}
