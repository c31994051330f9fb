/*
 * Tests and times the CPU ops: every variant of every op against its plain C twin over many shapes, sizes of values and
 * masks; with --bench, GFLOP/s and GB/s per shape of the model with oneDNN beside them.
 *
 *     check_ops                      test all variants this CPU has
 *     check_ops --bench              time them; --help lists its options
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "cpu/ops.h"
#include "timing.h"

static uint64_t random_state = 88172645463325252ull;

static uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static float random_value(void) { return (float)((int32_t)random_bits()) * 0x1p-31f; }
static int random_below(int limit) { return (int)(random_bits() % (uint32_t)limit); }

/* What values a test uses: ordinary ones, or a few huge, tiny (denormal) and zero ones among them. */
typedef enum spread { SPREAD_ORDINARY, SPREAD_WILD, SPREAD_COUNT } spread;

static void fill(float *values, size_t count, float size, spread spread) {
    for (size_t i = 0; i < count; i++) {
        values[i] = random_value() * size;
        if (spread == SPREAD_ORDINARY) continue;
        switch (random_below(8)) {
        case 0:
            values[i] *= 0x1p20f;
            break;
        case 1:
            values[i] *= 0x1p-20f;
            break;
        case 2:
            values[i] = random_value() * 0x1p-128f;
            break; /* denormal */
        case 3:
            values[i] = random_below(2) ? 0.0f : -0.0f;
            break;
        default:
            break;
        }
    }
}

static void *take(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "check_ops: out of memory\n");
        exit(1);
    }
    memset(memory, 0xff, (bytes + 127) / 64 * 64); /* NaN: reads of what was never written show */
    return memory;
}

static float *take_filled(size_t count, float size, spread spread) {
    float *values = take(count * sizeof *values);
    fill(values, count, size, spread);
    return values;
}

/* ---- the pair of contexts a test compares ---- */

typedef struct pair {
    ops *plain, *fast;
    pi0_precision precision;
    spread spread;
    double vanishing; /* what bf16 instructions may drop: they take denormal inputs and sums for zero */
    const char *name;
    int failures, checks;
} pair;

enum { MOST_ROWS = 900, MOST_COLUMNS = 4400, MOST_KEYS = 1100, MOST_HEADS = 16, MOST_KV_COLUMNS = 1200 };

static ops *open_context(cpu_isa isa, pi0_precision precision, int threads, bool onednn) {
    ops_options options = {.precision = precision,
                           .isa = isa,
                           .threads = threads,
                           .max_rows = MOST_ROWS,
                           .max_columns = MOST_COLUMNS,
                           .max_keys = MOST_KEYS,
                           .max_heads = MOST_HEADS,
                           .max_kv_columns = MOST_KV_COLUMNS,
                           .emulate_bf16 = onednn};
    ops *context = NULL;
    pi0_error error;
    if (ops_open(&context, &options, &error) != PI0_OK) {
        fprintf(stderr, "check_ops: %s\n", error.message);
        exit(1);
    }
    return context;
}

/* An operand buffer of a context; with values, holding them. */
static operand *take_operand(ops *context, const float *values, size_t count) {
    operand *memory = take(ops_operand_bytes(context, count));
    if (values) ops_to_operand(context, memory, values, count);
    return memory;
}

/*
 * Fails where |got - want| > relative * |want| + absolute * magnitude (1 where NULL). NaN must meet NaN. Operands at
 * precision bf16 may lie one bf16 apart besides: the caller adds that to `relative`.
 */
static void compare(pair *pair, const char *what, const float *got, const float *want, const float *magnitude,
                    size_t count, double relative, double absolute) {
    pair->checks++;
    for (size_t i = 0; i < count; i++) {
        double allowed = relative * fabs((double)want[i]) + absolute * (magnitude ? fabs((double)magnitude[i]) : 1.0);
        allowed += pair->vanishing;
        double distance = fabs((double)got[i] - want[i]);
        if (got[i] == want[i] || (isnan(got[i]) && isnan(want[i])) || distance <= allowed) continue;
        if (++pair->failures <= 20)
            fprintf(stderr, "FAIL %s %s [%zu of %zu]: %.9g, plain %.9g (allowed %.3g)\n", pair->name, what, i, count,
                    got[i], want[i], allowed);
        return;
    }
}

