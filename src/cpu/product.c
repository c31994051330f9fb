/*
 * Products y = x w^T over the float32 kernels, with the weights used where they lie.
 *
 * Many rows: work is cut into chunks of weight rows (columns of y) and, where there are more threads than such chunks,
 * of rows of x. A task goes over k in blocks. For each it widens and transposes its part of the weights into panels
 * that stay in L2; then, 14 (or 6) rows of x at a time, copied to lie together in L1, it runs over the panels and adds
 * to sums kept in tiles. After the last block each tile gets bias, activation or addition on its way out.
 *
 * Few rows: bound by reading the weights once. Each weight row is multiplied with all rows of x where it lies; only
 * x is rearranged, and cut along k so that it stays in L1.
 *
 * Which task a thread takes is left to chance, but each sum has one order of additions that depends on shapes and cache
 * sizes only: results do not depend on the number of threads.
 */
#include <omp.h>

#include "cpu/engine.h"
#include "cpu/trace.h"

enum { MAX_SEGMENTS = 8 };

/* One product, or several of one x: segment i is w[i] with its own y and bias. Gated: w[0] is gate, w[1] up. */
typedef struct product {
    const operand *x;
    operand_storage storage;
    int rows, k;
    int count;
    const weight *w[MAX_SEGMENTS];
    float *y[MAX_SEGMENTS];
    const float *bias[MAX_SEGMENTS];
    operand *out; /* set: activated, to operands; else to y */
    bool add, gated;
} product;

/* Columns [first, first + columns) of a segment. */
typedef struct column_range {
    int segment, first, columns;
} column_range;

static int segments(const product *p) { return p->gated ? 1 : p->count; }

/* The `index`-th piece when each segment is cut into pieces of `width` columns. */
static column_range piece(const product *p, int width, int index) {
    column_range range = {0};
    for (int s = 0; s < segments(p); s++) {
        int pieces = (p->w[s]->rows + width - 1) / width;
        if (index >= pieces) {
            index -= pieces;
            continue;
        }
        range.segment = s;
        range.first = index * width;
        range.columns = p->w[s]->rows - range.first < width ? p->w[s]->rows - range.first : width;
        break;
    }
    return range;
}

static int piece_count(const product *p, int width) {
    int pieces = 0;
    for (int s = 0; s < segments(p); s++) pieces += (p->w[s]->rows + width - 1) / width;
    return pieces;
}

static const void *weight_at(const weight *w, int row, int k) {
    return (const unsigned char *)w->data +
           ((size_t)row * w->cols + k) * (w->dtype == DTYPE_BF16 ? sizeof(bf16) : sizeof(float));
}

static tile_target target_of(const ops *context, const product *p, const column_range *range, int row) {
    const weight *w = p->w[range->segment];
    const float *bias = p->bias[range->segment];
    tile_target target = {
        .sums = p->y[range->segment],
        .out = p->out,
        .stride = (size_t)w->rows,
        .first = (size_t)row * w->rows + range->first,
        .bias = bias ? bias + range->first : NULL,
        .add = p->add,
        .gated = p->gated,
        .storage = context->storage,
    };
    return target;
}

/* Reading a weight from memory takes as long as about eight multiplications. */
static int product_threads(const ops *context, const product *p) {
    double columns = 0;
    for (int i = 0; i < p->count; i++) columns += p->w[i]->rows;
    return threads_worth(context, columns * p->k * (p->rows + 8.0));
}

/* ---- many rows ---- */

static void pack_panel(const kernels *kernels, float *panel, const product *p, const column_range *range, int first_k,
                       int k) {
    int lanes = kernels->lanes, width = p->gated || range->columns > lanes ? 2 * lanes : lanes;
    for (int half = 0; half * lanes < width; half++) {
        const weight *w = p->w[p->gated ? half : range->segment];
        int row = range->first + (p->gated ? 0 : half * lanes);
        int left = range->first + range->columns - row;
        kernels->pack(panel + half * lanes, width, weight_at(w, row, first_k), w->dtype, (size_t)w->cols,
                      left < lanes ? left : lanes, k);
    }
}

