/* A trace report for a terminal, and two of them side by side. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "profile/trace_report.h"

enum { NAME_COLUMNS = 110, SHAPE_COLUMNS = 160, COMPARE_NAME_COLUMNS = 80 };

/* "%*.3f", or "-" in the same width for what is not known. */
static void put_figure(text_buffer *text, int width, int decimals, double value) {
    if (isnan(value))
        text_put_format(text, "%*s", width, "-");
    else
        text_put_format(text, "%*.*f", width, decimals, value);
}

static void put_line(text_buffer *text, const char *label, double value, const char *unit) {
    text_put_format(text, "%-22s", label);
    put_figure(text, 12, 3, value);
    text_put_format(text, "%s\n", isnan(value) ? "" : unit);
}

/* A name from the trace, cut to fit, with control characters made visible. */
static void put_name(text_buffer *text, const char *name, size_t columns) {
    size_t length = strlen(name), shown = length <= columns ? length : columns;
    while (shown < length && shown > 0 && ((unsigned char)name[shown] & 0xc0) == 0x80) shown--; /* whole characters */
    size_t plain = 0;
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c >= 0x20 && c != 0x7f) continue;
        text_put_n(text, name + plain, i - plain);
        text_put(text, "?");
        plain = i + 1;
    }
    text_put_n(text, name + plain, shown - plain);
    if (shown < length) text_put(text, "...");
}

static void put_totals(const trace_report *report, text_buffer *text) {
    const trace *trace = &report->trace;
    text_put(text, "trace: ");
    put_name(text, report->name, 1000);
    if (trace->device) {
        text_put(text, "  (");
        put_name(text, trace->device, 100);
        text_put(text, ")");
    }
    text_put(text, "\n\n");
    put_line(text, "kernel total", report->kernel_total_ms, " ms");
    put_line(text, "kernel span", report->kernel_span_ms, " ms");
    put_line(text, "utilization", report->utilization * 100, " %");
    text_put_format(text, "%-22s%8llu\n", "kernels", (unsigned long long)trace->kernel_count);
    put_line(text, "idle", report->idle_ms, " ms");
    text_put_format(text, "%-22s%8llu   ", "copies and memsets", (unsigned long long)trace->copy_count);
    put_figure(text, 1, 3, report->copy_total_ms);
    text_put(text, " ms\n");
    put_line(text, "runtime total", report->runtime_total_ms, " ms");
    for (int i = 0; i < report->note_count; i++) text_put_format(text, "note: %s\n", report->notes[i]);
}

static void put_stages(const trace_report *report, text_buffer *text) {
    const trace_split *split = &report->split;
    if (!split->inference_count) return;
    text_put_format(text, "\nStages of one inference (%s %u, told from %s)\n",
                    split->inference_count > 1 ? "averaged over" : "inferences found:", split->inference_count,
                    split->source);
    text_put_format(text, "%-12s%10s%8s%9s", "", "ms", "%", "kernels");
    for (int op = 0; op < PI0_OP_COUNT; op++) text_put_format(text, "%11s", pi0_op_name(op));
    text_put(text, "\n");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        const trace_stage_row *row = &report->stages[stage];
        text_put_format(text, "%-12s", pi0_stage_name(stage));
        put_figure(text, 10, 3, row->known ? row->ms : (double)NAN);
        put_figure(text, 8, 1, row->known ? row->percent : (double)NAN);
        put_figure(text, 9, row->kernels > floor(row->kernels) ? 1 : 0, row->known ? row->kernels : (double)NAN);
        for (int op = 0; op < PI0_OP_COUNT && row->known; op++) put_figure(text, 11, 3, row->ops[op].ms);
        text_put(text, "\n");
    }
    text_put_format(text, "%-12s", "all");
    put_figure(text, 10, 3, report->inference_ms);
    text_put(text, "\n");
    if (split->vit_layers > 0) text_put_format(text, "ViT layer passes: %d\n", split->vit_layers);
    if (split->prefill_layers > 0) text_put_format(text, "prefill layers: %d\n", split->prefill_layers);
    if (split->denoise_steps >= 0) {
        text_put_format(text, "denoise steps: %d", split->denoise_steps);
        if (split->expert_layers) text_put_format(text, " and %d layers of another", split->expert_layers);
        if (!isnan(report->step_ms)) text_put_format(text, ", %.3f ms each", report->step_ms);
        if (!isnan(report->step_min_ms))
            text_put_format(text, " (%.3f to %.3f)", report->step_min_ms, report->step_max_ms);
        text_put(text, "\n");
    }
    text_put_format(text, "from the first kernel to the end of the last: %.3f ms, %.3f of them idle\n",
                    report->inference_wall_ms, report->inference_idle_ms);
}

