/* The page of `analyze --html`: one trace, or two side by side. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "profile/page.h"
#include "profile/trace_report.h"

enum { MAX_TIMELINE_KERNELS = 20000, TIMELINE_NAME_BYTES = 160, TABLE_NAME_BYTES = 400 };

static void put_legend(text_buffer *page) {
    const char *names[PI0_OP_COUNT];
    for (int op = 0; op < PI0_OP_COUNT; op++) names[op] = pi0_op_name(op);
    page_legend(page, names, PI0_OP_COUNT);
}

static void put_notes(const trace_report *report, text_buffer *page) {
    for (int i = 0; i < report->note_count; i++) {
        text_put(page, "<p class=\"note\" role=\"note\">");
        page_text(page, report->notes[i], 0);
        text_put(page, "</p>\n");
    }
}

static void put_head_row(text_buffer *page, const char *const *names, int count) {
    text_put(page, "<thead><tr>");
    for (int i = 0; i < count; i++) {
        text_put(page, "<th scope=\"col\">");
        page_text(page, names[i], 0);
        text_put(page, "</th>");
    }
    text_put(page, "</tr></thead><tbody>\n");
}

static void put_cell(text_buffer *page, double value, int decimals) {
    text_put(page, "<td>");
    page_number(page, value, decimals);
    text_put(page, "</td>");
}

static void put_name_cell(text_buffer *page, const char *name) {
    text_put(page, "<td class=\"name\">");
    page_text(page, name, TABLE_NAME_BYTES);
    text_put(page, "</td>");
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

static void put_figures(const trace_report *report, text_buffer *page) {
    const trace_split *split = &report->split;
    page_figures(page);
    page_figure(page, "kernel total", report->kernel_total_ms, 3, "ms");
    page_figure(page, "kernel span", report->kernel_span_ms, 3, "ms");
    page_figure(page, "utilization", report->utilization * 100, 1, "%");
    page_figure(page, "kernels", (double)report->trace.kernel_count, 0, "");
    page_figure(page, "idle", report->idle_ms, 3, "ms");
    page_figure(page, "runtime calls", report->runtime_total_ms, 3, "ms");
    if (split->inference_count) {
        page_figure(page, "inferences", split->inference_count, 0, "");
        page_figure(page, "one inference", report->inference_ms, 3, "ms");
        page_figure(page, "one denoise step", report->step_ms, 3, "ms");
    }
    page_figures_end(page);
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

static void put_stage_bar(const trace_report *report, int stage, double full_ms, const char *label, text_buffer *page) {
    const trace_stage_row *row = &report->stages[stage];
    page_part parts[PI0_OP_COUNT];
    char labels[PI0_OP_COUNT][64];
    for (int op = 0; op < PI0_OP_COUNT; op++) {
        snprintf(labels[op], sizeof labels[op], "%s %.3f ms, %.0f kernels", pi0_op_name(op), row->ops[op].ms,
                 row->ops[op].calls);
        parts[op] = (page_part){full_ms > 0 ? row->ops[op].ms / full_ms : 0, op, labels[op]};
    }
    page_bar(page, label, parts, row->known ? PI0_OP_COUNT : 0, row->known ? row->ms : (double)NAN);
}

static double longest_stage(const trace_report *report) {
    double longest = 0;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        if (report->stages[stage].ms > longest) longest = report->stages[stage].ms;
    return longest;
}

static void put_stage_table(const trace_report *report, text_buffer *page) {
    const char *names[4 + PI0_OP_COUNT] = {"stage", "ms", "%", "kernels"};
    for (int op = 0; op < PI0_OP_COUNT; op++) names[4 + op] = pi0_op_name(op);
    text_put(page, "<div class=\"scroll\"><table id=\"stage-table\">");
    put_head_row(page, names, 4 + PI0_OP_COUNT);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        const trace_stage_row *row = &report->stages[stage];
        double nothing = (double)NAN;
        text_put_format(page, "<tr><td>%s</td>", pi0_stage_name(stage));
        put_cell(page, row->known ? row->ms : nothing, 3);
        put_cell(page, row->known ? row->percent : nothing, 1);
        put_cell(page, row->known ? row->kernels : nothing, row->kernels > floor(row->kernels) ? 1 : 0);
        for (int op = 0; op < PI0_OP_COUNT; op++) put_cell(page, row->known ? row->ops[op].ms : nothing, 3);
        text_put(page, "</tr>\n");
    }
    text_put(page, "</tbody></table></div>\n");
}

static void put_passes(const trace_report *report, text_buffer *page) {
    const trace_split *split = &report->split;
    text_put_format(page, "<p class=\"soft\">Told from %s.", split->source);
    if (split->vit_layers > 0) text_put_format(page, " ViT layer passes: %d.", split->vit_layers);
    if (split->prefill_layers > 0) text_put_format(page, " Prefill layers: %d.", split->prefill_layers);
    if (split->denoise_steps >= 0) text_put_format(page, " Denoise steps: %d", split->denoise_steps);
    if (split->expert_layers) text_put_format(page, " and %d layers of another", split->expert_layers);
    if (!isnan(report->step_min_ms))
        text_put_format(page, " (%.3f to %.3f ms)", report->step_min_ms, report->step_max_ms);
    text_put_format(page, ". From the first kernel to the end of the last %.3f ms, %.3f of them idle.</p>\n",
                    report->inference_wall_ms, report->inference_idle_ms);
}

static void put_stages(const trace_report *a, const trace_report *b, text_buffer *page) {
    bool has_a = a->split.inference_count > 0, has_b = b && b->split.inference_count > 0;
    if (!has_a && !has_b) return;
    page_section(page, "stages", "Stages of one inference");
    double full = longest_stage(a);
    if (b && longest_stage(b) > full) full = longest_stage(b);
    text_put(page, "<div class=\"bars\">");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        char label[64];
        snprintf(label, sizeof label, "%s%s", pi0_stage_name(stage), b ? ", a" : "");
        if (has_a) put_stage_bar(a, stage, full, label, page);
        snprintf(label, sizeof label, "%s, b", pi0_stage_name(stage));
        if (has_b) put_stage_bar(b, stage, full, label, page);
    }
    text_put(page, "</div>\n");
    put_legend(page);
    if (!b) {
        put_stage_table(a, page);
        put_passes(a, page);
    }
    page_section_end(page);
}

/* ---- side by side ------------------------------------------------------------------------------------------------ */

