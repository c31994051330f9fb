/*
 * check_ops --bench: how fast the ops are on the model's shapes, against what this machine can do. Every line is the
 * median of rounds in which all lines of a group take turns, so that a noisy neighbour hits them alike.
 */
#include "timing.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef PI0_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "base/bf16.h"
#include "cpu/ops.h"
#include "profile/ceilings.h"

enum { MOST_ROUNDS = 200, PREFIX = 788, VIT_ROWS = 768, LAYERS = 18, STEP_KEYS = PREFIX + 100 };

typedef struct settings {
    cpu_isa isa;
    pi0_precision precision;
    int threads, rounds;
    const char *filter;
    bool emulate;
} settings;

static void *take(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "check_ops: out of memory\n");
        exit(1);
    }
    return memory;
}

static float *take_floats(size_t count) {
    float *values = take(count * sizeof *values);
    uint32_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)state * 0x1p-34f;
    }
    return values;
}

static weight take_weight(int rows, int cols) {
    size_t count = (size_t)rows * cols;
    bf16 *values = take(count * sizeof *values);
    uint32_t state = (uint32_t)rows;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = bf16_from_float((float)(int32_t)state * 0x1p-36f);
    }
    return (weight){.data = values, .dtype = DTYPE_BF16, .rows = rows, .cols = cols};
}

static operand *take_operand(ops *context, size_t count) {
    float *values = take_floats(count);
    operand *result = take(ops_operand_bytes(context, count));
    ops_to_operand(context, result, values, count);
    free(values);
    return result;
}

/* Wall time; or, on one thread of a machine that others use too, that thread's own processor time. */
static clockid_t timer = CLOCK_MONOTONIC;