static void put_categories(const trace_report *report, text_buffer *text) {
    if (!report->trace.kernel_count) return;
    text_put_format(text, "\nCategories, ms (%s)\n%-18s",
                    report->split.inference_count ? "per inference" : "whole trace", "");
    for (int op = 0; op < PI0_OP_COUNT; op++) text_put_format(text, "%11s", pi0_op_name(op));
    text_put_format(text, "%11s%10s\n", "all", "kernels");
    for (int library = 0; library <= LIBRARY_COUNT; library++) {
        trace_cost sum = {0}, cells[PI0_OP_COUNT];
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            cells[op] = library < LIBRARY_COUNT ? report->categories[library][op] : trace_report_op(report, op);
            sum.ms += cells[op].ms;
            sum.calls += cells[op].calls;
        }
        if (sum.calls <= 0) continue;
        text_put_format(text, "%-18s", library < LIBRARY_COUNT ? kernel_library_name((kernel_library)library) : "all");
        for (int op = 0; op < PI0_OP_COUNT; op++)
            put_figure(text, 11, 3, cells[op].calls > 0 ? cells[op].ms : (double)NAN);
        text_put_format(text, "%11.3f%10.0f\n", sum.ms, sum.calls);
    }
}

static uint32_t shown(int limit, uint32_t count) {
    return limit < 0 || (uint32_t)limit > count ? count : (uint32_t)limit;
}

/* The op that launched most of a kernel's time, or NULL. */
static const char *main_op(const trace_report *report, uint32_t kernel) {
    double most = 0;
    const char *name = NULL;
    for (uint32_t i = 0; i < report->op_kernel_count; i++) {
        const trace_op_kernel *row = &report->op_kernels[i];
        if (row->kernel != kernel || row->us <= most) continue;
        most = row->us;
        name = report->trace.ops.names[row->op].text;
    }
    return name;
}

static void put_kernels(const trace_report *report, const trace_limits *limits, text_buffer *text) {
    const trace_names *names = &report->trace.kernels;
    uint32_t count = shown(limits->kernels, names->count);
    if (count) text_put(text, "\nTop kernels by time\n        ms   calls   avg us  name\n");
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[report->kernels_by_time[i]];
        double us = trace_name_us(name);
        text_put_format(text, "%10.3f%8llu%9.2f  ", us * 1e-3, (unsigned long long)name->calls,
                        us / (double)name->calls);
        put_name(text, name->text, NAME_COLUMNS);
        const char *op = main_op(report, report->kernels_by_time[i]);
        if (op) {
            text_put(text, "  < ");
            put_name(text, op, 60);
        }
        text_put(text, "\n");
    }
    count = shown(limits->counts, names->count);
    if (count) text_put(text, "\nTop kernels by count\n   calls        ms   avg us  name\n");
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[report->kernels_by_calls[i]];
        double us = trace_name_us(name);
        text_put_format(text, "%8llu%10.3f%9.2f  ", (unsigned long long)name->calls, us * 1e-3,
                        us / (double)name->calls);
        put_name(text, name->text, NAME_COLUMNS);
        text_put(text, "\n");
    }
}

static void put_runtime(const trace_report *report, const trace_limits *limits, text_buffer *text) {
    const trace_names *names = &report->trace.runtime;
    uint32_t count = shown(limits->runtime, names->count);
    if (count) text_put(text, "\nRuntime calls by time\n        ms   calls  name\n");
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[report->runtime_by_time[i]];
        text_put_format(text, "%10.3f%8llu  ", trace_name_us(name) * 1e-3, (unsigned long long)name->calls);
        put_name(text, name->text, NAME_COLUMNS);
        text_put(text, "\n");
    }
}

