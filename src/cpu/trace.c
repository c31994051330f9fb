#include "cpu/trace.h"

#include <stdio.h>

void ops_trace(ops *context, pi0_trace_function function, void *user) {
    context->trace.function = function;
    context->trace.user = user;
    context->trace.depth = 0;
    context->trace.spans = function ? context->spans : NULL;
}

/* ---- sizes ---- */

op_note note_linear(const char *name, const weight *const *w, int count, int rows, size_t in_bytes, size_t out_bytes) {
    op_note note = {.name = name, .rows = rows, .k = w[0]->cols};
    for (int i = 0; i < count; i++) {
        double elements = (double)w[i]->rows * w[i]->cols;
        note.n += w[i]->rows;
        note.bytes += elements * (w[i]->dtype == DTYPE_BF16 ? 2 : 4);
        note.flops += 2 * elements * rows;
    }
    note.bytes += rows * (note.k * (double)in_bytes + note.n * (double)out_bytes);
    return note;
}

op_note note_attention(const ops *context, const attention_shape *shape) {
    double query = (double)shape->queries * shape->heads * shape->head_dim;
    double keys = (double)shape->keys * shape->kv_heads * shape->head_dim;
    return (op_note){.name = "attention",
                     .rows = shape->queries,
                     .k = shape->keys,
                     .n = (double)shape->heads * shape->head_dim,
                     .bytes = 2 * (query + keys) * (double)ops_operand_bytes(context, 1),
                     .flops = 4 * query * shape->keys};
}

op_note note_rows(const char *name, double rows, double width, size_t in_bytes, size_t out_bytes) {
    return (op_note){.name = name, .rows = rows, .n = width, .bytes = rows * width * (double)(in_bytes + out_bytes)};
}

/* ---- events ---- */

static void tell(const ops *context, pi0_trace_kind kind, const char *name, int track, int64_t start_ns, int64_t end_ns,
                 uint64_t flow, const pi0_trace_value *values, int value_count) {
    pi0_trace_event event = {.struct_size = sizeof event,
                             .kind = kind,
                             .name = name,
                             .track = track,
                             .start_us = (double)start_ns * 1e-3,
                             .duration_us = (double)(end_ns - start_ns) * 1e-3,
                             .flow = flow,
                             .values = values,
                             .value_count = value_count};
    context->trace.function(context->trace.user, &event);
}

void trace_op(ops *context, const op_note *note, int64_t start_ns, int64_t end_ns) {
    static const char *const stages[PI0_STAGE_COUNT] = {"vit", "prefill", "denoise", "other"};
    const struct {
        const char *name;
        double number;
    } numbers[] = {
        {"rows", note->rows}, {"k", note->k}, {"n", note->n}, {"bytes", note->bytes}, {"flops", note->flops}};
    pi0_trace_value values[sizeof numbers / sizeof *numbers];
    int count = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].number > 0)
            values[count++] = (pi0_trace_value){.name = numbers[i].name, .number = numbers[i].number};
    char name[64];
    snprintf(name, sizeof name, "%s_%s", stages[context->profile.stage], note->name);
    uint64_t flow = ++context->trace.flow;
    tell(context, PI0_TRACE_KERNEL, name, 0, start_ns, end_ns, flow, values, count);

    bool shared = false;
    for (int thread = 0; thread < context->threads; thread++) {
        const thread_span *span = &context->trace.spans[thread];
        if (span->begin_ns < start_ns) continue;
        tell(context, PI0_TRACE_THREAD, name, thread, span->begin_ns, span->end_ns, flow, NULL, 0);
        shared = true;
    }
    if (!shared) tell(context, PI0_TRACE_THREAD, name, 0, start_ns, end_ns, flow, NULL, 0);
}

void ops_range_begin(ops *context, pi0_trace_kind kind, const char *name, int index) {
    if (!context->trace.function || context->trace.depth == TRACE_RANGE_DEPTH) return;
    context->trace.ranges[context->trace.depth++] = (op_range){kind, name, index, clock_ns()};
}

void ops_range_end(ops *context) {
    if (!context->trace.function || !context->trace.depth) return;
    const op_range *range = &context->trace.ranges[--context->trace.depth];
    char name[64];
    if (range->index < 0)
        snprintf(name, sizeof name, "%s", range->name);
    else
        snprintf(name, sizeof name, "%s %d", range->name, range->index);
    /* the call on the host's side and what it led to share a flow of their own */
    uint64_t flow = range->kind == PI0_TRACE_API || range->kind == PI0_TRACE_INFERENCE ? UINT64_MAX : 0;
    tell(context, range->kind, name, 0, range->start_ns, clock_ns(), flow, NULL, 0);
}
