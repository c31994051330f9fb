/* The stand-in's look at launches: whether the arguments of each kernel of src/cuda are what it may be given. A pointer
 * must lie in device memory with all that the kernel reads and writes behind it. */
#include <string.h>

#include "cuda/attention.h"
#include "cuda/denoise.h"
#include "cuda/elementwise.h"
#include "cuda/gemm.h"
#include "standin.h"

static int round_up_to(int value, int step) { return (value + step - 1) / step * step; }

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) standin_misuse("%s: expected %s", launch->name, #condition);                                 \
    } while (0)
/* `count` values from `pointer` on. */
#define ON_DEVICE(pointer, count) EXPECT((pointer) && standin_on_device((pointer), (size_t)(count) * sizeof *(pointer)))
#define MAYBE_ON_DEVICE(pointer, count)                                                                                \
    do {                                                                                                               \
        if (pointer) ON_DEVICE(pointer, count);                                                                        \
    } while (0)
/* rows of `width` values, `stride` apart */
#define ROWS_ON_DEVICE(pointer, rows, stride, width) ON_DEVICE(pointer, ((int64_t)(rows) - 1) * (stride) + (width))

static void check_gemm(const standin_launch *launch) {
    const gemm_problem *p = launch->arguments[0];
    const int tiles_m = *(const int *)launch->arguments[1], tiles_n = *(const int *)launch->arguments[2];
    const int k_blocks = *(const int *)launch->arguments[3];
    EXPECT(p->features > 0 && p->tokens > 0 && p->k > 0);
    EXPECT(p->k % 8 == 0 && p->weights_stride % 8 == 0 && p->input_stride % 8 == 0);
    EXPECT(launch->grid[0] == (unsigned)(tiles_m * tiles_n) && launch->grid[1] == 1 && launch->grid[2] <= 4);
    EXPECT(tiles_m * 256 >= p->features && tiles_n * 256 >= p->tokens && k_blocks * 64 >= p->k);
    EXPECT(launch->threads == 128 || launch->threads == 256);
    ROWS_ON_DEVICE(p->weights, p->first_feature + p->features, p->weights_stride, p->k);
    ROWS_ON_DEVICE(p->input, p->tokens, p->input_stride, p->k);
    if (p->stats) ROWS_ON_DEVICE(p->stats, p->stats_slabs, p->stats_stride, p->row_map ? 1 : p->tokens);
    MAYBE_ON_DEVICE(p->bias, p->features);
    MAYBE_ON_DEVICE(p->center, p->features);
    EXPECT(!p->layer_norm || p->center);
    if (p->out) ROWS_ON_DEVICE(p->out, p->tokens, p->out_stride, p->out_stride);
    if (p->keys) {
        EXPECT(p->heads > 0 && p->head_dim > 0);
        ON_DEVICE(p->q, p->tokens * p->heads * p->head_dim);
        ON_DEVICE(p->keys, p->tokens * p->head_dim);
        ON_DEVICE(p->values, p->tokens * p->head_dim);
        ON_DEVICE(p->positions, p->tokens);
        ON_DEVICE(p->rope, p->head_dim / 2);
    }
    if (p->x) {
        EXPECT(p->row_period > 0);
        ON_DEVICE(p->x, (p->row_map ? 1 : p->tokens) * p->features);
        MAYBE_ON_DEVICE(p->operand, (p->row_map ? 1 : p->tokens) * p->features);
        EXPECT(!p->operand || p->gain);
        MAYBE_ON_DEVICE(p->gain, p->features);
        MAYBE_ON_DEVICE(p->row_bias, p->row_period * p->features);
        MAYBE_ON_DEVICE(p->row_map, (p->tokens + p->row_period - 1) / p->row_period);
        ON_DEVICE(p->ticket, GEMM_TICKETS);
        EXPECT(standin_on_device(p->partial, 16));
    }
    EXPECT(!p->out + !p->keys + !p->x == 2);
}

/* The epilogue after one of hipBLASLt's products. */
static void check_epilogue(const standin_launch *launch) {
    const gemm_problem *p = launch->arguments[0];
    const float *sums = *(const float **)launch->arguments[1];
    EXPECT(launch->threads == 128 && launch->grid[0] * 64 >= (unsigned)p->features &&
           launch->grid[1] * 64 >= (unsigned)p->tokens);
    ON_DEVICE(sums, p->tokens * p->features);
}