static void put_ops(const trace_report *report, const trace_limits *limits, text_buffer *text) {
    uint32_t count = shown(limits->ops, report->op_count);
    if (count)
        text_put_format(text,
                        "\nCPU ops by the time of the kernels they launched (%.3f of %.3f ms linked)\n"
                        "        ms kernels  op\n",
                        report->attributed_ms, report->kernel_total_ms);
    for (uint32_t i = 0; i < count; i++) {
        const trace_op_row *op = &report->ops[i];
        text_put_format(text, "%10.3f%8llu  ", op->ms, (unsigned long long)op->calls);
        put_name(text, report->trace.ops.names[op->name].text, NAME_COLUMNS);
        if (op->shapes != TRACE_NO_NAME) {
            text_put(text, "  shapes ");
            put_name(text, report->trace.shapes.names[op->shapes].text, SHAPE_COLUMNS);
        }
        text_put(text, "\n");
        uint32_t kernels = shown(limits->kernels_per_op, op->kernel_count);
        for (uint32_t k = 0; k < kernels; k++) {
            const trace_op_kernel *row = &report->op_kernels[op->first_kernel + k];
            text_put_format(text, "%20.3f%8llu  ", row->us * 1e-3, (unsigned long long)row->calls);
            put_name(text, report->trace.kernels.names[row->kernel].text, NAME_COLUMNS);
            text_put(text, "\n");
        }
    }
}

static void put_gaps(const trace_report *report, text_buffer *text) {
    if (!report->gap_count) return;
    text_put_format(text, "\nIdle time: %llu pauses between kernels, the longest\n        ms  before\n",
                    (unsigned long long)report->gap_count);
    for (int i = 0; i < TRACE_TOP_GAPS && report->gaps[i].ms > 0; i++) {
        const trace_kernel *kernel = trace_split_kernel(&report->split, &report->trace, report->gaps[i].kernel);
        text_put_format(text, "%10.3f  kernel %u, ", report->gaps[i].ms, report->gaps[i].kernel);
        put_name(text, report->trace.kernels.names[kernel->name].text, NAME_COLUMNS);
        text_put(text, "\n");
    }
}

void trace_report_text(const trace_report *report, const trace_limits *limits, text_buffer *text) {
    put_totals(report, text);
    put_stages(report, text);
    put_categories(report, text);
    put_gaps(report, text);
    put_kernels(report, limits, text);
    put_runtime(report, limits, text);
    put_ops(report, limits, text);
}

/* ---- two traces -------------------------------------------------------------------------------------------------- */

static void put_pair(text_buffer *text, const char *label, double a, double b) {
    text_put_format(text, "%-22s", label);
    put_figure(text, 12, 3, a);
    put_figure(text, 12, 3, b);
    put_figure(text, 12, 3, b - a);
    put_figure(text, 9, 2, a > 0 ? b / a : (double)NAN);
    text_put(text, "\n");
}

static double library_ms(const trace_report *report, int library) {
    double ms = 0;
    for (int op = 0; op < PI0_OP_COUNT; op++) ms += report->categories[library][op].ms;
    return ms;
}

static double stage_ms(const trace_report *report, int stage) {
    return report->split.inference_count && report->stages[stage].known ? report->stages[stage].ms : (double)NAN;
}

/* A kernel's time in both traces. */
typedef struct difference {
    uint32_t a, b; /* ids, or TRACE_NO_NAME */
    double a_ms, b_ms;
} difference;

static int by_difference(const void *a, const void *b) {
    const difference *left = a, *right = b;
    double x = fabs(left->b_ms - left->a_ms), y = fabs(right->b_ms - right->a_ms);
    if (x > y || x < y) return x > y ? -1 : 1;
    return left->a < right->a ? -1 : left->a > right->a;
}

/* Time per inference where both traces have inferences, else of the whole trace. */
static double share(const trace_report *report, bool per_inference) {
    return per_inference ? 1e-3 / report->split.inference_count : 1e-3;
}

