/* The contract of `analyze --json`. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "profile/trace_report.h"

static void put_number(text_buffer *text, double value) {
    if (isfinite(value))
        text_put_number(text, value);
    else
        text_put(text, "null");
}

static void put_figure(text_buffer *text, const char *key, double value) {
    text_put_format(text, "\"%s\": ", key);
    put_number(text, value);
}

static void put_string(text_buffer *text, const char *key, const char *string) {
    text_put_format(text, "\"%s\": ", key);
    text_put_json_string(text, string, strlen(string));
}

/* A count that was found, or null. */
static void put_passes(text_buffer *text, const char *key, int passes) {
    put_figure(text, key, passes >= 0 ? passes : (double)NAN);
}

static void put_cost(text_buffer *text, const char *name, double ms, double calls) {
    text_put(text, "{");
    put_string(text, "name", name);
    text_put(text, ", ");
    put_figure(text, "ms", ms);
    text_put(text, ", ");
    put_figure(text, "calls", calls);
}

static uint32_t shown(int limit, uint32_t count) {
    return limit < 0 || (uint32_t)limit > count ? count : (uint32_t)limit;
}

static void put_names(text_buffer *text, const char *key, const trace_names *names, const uint32_t *order, int limit) {
    text_put_format(text, ",\n \"%s\": [", key);
    uint32_t count = shown(limit, names->count);
    for (uint32_t i = 0; i < count; i++) {
        const trace_name *name = &names->names[order[i]];
        text_put(text, i ? ",\n  " : "\n  ");
        put_cost(text, name->text, trace_name_us(name) * 1e-3, (double)name->calls);
        text_put(text, "}");
    }
    text_put(text, "]");
}

/* Shapes as the trace wrote them, if that is JSON; else as a string. */
static void put_shapes(text_buffer *text, const char *shapes) {
    size_t length = strlen(shapes);
    json_t *value = json_loadb(shapes, length, 0, NULL);
    if (json_is_array(value))
        text_put(text, shapes);
    else
        text_put_json_string(text, shapes, length);
    json_decref(value);
}

static void put_ops(const trace_report *report, int limit, text_buffer *text) {
    text_put(text, ",\n \"ops\": [");
    uint32_t count = shown(limit, report->op_count);
    for (uint32_t i = 0; i < count; i++) {
        const trace_op_row *op = &report->ops[i];
        text_put(text, i ? ",\n  " : "\n  ");
        put_cost(text, report->trace.ops.names[op->name].text, op->ms, (double)op->calls);
        text_put(text, ", \"shapes\": ");
        if (op->shapes == TRACE_NO_NAME)
            text_put(text, "null");
        else
            put_shapes(text, report->trace.shapes.names[op->shapes].text);
        text_put(text, "}");
    }
    text_put(text, "]");
}

static void put_stages(const trace_report *report, text_buffer *text) {
    if (!report->split.inference_count) {
        text_put(text, ",\n \"stages\": null,\n \"categories\": null");
        return;
    }
    text_put(text, ",\n \"stages\": [");
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) {
        const trace_stage_row *row = &report->stages[stage];
        text_put(text, stage ? ",\n  {" : "\n  {");
        put_string(text, "name", pi0_stage_name(stage));
        text_put(text, ", ");
        put_figure(text, "ms", row->known ? row->ms : (double)NAN);
        text_put(text, ", ");
        put_figure(text, "percent", row->known ? row->percent : (double)NAN);
        text_put(text, ", ");
        put_figure(text, "kernels", row->known ? row->kernels : (double)NAN);
        text_put(text, "}");
    }
    text_put(text, "],\n \"categories\": [");
    for (int op = 0; op < PI0_OP_COUNT; op++) {
        trace_cost cost = trace_report_op(report, op);
        text_put(text, op ? ",\n  " : "\n  ");
        put_cost(text, pi0_op_name(op), cost.ms, round(cost.calls * 1e6) * 1e-6);
        text_put(text, "}");
    }
    text_put(text, "]");
}

void trace_report_json(const trace_report *report, const trace_limits *limits, text_buffer *text) {
    const trace_split *split = &report->split;
    bool found = split->inference_count > 0;
    text_put(text, "{");
    put_string(text, "trace", report->name);
    text_put(text, ",\n ");
    put_figure(text, "inferences", found ? split->inference_count : (double)NAN);
    text_put(text, ",\n ");
    put_figure(text, "kernel_total_ms", report->kernel_total_ms);
    text_put(text, ",\n ");
    put_figure(text, "kernel_span_ms", report->kernel_span_ms);
    text_put(text, ",\n ");
    put_figure(text, "utilization", report->utilization);
    text_put(text, ",\n ");
    put_figure(text, "kernel_count", (double)report->trace.kernel_count);
    text_put(text, ",\n ");
    put_figure(text, "runtime_total_ms", report->runtime_total_ms);
    put_stages(report, text);
    put_names(text, "kernels", &report->trace.kernels, report->kernels_by_time, limits->kernels);
    put_names(text, "runtime", &report->trace.runtime, report->runtime_by_time, limits->runtime);
    put_ops(report, limits->ops, text);
    text_put(text, ",\n \"repeats\": {");
    put_passes(text, "vit_layers", found ? split->vit_layers : -1);
    text_put(text, ", ");
    put_passes(text, "prefill_layers", found ? split->prefill_layers : -1);
    text_put(text, ", ");
    put_passes(text, "denoise_steps", found ? split->denoise_steps : -1);
    text_put_format(text, ", \"complete\": %s}}\n", !found ? "null" : split->complete ? "true" : "false");
}

static void put_pair(text_buffer *text, bool first, const char *name, double a, double b) {
    text_put(text, first ? "\n  {" : ",\n  {");
    put_string(text, "name", name);
    text_put(text, ", ");
    put_figure(text, "a_ms", a);
    text_put(text, ", ");
    put_figure(text, "b_ms", b);
    text_put(text, ", ");
    put_figure(text, "delta_ms", b - a);
    text_put(text, ", ");
    put_figure(text, "ratio", a > 0 ? b / a : (double)NAN);
    text_put(text, "}");
}

void trace_compare_json(const trace_report *a, const trace_report *b, const trace_limits *limits, text_buffer *text) {
    bool both = a->split.inference_count && b->split.inference_count;
    text_put(text, "{\"a\": ");
    trace_report_json(a, limits, text);
    text_put(text, ",\"b\": ");
    trace_report_json(b, limits, text);
    text_put(text, both ? ",\"stages\": [" : ",\"stages\": null");
    for (int stage = 0; both && stage < PI0_STAGE_COUNT; stage++)
        put_pair(text, stage == 0, pi0_stage_name(stage), a->stages[stage].known ? a->stages[stage].ms : (double)NAN,
                 b->stages[stage].known ? b->stages[stage].ms : (double)NAN);
    text_put(text, both ? "],\n \"categories\": [" : ",\n \"categories\": null");
    for (int op = 0; both && op < PI0_OP_COUNT; op++)
        put_pair(text, op == 0, pi0_op_name(op), trace_report_op(a, op).ms, trace_report_op(b, op).ms);
    text_put(text, both ? "]}\n" : "}\n");
}
