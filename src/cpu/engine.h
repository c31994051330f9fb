/*
 * The float32 engine of src/cpu: ops cut into calls of `kernels` and shared out to threads. product.c, attention.c,
 * rows.c; ops.c puts their functions into the context's table and sizes the scratch memory.
 */
#ifndef PI0_CPU_ENGINE_H
#define PI0_CPU_ENGINE_H

#include <omp.h>

#include "cpu/kernels.h"

enum {
    ROWS_AT_ONCE = 840, /* rows of x in one task of a product, at most: a multiple of 6 and 14 */
    SKINNY_ROWS = 36,   /* products of at most this many rows read the weights where they lie */
    SKINNY_TASK_COLUMNS = 128,
    /* Per thread: sums of all rows for two halves, and the tile that one group of rows becomes. */
    SKINNY_SUMS_FLOATS = (SKINNY_ROWS + SKINNY_MAX_ROWS) * 2 * SKINNY_TASK_COLUMNS + 64,
};

/* The calling thread's own part of the scratch memory; 64-byte aligned. */
static inline unsigned char *thread_scratch(const ops *context) {
    return context->scratch + (size_t)omp_get_thread_num() * context->thread_scratch_bytes;
}

/* How many threads an op of so many multiplications is worth: waking one, and waiting for it where other programs want
 * the processors too, costs about as much as this many. */
static inline int threads_worth(const ops *context, double multiplications) {
    const double own = 4e5;
    double useful = multiplications / own;
    return useful < 2 ? 1 : useful < context->threads ? (int)useful : context->threads;
}

size_t product_scratch_bytes(const ops *context); /* per thread */
void product_linear(ops *, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add);
void product_linear_f32(ops *, float *y, const float *x, const weight *w, const float *bias, int rows, bool add);
void product_linear_many(ops *, float *const *y, const operand *x, const weight *const *w, const float *const *bias,
                         int count, int rows);
void product_linear_gelu(ops *, operand *out, const operand *x, const weight *fc1, const float *bias, int rows);
void product_linear_gated(ops *, operand *out, const operand *x, const weight *gate, const weight *up, int rows);

size_t attention_scratch_bytes(const ops *context); /* per thread */
size_t attention_shared_bytes(const ops *context);
size_t attention_panels_bytes(const ops *context, int keys, int kv_heads, int head_dim);
void attention_run(ops *, operand *out, const operand *q, const operand *k, const operand *v,
                   const attention_shape *shape);

/* Sets the members of the table that rows.c has: norms, RoPE, elementwise. */
void rows_fill_table(ops_table *table);

#endif