static void check_attention(const standin_launch *launch) {
    const attention_problem *p = launch->arguments[0];
    const int inner = p->heads * p->head_dim;
    EXPECT(p->group > 0 && p->heads > 0 && p->sequences > 0 && p->length > 0 && p->scale > 0);
    EXPECT(launch->grid[0] * 64 >= (unsigned)(p->length * p->group) && launch->grid[1] == (unsigned)p->heads &&
           launch->grid[2] == (unsigned)p->sequences && launch->threads == 256);
    const int tokens = p->starts ? p->length : p->sequences * p->length;
    ROWS_ON_DEVICE(p->q, tokens * p->group, p->q_stride, inner);
    ROWS_ON_DEVICE(p->out, tokens * p->group, p->out_stride, inner);
    ROWS_ON_DEVICE(p->k, tokens, p->kv_stride, inner);
    ROWS_ON_DEVICE(p->v, tokens, p->kv_stride, inner);
    MAYBE_ON_DEVICE(p->starts, p->sequences + 1);
    MAYBE_ON_DEVICE(p->key_mask, tokens);
}

static void check_skinny(const standin_launch *launch) {
    const skinny_problem *p = launch->arguments[0];
    EXPECT(p->rows > 0 && p->features > 0 && p->k == p->k_chunk && p->k % 128 == 0 && p->operand_k == p->k);
    EXPECT(launch->threads == 512 && launch->grid[1] * 32 >= (unsigned)p->rows);
    ON_DEVICE(p->weights, (int64_t)p->features * p->weights_k);
    ON_DEVICE(p->operand, round_up_to(p->rows, 16) * p->operand_k);
    if (p->stats) ROWS_ON_DEVICE(p->stats, p->stats_slabs, p->stats_stride, p->rows);
    MAYBE_ON_DEVICE(p->shift, p->features);
    if (p->q) {
        ON_DEVICE(p->q, p->rows * p->heads * p->head_dim);
        ON_DEVICE(p->suffix_keys, p->slots * p->head_dim);
        ON_DEVICE(p->suffix_values, p->slots * p->head_dim);
        ON_DEVICE(p->rope, p->head_dim / 2);
        ON_DEVICE(p->prefix_valid, 1);
        EXPECT(p->features == (p->heads + 2) * p->head_dim);
    } else {
        ON_DEVICE(p->out, round_up_to(p->rows, 16) * p->out_k);
    }
    if (p->gain) {
        ON_DEVICE(p->gain, p->features);
        ON_DEVICE(p->x, p->rows * p->features);
        ROWS_ON_DEVICE(p->stats_out, (p->features + 7) / 8, p->stats_stride, p->rows);
        MAYBE_ON_DEVICE(p->gate, p->features);
    }
    if (p->state) {
        ON_DEVICE(p->bias, p->features);
        ON_DEVICE(p->state, p->action_dim);
        MAYBE_ON_DEVICE(p->state_weights, p->features * p->action_dim);
    }
}

static void check_suffix(const standin_launch *launch) {
    const suffix_attention_problem *p = launch->arguments[0];
    const int rows = p->action_rows + p->state_rows * p->batch;
    EXPECT(launch->threads == 256 && launch->grid[1] == (unsigned)p->heads && launch->grid[0] >= 1);
    EXPECT(launch->grid[0] == 1 || (p->partial && launch->grid[0] <= SUFFIX_MOST_BLOCKS));
    EXPECT(launch->grid[2] * 16 >= (unsigned)(p->batch * (p->horizon + p->state_rows)));
    ON_DEVICE(p->q, rows * p->heads * p->head_dim);
    ON_DEVICE(p->keys, p->head_dim);
    ON_DEVICE(p->values, p->head_dim);
    ON_DEVICE(p->suffix_keys, p->batch * p->slots * p->head_dim);
    ON_DEVICE(p->suffix_values, p->batch * p->slots * p->head_dim);
    ON_DEVICE(p->starts, p->batch + 1);
    ON_DEVICE(p->out, round_up_to(rows, 16) * p->out_k);
    MAYBE_ON_DEVICE(p->ticket, GEMM_TICKETS);
}