static void put_pair(text_buffer *page, const char *name, double a, double b, int decimals) {
    text_put(page, "<tr><td>");
    page_text(page, name, 0);
    text_put(page, "</td>");
    put_cell(page, a, decimals);
    put_cell(page, b, decimals);
    bool differs = isfinite(a) && isfinite(b) && a > 0 && (b < 0.98 * a || b > 1.02 * a);
    text_put(page, !differs ? "<td>" : b < a ? "<td class=\"better\">" : "<td class=\"worse\">");
    page_number(page, b - a, decimals);
    text_put(page, "</td>");
    put_cell(page, a > 0 ? b / a : (double)NAN, 2);
    text_put(page, "</tr>\n");
}

static double known_ms(const trace_report *report, int stage) {
    return report->split.inference_count && report->stages[stage].known ? report->stages[stage].ms : (double)NAN;
}

static void put_comparison(const trace_report *a, const trace_report *b, text_buffer *page) {
    static const char *const columns[] = {"", "a", "b", "b - a", "b / a"};
    page_section(page, "compare", "Side by side, ms");
    text_put(page, "<div class=\"scroll\"><table id=\"compare-table\">");
    put_head_row(page, columns, 5);
    put_pair(page, "kernel total", a->kernel_total_ms, b->kernel_total_ms, 3);
    put_pair(page, "kernel span", a->kernel_span_ms, b->kernel_span_ms, 3);
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++)
        put_pair(page, pi0_stage_name(stage), known_ms(a, stage), known_ms(b, stage), 3);
    put_pair(page, "one denoise step", a->step_ms, b->step_ms, 3);
    for (int op = 0; op < PI0_OP_COUNT; op++)
        put_pair(page, pi0_op_name(op), trace_report_op(a, op).ms, trace_report_op(b, op).ms, 3);
    text_put(page, "</tbody></table></div>\n");
    page_section_end(page);
}