static double now_ms(void) {
    struct timespec now;
    clock_gettime(timer, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

static ops *open_context(const settings *settings) {
    ops_options options = {.precision = settings->precision,
                           .isa = settings->isa,
                           .threads = settings->threads,
                           .max_rows = 1024,
                           .max_columns = 16384,
                           .max_keys = 1024,
                           .max_heads = 16,
                           .max_kv_columns = 1152,
                           .emulate_bf16 = settings->emulate};
    ops *context = NULL;
    pi0_error error;
    if (ops_open(&context, &options, &error) != PI0_OK) {
        fprintf(stderr, "check_ops: %s\n", error.message);
        exit(1);
    }
    return context;
}

/* ---- products of many rows ---- */

typedef enum kind { LINEAR, MANY, GELU, GATED } kind;

typedef struct product_case {
    const char *name;
    kind kind;
    int rows, k;
    int columns[3]; /* MANY: of each; GATED: of gate */
    int calls;      /* in one inference */
} product_case;

static const product_case product_cases[] = {
    {"ViT qkv", MANY, VIT_ROWS, 1152, {1152, 1152, 1152}, 27},
    {"ViT o", LINEAR, VIT_ROWS, 1152, {1152}, 27},
    {"ViT fc1", GELU, VIT_ROWS, 1152, {4304}, 27},
    {"ViT fc2", LINEAR, VIT_ROWS, 4304, {1152}, 27},
    {"projector", LINEAR, VIT_ROWS, 1152, {2048}, 1},
    {"prefill qkv", MANY, PREFIX, 2048, {2048, 256, 256}, 18},
    {"prefill o", LINEAR, PREFIX, 2048, {2048}, 17},
    {"prefill gate+up", GATED, PREFIX, 2048, {16384}, 17},
    {"prefill down", LINEAR, PREFIX, 16384, {2048}, 17},
    {"28 rows", LINEAR, 28, 2048, {2048}, 0},
    {"51 rows", LINEAR, 51, 2048, {2048}, 0},
    {"100 rows", LINEAR, 100, 2048, {2048}, 0},
    {"200 rows", LINEAR, 200, 2048, {2048}, 0},
};
enum { PRODUCT_CASES = sizeof product_cases / sizeof *product_cases };

/* Buffers large enough for every case. */
typedef struct buffers {
    operand *x, *out;
    float *y, *dense_x, *dense_w;
    weight w; /* 32768 x 2048 and everything smaller */
} buffers;

static int outputs(const product_case *test) {
    return test->kind == GATED ? 2 * test->columns[0] : test->columns[0] + test->columns[1] + test->columns[2];
}

static double run_product(ops *context, const buffers *b, const product_case *test) {
    weight w[3];
    const weight *pointers[3] = {&w[0], &w[1], &w[2]};
    float *y[3] = {b->y};
    const bf16 *from = b->w.data;
    float *bias = b->dense_x;
    for (int i = 0; i < 3; i++) {
        int columns = test->kind == GATED ? test->columns[0] : test->columns[i];
        w[i] = (weight){.data = from, .dtype = DTYPE_BF16, .rows = columns, .cols = test->k};
        from += (size_t)(i < 2 ? columns : 0) * test->k;
        if (i) y[i] = y[i - 1] + (size_t)test->rows * test->columns[i - 1];
    }
    double start = now_ms();
    switch (test->kind) {
    case LINEAR:
        ops_linear(context, b->y, b->x, &w[0], bias, test->rows, true);
        break;
    case MANY:
        ops_linear_many(context, y, b->x, pointers, NULL, 3, test->rows);
        break;
    case GELU:
        ops_linear_gelu(context, b->out, b->x, &w[0], bias, test->rows);
        break;
    case GATED:
        ops_linear_gated(context, b->out, b->x, &w[0], &w[1], test->rows);
        break;
    }
    return now_ms() - start;
}

/* The same product, without what comes after it, by oneDNN in float32. */
static double run_onednn(const buffers *b, const product_case *test) {
#ifdef PI0_WITH_ONEDNN
    double start = now_ms();
    dnnl_sgemm('N', 'T', test->rows, outputs(test), test->k, 1, b->dense_x, test->k, b->dense_w, test->k, 0, b->y,
               outputs(test));
    return now_ms() - start;
#else
    (void)b;
    (void)test;
    return NAN;
#endif
}

static double gflop(const product_case *test) { return 2e-9 * test->rows * test->k * outputs(test); }

/* Returns GFLOP/s of oneDNN on the largest product; adds up what the cases take in one inference. */
static double time_products(ops *context, const settings *settings, double *inference_ms) {
    static const product_case largest = {"788x2048x32768", LINEAR, PREFIX, 2048, {32768}, 0};
    buffers b = {.x = take_operand(context, (size_t)PREFIX * 16384), .w = take_weight(32768, 2048)};
    b.out = take(ops_operand_bytes(context, (size_t)PREFIX * 16384));
    b.y = take_floats((size_t)PREFIX * 32768);
    b.dense_x = take_floats((size_t)PREFIX * 16384);
    b.dense_w = take_floats((size_t)32768 * 2048);
    double reference[MOST_ROUNDS], ours[PRODUCT_CASES][MOST_ROUNDS], theirs[PRODUCT_CASES][MOST_ROUNDS];
    for (int round = -1; round < settings->rounds; round++) {
        int at = round < 0 ? 0 : round;
        reference[at] = run_onednn(&b, &largest);
        for (int i = 0; i < PRODUCT_CASES; i++) {
            if (settings->filter && !strstr(product_cases[i].name, settings->filter)) continue;
            ours[i][at] = run_product(context, &b, &product_cases[i]);
            theirs[i][at] = run_onednn(&b, &product_cases[i]);
        }
    }
    double rate = gflop(&largest) / median(reference, settings->rounds) * 1e3;
    printf("oneDNN float32, 788 x 2048 x 32768: %.0f GFLOP/s\n\n", rate);
    printf("%-18s %22s %9s %9s %9s %12s\n", "product", "shape", "ms", "GFLOP/s", "of that", "oneDNN same");
    for (int i = 0; i < PRODUCT_CASES; i++) {
        const product_case *test = &product_cases[i];
        if (settings->filter && !strstr(test->name, settings->filter)) continue;
        char shape[60];
        snprintf(shape, sizeof shape, "%d x %d x %d", test->rows, test->k, outputs(test));
        double ms = median(ours[i], settings->rounds);
        printf("%-18s %22s %9.3f %9.0f %8.0f%% %12.0f\n", test->name, shape, ms, gflop(test) / ms * 1e3,
               gflop(test) / ms * 1e5 / rate, gflop(test) / median(theirs[i], settings->rounds) * 1e3);
        *inference_ms += ms * test->calls;
    }
    free(b.x);
    free(b.out);
    free(b.y);
    free(b.dense_x);
    free(b.dense_w);
    free((void *)(uintptr_t)b.w.data);
    return rate;
}

/* ---- the rest of ViT and prefill ---- */

typedef enum row_op { LAYER_NORM, RMS_NORM, ROPE, ADD_ROWS, PATCHES, ATTENTION } row_op;

typedef struct row_case {
    const char *name;
    row_op op;
    int rows, width; /* attention: queries, keys */
    int heads, kv_heads, head_dim;
    int calls;
} row_case;

static const row_case row_cases[] = {
    {"ViT attention", ATTENTION, 256, 256, 16, 16, 72, 81},
    {"prefill attention", ATTENTION, PREFIX, PREFIX, 8, 1, 256, 17},
    {"suffix attention", ATTENTION, 10, 799, 8, 1, 256, 180},
    {"ViT LayerNorm", LAYER_NORM, VIT_ROWS, 1152, 1, 1, 0, 55},
    {"prefill RMSNorm", RMS_NORM, PREFIX, 2048, 1, 1, 0, 35},
    {"prefill RoPE", ROPE, PREFIX, 2048, 8, 1, 256, 18},
    {"to operand", ADD_ROWS, PREFIX, 2048, 1, 1, 0, 27},
    {"patches", PATCHES, 224, 14, 1, 1, 0, 3},
};
enum { ROW_CASES = sizeof row_cases / sizeof *row_cases };

static double run_rows(ops *context, const row_case *test, float *x, float *y, operand *out, operand *in,
                       uint8_t *image) {
    attention_shape shape = {.queries = test->rows,
                             .keys = test->width,
                             .heads = test->heads,
                             .kv_heads = test->kv_heads,
                             .head_dim = test->head_dim,
                             .scale = 0.0625f};
    double start = now_ms();
    switch (test->op) {
    case LAYER_NORM:
        ops_layer_norm(context, out, x, y, y, test->rows, test->width);
        break;
    case RMS_NORM:
        ops_rms_norm(context, out, x, y, NULL, test->rows, test->width);
        break;
    case ROPE:
        ops_rope(context, out, x, y, y, test->rows, test->heads, test->head_dim);
        break;
    case ADD_ROWS:
        ops_to_operand(context, out, x, (size_t)test->rows * test->width);
        break;
    case PATCHES:
        ops_patches_u8(context, x, image, test->rows, test->width);
        break;
    case ATTENTION:
        ops_attention(context, out, in, in, in, &shape);
        break;
    }
    return now_ms() - start;
}

static void time_rows(ops *context, const settings *settings, double rate, double *inference_ms) {
    size_t count = (size_t)1024 * 2048;
    float *x = take_floats(count), *y = take_floats(count);
    operand *in = take_operand(context, count), *out = take_operand(context, count);
    uint8_t *image = take((size_t)224 * 224 * 3);
    memset(image, 7, (size_t)224 * 224 * 3);
    double times[ROW_CASES][MOST_ROUNDS];
    for (int round = -1; round < settings->rounds; round++)
        for (int i = 0; i < ROW_CASES; i++)
            times[i][round < 0 ? 0 : round] = run_rows(context, &row_cases[i], x, y, out, in, image);
    printf("\n%-18s %22s %9s %9s %9s %9s\n", "op", "shape", "ms", "GFLOP/s", "of oneDNN", "GB/s");
    for (int i = 0; i < ROW_CASES; i++) {
        const row_case *test = &row_cases[i];
        char shape[60];
        snprintf(shape, sizeof shape, "%d x %d", test->rows, test->width);
        double ms = median(times[i], settings->rounds);
        if (test->op == ATTENTION) {
            double work = 4e-9 * test->rows * test->width * test->heads * test->head_dim;
            printf("%-18s %22s %9.3f %9.0f %8.0f%%\n", test->name, shape, ms, work / ms * 1e3, work / ms * 1e5 / rate);
        } else {
            double values = test->op == PATCHES ? 3.0 * test->rows * test->rows : (double)test->rows * test->width;
            printf("%-18s %22s %9.3f %9s %9s %9.1f\n", test->name, shape, ms, "", "", values * 8e-6 / ms);
        }
        *inference_ms += ms * test->calls;
    }
    free(x);
    free(y);
    free(in);
    free(out);
    free(image);
}

/* ---- a denoise step: the expert's 18 layers over `rows` rows and 789 + rows keys ---- */

typedef struct expert_layer {
    weight q, k, v, o, gate, up, down;
} expert_layer;

enum { PART_QKV, PART_ATTENTION, PART_O, PART_GATED, PART_DOWN, PART_REST, PART_COUNT };

/* `panels`: of each layer, prefix and state token packed; NULL: not kept. */
static double run_step(ops *context, const expert_layer *layers, int rows, float *x, float *big, operand *a, operand *b,
                       float *const panels[LAYERS], double parts[PART_COUNT]) {
    attention_shape shape = {
        .queries = rows, .keys = PREFIX + 1 + rows, .heads = 8, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f};
    shape.capacity = STEP_KEYS;
    shape.packed = PREFIX + 1;
    float *q = big, *k = q + rows * 2048, *v = k + rows * 256;
    double begin = now_ms(), last = begin;
    memset(parts, 0, PART_COUNT * sizeof *parts);
#define LAP(part)                                                                                                      \
    do {                                                                                                               \
        double now_ = now_ms();                                                                                        \
        parts[part] += now_ - last;                                                                                    \
        last = now_;                                                                                                   \
    } while (0)
    for (int i = 0; i < LAYERS; i++) {
        const expert_layer *layer = &layers[i];
        float *const y[] = {q, k, v};
        const weight *const w[] = {&layer->q, &layer->k, &layer->v};
        ops_rms_norm(context, a, x, x, NULL, rows, 1024);
        LAP(PART_REST);
        ops_linear_many(context, y, a, w, NULL, 3, rows);
        LAP(PART_QKV);
        ops_rope(context, a, q, x, x, rows, 8, 256);
        ops_rope(context, operand_at(context, b, 256 * (PREFIX + 1)), k, x, x, rows, 1, 256);
        ops_to_operand(context, operand_at(context, b, 256 * (PREFIX + 1)), v, (size_t)rows * 256);
        LAP(PART_REST);
        shape.panels = panels[i];
        ops_attention(context, a, a, b, b, &shape);
        LAP(PART_ATTENTION);
        ops_linear(context, x, a, &layer->o, NULL, rows, true);
        LAP(PART_O);
        ops_rms_norm(context, a, x, x, NULL, rows, 1024);
        LAP(PART_REST);
        ops_linear_gated(context, operand_at(context, a, 64 * 1024), a, &layer->gate, &layer->up, rows);
        LAP(PART_GATED);
        ops_linear(context, x, operand_at(context, a, 64 * 1024), &layer->down, NULL, rows, false);
        LAP(PART_DOWN);
    }
#undef LAP
    return now_ms() - begin;
}

static void time_steps(ops *context, const settings *settings, double rate, double *inference_ms) {
    static const char *const names[] = {"qkv", "attention", "o", "gate+up", "down", "rest"};
    static const int row_counts[] = {1, 5, 10, 11, 12, 16, 20, 24, 32, 51, 64};
    expert_layer layers[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        layers[i] = (expert_layer){take_weight(2048, 1024), take_weight(256, 1024),  take_weight(256, 1024),
                                   take_weight(1024, 2048), take_weight(4096, 1024), take_weight(4096, 1024),
                                   take_weight(1024, 4096)};
    }
    float *x = take_floats(64 * 4096), *big = take_floats(64 * 4096);
    operand *a = take_operand(context, 512 * 4096), *b = take_operand(context, (PREFIX + 100) * 256);
    float *panels[LAYERS] = {0};
    size_t panels_bytes = ops_attention_panels_bytes(context, STEP_KEYS, 1, 256);
    for (int i = 0; i < LAYERS && panels_bytes; i++) panels[i] = take_floats(panels_bytes / sizeof(float));
    ceilings_options options = {.threads = settings->threads, .rows = 64, .columns = 256, .outputs = 256};
    options.read_bytes = (size_t)620 << 20;
    ceilings ceilings = {0};
    pi0_error error;
    if (ceilings_measure(&ceilings, &options, &error) != PI0_OK) fprintf(stderr, "check_ops: %s\n", error.message);
    double gigabytes = LAYERS * 2e-9 * (1024.0 * 2560 + 2048 * 1024 + 1024 * 8192 + 4096 * 1024);
    printf("\nmemory read: %.1f GB/s; a denoise step reads %.2f GB\n", ceilings.read_bytes * 1e-9, gigabytes);
    printf("%-6s %8s %8s %8s %8s |", "rows", "ms", "read", "product", "of bound");
    for (int part = 0; part < PART_COUNT; part++) printf(" %9s", names[part]);
    printf("\n");
    for (size_t c = 0; c < sizeof row_counts / sizeof *row_counts; c++) {
        int rows = row_counts[c];
        double times[MOST_ROUNDS], parts[PART_COUNT], part_times[PART_COUNT][MOST_ROUNDS];
        for (int round = -1; round < settings->rounds; round++) {
            int at = round < 0 ? 0 : round;
            times[at] = run_step(context, layers, rows, x, big, a, b, panels, parts);
            for (int part = 0; part < PART_COUNT; part++) part_times[part][at] = parts[part];
        }
        double ms = median(times, settings->rounds), read = gigabytes / ceilings.read_bytes * 1e12;
        double product = gigabytes * rows / rate * 1e3, bound = read > product ? read : product;
        printf("%-6d %8.2f %8.2f %8.2f %7.0f%% |", rows, ms, read, product, 100 * bound / ms);
        for (int part = 0; part < PART_COUNT; part++) printf(" %9.2f", median(part_times[part], settings->rounds));
        printf("\n");
        if (rows == 10) *inference_ms += 10 * ms;
    }
    for (int i = 0; i < LAYERS; i++) {
        const weight *all[] = {&layers[i].q,    &layers[i].k,  &layers[i].v,   &layers[i].o,
                               &layers[i].gate, &layers[i].up, &layers[i].down};
        free(panels[i]);
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) free((void *)(uintptr_t)all[j]->data);
    }
    free(x);
    free(big);
    free(a);
    free(b);
}

/* ---- command line ---- */

static bool parse(settings *settings, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--bench")) continue;
        if (!strcmp(argv[i], "--emulate-bf16")) {
            settings->emulate = true;
            settings->precision = PI0_PRECISION_BF16;
            continue;
        }
        if (!strcmp(argv[i], "--processor-time")) {
            timer = CLOCK_THREAD_CPUTIME_ID;
            settings->threads = 1;
            omp_set_num_threads(1);
            continue;
        }
        if (!value) return false;
        i++;
        if (!strcmp(argv[i - 1], "--threads"))
            settings->threads = atoi(value);
        else if (!strcmp(argv[i - 1], "--rounds"))
            settings->rounds = atoi(value);
        else if (!strcmp(argv[i - 1], "--filter"))
            settings->filter = value;
        else if (!strcmp(argv[i - 1], "--precision"))
            settings->precision = strcmp(value, "bf16") ? PI0_PRECISION_F32 : PI0_PRECISION_BF16;
        else if (!strcmp(argv[i - 1], "--isa")) {
            bool known = false;
            for (cpu_isa isa = CPU_ISA_PLAIN; isa <= CPU_ISA_AMX; isa++) {
                if (strcmp(value, cpu_isa_name(isa))) continue;
                settings->isa = isa;
                known = true;
            }
            if (!known) return false;
        } else
            return false;
    }
    return settings->rounds > 0 && settings->rounds <= MOST_ROUNDS;
}

