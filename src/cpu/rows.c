/*
 * Norms, RoPE, elementwise ops and patches: rows shared out to threads where there is work enough to be worth waking
 * them, on the calling thread alone otherwise.
 */
#include "cpu/engine.h"
#include "cpu/trace.h"

/* A thread more costs about as much as handling this many values. */
enum { VALUES_PER_THREAD = 16384 };

static int threads_for(const ops *context, size_t values) {
    size_t useful = values / VALUES_PER_THREAD;
    return useful < 1 ? 1 : useful < (size_t)context->threads ? (int)useful : context->threads;
}

/* The part of `count` items that belongs to the calling thread of a team. */
typedef struct share {
    size_t first, count;
} share;

static share my_share(size_t count) {
    size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
    size_t first = count * thread / threads;
    return (share){first, count * (thread + 1) / threads - first};
}

/* Runs statements on each thread with `part`, its share of `items` items of `size` values. */
#define SHARED_OUT(items, size, ...)                                                                                   \
    do {                                                                                                               \
        size_t items_ = (size_t)(items);                                                                               \
        int threads_ = threads_for(context, items_ * (size_t)(size));                                                  \
        if (threads_ == 1) {                                                                                           \
            share part = {0, items_};                                                                                  \
            __VA_ARGS__;                                                                                               \
            break;                                                                                                     \
        }                                                                                                              \
        _Pragma("omp parallel num_threads(threads_)") {                                                                \
            thread_part_begin(context);                                                                                \
            share part = my_share(items_);                                                                             \
            __VA_ARGS__;                                                                                               \
            thread_part_end(context);                                                                                  \
        }                                                                                                              \
    } while (0)

/* `out` from row part.first on, for kernels that count rows from their pointer. */
#define ROWS_FROM(out, width) operand_at(context, out, part.first *(size_t)(width))

static void to_operand(ops *context, operand *out, const float *in, size_t count) {
    SHARED_OUT(
        count, 1,
        context->kernels->convert(out, context->storage, (const operand *)in, OPERAND_F32, part.first, part.count));
}

static void from_operand(ops *context, float *out, const operand *in, size_t count) {
    SHARED_OUT(count, 1,
               context->kernels->convert((operand *)out, OPERAND_F32, in, context->storage, part.first, part.count));
}

static void layer_norm(ops *context, operand *out, const float *x, const float *weight, const float *bias, int rows,
                       int width) {
    SHARED_OUT(rows, width,
               context->kernels->layer_norm(ROWS_FROM(out, width), context->storage, x + part.first * width, weight,
                                            bias, (int)part.count, width));
}

static void rms_norm(ops *context, operand *out, const float *x, const float *scale, const float *shift, int rows,
                     int width) {
    SHARED_OUT(rows, width,
               context->kernels->rms_norm(ROWS_FROM(out, width), context->storage, x + part.first * width, scale, shift,
                                          (int)part.count, width));
}

static void rms_norm_f32(ops *context, float *out, const float *x, const float *scale, const float *shift, int rows,
                         int width) {
    SHARED_OUT(rows, width,
               context->kernels->rms_norm((operand *)(out + part.first * width), OPERAND_F32, x + part.first * width,
                                          scale, shift, (int)part.count, width));
}

static void rope(ops *context, operand *out, const float *x, const float *cosine, const float *sine, int rows,
                 int heads, int head_dim) {
    size_t width = (size_t)heads * head_dim, half = (size_t)head_dim / 2;
    SHARED_OUT(rows, width,
               context->kernels->rope(ROWS_FROM(out, width), context->storage, x + part.first * width,
                                      cosine + part.first * half, sine + part.first * half, (int)part.count, heads,
                                      head_dim));
}

static void add_gated(ops *context, float *x, const float *y, const float *gate, int rows, int width) {
    SHARED_OUT(
        rows, width,
        context->kernels->add_gated(x + part.first * width, y + part.first * width, gate, (int)part.count, width));
}

static void silu(ops *context, float *x, size_t count) {
    SHARED_OUT(count, 4, context->kernels->silu(x + part.first, part.count));
}

static void embed(ops *context, float *x, const weight *table, const int32_t *ids, int count, float scale) {
    size_t width = (size_t)table->cols, bytes = width * (table->dtype == DTYPE_BF16 ? sizeof(bf16) : sizeof(float));
    for (int row = 0; row < count; row++)
        context->kernels->embed_row(x + row * width, (const unsigned char *)table->data + ids[row] * bytes,
                                    table->dtype, table->cols, scale);
}

static void add_rows(ops *context, float *x, const float *y, int rows, int width, int period) {
    SHARED_OUT(rows, width,
               for (size_t row = part.first; row < part.first + part.count; row++)
                   context->kernels->add(x + row * width, y + row % period * width, (size_t)width));
}

static void euler(ops *context, float *x, const float *v, float dt, size_t count) {
    SHARED_OUT(count, 1, context->kernels->euler(x + part.first, v + part.first, dt, part.count));
}

/* Rows of patches `part`: the values of each are written in order, so that reads are the scattered side. */
static void fill_patches(float *patches, const uint8_t *bytes, const float *planes, int image_size, int patch_size,
                         share part) {
    size_t grid = (size_t)image_size / patch_size, side = (size_t)image_size, plane = side * side;
    for (size_t patch = part.first; patch < part.first + part.count; patch++) {
        float *to = patches + patch * 3 * patch_size * patch_size;
        for (size_t channel = 0; channel < 3; channel++) {
            for (int y = 0; y < patch_size; y++, to += patch_size) {
                size_t from = (patch / grid * patch_size + y) * side + patch % grid * patch_size;
                for (int x = 0; x < patch_size; x++)
                    to[x] = bytes ? (float)bytes[(from + x) * 3 + channel] / 255.0f * 2.0f - 1.0f
                                  : planes[channel * plane + from + x];
            }
        }
    }
}

static void patches_u8(ops *context, float *patches, const uint8_t *image, int image_size, int patch_size) {
    int grid = image_size / patch_size;
    SHARED_OUT(grid * grid, 3 * patch_size * patch_size,
               fill_patches(patches, image, NULL, image_size, patch_size, part));
}

static void patches_f32(ops *context, float *patches, const float *image, int image_size, int patch_size) {
    int grid = image_size / patch_size;
    SHARED_OUT(grid * grid, 3 * patch_size * patch_size,
               fill_patches(patches, NULL, image, image_size, patch_size, part));
}

void rows_fill_table(ops_table *table) {
    table->to_operand = to_operand;
    table->from_operand = from_operand;
    table->layer_norm = layer_norm;
    table->rms_norm = rms_norm;
    table->rms_norm_f32 = rms_norm_f32;
    table->rope = rope;
    table->add_gated = add_gated;
    table->silu = silu;
    table->patches_u8 = patches_u8;
    table->patches_f32 = patches_f32;
    table->embed = embed;
    table->add_rows = add_rows;
    table->euler = euler;
}