/* ---- categories -------------------------------------------------------------------------------------------------- */

static void put_categories(const trace_report *report, text_buffer *page) {
    if (!report->trace.kernel_count) return;
    double sums[LIBRARY_COUNT] = {0}, longest = 0;
    for (int library = 0; library < LIBRARY_COUNT; library++) {
        for (int op = 0; op < PI0_OP_COUNT; op++) sums[library] += report->categories[library][op].ms;
        if (sums[library] > longest) longest = sums[library];
    }
    page_section(page, "categories",
                 report->split.inference_count ? "Whose kernels, per inference" : "Whose kernels, whole trace");
    text_put(page, "<div class=\"bars\">");
    for (int library = 0; library < LIBRARY_COUNT; library++) {
        page_part parts[PI0_OP_COUNT];
        char labels[PI0_OP_COUNT][64];
        for (int op = 0; op < PI0_OP_COUNT; op++) {
            double ms = report->categories[library][op].ms;
            snprintf(labels[op], sizeof labels[op], "%s %.3f ms", pi0_op_name(op), ms);
            parts[op] = (page_part){longest > 0 ? ms / longest : 0, op, labels[op]};
        }
        if (sums[library] > 0)
            page_bar(page, kernel_library_name((kernel_library)library), parts, PI0_OP_COUNT, sums[library]);
    }
    text_put(page, "</div>\n");
    put_legend(page);
    page_section_end(page);
}

/* ---- timeline ---------------------------------------------------------------------------------------------------- */

static void put_timeline_kernels(const trace_report *report, uint32_t first, uint32_t end, text_buffer *page) {
    const trace_split *split = &report->split;
    double begin = trace_split_kernel(split, &report->trace, first)->start_us, last = begin;
    uint32_t *place = memory_zeroed((size_t)report->trace.kernels.count + 1, sizeof *place), count = 0;
    if (!place) {
        page->failed = true;
        return;
    }
    text_put(page, "\"kernels\":[");
    for (uint32_t i = first; i < end; i++) {
        const trace_kernel *kernel = trace_split_kernel(split, &report->trace, i);
        if (!place[kernel->name]) place[kernel->name] = ++count;
        text_put_format(page, "%s[%.3f,%.3f,%u,%d]", i > first ? "," : "", kernel->start_us - begin, (double)kernel->us,
                        place[kernel->name] - 1, split->classes[kernel->name].op);
        if (kernel->start_us + (double)kernel->us > last) last = kernel->start_us + (double)kernel->us;
    }
    text_put_format(page, "],\"end\":%.3f,\"names\":[", last - begin);
    /* names in the order of their places */
    uint32_t *names = memory_zeroed((size_t)count + 1, sizeof *names);
    for (uint32_t i = 0; names && i < report->trace.kernels.count; i++)
        if (place[i]) names[place[i] - 1] = i;
    for (uint32_t i = 0; names && i < count; i++) {
        char name[TIMELINE_NAME_BYTES + 1];
        const char *whole = report->trace.kernels.names[names[i]].text;
        size_t length = strlen(whole);
        if (length > TIMELINE_NAME_BYTES) {
            length = TIMELINE_NAME_BYTES;
            while (length > 0 && ((unsigned char)whole[length] & 0xc0) == 0x80) length--;
        }
        memcpy(name, whole, length);
        name[length] = 0;
        if (i) text_put(page, ",");
        page_json_string(page, name);
    }
    text_put(page, "]");
    if (!names) page->failed = true;
    memory_release(names);
    memory_release(place);
}

