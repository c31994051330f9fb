/*
 * Every op in plain C: what the ops mean, and what the fast variants are tested against. Sums that the fast variants
 * make in float32 are made in float64 here, so that the twin is nearer to the truth than any of them.
 * Math: openpi models_pytorch (gemma, siglip) as given by the spec of the model.
 */
#include <math.h>
#include <omp.h>

#include "cpu/trace.h"

/* Rows are shared out to the context's threads; each is computed by one thread in one order. The outer loop runs once
 * on each thread: it stands around the shared one so that the thread's part of the op can be timed. */
#define PARALLEL_ROWS(context)                                                                                         \
    _Pragma("omp parallel num_threads((context)->threads)") for (int once_ = (thread_part_begin(context), 1); once_;   \
                                                                 once_ = (thread_part_end(context), 0))                \
        _Pragma("omp for schedule(static) nowait")

static float gelu_tanh(float x) {
    double value = x;
    return (float)(0.5 * value * (1.0 + tanh(0.7978845608028654 * (value + 0.044715 * value * value * value))));
}

static void plain_to_operand(ops *context, operand *out, const float *in, size_t count) {
    for (size_t i = 0; i < count; i++) operand_put(context->storage, out, i, in[i]);
}

static void plain_from_operand(ops *context, float *out, const operand *in, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = operand_get(context->storage, in, i);
}

/* Row `row` of x [rows, w.cols] times row `column` of w. */
static double dot_row(operand_storage storage, const operand *x, int row, const weight *w, int column) {
    size_t width = (size_t)w->cols;
    double sum = 0;
    for (size_t k = 0; k < width; k++)
        sum += (double)operand_get(storage, x, (size_t)row * width + k) * weight_get(w, (size_t)column * width + k);
    return sum;
}

static void linear(ops *context, operand_storage storage, float *y, const operand *x, const weight *w,
                   const float *bias, int rows, bool add) {
    PARALLEL_ROWS(context)
    for (int column = 0; column < w->rows; column++) {
        for (int row = 0; row < rows; row++) {
            float *out = &y[(size_t)row * w->rows + column];
            float value = (float)(dot_row(storage, x, row, w, column) + (bias ? bias[column] : 0));
            *out = add ? *out + value : value;
        }
    }
}

static void plain_linear(ops *context, float *y, const operand *x, const weight *w, const float *bias, int rows,
                         bool add) {
    linear(context, context->storage, y, x, w, bias, rows, add);
}

static void plain_linear_f32(ops *context, float *y, const float *x, const weight *w, const float *bias, int rows,
                             bool add) {
    linear(context, OPERAND_F32, y, (const operand *)x, w, bias, rows, add);
}

static void plain_linear_many(ops *context, float *const *y, const operand *x, const weight *const *w,
                              const float *const *bias, int count, int rows) {
    for (int i = 0; i < count; i++)
        linear(context, context->storage, y[i], x, w[i], bias ? bias[i] : NULL, rows, false);
}

static void plain_linear_gelu(ops *context, operand *out, const operand *x, const weight *fc1, const float *bias,
                              int rows) {
    PARALLEL_ROWS(context)
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < fc1->rows; column++) {
            float value = (float)(dot_row(context->storage, x, row, fc1, column) + (bias ? bias[column] : 0));
            operand_put(context->storage, out, (size_t)row * fc1->rows + column, gelu_tanh(value));
        }
    }
}

static void plain_linear_gated(ops *context, operand *out, const operand *x, const weight *gate, const weight *up,
                               int rows) {
    PARALLEL_ROWS(context)
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < gate->rows; column++) {
            float gated = gelu_tanh((float)dot_row(context->storage, x, row, gate, column));
            float value = (float)dot_row(context->storage, x, row, up, column);
            operand_put(context->storage, out, (size_t)row * gate->rows + column, gated * value);
        }
    }
}

static void plain_attention(ops *context, operand *out, const operand *q, const operand *k, const operand *v,
                            const attention_shape *shape) {
    operand_storage storage = context->storage;
    int head_dim = shape->head_dim;
    size_t kv_width = (size_t)shape->kv_heads * head_dim;
    PARALLEL_ROWS(context)
    for (int task = 0; task < shape->queries * shape->heads; task++) {
        int head = task % shape->heads;
        size_t q_start = (size_t)task * head_dim;
        size_t kv_start = (size_t)(head * shape->kv_heads / shape->heads) * head_dim;
        double *scores = (double *)(context->scratch + omp_get_thread_num() * context->thread_scratch_bytes);
        double highest = -INFINITY, sum = 0;
        for (int key = 0; key < shape->keys; key++) {
            double score = 0;
            for (int i = 0; i < head_dim; i++)
                score += (double)operand_get(storage, q, q_start + i) *
                         operand_get(storage, k, key * kv_width + kv_start + i);
            scores[key] = shape->key_mask && !shape->key_mask[key] ? -INFINITY : score * shape->scale;
            highest = scores[key] > highest ? scores[key] : highest;
        }
        for (int key = 0; key < shape->keys; key++) {
            scores[key] = exp(scores[key] - highest);
            sum += scores[key];
        }
        for (int i = 0; i < head_dim; i++) {
            double value = 0;
            for (int key = 0; key < shape->keys; key++)
                if (scores[key] > 0) value += scores[key] * operand_get(storage, v, key * kv_width + kv_start + i);
            operand_put(storage, out, q_start + i, (float)(value / sum));
        }
    }
}

