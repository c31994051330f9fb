/*
 * A product is one oneDNN matmul primitive. Making one takes milliseconds (it generates code), so those made stay in a
 * cache, found by shape; running one takes nothing from the heap but what oneDNN itself does. Interface: oneDNN 2.6, C.
 */
#ifdef PI0_WITH_ONEDNN
#include "cpu/onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "base/memory.h"
#include "cpu/engine.h"

enum {
    FEW_ROWS = 16,          /* up to here reading the weights is the bound: the float32 kernels read them once */
    CACHE_SIZE = 256,       /* primitives; the one unused longest makes room */
    GATED_COLUMNS = 1024,   /* gate and up of so many columns are made at once, to be in cache when multiplied */
    SCORE_FLOATS = 1 << 20, /* attention scores made at once */
};

typedef enum after { AFTER_NOTHING, AFTER_ADD, AFTER_GELU } after;

/* y[b][m][n] = sum over k of x[b][m][k] * w[b][k][n]; strides in elements; k of x and n of y are contiguous. */
typedef struct product_shape {
    int64_t batch, m, n, k;
    int64_t x_batch, x_row;
    int64_t w_batch, w_k, w_n;
    int64_t y_batch, y_row;
    int32_t after, has_bias, y_bf16, unused;
} product_shape;

typedef struct cached_product {
    product_shape shape;
    uint64_t last_used; /* 0: empty */
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, bias, scratch;
} cached_product;

struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    uint64_t clock;
    void *scratch; /* what the hungriest primitive wants */
    size_t scratch_bytes;
    float *scores; /* [SCORE_FLOATS], then as many bf16 probabilities; also gate and up of ops_linear_gated */
    size_t scores_floats;
    cached_product cache[CACHE_SIZE];
};

static void forget(cached_product *entry) {
    dnnl_memory_t memories[] = {entry->x, entry->w, entry->y, entry->bias, entry->scratch};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    if (entry->primitive) dnnl_primitive_destroy(entry->primitive);
    memset(entry, 0, sizeof *entry);
}

/* A matrix, or a batch of them. */
static bool describe(dnnl_memory_desc_t *desc, dnnl_data_type_t type, int64_t batch, int64_t rows, int64_t columns,
                     int64_t batch_stride, int64_t row_stride, int64_t column_stride) {
    dnnl_dims_t dims = {batch, rows, columns}, strides = {batch_stride, row_stride, column_stride};
    if (batch > 1) return dnnl_memory_desc_init_by_strides(desc, 3, dims, type, strides) == dnnl_success;
    dnnl_dims_t matrix = {rows, columns}, matrix_strides = {row_stride, column_stride};
    return dnnl_memory_desc_init_by_strides(desc, 2, matrix, type, matrix_strides) == dnnl_success;
}

static bool make_attributes(dnnl_primitive_attr_t *attr, const product_shape *s) {
    dnnl_post_ops_t post = NULL;
    if (dnnl_primitive_attr_create(attr) != dnnl_success) return false;
    bool ok = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user) == dnnl_success &&
              dnnl_post_ops_create(&post) == dnnl_success;
    if (ok && s->after == AFTER_ADD) ok = dnnl_post_ops_append_sum(post, 1) == dnnl_success;
    if (ok && s->after == AFTER_GELU)
        ok = dnnl_post_ops_append_eltwise(post, 1, dnnl_eltwise_gelu_tanh, 0, 0) == dnnl_success;
    ok = ok && dnnl_primitive_attr_set_post_ops(*attr, post) == dnnl_success;
    if (post) dnnl_post_ops_destroy(post);
    return ok;
}