/* Stretches of kernels of one stage. */
static void put_timeline_stages(const trace_report *report, uint32_t first, uint32_t end, text_buffer *page) {
    const trace_split *split = &report->split;
    double begin = trace_split_kernel(split, &report->trace, first)->start_us;
    text_put(page, "\"stages\":[");
    bool any = false;
    for (uint32_t i = first, next; i < end && split->inference_count; i = next) {
        double from = trace_split_kernel(split, &report->trace, i)->start_us, to = from;
        for (next = i; next < end && split->stages[next] == split->stages[i]; next++) {
            const trace_kernel *kernel = trace_split_kernel(split, &report->trace, next);
            if (kernel->start_us + (double)kernel->us > to) to = kernel->start_us + (double)kernel->us;
        }
        if (split->stages[i] >= PI0_STAGE_COUNT) continue;
        text_put_format(page, "%s[%.3f,%.3f,", any ? "," : "", from - begin, to - begin);
        page_json_string(page, pi0_stage_name(split->stages[i]));
        text_put(page, "]");
        any = true;
    }
    text_put(page, "],");
}

static void put_timeline(const trace_report *report, text_buffer *page) {
    const trace_split *split = &report->split;
    if (!split->count) return;
    uint32_t first = split->inference_count ? split->inferences[0].first : 0;
    uint32_t end = split->inference_count ? split->inferences[0].end : split->count;
    bool cut = end - first > MAX_TIMELINE_KERNELS;
    if (cut) end = first + MAX_TIMELINE_KERNELS;
    page_section(page, "time", split->inference_count ? "Timeline of one inference" : "Timeline");
    static const char *const acts[][2] = {{"in", "zoom in (+)"},          {"out", "zoom out (-)"},
                                          {"left", "back (left)"},        {"right", "on (right)"},
                                          {"all", "all (Home)"},          {"previous", "kernel before (up)"},
                                          {"next", "kernel after (down)"}};
    text_put(page, "<div class=\"tools\">");
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        text_put_format(page, "<button type=\"button\" data-act=\"%s\">%s</button>", acts[i][0], acts[i][1]);
    text_put(page,
             "</div><canvas id=\"timeline\" tabindex=\"0\" role=\"application\" aria-label=\"Timeline of the kernels; "
             "plus and minus zoom, left and right move, up and down choose a kernel\"></canvas>"
             "<output id=\"told\" aria-live=\"polite\">Wheel or + and - zoom, drag or arrows move, a click or the up "
             "and down arrows choose a kernel.</output>\n");
    if (cut) text_put_format(page, "<p class=\"soft\">The first %d kernels.</p>", MAX_TIMELINE_KERNELS);
    put_legend(page);
    text_put(page, "<script type=\"application/json\" id=\"timeline-data\">{");
    put_timeline_stages(report, first, end, page);
    put_timeline_kernels(report, first, end, page);
    text_put(page, ",\"ops\":[");
    for (int op = 0; op < PI0_OP_COUNT; op++) {
        if (op) text_put(page, ",");
        page_json_string(page, pi0_op_name(op));
    }
    text_put(page, "]}</script>\n");
    page_section_end(page);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static uint32_t shown(int limit, uint32_t count) {
    return limit < 0 || (uint32_t)limit > count ? count : (uint32_t)limit;
}

static void put_names(const trace_names *names, const uint32_t *order, uint32_t count, const char *id,
                      const char *title, text_buffer *page) {
    static const char *const columns[] = {"name", "ms", "calls", "us each"};
    if (!count) return;
    page_section(page, id, title);
    text_put_format(
        page,
        "<div class=\"tools\"><label>show only <input type=\"search\" data-filter=\"%s-table\"></label></div>"
        "<div class=\"scroll\"><table id=\"%s-table\">",
        id, id);
    put_head_row(page, columns, 4);
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[order[i]];
        double us = trace_name_us(name);
        text_put(page, "<tr>");
        put_name_cell(page, name->text);
        put_cell(page, us * 1e-3, 3);
        put_cell(page, (double)name->calls, 0);
        put_cell(page, us / (double)name->calls, 2);
        text_put(page, "</tr>\n");
    }
    text_put(page, "</tbody></table></div>\n");
    page_section_end(page);
}