static const void *operand_address(const product *p, int row, int k) {
    size_t size = p->storage == OPERAND_BF16 ? sizeof(bf16) : sizeof(float);
    return (const unsigned char *)p->x + ((size_t)row * p->k + k) * size;
}

/* Panels [first_panel, last_panel) times rows [first_row, last_row). */
static void multiply_tiles(const ops *context, const product *p, unsigned char *scratch, int first_panel,
                           int last_panel, int first_row, int last_row) {
    const kernels *kernels = context->kernels;
    int lanes = kernels->lanes, panel_width = p->gated ? lanes : 2 * lanes;
    size_t panel_floats = (size_t)BLOCK_K * 2 * lanes, tile_floats = (size_t)kernels->tile_rows * 2 * lanes;
    float *x_rows = (float *)scratch;
    float *panels = x_rows + MAX_TILE_ROWS * ROW_STRIDE;
    float *sums = panels + (size_t)context->panels * panel_floats;
    int blocks = (p->k + BLOCK_K - 1) / BLOCK_K;
    int block_k = ((p->k + blocks - 1) / blocks + 31) / 32 * 32;
    for (int first_k = 0; first_k < p->k; first_k += block_k) {
        int k = p->k - first_k < block_k ? p->k - first_k : block_k;
        bool last = first_k + k == p->k;
        for (int i = first_panel; i < last_panel; i++) {
            column_range range = piece(p, panel_width, i);
            pack_panel(kernels, panels + (i - first_panel) * panel_floats, p, &range, first_k, k);
        }
        float *tile = sums;
        for (int row = first_row; row < last_row; row += kernels->tile_rows) {
            int rows = last_row - row < kernels->tile_rows ? last_row - row : kernels->tile_rows;
            kernels->copy_rows(x_rows, p->x, p->storage, (size_t)row * p->k + first_k, (size_t)p->k, rows, k);
            for (int i = first_panel; i < last_panel; i++, tile += tile_floats) {
                column_range range = piece(p, panel_width, i);
                int vectors = p->gated || range.columns > lanes ? 2 : 1;
                const void *ahead[2] = {x_rows, x_rows};
                for (int j = 0; j < 2; j++) {
                    int next = row + rows + (i - first_panel) + j * (last_panel - first_panel);
                    if (next < last_row && next < row + rows + kernels->tile_rows)
                        ahead[j] = operand_address(p, next, first_k);
                }
                kernels->tile(tile, (size_t)vectors * lanes, x_rows, panels + (i - first_panel) * panel_floats, k, rows,
                              vectors, first_k == 0, ahead);
                if (!last) continue;
                tile_target target = target_of(context, p, &range, row);
                kernels->finish(&target, tile, (size_t)vectors * lanes, rows, range.columns);
            }
        }
    }
}

