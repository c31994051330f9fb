/* The page of `analyze --html`: one trace, or two side by side. Fills src/profile/report_page.html. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "profile/report_page.h"
#include "profile/trace_report.h"

enum { MAX_TIMELINE_KERNELS = 20000, TIMELINE_NAME_BYTES = 160, TABLE_NAME_BYTES = 400, TITLE_NAME_BYTES = 250 };

static const double unknown = (double)NAN;

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

/* A string of at most `limit` bytes, cut between characters. */
static void put_string(text_buffer *json, const char *string, size_t limit) {
    size_t length = strlen(string);
    if (length > limit) {
        length = limit;
        while (length > 0 && ((unsigned char)string[length] & 0xc0) == 0x80) length--;
    }
    text_put_json_string(json, string, length);
}

static void put_number(text_buffer *json, double number) {
    if (isfinite(number))
        text_put_number(json, number);
    else
        text_put(json, "null");
}

/* A comma before every element but the first of a list. */
static void put_comma(text_buffer *json) {
    char last = json->size ? json->bytes[json->size - 1] : '[';
    if (last != '[' && last != '{' && last != ':') text_put(json, ",");
}

static void put_key(text_buffer *json, const char *key) {
    put_comma(json);
    put_string(json, key, TABLE_NAME_BYTES);
    text_put(json, ":");
}

static void put_pair(text_buffer *json, const char *key, double number) {
    put_key(json, key);
    put_number(json, number);
}

static void put_text(text_buffer *json, const char *key, const char *text) {
    put_key(json, key);
    put_string(json, text, TABLE_NAME_BYTES);
}

static void put_cell(text_buffer *json, double number) {
    put_comma(json);
    put_number(json, number);
}

/* A count: without decimals. */
static void put_count_cell(text_buffer *json, double count) {
    put_comma(json);
    text_put_format(json, "\"%.0f\"", count);
}

static void put_text_cell(text_buffer *json, const char *text) {
    put_comma(json);
    put_string(json, text, TABLE_NAME_BYTES);
}

static void begin_row(text_buffer *json) {
    put_comma(json);
    text_put(json, "[");
}