static double operand_error(const pair *pair) { return pair->precision == PI0_PRECISION_BF16 ? 0x1p-7 : 0; }

static void compare_operands(pair *pair, const char *what, const operand *got, const operand *want,
                             const float *magnitude, size_t count, double relative, double absolute) {
    float *a = take(count * sizeof *a), *b = take(count * sizeof *b);
    ops_from_operand(pair->fast, a, got, count);
    ops_from_operand(pair->plain, b, want, count);
    compare(pair, what, a, b, magnitude, count, relative + operand_error(pair), absolute);
    free(a);
    free(b);
}

/* ---- products ---- */

/* A weight matrix at an address that is aligned for its elements only. */
static weight take_weight(int rows, int cols, tensor_dtype dtype, spread spread) {
    size_t count = (size_t)rows * cols;
    float size = 1.0f / sqrtf((float)cols);
    weight w = {.dtype = dtype, .rows = rows, .cols = cols};
    if (dtype == DTYPE_F32) {
        float *values = take((count + 1) * sizeof *values);
        fill(values + 1, count, size, spread);
        w.data = values + 1;
    } else {
        bf16 *values = take((count + 1) * sizeof *values);
        for (size_t i = 0; i < count; i++) {
            float value;
            fill(&value, 1, size, spread);
            values[i + 1] = bf16_from_float(value);
        }
        w.data = values + 1;
    }
    return w;
}

static void release_weight(weight *w) {
    free((unsigned char *)(uintptr_t)w->data - (w->dtype == DTYPE_F32 ? sizeof(float) : sizeof(bf16)));
}

/* |x| |w|^T: what rounding errors of a product scale with. */
static float *product_size(const float *x, const weight *w, const float *bias, int rows) {
    float *size = take((size_t)rows * w->rows * sizeof *size);
    for (int r = 0; r < rows; r++) {
        for (int n = 0; n < w->rows; n++) {
            double sum = bias ? fabs((double)bias[n]) : 0;
            for (int k = 0; k < w->cols; k++) {
                size_t index = (size_t)n * w->cols + k;
                float value = w->dtype == DTYPE_F32 ? ((const float *)w->data)[index]
                                                    : bf16_to_float(((const bf16 *)w->data)[index]);
                sum += fabs((double)x[(size_t)r * w->cols + k] * value);
            }
            size[(size_t)r * w->rows + n] = (float)sum + 1e-37f;
        }
    }
    return size;
}

static void test_linear(pair *pair, int rows, int columns, int k, tensor_dtype dtype, bool with_bias, bool add) {
    char what[200];
    snprintf(what, sizeof what, "linear %d x %d x %d %s%s%s", rows, k, columns, dtype == DTYPE_F32 ? "f32" : "bf16",
             with_bias ? " bias" : "", add ? " add" : "");
    float *x = take_filled((size_t)rows * k, 1, pair->spread), *bias = NULL;
    weight w = take_weight(columns, k, dtype, pair->spread);
    if (with_bias) bias = take_filled((size_t)columns, 1, pair->spread);
    size_t count = (size_t)rows * columns;
    operand *x_plain = take_operand(pair->plain, x, (size_t)rows * k);
    operand *x_fast = take_operand(pair->fast, x, (size_t)rows * k);
    float *want = take_filled(count, 1, SPREAD_ORDINARY), *got = take(count * sizeof *got);
    memcpy(got, want, count * sizeof *got);
    float *size = product_size(x, &w, bias, rows);
    for (size_t i = 0; i < count; i++) size[i] += add ? fabsf(want[i]) : 0;
    ops_linear(pair->plain, want, x_plain, &w, bias, rows, add);
    ops_linear(pair->fast, got, x_fast, &w, bias, rows, add);
    compare(pair, what, got, want, size, count, 1e-6, 1e-6);
    ops_linear_f32(pair->plain, want, x, &w, bias, rows, add);
    ops_linear_f32(pair->fast, got, x, &w, bias, rows, add);
    compare(pair, "linear_f32", got, want, size, count, 1e-6, add ? 2e-6 : 1e-6);
    free(x);
    free(bias);
    free(x_plain);
    free(x_fast);
    free(want);
    free(got);
    free(size);
    release_weight(&w);
}

