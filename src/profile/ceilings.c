#include "profile/ceilings.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#ifdef PI0_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "base/bf16.h"
#include "base/clock.h"
#include "base/memory.h"
#include "cpu/ops.h"
#ifdef PI0_WITH_CUDA
#include "cuda/ceilings.h"
#endif

enum { PRODUCT_ROUNDS = 3, READ_ROUNDS = 5 };

ceilings_options ceilings_options_default(const model_config *config) {
    bool full = config->language.width >= 2048;
    return (ceilings_options){.rows = 788,
                              .columns = full ? 2048 : 512,
                              .outputs = full ? 32768 : 2048,
                              .read_bytes = (size_t)(full ? 622 : 128) << 20};
}

double ceilings_floor_ms(const ceilings *ceilings, work work, int bytes_per_number) {
    double arithmetic = work.flops / ceilings->product_flops;
    double bytes = (work.weights + work.cache) * bytes_per_number / ceilings->read_bytes;
    return 1e3 * (arithmetic > bytes ? arithmetic : bytes);
}

/* ---- products ---- */

static double product_flop(const ceilings_options *o) { return 2.0 * o->rows * o->columns * o->outputs; }

/* Small numbers without denormals or zeros, as bf16 or float32. */
static void fill(void *values, size_t count, bool bf16_values) {
    for (size_t i = 0; i < count; i++) {
        float value = 0.5f + (float)(i % 64) / 128.0f;
        if (bf16_values)
            ((bf16 *)values)[i] = bf16_from_float(value);
        else
            ((float *)values)[i] = value;
    }
}

#ifdef PI0_WITH_ONEDNN

/* Everything of one oneDNN matrix product x[m,k] * w[k,n]; w lies as oneDNN likes it best. */
typedef struct dnnl_product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t descriptor;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y;
    void *x_data, *w_data, *y_data;
} dnnl_product;

static void dnnl_product_close(dnnl_product *p) {
    if (p->x) dnnl_memory_destroy(p->x);
    if (p->w) dnnl_memory_destroy(p->w);
    if (p->y) dnnl_memory_destroy(p->y);
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->descriptor) dnnl_primitive_desc_destroy(p->descriptor);
    if (p->stream) dnnl_stream_destroy(p->stream);
    if (p->engine) dnnl_engine_destroy(p->engine);
    memory_release(p->x_data);
    memory_release(p->w_data);
    memory_release(p->y_data);
}

/* A memory object over a buffer of ours, filled. */
static bool dnnl_tensor(dnnl_product *p, dnnl_memory_t *memory, void **data, dnnl_query_t query, size_t count,
                        bool bf16_values) {
    const dnnl_memory_desc_t *layout = dnnl_primitive_desc_query_md(p->descriptor, query, 0);
    size_t bytes = layout ? dnnl_memory_desc_get_size(layout) : 0;
    *data = bytes ? memory_zeroed(1, bytes) : NULL;
    if (!*data) return false;
    fill(*data, count, bf16_values);
    return dnnl_memory_create(memory, layout, p->engine, *data) == dnnl_success;
}

static bool dnnl_product_open(dnnl_product *p, const ceilings_options *o) {
    dnnl_dims_t x = {o->rows, o->columns}, w = {o->columns, o->outputs}, y = {o->rows, o->outputs};
    dnnl_data_type_t type = o->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t x_layout, w_layout, y_layout;
    dnnl_matmul_desc_t matmul;
    *p = (dnnl_product){0};
    return dnnl_engine_create(&p->engine, dnnl_cpu, 0) == dnnl_success &&
           dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&x_layout, 2, x, type, dnnl_ab) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&w_layout, 2, w, type, dnnl_format_tag_any) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&y_layout, 2, y, dnnl_f32, dnnl_ab) == dnnl_success &&
           dnnl_matmul_desc_init(&matmul, &x_layout, &w_layout, NULL, &y_layout) == dnnl_success &&
           dnnl_primitive_desc_create(&p->descriptor, &matmul, NULL, p->engine, NULL) == dnnl_success &&
           dnnl_primitive_create(&p->primitive, p->descriptor) == dnnl_success &&
           dnnl_tensor(p, &p->x, &p->x_data, dnnl_query_src_md, (size_t)o->rows * (size_t)o->columns, o->bf16) &&
           dnnl_tensor(p, &p->w, &p->w_data, dnnl_query_weights_md, (size_t)o->columns * (size_t)o->outputs, o->bf16) &&
           dnnl_tensor(p, &p->y, &p->y_data, dnnl_query_dst_md, (size_t)o->rows * (size_t)o->outputs, false);
}

static pi0_status measure_product(ceilings *result, const ceilings_options *o, pi0_error *error) {
    dnnl_product product;
    double best_ms = 0;
    bool works = dnnl_product_open(&product, o);
    for (int round = 0; works && round <= PRODUCT_ROUNDS; round++) {
        dnnl_exec_arg_t arguments[] = {
            {DNNL_ARG_SRC, product.x}, {DNNL_ARG_WEIGHTS, product.w}, {DNNL_ARG_DST, product.y}};
        double start = clock_ms();
        works = dnnl_primitive_execute(product.primitive, product.stream, 3, arguments) == dnnl_success &&
                dnnl_stream_wait(product.stream) == dnnl_success;
        double ms = clock_ms() - start;
        if (round > 0 && (best_ms == 0 || ms < best_ms)) best_ms = ms;
    }
    dnnl_product_close(&product);
    if (!works || best_ms <= 0)
        return error_set(error, PI0_ERROR_MEMORY, "oneDNN could not run a product of %d x %d x %d", o->rows, o->columns,
                         o->outputs);
    result->product_flops = product_flop(o) / (best_ms * 1e-3);
    snprintf(result->product, sizeof result->product, "oneDNN %s %dx%dx%d", o->bf16 ? "bf16" : "f32", o->rows,
             o->columns, o->outputs);
    return PI0_OK;
}