static void begin_table(text_buffer *json, const char *id, const char *title, const char *const *columns, int count) {
    put_comma(json);
    text_put(json, "{");
    put_text(json, "id", id);
    put_text(json, "title", title);
    put_key(json, "columns");
    text_put(json, "[");
    for (int i = 0; i < count; i++) put_text_cell(json, columns[i]);
    text_put(json, "]");
    put_key(json, "rows");
    text_put(json, "[");
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

static void put_fact(text_buffer *json, const char *prefix, const char *name, double value, const char *format) {
    char label[80], text[48];
    if (!isfinite(value)) return;
    snprintf(label, sizeof label, "%s%s", prefix, name);
    snprintf(text, sizeof text, format, value);
    begin_row(json);
    put_text_cell(json, label);
    put_text_cell(json, text);
    text_put(json, "]");
}

static void put_facts(const trace_report *report, const char *prefix, text_buffer *json) {
    const trace_split *split = &report->split;
    bool any = split->inference_count > 0;
    put_fact(json, prefix, "kernel total", report->kernel_total_ms, "%.3f ms");
    put_fact(json, prefix, "kernel span", report->kernel_span_ms, "%.3f ms");
    put_fact(json, prefix, "utilization", report->utilization * 100, "%.1f %%");
    put_fact(json, prefix, "kernels", (double)report->trace.kernel_count, "%.0f");
    put_fact(json, prefix, "idle", report->idle_ms, "%.3f ms");
    put_fact(json, prefix, "runtime calls", report->runtime_total_ms, "%.3f ms");
    put_fact(json, prefix, "inferences", any ? split->inference_count : unknown, "%.0f");
    put_fact(json, prefix, "one inference", any ? report->inference_ms : unknown, "%.3f ms");
    put_fact(json, prefix, "one denoise step", any ? report->step_ms : unknown, "%.3f ms");
}

static void put_notes(const trace_report *report, const char *prefix, text_buffer *json) {
    for (int i = 0; i < report->note_count; i++) {
        char note[400];
        snprintf(note, sizeof note, "%s%s", prefix, report->notes[i]);
        put_text_cell(json, note);
    }
}

/* ---- bars -------------------------------------------------------------------------------------------------------- */

static void put_bar(text_buffer *json, const char *name, double ms, double percent, const trace_cost *ops) {
    put_comma(json);
    text_put(json, "{");
    put_text(json, "name", name);
    put_pair(json, "ms", ms);
    put_pair(json, "percent", percent);
    put_key(json, "ops");
    text_put(json, "[");
    for (int op = 0; op < PI0_OP_COUNT && isfinite(ms); op++) {
        put_comma(json);
        text_put(json, "{");
        put_text(json, "name", pi0_op_name(op));
        put_pair(json, "ms", ops[op].ms);
        put_pair(json, "calls", ops[op].calls);
        text_put(json, "}");
    }
    text_put(json, "]}");
}

static void put_stage(const trace_report *report, int stage, const char *suffix, text_buffer *json) {
    const trace_stage_row *row = &report->stages[stage];
    char name[64];
    if (!report->split.inference_count) return;
    snprintf(name, sizeof name, "%s%s", pi0_stage_name(stage), suffix);
    put_bar(json, name, row->known ? row->ms : unknown, row->known ? row->percent : unknown, row->ops);
}

static void put_passes(const trace_report *report, text_buffer *json) {
    const trace_split *split = &report->split;
    text_buffer words = {0};
    text_put_format(&words, "Kernels of one inference, told from %s.", split->source);
    if (split->vit_layers > 0) text_put_format(&words, " ViT layer passes: %d.", split->vit_layers);
    if (split->prefill_layers > 0) text_put_format(&words, " Prefill layers: %d.", split->prefill_layers);
    if (split->denoise_steps >= 0) {
        text_put_format(&words, " Denoise steps: %d", split->denoise_steps);
        if (split->expert_layers) text_put_format(&words, " and %d layers of another", split->expert_layers);
        if (!isnan(report->step_min_ms))
            text_put_format(&words, " (%.3f to %.3f ms)", report->step_min_ms, report->step_max_ms);
        text_put(&words, ".");
    }
    text_put_format(&words, " From the first kernel to the end of the last %.3f ms, %.3f of them idle.",
                    report->inference_wall_ms, report->inference_idle_ms);
    if (words.failed)
        json->failed = true;
    else
        put_text(json, "stages_text", words.bytes);
    memory_release(words.bytes);
}

static void put_libraries(const trace_report *report, text_buffer *json) {
    put_text(json, "libraries_text", report->split.inference_count ? "Per inference." : "Over the whole trace.");
    put_key(json, "libraries");
    text_put(json, "[");
    double sums[LIBRARY_COUNT] = {0}, all = 0;
    for (int library = 0; library < LIBRARY_COUNT; library++) {
        for (int op = 0; op < PI0_OP_COUNT; op++) sums[library] += report->categories[library][op].ms;
        all += sums[library];
    }
    for (int library = 0; library < LIBRARY_COUNT; library++)
        if (sums[library] > 0)
            put_bar(json, kernel_library_name((kernel_library)library), sums[library], 100 * sums[library] / all,
                    report->categories[library]);
    text_put(json, "]");
}

/* ---- side by side ------------------------------------------------------------------------------------------------ */

static void put_compared(text_buffer *json, const char *name, double a, double b) {
    begin_row(json);
    put_text_cell(json, name);
    put_cell(json, a);
    put_cell(json, b);
    put_cell(json, b - a);
    put_cell(json, a > 0 ? b / a : unknown);
    text_put(json, "]");
}

static double known_ms(const trace_report *report, int stage) {
    return report->split.inference_count && report->stages[stage].known ? report->stages[stage].ms : unknown;
}

static void put_comparison(const trace_report *a, const trace_report *b, text_buffer *json) {
    static const char *const columns[] = {"ms", "a", "b", "b - a", "b / a"};
    begin_table(json, "compare", "Side by side", columns, 5);
    put_compared(json, "kernel total", a->kernel_total_ms, b->kernel_total_ms);
    put_compared(json, "kernel span", a->kernel_span_ms, b->kernel_span_ms);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        put_compared(json, pi0_stage_name(stage), known_ms(a, stage), known_ms(b, stage));
    put_compared(json, "one denoise step", a->step_ms, b->step_ms);
    for (int op = 0; op < PI0_OP_COUNT; op++)
        put_compared(json, pi0_op_name(op), trace_report_op(a, op).ms, trace_report_op(b, op).ms);
    text_put(json, "]");
    put_pair(json, "delta", 3);
    text_put(json, "}");
}

/* ---- timeline ---------------------------------------------------------------------------------------------------- */

static void put_slice(text_buffer *json, int track, double start_us, double us, uint32_t name, int paint) {
    text_put_format(json, "%s[%d,%.3f,%.3f,%u,%d]", json->bytes && json->bytes[json->size - 1] == '[' ? "" : ",", track,
                    start_us, us, name, paint);
}

/* Stretches of kernels of one stage; names 0 .. PI0_STAGE_COUNT - 1 are the stages'. */
static void put_stage_slices(const trace_report *report, uint32_t first, uint32_t end, text_buffer *json) {
    const trace_split *split = &report->split;
    double begin = trace_split_kernel(split, &report->trace, first)->start_us;
    for (uint32_t i = first, next; i < end && split->inference_count; i = next) {
        double from = trace_split_kernel(split, &report->trace, i)->start_us, to = from;
        for (next = i; next < end && split->stages[next] == split->stages[i]; next++) {
            const trace_kernel *kernel = trace_split_kernel(split, &report->trace, next);
            if (kernel->start_us + (double)kernel->us > to) to = kernel->start_us + (double)kernel->us;
        }
        if (split->stages[i] < PI0_STAGE_COUNT)
            put_slice(json, 0, from - begin, to - from, split->stages[i], REPORT_PAGE_RANGE);
    }
}

static void put_timeline(const trace_report *report, text_buffer *json) {
    const trace_split *split = &report->split;
    if (!split->count) return;
    uint32_t first = split->inference_count ? split->inferences[0].first : 0;
    uint32_t end = split->inference_count ? split->inferences[0].end : split->count;
    bool cut = end - first > MAX_TIMELINE_KERNELS;
    if (cut) end = first + MAX_TIMELINE_KERNELS;
    uint32_t *place = memory_zeroed((size_t)report->trace.kernels.count + 1, sizeof *place), count = PI0_STAGE_COUNT;
    if (!place) {
        json->failed = true;
        return;
    }
    char words[80];
    snprintf(words, sizeof words,
             cut                      ? "The first %d kernels."
             : split->inference_count ? "One inference."
                                      : "The trace.",
             MAX_TIMELINE_KERNELS);
    put_key(json, "timeline");
    text_put(json, "{");
    put_text(json, "text", words);
    text_put(json, ",\"tracks\":[\"stages\",\"kernels\"],\"names\":[");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) put_text_cell(json, pi0_stage_name(stage));
    for (uint32_t i = first; i < end; i++) {
        uint32_t name = trace_split_kernel(split, &report->trace, i)->name;
        if (place[name]) continue;
        place[name] = count++;
        put_comma(json);
        put_string(json, report->trace.kernels.names[name].text, TIMELINE_NAME_BYTES);
    }
    text_put(json, "],\"events\":[");
    put_stage_slices(report, first, end, json);
    double begin = trace_split_kernel(split, &report->trace, first)->start_us;
    for (uint32_t i = first; i < end; i++) {
        const trace_kernel *kernel = trace_split_kernel(split, &report->trace, i);
        put_slice(json, 1, kernel->start_us - begin, (double)kernel->us, place[kernel->name],
                  split->classes[kernel->name].op);
    }
    text_put(json, "]}");
    memory_release(place);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static uint32_t shown(int limit, uint32_t count) {
    return limit < 0 || (uint32_t)limit > count ? count : (uint32_t)limit;
}

static void put_names(const trace_names *names, const uint32_t *order, uint32_t count, const char *id,
                      const char *title, text_buffer *json) {
    static const char *const columns[] = {"name", "ms", "calls", "us each"};
    if (!count) return;
    begin_table(json, id, title, columns, 4);
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[order[i]];
        double us = trace_name_us(name);
        begin_row(json);
        put_text_cell(json, name->text);
        put_cell(json, us * 1e-3);
        put_count_cell(json, (double)name->calls);
        put_cell(json, us / (double)name->calls);
        text_put(json, "]");
    }
    text_put(json, "]}");
}