static bool make_memory(struct onednn *onednn, dnnl_memory_t *memory, const dnnl_memory_desc_t *desc) {
    return dnnl_memory_create(memory, desc, onednn->engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static bool make_scratch(struct onednn *onednn, cached_product *entry, const_dnnl_primitive_desc_t desc) {
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    if (!scratch || !make_memory(onednn, &entry->scratch, scratch)) return false;
    size_t bytes = dnnl_memory_desc_get_size(scratch);
    if (bytes <= onednn->scratch_bytes) return true;
    void *larger = memory_allocate(bytes);
    if (!larger) return false;
    memory_release(onednn->scratch);
    onednn->scratch = larger;
    onednn->scratch_bytes = bytes;
    return true;
}

/* The reference implementation is there for every shape and hundreds of times too slow for any. */
static bool is_fast(const_dnnl_primitive_desc_t desc) {
    const char *name = NULL;
    return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name &&
           strncmp(name, "ref", 3) != 0;
}

static bool make_product(struct onednn *onednn, cached_product *entry, const product_shape *s) {
    dnnl_memory_desc_t x, w, y, bias = {0};
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t desc = NULL;
    entry->shape = *s;
    bool ok = describe(&x, dnnl_bf16, s->batch, s->m, s->k, s->x_batch, s->x_row, 1) &&
              describe(&w, dnnl_bf16, s->batch, s->k, s->n, s->w_batch, s->w_k, s->w_n) &&
              describe(&y, s->y_bf16 ? dnnl_bf16 : dnnl_f32, s->batch, s->m, s->n, s->y_batch, s->y_row, 1) &&
              (!s->has_bias || describe(&bias, dnnl_f32, 1, 1, s->n, 0, s->n, 1)) && make_attributes(&attr, s) &&
              dnnl_matmul_desc_init(&matmul, &x, &w, s->has_bias ? &bias : NULL, &y) == dnnl_success &&
              dnnl_primitive_desc_create(&desc, &matmul, attr, onednn->engine, NULL) == dnnl_success && is_fast(desc) &&
              dnnl_primitive_create(&entry->primitive, desc) == dnnl_success && make_memory(onednn, &entry->x, &x) &&
              make_memory(onednn, &entry->w, &w) && make_memory(onednn, &entry->y, &y) &&
              (!s->has_bias || make_memory(onednn, &entry->bias, &bias)) && make_scratch(onednn, entry, desc);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (!ok) forget(entry);
    return ok;
}

/* NULL where oneDNN refuses the shape or there is no memory. */
static cached_product *find_product(struct onednn *onednn, const product_shape *shape) {
    cached_product *oldest = onednn->cache;
    for (int i = 0; i < CACHE_SIZE; i++) {
        cached_product *entry = &onednn->cache[i];
        if (entry->last_used && !memcmp(&entry->shape, shape, sizeof *shape)) {
            entry->last_used = ++onednn->clock;
            return entry->primitive ? entry : NULL; /* refused before: asking again would cost milliseconds */
        }
        if (entry->last_used < oldest->last_used) oldest = entry;
    }
    forget(oldest);
    bool made = make_product(onednn, oldest, shape);
    oldest->shape = *shape;
    oldest->last_used = ++onednn->clock;
    return made ? oldest : NULL;
}

static void *handle(const void *pointer) { return (void *)(uintptr_t)pointer; }

/* False, with nothing done, where oneDNN refuses. */
static bool multiply(ops *context, const product_shape *shape, void *y, const void *x, const void *w,
                     const float *bias) {
    struct onednn *onednn = context->onednn;
    /* oneDNN uses as many threads as OpenMP would give the caller, when it makes a primitive and when it runs it. */
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(context->threads);
    cached_product *entry = find_product(onednn, shape);
    bool ok = false;
    if (entry) {
        dnnl_exec_arg_t arguments[5] = {
            {DNNL_ARG_SRC, entry->x},
            {DNNL_ARG_WEIGHTS, entry->w},
            {DNNL_ARG_DST, entry->y},
            {DNNL_ARG_SCRATCHPAD, entry->scratch},
        };
        int count = 4;
        ok = dnnl_memory_set_data_handle(entry->x, handle(x)) == dnnl_success &&
             dnnl_memory_set_data_handle(entry->w, handle(w)) == dnnl_success &&
             dnnl_memory_set_data_handle(entry->y, y) == dnnl_success &&
             dnnl_memory_set_data_handle(entry->scratch, onednn->scratch) == dnnl_success;
        if (ok && bias) {
            ok = dnnl_memory_set_data_handle(entry->bias, handle(bias)) == dnnl_success;
            arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, entry->bias};
        }
        ok = ok && dnnl_primitive_execute(entry->primitive, onednn->stream, count, arguments) == dnnl_success &&
             dnnl_stream_wait(onednn->stream) == dnnl_success;
    }
    omp_set_num_threads(threads_before);
    return ok;
}

/* ---- linear layers ---- */

static bool suits(const weight *w, int rows) { return w->dtype == DTYPE_BF16 && rows > FEW_ROWS; }

/* x [rows, w.cols] times `columns` rows of w; y has y_row elements a row. */
static product_shape linear_shape(const weight *w, int rows, int columns, int y_row, after after, bool has_bias,
                                  bool y_bf16) {
    product_shape shape = {.batch = 1, .m = rows, .n = columns, .k = w->cols, .x_row = w->cols, .w_k = 1};
    shape.w_n = w->cols;
    shape.y_row = y_row;
    shape.after = after;
    shape.has_bias = has_bias;
    shape.y_bf16 = y_bf16;
    return shape;
}

static void linear(ops *context, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add) {
    if (suits(w, rows)) {
        product_shape shape = linear_shape(w, rows, w->rows, w->rows, add ? AFTER_ADD : AFTER_NOTHING, bias, false);
        if (multiply(context, &shape, y, x, w->data, bias)) return;
    }
    product_linear(context, y, x, w, bias, rows, add);
}

static void linear_many(ops *context, float *const *y, const operand *x, const weight *const *w,
                        const float *const *bias, int count, int rows) {
    if (rows <= FEW_ROWS) {
        product_linear_many(context, y, x, w, bias, count, rows);
        return;
    }
    for (int i = 0; i < count; i++) linear(context, y[i], x, w[i], bias ? bias[i] : NULL, rows, false);
}

static void linear_gelu(ops *context, operand *out, const operand *x, const weight *fc1, const float *bias, int rows) {
    if (suits(fc1, rows)) {
        product_shape shape = linear_shape(fc1, rows, fc1->rows, fc1->rows, AFTER_GELU, bias, true);
        if (multiply(context, &shape, out, x, fc1->data, bias)) return;
    }
    product_linear_gelu(context, out, x, fc1, bias, rows);
}

static void linear_gated(ops *context, operand *out, const operand *x, const weight *gate, const weight *up, int rows) {
    struct onednn *onednn = context->onednn;
    size_t fitting = onednn->scores_floats / 2 / (size_t)(rows > 0 ? rows : 1);
    int at_once = fitting < GATED_COLUMNS ? (int)(fitting / 32 * 32) : GATED_COLUMNS;
    float *gates = onednn->scores, *ups = onednn->scores + onednn->scores_floats / 2;
    bool ok = suits(gate, rows) && suits(up, rows) && at_once > 0;
    for (int first = 0; ok && first < gate->rows; first += at_once) {
        int columns = gate->rows - first < at_once ? gate->rows - first : at_once;
        size_t offset = (size_t)first * gate->cols;
        product_shape gate_shape = linear_shape(gate, rows, columns, columns, AFTER_GELU, false, false);
        product_shape up_shape = linear_shape(up, rows, columns, columns, AFTER_NOTHING, false, false);
        ok = multiply(context, &gate_shape, gates, x, (const bf16 *)gate->data + offset, NULL) &&
             multiply(context, &up_shape, ups, x, (const bf16 *)up->data + offset, NULL);
        if (!ok) break;
#pragma omp parallel for schedule(static) num_threads(context->threads)
        for (int row = 0; row < rows; row++)
            context->kernels->put_product(out, context->storage, (size_t)row * gate->rows + first,
                                          gates + (size_t)row * columns, ups + (size_t)row * columns, columns);
    }
    if (!ok) product_linear_gated(context, out, x, gate, up, rows);
}

/* ---- attention ---- */

/*
 * Two batched products, a kv head each, with softmax between them; query rows of a kv head must lie at one stride,
 * which they do with one kv head or with one query head for each.
 */
static void attention(ops *context, operand *out, const operand *q, const operand *k, const operand *v,
                      const attention_shape *shape) {
    struct onednn *onednn = context->onednn;
    const kernels *kernels = context->kernels;
    int64_t head_dim = shape->head_dim, keys = shape->keys, batch = shape->kv_heads;
    int64_t group = shape->heads / shape->kv_heads, kv_row = batch * head_dim;
    int64_t q_row = group > 1 ? head_dim : (int64_t)shape->heads * head_dim;
    int64_t rows = shape->queries * group, stride = (keys + 31) / 32 * 32;
    int64_t at_once = (int64_t)onednn->scores_floats / (batch * stride);
    bool ok = (group == 1 || batch == 1) && at_once > 0 && rows > FEW_ROWS;
    if (at_once > rows) at_once = rows;
    float *scores = onednn->scores;
    bf16 *weights = (bf16 *)(onednn->scores + onednn->scores_floats);
    for (int64_t first = 0; ok && first < rows; first += at_once) {
        int64_t m = rows - first < at_once ? rows - first : at_once;
        product_shape score = {.batch = batch, .m = m, .n = keys, .k = head_dim, .x_row = q_row, .w_k = 1};
        product_shape value = {.batch = batch, .m = m, .n = head_dim, .k = keys, .x_row = stride, .w_n = 1};
        score.w_n = value.w_k = kv_row;
        score.y_row = stride;
        value.y_row = q_row;
        value.y_bf16 = 1;
        if (batch > 1) {
            score.x_batch = value.y_batch = score.w_batch = value.w_batch = head_dim;
            score.y_batch = value.x_batch = m * stride;
        }
        ok = multiply(context, &score, scores, (const bf16 *)q + first * q_row, k, NULL);
        if (!ok) break;
#pragma omp parallel for schedule(static) num_threads(context->threads)
        for (int64_t row = 0; row < batch * m; row++) {
            float *at = scores + row * stride;
            float factor = kernels->softmax(at, BLOCK_K, shape->keys, shape->scale, shape->key_mask);
            kernels->put_scaled((operand *)weights, OPERAND_BF16, (size_t)(row * stride), at, factor, shape->keys);
        }
        ok = multiply(context, &value, (bf16 *)out + first * q_row, weights, v, NULL);
    }
    if (!ok) attention_run(context, out, q, k, v, shape);
}

/* ---- context ---- */

size_t onednn_bytes(const ops *context) {
    const struct onednn *onednn = context->onednn;
    if (!onednn) return 0;
    return sizeof *onednn + onednn->scratch_bytes + onednn->scores_floats * (sizeof(float) + sizeof(bf16));
}

pi0_status onednn_open(ops *context, pi0_error *error) {
    struct onednn *onednn = memory_zeroed(1, sizeof *onednn);
    if (!onednn) return error_memory(error, sizeof *onednn, "oneDNN primitives");
    context->onednn = onednn;
    size_t keys = ((size_t)context->options.max_keys + 31) / 32 * 32, heads = (size_t)context->options.max_heads;
    size_t most = (size_t)context->options.max_rows * GATED_COLUMNS * 2;
    onednn->scores_floats = SCORE_FLOATS > keys * heads ? SCORE_FLOATS : keys * heads;
    if (most < onednn->scores_floats) most = onednn->scores_floats;
    onednn->scores_floats = most < 4 * (size_t)SCORE_FLOATS ? most : 4 * (size_t)SCORE_FLOATS;
    size_t bytes = onednn->scores_floats * (sizeof(float) + sizeof(bf16));
    onednn->scores = memory_allocate(bytes);
    if (!onednn->scores) return error_memory(error, bytes, "attention scores");
    if (dnnl_engine_create(&onednn->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags) != dnnl_success)
        return error_set(error, PI0_ERROR_DEVICE, "oneDNN cannot be started");
    context->storage = OPERAND_BF16;
    context->table.linear = linear;
    context->table.linear_many = linear_many;
    context->table.linear_gelu = linear_gelu;
    context->table.linear_gated = linear_gated;
    if (!context->options.plain_attention) context->table.attention = attention;
    return PI0_OK;
}

void onednn_close(ops *context) {
    struct onednn *onednn = context->onednn;
    if (!onednn) return;
    for (int i = 0; i < CACHE_SIZE; i++) forget(&onednn->cache[i]);
    if (onednn->stream) dnnl_stream_destroy(onednn->stream);
    if (onednn->engine) dnnl_engine_destroy(onednn->engine);
    memory_release(onednn->scratch);
    memory_release(onednn->scores);
    memory_release(onednn);
    context->onednn = NULL;
}
#endif