static void multiply_many_rows(ops *context, const product *p) {
    const kernels *kernels = context->kernels;
    int threads = product_threads(context, p);
    int panels = piece_count(p, p->gated ? kernels->lanes : 2 * kernels->lanes);
    /* A few tasks a thread, so that a slow thread takes fewer; but panels enough that copying x is little beside it. */
    int wanted = 4 * threads;
    int at_once = (panels + wanted - 1) / wanted;
    at_once = at_once < 6 ? 6 : at_once > context->panels ? context->panels : at_once;
    if (at_once > panels) at_once = panels;
    int column_tasks = (panels + at_once - 1) / at_once;
    if (threads == 1) column_tasks = (panels + context->panels - 1) / context->panels;
    int row_tasks = (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    while (column_tasks * row_tasks < 2 * threads && p->rows / (row_tasks + 1) >= 8 * kernels->tile_rows) row_tasks++;
    int tile_rows = (p->rows + kernels->tile_rows - 1) / kernels->tile_rows;
#pragma omp parallel num_threads(threads)
    {
        thread_part_begin(context);
#pragma omp for schedule(dynamic, 1) nowait
        for (int task = 0; task < column_tasks * row_tasks; task++) {
            int column_task = task / row_tasks, row_task = task % row_tasks;
            int first_row = (int)((int64_t)tile_rows * row_task / row_tasks) * kernels->tile_rows;
            int last_row = (int)((int64_t)tile_rows * (row_task + 1) / row_tasks) * kernels->tile_rows;
            multiply_tiles(context, p, thread_scratch(context), (int)((int64_t)panels * column_task / column_tasks),
                           (int)((int64_t)panels * (column_task + 1) / column_tasks), first_row,
                           last_row < p->rows ? last_row : p->rows);
        }
        thread_part_end(context);
    }
}

/* ---- few rows ---- */

typedef struct skinny_plan {
    int groups, group_rows; /* rows of x in groups of at most kernels->skinny_rows */
    int block_k;            /* so much of a group's x stays in L1 */
    int columns;            /* of y in a task; where gated, of gate and of up */
    size_t block_floats;    /* of one group's packed x and one block of k */
} skinny_plan;

static skinny_plan plan_skinny(const ops *context, const product *p, int threads) {
    skinny_plan plan = {.groups = (p->rows + context->kernels->skinny_rows - 1) / context->kernels->skinny_rows};
    plan.group_rows = (p->rows + plan.groups - 1) / plan.groups;
    int fitting = (int)(context->l1_bytes / 2 / sizeof(float)) / plan.group_rows;
    int blocks = (p->k + fitting - 1) / fitting;
    plan.block_k = ((p->k + blocks - 1) / blocks + 31) / 32 * 32;
    plan.block_floats = (size_t)plan.group_rows * plan.block_k;
    plan.columns = SKINNY_TASK_COLUMNS;
    while (plan.columns > 16 && piece_count(p, plan.columns) < 4 * threads) plan.columns /= 2;
    return plan;
}

static void multiply_columns(const ops *context, const product *p, const skinny_plan *plan, const float *x, float *sums,
                             column_range range) {
    const kernels *kernels = context->kernels;
    size_t sums_floats = (size_t)plan->group_rows * SKINNY_TASK_COLUMNS;
    float *tile = sums + 2 * plan->groups * sums_floats + MAX_LANES;
    for (int first_k = 0; first_k < p->k; first_k += plan->block_k) {
        int k = p->k - first_k < plan->block_k ? p->k - first_k : plan->block_k;
        for (int half = 0; half <= (int)p->gated; half++) {
            const weight *w = p->w[p->gated ? half : range.segment];
            for (int group = 0; group < plan->groups; group++) {
                int first_row = group * plan->group_rows;
                int rows = p->rows - first_row < plan->group_rows ? p->rows - first_row : plan->group_rows;
                size_t block = (size_t)(first_k / plan->block_k) * plan->groups + group;
                kernels->skinny(sums + (2 * group + half) * sums_floats, x + block * plan->block_floats, rows, k,
                                weight_at(w, range.first, first_k), w->dtype, (size_t)w->cols, range.columns,
                                first_k == 0);
            }
        }
    }
    size_t width = p->gated ? 2 * SKINNY_TASK_COLUMNS : SKINNY_TASK_COLUMNS;
    for (int group = 0; group < plan->groups; group++) {
        int first_row = group * plan->group_rows;
        int rows = p->rows - first_row < plan->group_rows ? p->rows - first_row : plan->group_rows;
        for (int half = 0; half <= (int)p->gated; half++)
            kernels->skinny_spread(tile + half * SKINNY_TASK_COLUMNS, width, sums + (2 * group + half) * sums_floats,
                                   rows, range.columns);
        tile_target target = target_of(context, p, &range, first_row);
        kernels->finish(&target, tile, width, rows, range.columns);
    }
}

static void multiply_few_rows(ops *context, const product *p) {
    const kernels *kernels = context->kernels;
    int threads = product_threads(context, p);
    skinny_plan plan = plan_skinny(context, p, threads);
    int tasks = piece_count(p, plan.columns);
#pragma omp parallel num_threads(threads)
    {
        thread_part_begin(context);
        float *sums = (float *)thread_scratch(context);
        float *x = sums + SKINNY_SUMS_FLOATS;
        size_t block = 0;
        for (int first_k = 0; first_k < p->k; first_k += plan.block_k) {
            int k = p->k - first_k < plan.block_k ? p->k - first_k : plan.block_k;
            for (int row = 0; row < p->rows; row += plan.group_rows, block++) {
                int rows = p->rows - row < plan.group_rows ? p->rows - row : plan.group_rows;
                kernels->skinny_pack(x + block * plan.block_floats, p->x, p->storage, (size_t)row * p->k + first_k,
                                     (size_t)p->k, rows, k, p->w[0]->dtype);
            }
        }
        /* neighbouring tasks for each thread: what is fetched beyond the end of one is the beginning of the next */
        int team = omp_get_num_threads(), thread = omp_get_thread_num();
        int last = (int)((int64_t)tasks * (thread + 1) / team);
        for (int task = (int)((int64_t)tasks * thread / team); task < last; task++) {
            multiply_columns(context, p, &plan, x, sums, piece(p, plan.columns, task));
        }
        thread_part_end(context);
    }
}

static void multiply(ops *context, const product *p) {
    bool one_dtype = true;
    for (int i = 1; i < p->count; i++) one_dtype = one_dtype && p->w[i]->dtype == p->w[0]->dtype;
    if (p->rows <= SKINNY_ROWS && one_dtype)
        multiply_few_rows(context, p);
    else
        multiply_many_rows(context, p);
}

size_t product_scratch_bytes(const ops *context) {
    size_t columns = (size_t)context->options.max_columns + 64;
    size_t skinny = SKINNY_SUMS_FLOATS + SKINNY_ROWS * (columns + columns / 8);
    size_t rows = context->options.max_rows < ROWS_AT_ONCE ? context->options.max_rows : ROWS_AT_ONCE;
    size_t panel = (size_t)2 * context->kernels->lanes;
    size_t tiles = (size_t)MAX_TILE_ROWS * ROW_STRIDE + context->panels * panel * (BLOCK_K + rows + MAX_TILE_ROWS);
    return (skinny > tiles ? skinny : tiles) * sizeof(float);
}

/* ---- the ops ---- */

static void linear(ops *context, operand_storage storage, float *y, const operand *x, const weight *w,
                   const float *bias, int rows, bool add) {
    product p = {.x = x, .storage = storage, .rows = rows, .k = w->cols, .count = 1, .add = add};
    p.w[0] = w;
    p.y[0] = y;
    p.bias[0] = bias;
    multiply(context, &p);
}

void product_linear(ops *context, float *y, const operand *x, const weight *w, const float *bias, int rows, bool add) {
    linear(context, context->storage, y, x, w, bias, rows, add);
}

void product_linear_f32(ops *context, float *y, const float *x, const weight *w, const float *bias, int rows,
                        bool add) {
    linear(context, OPERAND_F32, y, (const operand *)x, w, bias, rows, add);
}

void product_linear_many(ops *context, float *const *y, const operand *x, const weight *const *w,
                         const float *const *bias, int count, int rows) {
    for (int done = 0; done < count; done += MAX_SEGMENTS) {
        product p = {.x = x, .storage = context->storage, .rows = rows, .k = w[done]->cols};
        p.count = count - done < MAX_SEGMENTS ? count - done : MAX_SEGMENTS;
        for (int i = 0; i < p.count; i++) {
            p.w[i] = w[done + i];
            p.y[i] = y[done + i];
            p.bias[i] = bias ? bias[done + i] : NULL;
        }
        multiply(context, &p);
    }
}

void product_linear_gelu(ops *context, operand *out, const operand *x, const weight *fc1, const float *bias, int rows) {
    product p = {.x = x, .storage = context->storage, .rows = rows, .k = fc1->cols, .count = 1, .out = out};
    p.w[0] = fc1;
    p.bias[0] = bias;
    multiply(context, &p);
}

void product_linear_gated(ops *context, operand *out, const operand *x, const weight *gate, const weight *up,
                          int rows) {
    product p = {.x = x, .storage = context->storage, .rows = rows, .k = gate->cols, .count = 2, .out = out};
    p.gated = true;
    p.w[0] = gate;
    p.w[1] = up;
    multiply(context, &p);
}