static void put_ops(const trace_report *report, uint32_t count, text_buffer *json) {
    static const char *const columns[] = {"CPU op", "ms of kernels", "kernels", "shapes"};
    if (!count) return;
    begin_table(json, "ops", "CPU ops by the time of the kernels they launched", columns, 4);
    for (uint32_t i = 0; i < count; i++) {
        const trace_op_row *op = &report->ops[i];
        begin_row(json);
        put_text_cell(json, report->trace.ops.names[op->name].text);
        put_cell(json, op->ms);
        put_count_cell(json, (double)op->calls);
        put_text_cell(json, op->shapes == TRACE_NO_NAME ? "" : report->trace.shapes.names[op->shapes].text);
        text_put(json, "]");
    }
    text_put(json, "]}");
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

static void put_data(const trace_report *a, const trace_report *b, const trace_limits *limits, const char *title,
                     text_buffer *json) {
    text_put(json, "{");
    put_text(json, "title", title);
    put_text(json, "subtitle", a->trace.device ? a->trace.device : "");
    put_key(json, "facts");
    text_put(json, "[");
    put_facts(a, b ? "a: " : "", json);
    if (b) put_facts(b, "b: ", json);
    text_put(json, "]");
    put_key(json, "notes");
    text_put(json, "[");
    put_notes(a, b ? "a: " : "", json);
    if (b) put_notes(b, "b: ", json);
    text_put(json, "]");
    put_key(json, "stages");
    text_put(json, "[");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        put_stage(a, stage, b ? ", a" : "", json);
        if (b) put_stage(b, stage, ", b", json);
    }
    text_put(json, "]");
    if (!b && a->split.inference_count) put_passes(a, json);
    put_libraries(a, json);
    put_timeline(a, json);
    put_key(json, "tables");
    text_put(json, "[");
    if (b) put_comparison(a, b, json);
    put_names(&a->trace.kernels, a->kernels_by_time, shown(limits->kernels, a->trace.kernels.count), "kernels",
              "Kernels by time", json);
    put_names(&a->trace.runtime, a->runtime_by_time, shown(limits->runtime, a->trace.runtime.count), "runtime",
              "Runtime calls by time", json);
    put_ops(a, shown(limits->ops, a->op_count), json);
    text_put(json, "]}");
}

void trace_report_html(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text) {
    char title[TITLE_NAME_BYTES + 50];
    const char *slash = strrchr(a->name, '/');
    snprintf(title, sizeof title, b ? "Traces: %.*s and another" : "Trace: %.*s", TITLE_NAME_BYTES,
             slash ? slash + 1 : a->name);
    text_buffer json = {0};
    put_data(a, b, limits, title, &json);
    if (json.failed)
        text->failed = true;
    else
        report_page_put(text, title, json.bytes, json.size);
    memory_release(json.bytes);
}
