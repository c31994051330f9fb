/*
 * What the ops tell a trace: themselves with their shapes, bytes and FLOPs, each thread's part of them, and the ranges
 * (stage, step, layer) that the model opens around them. All of it is a test of one pointer when no trace is taken.
 */
#ifndef PI0_CPU_TRACE_H
#define PI0_CPU_TRACE_H

#include <omp.h>

#include "base/clock.h"
#include "cpu/context.h"

/* An op's name and size; numbers that mean nothing for it are 0. */
typedef struct op_note {
    const char *name;
    double rows, k, n;
    double bytes; /* weights and activations read and written, each once */
    double flops; /* of products and attention */
} op_note;

op_note note_linear(const char *name, const weight *const *w, int count, int rows, size_t in_bytes, size_t out_bytes);
op_note note_attention(const ops *context, const attention_shape *shape);
/* `values` numbers in and out, of in_bytes and out_bytes each. */
op_note note_rows(const char *name, double rows, double width, size_t in_bytes, size_t out_bytes);

/* Tells the op that began at start_ns and has just ended. */
void trace_op(ops *context, const op_note *note, int64_t start_ns, int64_t end_ns);

/* The calling thread's part of the op begins or ends; the first begin and the last end of an op count. */
static inline void thread_part_begin(const ops *context) {
    if (!context->trace.spans) return;
    thread_span *span = &context->trace.spans[omp_get_thread_num()];
    if (span->begin_ns < context->trace.op_start_ns) span->begin_ns = clock_ns();
}

static inline void thread_part_end(const ops *context) {
    if (context->trace.spans) context->trace.spans[omp_get_thread_num()].end_ns = clock_ns();
}

#endif