#else

/* Without oneDNN: the engine's own product. */
static pi0_status run_product(double *best_ms, ops *context, const ceilings_options *o, pi0_error *error) {
    size_t inputs = (size_t)o->rows * (size_t)o->columns, outputs = (size_t)o->rows * (size_t)o->outputs;
    size_t weights = (size_t)o->columns * (size_t)o->outputs;
    float *x = memory_allocate(inputs * sizeof *x), *y = memory_allocate(outputs * sizeof *y);
    operand *x_in = memory_allocate(ops_operand_bytes(context, inputs));
    bf16 *w = memory_allocate(weights * sizeof *w);
    pi0_status status = x && y && x_in && w ? PI0_OK : error_memory(error, outputs * sizeof *y, "a product to time");
    if (status == PI0_OK) {
        weight matrix = {.data = w, .dtype = DTYPE_BF16, .rows = o->outputs, .cols = o->columns};
        fill(x, inputs, false);
        fill(w, weights, true);
        ops_to_operand(context, x_in, x, inputs);
        for (int round = 0; round <= PRODUCT_ROUNDS; round++) {
            double start = clock_ms();
            ops_linear(context, y, x_in, &matrix, NULL, o->rows, false);
            double ms = clock_ms() - start;
            if (round == 1 || (round > 1 && ms < *best_ms)) *best_ms = ms;
        }
    }
    memory_release(x);
    memory_release(y);
    memory_release(x_in);
    memory_release(w);
    return status;
}

static pi0_status measure_product(ceilings *result, const ceilings_options *o, pi0_error *error) {
    ops_options options = {.precision = o->bf16 ? PI0_PRECISION_BF16 : PI0_PRECISION_F32,
                           .isa = cpu_isa_best(),
                           .threads = o->threads,
                           .max_rows = o->rows,
                           .max_columns = o->outputs > o->columns ? o->outputs : o->columns,
                           .max_keys = 1,
                           .max_heads = 1};
    ops *context;
    TRY(ops_open(&context, &options, error));
    double best_ms = 0;
    pi0_status status = run_product(&best_ms, context, o, error);
    ops_close(&context);
    TRY(status);
    result->product_flops = product_flop(o) / (best_ms * 1e-3);
    snprintf(result->product, sizeof result->product, "%s %dx%dx%d", o->bf16 ? "bf16" : "f32", o->rows, o->columns,
             o->outputs);
    return PI0_OK;
}

#endif

/* ---- reading ---- */

typedef uint64_t line __attribute__((vector_size(64), aligned(64)));

/* XOR of a part of the buffer: every byte is read, and no read waits for another. */
static uint64_t read_lines(const line *lines, size_t count) {
    line a = {0}, b = {0}, c = {0}, d = {0};
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        a ^= lines[i];
        b ^= lines[i + 1];
        c ^= lines[i + 2];
        d ^= lines[i + 3];
    }
    for (; i < count; i++) a ^= lines[i];
    a ^= b ^ c ^ d;
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static pi0_status measure_reading(ceilings *result, const ceilings_options *o, int threads, pi0_error *error) {
    size_t count = o->read_bytes / sizeof(line), bytes = count * sizeof(line);
    line *buffer = memory_allocate(bytes);
    if (!buffer) return error_memory(error, bytes, "a buffer to read");
    double best_ms = 0;
    uint64_t seen = 0;
    for (int round = 0; round <= READ_ROUNDS; round++) {
        double start = clock_ms();
#pragma omp parallel num_threads(threads) reduction(^ : seen)
        {
            size_t workers = (size_t)omp_get_num_threads(), worker = (size_t)omp_get_thread_num();
            size_t first = count * worker / workers, end = count * (worker + 1) / workers;
            if (round == 0)
                memset(buffer + first, (int)worker + 1, (end - first) * sizeof(line));
            else
                seen ^= read_lines(buffer + first, end - first);
        }
        double ms = clock_ms() - start;
        if (round == 1 || (round > 1 && ms < best_ms)) best_ms = ms;
    }
    memory_release(buffer);
    __asm__ volatile("" : : "r"(seen)); /* so that the reads are not left out */
    result->read_bytes = (double)bytes / (best_ms * 1e-3);
    return PI0_OK;
}

/* PI0_ERROR_UNSUPPORTED for a GPU that nothing here measures. */
static pi0_status measure_gpu(ceilings *result, const ceilings_options *o, pi0_error *error) {
#ifdef PI0_WITH_CUDA
    if (o->backend == PI0_BACKEND_CUDA) {
        TRY(cuda_ceilings(o->device, o->rows, o->columns, o->outputs, o->read_bytes, &result->product_flops,
                          &result->read_bytes, error));
        snprintf(result->product, sizeof result->product, "cuBLASLt bf16 %dx%dx%d", o->rows, o->columns, o->outputs);
        return PI0_OK;
    }
#endif
    (void)result;
    (void)o;
    return error_set(error, PI0_ERROR_UNSUPPORTED, "the ceilings of this backend's devices are not measured");
}

pi0_status ceilings_measure(ceilings *result, const ceilings_options *options, pi0_error *error) {
    *result = (ceilings){0};
    if (options->backend != PI0_BACKEND_AUTO && options->backend != PI0_BACKEND_CPU)
        return measure_gpu(result, options, error);
    int before = omp_get_max_threads(), threads = options->threads > 0 ? options->threads : before;
    omp_set_num_threads(threads);
    pi0_status status = measure_product(result, options, error);
    if (status == PI0_OK) status = measure_reading(result, options, threads, error);
    omp_set_num_threads(before);
    return status;
}