int time_ops(int argc, char **argv) {
    settings settings = {.isa = cpu_isa_best(), .precision = PI0_PRECISION_F32, .rounds = 9};
    if (!parse(&settings, argc, argv)) {
        fprintf(stderr, "usage: check_ops --bench [--isa plain|avx2|avx512|avx512-bf16|amx] [--precision f32|bf16]\n"
                        "       [--emulate-bf16] [--threads N | --processor-time] [--rounds N, at most 200] [--filter "
                        "ops|steps|PRODUCT]\n");
        return 2;
    }
    ops *context = open_context(&settings);
    printf("%s, %s, %d threads, %.1f MB of scratch memory\n", cpu_isa_name(settings.isa),
           settings.precision == PI0_PRECISION_F32 ? "f32" : "bf16", ops_threads(context),
           (double)ops_scratch_bytes(context) * 1e-6);
    double products_ms = 0, rows_ms = 0, steps_ms = 0;
    double rate = time_products(context, &settings, &products_ms);
    if (!settings.filter || !strcmp(settings.filter, "ops")) time_rows(context, &settings, rate, &rows_ms);
    if (!settings.filter || !strcmp(settings.filter, "steps")) time_steps(context, &settings, rate, &steps_ms);
    if (!settings.filter) {
        double total = products_ms + rows_ms + steps_ms, floor = 3780 / rate * 1e3;
        printf("\none inference: products %.0f + other ops %.0f + ten steps %.0f = %.0f ms, %.2f times 3,780 GFLOP "
               "at oneDNN's rate (%.0f ms)\n",
               products_ms, rows_ms, steps_ms, total, total / floor, floor);
    }
    ops_close(&context);
    return 0;
}