static void test_linear_many(pair *pair, int rows, int k, const int *columns, int count, tensor_dtype dtype) {
    weight w[8];
    const weight *pointers[8];
    float *want[8], *got[8], *bias[8], *size[8];
    float *x = take_filled((size_t)rows * k, 1, pair->spread);
    operand *x_plain = take_operand(pair->plain, x, (size_t)rows * k);
    operand *x_fast = take_operand(pair->fast, x, (size_t)rows * k);
    for (int i = 0; i < count; i++) {
        w[i] = take_weight(columns[i], k, dtype, pair->spread);
        pointers[i] = &w[i];
        bias[i] = i % 2 ? take_filled((size_t)columns[i], 1, pair->spread) : NULL;
        want[i] = take((size_t)rows * columns[i] * sizeof(float));
        got[i] = take((size_t)rows * columns[i] * sizeof(float));
        size[i] = product_size(x, &w[i], bias[i], rows);
    }
    ops_linear_many(pair->plain, want, x_plain, pointers, (const float *const *)bias, count, rows);
    ops_linear_many(pair->fast, got, x_fast, pointers, (const float *const *)bias, count, rows);
    for (int i = 0; i < count; i++) {
        char what[100];
        snprintf(what, sizeof what, "linear_many %d: %d x %d x %d", i, rows, k, columns[i]);
        compare(pair, what, got[i], want[i], size[i], (size_t)rows * columns[i], 1e-6, 1e-6);
        release_weight(&w[i]);
        free(bias[i]);
        free(want[i]);
        free(got[i]);
        free(size[i]);
    }
    free(x);
    free(x_plain);
    free(x_fast);
}

static void test_activated(pair *pair, int rows, int columns, int k, tensor_dtype dtype) {
    char what[100];
    size_t count = (size_t)rows * columns;
    float *x = take_filled((size_t)rows * k, 1, pair->spread);
    float *bias = take_filled((size_t)columns, 2, SPREAD_ORDINARY);
    weight gate = take_weight(columns, k, dtype, pair->spread), up = take_weight(columns, k, dtype, pair->spread);
    operand *x_plain = take_operand(pair->plain, x, (size_t)rows * k);
    operand *x_fast = take_operand(pair->fast, x, (size_t)rows * k);
    operand *want = take_operand(pair->plain, NULL, count), *got = take_operand(pair->fast, NULL, count);
    float *size = product_size(x, &gate, bias, rows), *up_size = product_size(x, &up, NULL, rows);
    snprintf(what, sizeof what, "linear_gelu %d x %d x %d", rows, k, columns);
    ops_linear_gelu(pair->plain, want, x_plain, &gate, bias, rows);
    ops_linear_gelu(pair->fast, got, x_fast, &gate, bias, rows);
    compare_operands(pair, what, got, want, size, count, 2e-6, 2e-6);
    snprintf(what, sizeof what, "linear_gated %d x %d x %d", rows, k, columns);
    ops_linear_gated(pair->plain, want, x_plain, &gate, &up, rows);
    ops_linear_gated(pair->fast, got, x_fast, &gate, &up, rows);
    for (size_t i = 0; i < count; i++) size[i] *= up_size[i];
    compare_operands(pair, what, got, want, size, count, 3e-6, 3e-6);
    free(x);
    free(bias);
    release_weight(&gate);
    release_weight(&up);
    free(x_plain);
    free(x_fast);
    free(want);
    free(got);
    free(size);
    free(up_size);
}

/* ---- attention ---- */

/* The same attention in two calls over panels that are kept: what comes out must not depend on it in the least. */
static void test_kept_panels(pair *pair, const char *what, const operand *const in[3], const operand *want,
                             const attention_shape *whole, size_t q_count) {
    attention_shape shape = *whole;
    shape.capacity = shape.keys + random_below(40);
    size_t bytes = ops_attention_panels_bytes(pair->fast, shape.capacity, shape.kv_heads, shape.head_dim);
    if (!bytes) return;
    shape.panels = take(bytes);
    memset(shape.panels, 0xff, bytes); /* NaN where nothing is written */
    operand *got = take_operand(pair->fast, NULL, q_count);
    shape.keys = 1 + random_below(whole->keys);
    uint8_t *first_mask = take((size_t)whole->keys);
    memset(first_mask, 1, (size_t)whole->keys);
    shape.key_mask = first_mask;
    ops_attention(pair->fast, got, in[0], in[1], in[2], &shape);
    shape.packed = shape.keys;
    shape.keys = whole->keys;
    shape.key_mask = whole->key_mask;
    for (int again = 0; again < 2; again++) {
        ops_attention(pair->fast, got, in[0], in[1], in[2], &shape);
        compare_operands(pair, what, got, want, NULL, q_count, 0, 0);
    }
    free(first_mask);
    free(shape.panels);
    free(got);
}

