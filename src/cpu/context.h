/*
 * What the files of src/cpu share: the context behind `ops`, how operands are stored, and the table of variants.
 */
#ifndef PI0_CPU_CONTEXT_H
#define PI0_CPU_CONTEXT_H

#include "base/bf16.h"
#include "cpu/ops.h"

struct kernels;
struct onednn;

#define NORM_EPSILON 1e-6

/* How operands lie in memory. ROUNDED: float32 that hold bf16 values, for CPUs that cannot multiply bf16. */
typedef enum operand_storage { OPERAND_F32, OPERAND_ROUNDED, OPERAND_BF16 } operand_storage;

/* One implementation of every op; the members are the functions of ops.h without their profiling. */
typedef struct ops_table {
    void (*to_operand)(ops *, operand *out, const float *in, size_t count);
    void (*from_operand)(ops *, float *out, const operand *in, size_t count);
    void (*linear)(ops *, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add);
    void (*linear_f32)(ops *, float *y, const float *x, const weight *w, const float *bias, int rows, bool add);
    void (*linear_many)(ops *, float *const *y, const operand *x, const weight *const *w, const float *const *bias,
                        int count, int rows);
    void (*linear_gelu)(ops *, operand *out, const operand *x, const weight *fc1, const float *bias, int rows);
    void (*linear_gated)(ops *, operand *out, const operand *x, const weight *gate, const weight *up, int rows);
    void (*attention)(ops *, operand *out, const operand *q, const operand *k, const operand *v,
                      const attention_shape *shape);
    void (*layer_norm)(ops *, operand *out, const float *x, const float *weight, const float *bias, int rows,
                       int width);
    void (*rms_norm)(ops *, operand *out, const float *x, const float *scale, const float *shift, int rows, int width);
    void (*rms_norm_f32)(ops *, float *out, const float *x, const float *scale, const float *shift, int rows,
                         int width);
    void (*rope)(ops *, operand *out, const float *x, const float *cosine, const float *sine, int rows, int heads,
                 int head_dim);
    void (*add_gated)(ops *, float *x, const float *y, const float *gate, int rows, int width);
    void (*silu)(ops *, float *x, size_t count);
    void (*patches_u8)(ops *, float *patches, const uint8_t *image, int image_size, int patch_size);
    void (*patches_f32)(ops *, float *patches, const float *image, int image_size, int patch_size);
    void (*embed)(ops *, float *x, const weight *table, const int32_t *ids, int count, float scale);
    void (*add_rows)(ops *, float *x, const float *y, int rows, int width, int period);
    void (*euler)(ops *, float *x, const float *v, float dt, size_t count);
} ops_table;

extern const ops_table plain_table;

typedef struct ops_profile_state {
    bool enabled;
    int stage;
    double ms[PI0_STAGE_COUNT][PI0_OP_COUNT];
    int64_t calls[PI0_STAGE_COUNT][PI0_OP_COUNT];
} ops_profile_state;

/* When a thread worked on an op; a cache line each, so that threads do not slow each other down. */
typedef struct thread_span {
    _Alignas(64) int64_t begin_ns;
    int64_t end_ns;
} thread_span;

enum { TRACE_RANGE_DEPTH = 8 };

typedef struct op_range {
    pi0_trace_kind kind;
    const char *name;
    int index;
    int64_t start_ns;
} op_range;

typedef struct ops_trace_state {
    pi0_trace_function function; /* NULL: no trace is taken */
    void *user;
    thread_span *spans; /* [threads], NULL: no trace is taken */
    int64_t op_start_ns;
    op_range ranges[TRACE_RANGE_DEPTH]; /* open ones */
    int depth;
    uint64_t flow;
} ops_trace_state;

struct ops {
    ops_options options;
    int threads;
    operand_storage storage;
    ops_table table;
    const struct kernels *kernels; /* NULL: plain */
    struct onednn *onednn;         /* NULL: no bf16 products */
    unsigned char *scratch;        /* a part for each thread, then what they share */
    size_t scratch_bytes, thread_scratch_bytes;
    int max_kv_columns;
    int panels; /* of weights that fit into half of L2 */
    size_t l1_bytes;
    ops_profile_state profile;
    thread_span *spans; /* [threads], behind the scratch memory */
    ops_trace_state trace;
};

static inline float operand_get(operand_storage storage, const operand *base, size_t index) {
    return storage == OPERAND_BF16 ? bf16_to_float(((const bf16 *)base)[index]) : ((const float *)base)[index];
}

static inline void operand_put(operand_storage storage, operand *base, size_t index, float value) {
    if (storage == OPERAND_BF16)
        ((bf16 *)base)[index] = bf16_from_float(value);
    else
        ((float *)base)[index] = storage == OPERAND_ROUNDED ? bf16_round(value) : value;
}

static inline float weight_get(const weight *w, size_t index) {
    float value;
    bf16 half;
    if (w->dtype == DTYPE_BF16) {
        memcpy(&half, (const unsigned char *)w->data + index * sizeof half, sizeof half);
        return bf16_to_float(half);
    }
    memcpy(&value, (const unsigned char *)w->data + index * sizeof value, sizeof value);
    return value;
}

#endif