static void put_ops(const trace_report *report, uint32_t count, text_buffer *page) {
    static const char *const columns[] = {"CPU op", "ms of kernels", "kernels", "shapes"};
    if (!count) return;
    page_section(page, "ops", "CPU ops by the time of the kernels they launched");
    text_put(page, "<div class=\"scroll\"><table id=\"ops-table\">");
    put_head_row(page, columns, 4);
    for (uint32_t i = 0; i < count; i++) {
        const trace_op_row *op = &report->ops[i];
        text_put(page, "<tr>");
        put_name_cell(page, report->trace.ops.names[op->name].text);
        put_cell(page, op->ms, 3);
        put_cell(page, (double)op->calls, 0);
        put_name_cell(page, op->shapes == TRACE_NO_NAME ? "" : report->trace.shapes.names[op->shapes].text);
        text_put(page, "</tr>\n");
    }
    text_put(page, "</tbody></table></div>\n");
    page_section_end(page);
}

static void put_contents(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *page) {
    bool stages = a->split.inference_count || (b && b->split.inference_count);
    const struct {
        bool there;
        const char *id, *title;
    } entries[] = {
        {stages, "stages", "Stages"},
        {b != NULL, "compare", "Side by side"},
        {a->trace.kernel_count > 0, "categories", "Whose kernels"},
        {a->split.count > 0, "time", "Timeline"},
        {a->trace.kernels.count && limits->kernels, "kernels", "Kernels"},
        {a->trace.runtime.count && limits->runtime, "runtime", "Runtime calls"},
        {a->op_count && limits->ops, "ops", "CPU ops"},
    };
    text_put(page, "<nav aria-label=\"Contents\">");
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (entries[i].there) text_put_format(page, "<a href=\"#%s\">%s</a>", entries[i].id, entries[i].title);
    text_put(page, "</nav>\n<main id=\"main\">\n");
}

static void put_one(const trace_report *report, const char *letter, text_buffer *page) {
    if (letter) {
        text_put_format(page, "<h2>%s: ", letter);
        page_text(page, report->name, 300);
        text_put(page, "</h2>\n");
    }
    put_figures(report, page);
    put_notes(report, page);
}

void trace_report_html(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text) {
    char title[300], device[200];
    const char *slash = strrchr(a->name, '/');
    snprintf(title, sizeof title, b ? "Traces: %.250s and another" : "Trace: %.250s", slash ? slash + 1 : a->name);
    snprintf(device, sizeof device, "%s", a->trace.device ? a->trace.device : a->name);
    page_begin(text, title, device);
    put_contents(a, b, limits, text);
    put_one(a, b ? "a" : NULL, text);
    if (b) put_one(b, "b", text);
    put_stages(a, b, text);
    if (b) put_comparison(a, b, text);
    put_categories(a, text);
    put_timeline(a, text);
    put_names(&a->trace.kernels, a->kernels_by_time, shown(limits->kernels, a->trace.kernels.count), "kernels",
              "Kernels by time", text);
    put_names(&a->trace.runtime, a->runtime_by_time, shown(limits->runtime, a->trace.runtime.count), "runtime",
              "Runtime calls by time", text);
    put_ops(a, shown(limits->ops, a->op_count), text);
    page_end(text);
}