static void test_attention(pair *pair, attention_shape shape, int masked, float size) {
    char what[200];
    snprintf(what, sizeof what, "attention %d x %d, %d heads of %d over %d, masked %d, size %g", shape.queries,
             shape.keys, shape.heads, shape.head_dim, shape.kv_heads, masked, size);
    size_t q_count = (size_t)shape.queries * shape.heads * shape.head_dim;
    size_t kv_count = (size_t)shape.keys * shape.kv_heads * shape.head_dim;
    float *q = take_filled(q_count, size, SPREAD_ORDINARY), *k = take_filled(kv_count, size, SPREAD_ORDINARY);
    float *v = take_filled(kv_count, 1, SPREAD_ORDINARY);
    uint8_t *mask = take((size_t)shape.keys);
    for (int i = 0; i < shape.keys; i++) mask[i] = masked == 1 ? random_below(2) : masked == 2 ? 0 : 1;
    mask[random_below(shape.keys)] = 1;
    shape.key_mask = masked ? mask : NULL;
    shape.scale = 1.0f / sqrtf((float)shape.head_dim);
    if (masked) /* what masked keys hold must not matter */
        for (int i = 0; i < shape.keys; i++)
            for (int j = 0; j < shape.kv_heads * shape.head_dim && !mask[i]; j++)
                k[(size_t)i * shape.kv_heads * shape.head_dim + j] *= 1000;
    operand *in[2][3], *out[2];
    for (int side = 0; side < 2; side++) {
        ops *context = side ? pair->fast : pair->plain;
        in[side][0] = take_operand(context, q, q_count);
        in[side][1] = take_operand(context, k, kv_count);
        in[side][2] = take_operand(context, v, kv_count);
        out[side] = take_operand(context, NULL, q_count);
        ops_attention(context, out[side], in[side][0], in[side][1], in[side][2], &shape);
    }
    /* Scores of size s carry errors of s 2^-24 times a few, which the exponential makes relative ones. */
    double error = 2e-6 * (1 + size * size * sqrt((double)shape.head_dim));
    if (pair->precision == PI0_PRECISION_BF16) error += 0x1p-8; /* probabilities may be rounded too */
    compare_operands(pair, what, out[1], out[0], NULL, q_count, error, error);
    snprintf(what + strlen(what), sizeof what - strlen(what), ", kept panels");
    test_kept_panels(pair, what, (const operand *const *)in[1], out[1], &shape, q_count);
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < 3; i++) free(in[side][i]);
        free(out[side]);
    }
    free(q);
    free(k);
    free(v);
    free(mask);
}

/* ---- norms and the rest ---- */