static void put_kernel_differences(const trace_report *a, const trace_report *b, uint32_t limit, text_buffer *text) {
    bool per_inference = a->split.inference_count && b->split.inference_count;
    const trace_names *left = &a->trace.kernels, *right = &b->trace.kernels;
    trace_names both = {0};
    difference *rows = memory_zeroed((size_t)left->count + right->count + 1, sizeof *rows);
    uint32_t count = 0;
    bool failed = !rows;
    for (uint32_t i = 0; i < left->count && !failed; i++) {
        uint32_t id = trace_names_add(&both, left->names[i].text, left->names[i].length);
        failed = id == TRACE_NO_NAME;
        if (failed) break;
        if (id >= count) rows[count++] = (difference){.a = i, .b = TRACE_NO_NAME};
        rows[id].a_ms += trace_name_us(&left->names[i]) * share(a, per_inference);
    }
    for (uint32_t i = 0; i < right->count && !failed; i++) {
        uint32_t id = trace_names_add(&both, right->names[i].text, right->names[i].length);
        failed = id == TRACE_NO_NAME;
        if (failed) break;
        if (id >= count) rows[count++] = (difference){.a = TRACE_NO_NAME};
        rows[id].b = i;
        rows[id].b_ms += trace_name_us(&right->names[i]) * share(b, per_inference);
    }
    if (!failed && count) qsort(rows, count, sizeof *rows, by_difference);
    if (count && limit)
        text_put_format(text, "\nKernels that differ most, ms (%s)\n           a           b       b - a  name\n",
                        per_inference ? "per inference" : "whole traces");
    for (uint32_t i = 0; i < count && i < limit && !failed; i++) {
        put_figure(text, 12, 3, rows[i].a != TRACE_NO_NAME ? rows[i].a_ms : (double)NAN);
        put_figure(text, 12, 3, rows[i].b != TRACE_NO_NAME ? rows[i].b_ms : (double)NAN);
        put_figure(text, 12, 3, rows[i].b_ms - rows[i].a_ms);
        text_put(text, "  ");
        put_name(text, rows[i].a != TRACE_NO_NAME ? left->names[rows[i].a].text : right->names[rows[i].b].text,
                 COMPARE_NAME_COLUMNS);
        text_put(text, "\n");
    }
    if (failed) text->failed = true;
    memory_release(rows);
    trace_names_release(&both);
}

void trace_compare_text(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text) {
    const trace_report *reports[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        text_put_format(text, "%c: ", 'a' + i);
        put_name(text, reports[i]->name, 1000);
        if (reports[i]->trace.device) {
            text_put(text, "  (");
            put_name(text, reports[i]->trace.device, 100);
            text_put(text, ")");
        }
        text_put(text, "\n");
        for (int k = 0; k < reports[i]->note_count; k++) text_put_format(text, "   note: %s\n", reports[i]->notes[k]);
    }
    static const char columns[] = "           a           b       b - a    b / a\n";
    text_put_format(text, "\n%-22s%s", "", columns);
    put_pair(text, "kernel total, ms", a->kernel_total_ms, b->kernel_total_ms);
    put_pair(text, "kernel span, ms", a->kernel_span_ms, b->kernel_span_ms);
    put_pair(text, "utilization, %", a->utilization * 100, b->utilization * 100);
    put_pair(text, "kernels", (double)a->trace.kernel_count, (double)b->trace.kernel_count);
    put_pair(text, "runtime total, ms", a->runtime_total_ms, b->runtime_total_ms);
    text_put_format(text, "\n%-22s%s", "Stages, ms", columns);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        put_pair(text, pi0_stage_name(stage), stage_ms(a, stage), stage_ms(b, stage));
    put_pair(text, "all", a->inference_ms, b->inference_ms);
    put_pair(text, "one denoise step", a->step_ms, b->step_ms);
    text_put_format(text, "\n%-22s%s", "Ops, ms", columns);
    for (int op = 0; op < PI0_OP_COUNT; op++)
        put_pair(text, pi0_op_name(op), trace_report_op(a, op).ms, trace_report_op(b, op).ms);
    for (int stage = 0; stage < PI0_STAGE_OTHER; stage++) {
        if (isnan(stage_ms(a, stage)) || isnan(stage_ms(b, stage))) continue;
        text_put_format(text, "\n%-22s%s", pi0_stage_name(stage), columns);
        for (int op = 0; op < PI0_OP_COUNT; op++)
            put_pair(text, pi0_op_name(op), a->stages[stage].ops[op].ms, b->stages[stage].ops[op].ms);
    }
    text_put_format(text, "\n%-22s%s", "Libraries, ms", columns);
    for (int library = 0; library < LIBRARY_COUNT; library++) {
        double x = library_ms(a, library), y = library_ms(b, library);
        if (x + y > 0) put_pair(text, kernel_library_name((kernel_library)library), x, y);
    }
    put_kernel_differences(a, b, shown(limits->kernels, UINT32_MAX), text);
}