static void plain_layer_norm(ops *context, operand *out, const float *x, const float *weight, const float *bias,
                             int rows, int width) {
    for (int row = 0; row < rows; row++) {
        const float *in = x + (size_t)row * width;
        double mean = 0, variance = 0;
        for (int i = 0; i < width; i++) mean += in[i];
        mean /= width;
        for (int i = 0; i < width; i++) variance += (in[i] - mean) * (in[i] - mean);
        double factor = 1.0 / sqrt(variance / width + NORM_EPSILON);
        for (int i = 0; i < width; i++)
            operand_put(context->storage, out, (size_t)row * width + i,
                        (float)((in[i] - mean) * factor * weight[i] + bias[i]));
    }
}

static void rms_norm(operand_storage storage, operand *out, const float *x, const float *scale, const float *shift,
                     int rows, int width) {
    for (int row = 0; row < rows; row++) {
        const float *in = x + (size_t)row * width;
        double square = 0;
        for (int i = 0; i < width; i++) square += (double)in[i] * in[i];
        double factor = 1.0 / sqrt(square / width + NORM_EPSILON);
        for (int i = 0; i < width; i++)
            operand_put(storage, out, (size_t)row * width + i,
                        (float)(in[i] * factor * (1.0 + scale[i]) + (shift ? shift[i] : 0)));
    }
}

static void plain_rms_norm(ops *context, operand *out, const float *x, const float *scale, const float *shift, int rows,
                           int width) {
    rms_norm(context->storage, out, x, scale, shift, rows, width);
}

static void plain_rms_norm_f32(ops *context, float *out, const float *x, const float *scale, const float *shift,
                               int rows, int width) {
    (void)context;
    rms_norm(OPERAND_F32, (operand *)out, x, scale, shift, rows, width);
}

static void plain_rope(ops *context, operand *out, const float *x, const float *cosine, const float *sine, int rows,
                       int heads, int head_dim) {
    int half = head_dim / 2;
    for (int row = 0; row < rows; row++) {
        for (int head = 0; head < heads; head++) {
            size_t first = ((size_t)row * heads + head) * head_dim;
            for (int i = 0; i < half; i++) {
                float c = cosine[(size_t)row * half + i], s = sine[(size_t)row * half + i];
                float low = x[first + i], high = x[first + half + i];
                operand_put(context->storage, out, first + i, low * c - high * s);
                operand_put(context->storage, out, first + half + i, high * c + low * s);
            }
        }
    }
}

static void plain_add_gated(ops *context, float *x, const float *y, const float *gate, int rows, int width) {
    (void)context;
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < width; i++) x[(size_t)row * width + i] += y[(size_t)row * width + i] * gate[i];
}

static void plain_silu(ops *context, float *x, size_t count) {
    (void)context;
    for (size_t i = 0; i < count; i++) x[i] = (float)(x[i] / (1.0 + exp(-(double)x[i])));
}

/* Index of pixel (row, column) of a patch among the patches' values; `channel` planes of patch_size^2 each. */
static size_t patch_index(int image_size, int patch_size, int channel, int y, int x) {
    size_t grid = (size_t)image_size / patch_size;
    size_t patch = y / patch_size * grid + x / patch_size;
    return ((patch * 3 + channel) * patch_size + y % patch_size) * patch_size + x % patch_size;
}

static void plain_patches_u8(ops *context, float *patches, const uint8_t *image, int image_size, int patch_size) {
    (void)context;
    int side = image_size / patch_size * patch_size;
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int channel = 0; channel < 3; channel++)
                patches[patch_index(image_size, patch_size, channel, y, x)] =
                    (float)image[((size_t)y * image_size + x) * 3 + channel] / 255.0f * 2.0f - 1.0f;
}

static void plain_patches_f32(ops *context, float *patches, const float *image, int image_size, int patch_size) {
    (void)context;
    int side = image_size / patch_size * patch_size;
    for (int channel = 0; channel < 3; channel++)
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                patches[patch_index(image_size, patch_size, channel, y, x)] =
                    image[((size_t)channel * image_size + y) * image_size + x];
}

static void plain_embed(ops *context, float *x, const weight *table, const int32_t *ids, int count, float scale) {
    (void)context;
    size_t width = (size_t)table->cols;
    for (int row = 0; row < count; row++)
        for (size_t i = 0; i < width; i++) x[row * width + i] = weight_get(table, ids[row] * width + i) * scale;
}

static void plain_add_rows(ops *context, float *x, const float *y, int rows, int width, int period) {
    (void)context;
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < width; i++) x[(size_t)row * width + i] += y[(size_t)(row % period) * width + i];
}

static void plain_euler(ops *context, float *x, const float *v, float dt, size_t count) {
    (void)context;
    for (size_t i = 0; i < count; i++) {
        float change = dt * v[i];
        x[i] += change;
    }
}

const ops_table plain_table = {
    .to_operand = plain_to_operand,
    .from_operand = plain_from_operand,
    .linear = plain_linear,
    .linear_f32 = plain_linear_f32,
    .linear_many = plain_linear_many,
    .linear_gelu = plain_linear_gelu,
    .linear_gated = plain_linear_gated,
    .attention = plain_attention,
    .layer_norm = plain_layer_norm,
    .rms_norm = plain_rms_norm,
    .rms_norm_f32 = plain_rms_norm_f32,
    .rope = plain_rope,
    .add_gated = plain_add_gated,
    .silu = plain_silu,
    .patches_u8 = plain_patches_u8,
    .patches_f32 = plain_patches_f32,
    .embed = plain_embed,
    .add_rows = plain_add_rows,
    .euler = plain_euler,
};