static void test_rows(pair *pair, int rows, int width) {
    size_t count = (size_t)rows * width;
    float *x = take_filled(count, 3, pair->spread), *a = take_filled((size_t)width, 1, SPREAD_ORDINARY);
    float *b = take_filled((size_t)width, 1, SPREAD_ORDINARY);
    operand *want = take_operand(pair->plain, NULL, count), *got = take_operand(pair->fast, NULL, count);
    float *want_f = take(count * sizeof *want_f), *got_f = take(count * sizeof *got_f);
    char what[100];
    /* Outputs of norms are of size sqrt(width) at most; what cancels there has errors of its inputs' size. */
    double size = 1e-6 * sqrt((double)width);
    snprintf(what, sizeof what, "layer_norm %d x %d", rows, width);
    ops_layer_norm(pair->plain, want, x, a, b, rows, width);
    ops_layer_norm(pair->fast, got, x, a, b, rows, width);
    compare_operands(pair, what, got, want, NULL, count, 1e-6, size);
    for (int shifted = 0; shifted < 2; shifted++) {
        snprintf(what, sizeof what, "rms_norm %d x %d%s", rows, width, shifted ? " shift" : "");
        ops_rms_norm(pair->plain, want, x, a, shifted ? b : NULL, rows, width);
        ops_rms_norm(pair->fast, got, x, a, shifted ? b : NULL, rows, width);
        compare_operands(pair, what, got, want, NULL, count, 1e-6, 1e-6);
        ops_rms_norm_f32(pair->plain, want_f, x, a, shifted ? b : NULL, rows, width);
        ops_rms_norm_f32(pair->fast, got_f, x, a, shifted ? b : NULL, rows, width);
        compare(pair, what, got_f, want_f, NULL, count, 1e-6, 1e-6);
    }
    ops_to_operand(pair->plain, want, x, count);
    ops_to_operand(pair->fast, got, x, count);
    ops_from_operand(pair->plain, want_f, want, count);
    ops_from_operand(pair->fast, got_f, got, count);
    compare(pair, "to_operand", got_f, want_f, NULL, count, 0, 0);

    float *y = take_filled(count, 1, pair->spread);
    memcpy(want_f, x, count * sizeof *x);
    memcpy(got_f, x, count * sizeof *x);
    ops_add_gated(pair->plain, want_f, y, a, rows, width);
    ops_add_gated(pair->fast, got_f, y, a, rows, width);
    compare(pair, "add_gated", got_f, want_f, NULL, count, 0, 0);
    int period = 1 + random_below(rows);
    ops_add_rows(pair->plain, want_f, y, rows, width, period);
    ops_add_rows(pair->fast, got_f, y, rows, width, period);
    compare(pair, "add_rows", got_f, want_f, NULL, count, 0, 0);
    ops_euler(pair->plain, want_f, y, -0.1f, count);
    ops_euler(pair->fast, got_f, y, -0.1f, count);
    compare(pair, "euler", got_f, want_f, NULL, count, 0, 0);
    fill(want_f, count, 30, pair->spread);
    want_f[0] = -200;
    memcpy(got_f, want_f, count * sizeof *x);
    ops_silu(pair->plain, want_f, count);
    ops_silu(pair->fast, got_f, count);
    compare(pair, "silu", got_f, want_f, NULL, count, 3e-7, 1e-30);
    free(x);
    free(a);
    free(b);
    free(want);
    free(got);
    free(want_f);
    free(got_f);
    free(y);
}

static void test_rope(pair *pair, int rows, int heads, int head_dim) {
    size_t count = (size_t)rows * heads * head_dim, angles = (size_t)rows * head_dim / 2;
    float *x = take_filled(count, 1, pair->spread);
    float *cosine = take_filled(angles, 1, SPREAD_ORDINARY), *sine = take_filled(angles, 1, SPREAD_ORDINARY);
    operand *want = take_operand(pair->plain, NULL, count), *got = take_operand(pair->fast, NULL, count);
    ops_rope(pair->plain, want, x, cosine, sine, rows, heads, head_dim);
    ops_rope(pair->fast, got, x, cosine, sine, rows, heads, head_dim);
    pi0_precision precision = pair->precision;
    pair->precision = PI0_PRECISION_F32; /* exact at every precision */
    compare_operands(pair, "rope", got, want, NULL, count, 0, 0);
    pair->precision = precision;
    free(x);
    free(cosine);
    free(sine);
    free(want);
    free(got);
}

static void test_images(pair *pair, int image_size, int patch_size) {
    size_t count = (size_t)image_size * image_size * 3;
    uint8_t *image = take(count);
    for (size_t i = 0; i < count; i++) image[i] = (uint8_t)random_bits();
    float *planes = take_filled(count, 1, pair->spread);
    float *want = take(count * sizeof *want), *got = take(count * sizeof *got);
    size_t grid = (size_t)image_size / patch_size, values = grid * grid * 3 * patch_size * patch_size;
    ops_patches_u8(pair->plain, want, image, image_size, patch_size);
    ops_patches_u8(pair->fast, got, image, image_size, patch_size);
    compare(pair, "patches_u8", got, want, NULL, values, 0, 0);
    ops_patches_f32(pair->plain, want, planes, image_size, patch_size);
    ops_patches_f32(pair->fast, got, planes, image_size, patch_size);
    compare(pair, "patches_f32", got, want, NULL, values, 0, 0);
    free(image);
    free(planes);
    free(want);
    free(got);
}