static void check_heads(const standin_launch *launch) {
    const heads_problem *p = launch->arguments[0];
    const int values = p->rows * p->action_dim;
    EXPECT(launch->threads == 256 && launch->grid[1] * 16 >= (unsigned)p->rows);
    ON_DEVICE(p->x_before, values);
    if (p->operand) {
        ON_DEVICE(p->operand, round_up_to(p->rows, 16) * p->operand_k);
        ON_DEVICE(p->out_weights, p->action_dim * p->width);
        ON_DEVICE(p->out_bias, p->action_dim);
        ON_DEVICE(p->x_after, values);
        ON_DEVICE(p->v, values);
        EXPECT(p->dt < 0);
    }
    if (p->next_weights) {
        EXPECT(launch->grid[0] * 64 >= (unsigned)p->width);
        ON_DEVICE(p->next_weights, p->width * p->action_dim);
        ON_DEVICE(p->next_bias, p->width);
        if (p->high_low)
            ON_DEVICE(p->high_low, round_up_to(p->rows, 16) * p->operand_k * 2);
        else
            ON_DEVICE(p->tokens, p->rows * p->width);
    }
}

static void check_patches(const standin_launch *launch) {
    const patches_problem *p = launch->arguments[0];
    const int grid = p->size / p->patch;
    EXPECT(launch->grid[0] == (unsigned)(p->count * grid * grid));
    ON_DEVICE(p->images, p->count * p->image_stride);
    ON_DEVICE(p->kinds, p->count);
    ON_DEVICE(p->out, (int64_t)p->count * grid * grid * p->parts * PATCH_K);
}

static void check_text(const standin_launch *launch) {
    const text_problem *p = launch->arguments[0];
    EXPECT(launch->grid[0] == (unsigned)p->count);
    ON_DEVICE(p->table, p->width);
    ON_DEVICE(p->tokens, p->count);
    ON_DEVICE(p->rows, p->count);
    ON_DEVICE(p->x, p->width);
    ON_DEVICE(p->operand, p->width);
    ON_DEVICE(p->gain, p->width);
}

static void check_pack(const standin_launch *launch) {
    const pack_problem *p = launch->arguments[0];
    EXPECT(p->rows > 0 && p->cols > 0 && p->out_stride >= 0);
    EXPECT(standin_on_device(p->out, p->out_f32 ? sizeof(float) : 2));
    /* the device reads pinned host memory */
    if (p->source)
        EXPECT(standin_readable(p->source, (size_t)p->rows * p->cols * 2));
    else
        EXPECT(p->key != 0);
}

static void check_linear(const standin_launch *launch) {
    const linear_problem *p = launch->arguments[0];
    EXPECT(launch->grid[0] == (unsigned)((p->n + 7) / 8) && launch->grid[1] == (unsigned)p->m);
    ROWS_ON_DEVICE(p->x, p->m, p->x_stride, p->k);
    ROWS_ON_DEVICE(p->weights, p->n, p->weights_stride, p->k);
    ROWS_ON_DEVICE(p->y, p->m, p->y_stride, p->n);
    MAYBE_ON_DEVICE(p->bias, p->n);
}

/* Kernels whose first argument is a pointer. */
static void check_pointer(const standin_launch *launch) {
    EXPECT(standin_on_device(*(void **)launch->arguments[0], 2));
}

void standin_check_launch(const standin_launch *launch) {
    static const struct {
        const char *name;
        void (*check)(const standin_launch *);
    } checks[] = {{"gemm_portable", check_gemm},
                  {"epilogue_kernel", check_epilogue},
                  {"suffix_attention_kernel", check_suffix},
                  {"attention_kernel", check_attention},
                  {"skinny_kernel", check_skinny},
                  {"heads_kernel", check_heads},
                  {"patches_kernel", check_patches},
                  {"text_kernel", check_text},
                  {"pack_kernel", check_pack},
                  {"linear_kernel", check_linear},
                  {"fold_", check_pointer},
                  {"rope_table_kernel", check_pointer}};
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (strstr(launch->name, checks[i].name)) {
            checks[i].check(launch);
            return;
        }
    standin_misuse("%s: a kernel that the stand-in does not know", launch->name);
}