static void test_embed(pair *pair, int rows, int width, tensor_dtype dtype) {
    weight table = take_weight(50, width, dtype, pair->spread);
    int32_t ids[64];
    float *want = take((size_t)rows * width * sizeof *want), *got = take((size_t)rows * width * sizeof *got);
    for (int i = 0; i < rows; i++) ids[i] = random_below(50);
    ops_embed(pair->plain, want, &table, ids, rows, 45.254834f);
    ops_embed(pair->fast, got, &table, ids, rows, 45.254834f);
    compare(pair, "embed", got, want, NULL, (size_t)rows * width, 0, 0);
    release_weight(&table);
    free(want);
    free(got);
}

/* ---- which shapes ---- */

static void test_products(pair *pair) {
    for (int rows = 1; rows <= 70; rows++)
        test_linear(pair, rows, 1 + random_below(140), 1 + random_below(300), rows % 3 ? DTYPE_BF16 : DTYPE_F32,
                    rows % 2, rows % 5 == 0);
    static const int edges[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129};
    enum { EDGES = sizeof edges / sizeof *edges };
    for (int i = 0; i < EDGES; i++) {
        for (int j = 0; j < EDGES; j++) {
            test_linear(pair, 1 + random_below(40), edges[i], edges[j], random_below(2) ? DTYPE_BF16 : DTYPE_F32,
                        random_below(2), random_below(2));
            if (j % 3 == 0)
                test_activated(pair, 1 + random_below(40), edges[i], edges[j],
                               random_below(2) ? DTYPE_BF16 : DTYPE_F32);
        }
    }
    /* more than one block of k, and rows past one task's */
    test_linear(pair, 10, 96, 4304, DTYPE_BF16, true, false);
    test_linear(pair, 11, 200, 1111, DTYPE_BF16, true, true);
    test_linear(pair, 12, 40, 2049, DTYPE_F32, false, true);
    test_linear(pair, 23, 300, 1023, DTYPE_BF16, false, false);
    test_linear(pair, 60, 100, 4304, DTYPE_BF16, true, true);
    test_linear(pair, 60, 100, 1153, DTYPE_F32, true, false);
    test_linear(pair, 883, 70, 400, DTYPE_BF16, true, false);
    test_linear(pair, 768, 33, 588, DTYPE_BF16, true, false);
    test_linear(pair, 30, 1100, 100, DTYPE_BF16, false, false);
    test_activated(pair, 10, 300, 1100, DTYPE_BF16);
    test_activated(pair, 47, 300, 1100, DTYPE_BF16);
    test_activated(pair, 5, 1000, 33, DTYPE_F32);
    for (int i = 0; i < 12; i++) {
        int columns[8];
        for (int j = 0; j < 8; j++) columns[j] = 1 + random_below(j == 0 ? 300 : 70);
        test_linear_many(pair, 1 + random_below(i < 6 ? 24 : 80), 1 + random_below(900), columns, 1 + i % 8,
                         i % 4 ? DTYPE_BF16 : DTYPE_F32);
    }
}

static void test_all_attention(pair *pair) {
    static const attention_shape shapes[] = {
        {.queries = 256, .keys = 256, .heads = 4, .kv_heads = 4, .head_dim = 72},
        {.queries = 16, .keys = 16, .heads = 4, .kv_heads = 4, .head_dim = 12},
        {.queries = 68, .keys = 68, .heads = 8, .kv_heads = 1, .head_dim = 16},
        {.queries = 100, .keys = 788, .heads = 8, .kv_heads = 1, .head_dim = 256},
        {.queries = 10, .keys = 799, .heads = 8, .kv_heads = 1, .head_dim = 256},
        {.queries = 1, .keys = 1, .heads = 8, .kv_heads = 1, .head_dim = 256},
        {.queries = 1, .keys = 385, .heads = 1, .kv_heads = 1, .head_dim = 1},
        {.queries = 33, .keys = 384, .heads = 6, .kv_heads = 2, .head_dim = 40},
        {.queries = 5, .keys = 1033, .heads = 4, .kv_heads = 2, .head_dim = 33},
        {.queries = 3, .keys = 5, .heads = 2, .kv_heads = 1, .head_dim = 400},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        test_attention(pair, shapes[i], 0, 1);
        test_attention(pair, shapes[i], 1, 1);
        test_attention(pair, shapes[i], 2, 1); /* one key counts */
        test_attention(pair, shapes[i], 3, 8); /* a mask of ones, large scores */
    }
}

static void test_others(pair *pair) {
    static const int widths[] = {1, 3, 12, 16, 31, 32, 48, 100, 1024, 1152, 2048};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        test_rows(pair, 1 + random_below(5), widths[i]);
        test_rows(pair, 17 + random_below(50), widths[i]);
        test_embed(pair, 1 + random_below(60), widths[i], i % 2 ? DTYPE_BF16 : DTYPE_F32);
    }
    static const int dims[] = {2, 6, 16, 30, 64, 72, 256};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        test_rope(pair, 1 + random_below(40), 1 + random_below(8), dims[i]);
    test_images(pair, 56, 14);
    test_images(pair, 224, 14);
    test_images(pair, 30, 7);
}

/* The same bits whatever the number of threads. */
static void test_threads(cpu_isa isa, pi0_precision precision, int *failures) {
    ops *one = open_context(isa, precision, 1, false), *three = open_context(isa, precision, 3, false);
    enum { COLUMNS = 700, K = 1000, MOST = 200 };
    weight w = take_weight(COLUMNS, K, DTYPE_BF16, SPREAD_ORDINARY);
    float *x = take_filled((size_t)MOST * K, 1, SPREAD_ORDINARY);
    float *a = take((size_t)MOST * COLUMNS * sizeof *a), *b = take((size_t)MOST * COLUMNS * sizeof *b);
    for (int rows = 1; rows <= MOST; rows = rows * 3 + 1) {
        ops_linear_f32(one, a, x, &w, NULL, rows, false);
        ops_linear_f32(three, b, x, &w, NULL, rows, false);
        if (memcmp(a, b, (size_t)rows * COLUMNS * sizeof *a)) {
            fprintf(stderr, "FAIL %s: %d rows on 1 and on 3 threads differ\n", cpu_isa_name(isa), rows);
            ++*failures;
        }
    }
    free(x);
    free(a);
    free(b);
    release_weight(&w);
    ops_close(&one);
    ops_close(&three);
}

static int test_variant(cpu_isa isa, pi0_precision precision, bool onednn) {
    pair pair = {.precision = precision};
    if (precision == PI0_PRECISION_BF16 && isa >= CPU_ISA_AVX512_BF16) pair.vanishing = 1e-28;
    char name[100];
    snprintf(name, sizeof name, "%s %s%s", cpu_isa_name(isa), precision == PI0_PRECISION_F32 ? "f32" : "bf16",
             onednn ? " oneDNN" : "");
    pair.name = name;
    pair.plain = open_context(CPU_ISA_PLAIN, precision, 2, false);
    pair.fast = open_context(isa, precision, 2, onednn);
    for (pair.spread = SPREAD_ORDINARY; pair.spread < SPREAD_COUNT; pair.spread++) {
        test_products(&pair);
        test_others(&pair);
    }
    pair.spread = SPREAD_ORDINARY;
    test_all_attention(&pair);
    ops_close(&pair.plain);
    ops_close(&pair.fast);
    if (!onednn) test_threads(isa, precision, &pair.failures);
    printf("%-24s %5d comparisons, %d failed\n", name, pair.checks, pair.failures);
    return pair.failures;
}

int main(int argc, char **argv) {
    if (argc > 1) return time_ops(argc, argv);
    int failures = 0;
    for (cpu_isa isa = CPU_ISA_AVX2; isa <= CPU_ISA_AMX; isa++) {
        if (isa > cpu_isa_best()) {
            printf("%-24s not on this CPU\n", cpu_isa_name(isa));
            continue;
        }
        for (pi0_precision precision = PI0_PRECISION_F32; precision <= PI0_PRECISION_BF16; precision++)
            failures += test_variant(isa, precision, false);
    }
#ifdef PI0_WITH_ONEDNN
    if (cpu_isa_best() == CPU_ISA_AVX512) failures += test_variant(CPU_ISA_AVX512, PI0_PRECISION_BF16, true);
#endif
    return failures ? 1 : 0;
}
