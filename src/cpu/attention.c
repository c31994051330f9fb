/*
 * Attention over the float32 kernels. Keys and values are brought into panels, once per call in memory that all threads
 * share, or in memory of the caller that keeps those of keys seen before. A task is up to ATTENTION_TILES * 14 (or 6)
 * query rows of one kv head; with grouped heads the rows of all heads of the group stand in one list, since they share
 * the panels. The scores of a task's rows against all keys stay in L2, so softmax sees whole rows; its factor 1 / sum
 * goes onto the result.
 */
#include "cpu/engine.h"
#include "cpu/trace.h"

enum { ATTENTION_TILES = 4 };

typedef struct attention_job {
    const attention_shape *shape;
    const operand *q;
    operand *out;
    float *keys, *values; /* panels: [kv head][key panel][head_dim][width], [kv head][column panel][key][width] */
    int capacity;         /* keys that the panels have place for */
    int packed;           /* keys whose values are in them; whose keys are, if they fill a panel */
    int width;            /* columns of a panel: 2 * lanes */
    int key_panels, value_columns; /* value_columns: head_dim rounded up to whole vectors */
    int group;                     /* query heads of one kv head */
} attention_job;

static int key_blocks(int keys) { return (keys + BLOCK_K - 1) / BLOCK_K; }
static int panel_count(int keys, int width) { return (keys + width - 1) / width; }
static int value_columns(const ops *context, int head_dim) {
    return panel_count(head_dim, context->kernels->lanes) * context->kernels->lanes;
}

size_t attention_scratch_bytes(const ops *context) {
    size_t rows = (size_t)ATTENTION_TILES * MAX_TILE_ROWS;
    size_t scores = rows * ROW_STRIDE * key_blocks(context->options.max_keys);
    return (scores + rows * ROW_STRIDE + MAX_TILE_ROWS * MAX_TILE_COLUMNS) * sizeof(float);
}

size_t attention_shared_bytes(const ops *context) {
    size_t heads = context->options.max_heads;
    size_t keys = context->options.max_keys + MAX_TILE_COLUMNS;
    return keys * (2 * (size_t)context->max_kv_columns + heads * MAX_LANES) * sizeof(float);
}

static float *key_panel(const attention_job *job, int kv_head, int panel) {
    size_t panels = panel_count(job->capacity, job->width);
    return job->keys + (kv_head * panels + panel) * job->shape->head_dim * job->width;
}

static void pack_keys(const ops *context, const attention_job *job, const operand *k, int kv_head, int panel) {
    const attention_shape *shape = job->shape;
    int lanes = context->kernels->lanes;
    size_t stride = (size_t)shape->kv_heads * shape->head_dim;
    float *to = key_panel(job, kv_head, panel);
    int width = shape->keys - panel * job->width > lanes ? job->width : lanes;
    for (int half = 0; half * lanes < width; half++) {
        int key = panel * job->width + half * lanes;
        int rows = shape->keys - key < lanes ? shape->keys - key : lanes;
        const operand *from = operand_at(context, k, key * stride + (size_t)kv_head * shape->head_dim);
        context->kernels->pack(to + half * lanes, width, from,
                               context->storage == OPERAND_BF16 ? DTYPE_BF16 : DTYPE_F32, stride, rows,
                               shape->head_dim);
    }
}

/* Columns of the value panel that begins at `column`: one or two vectors. */
static int value_width(const ops *context, const attention_job *job, int column) {
    return job->value_columns - column > context->kernels->lanes ? job->width : context->kernels->lanes;
}

size_t attention_panels_bytes(const ops *context, int keys, int kv_heads, int head_dim) {
    if (context->table.attention != attention_run || head_dim > BLOCK_K) return 0;
    int width = 2 * context->kernels->lanes;
    size_t key_floats = (size_t)panel_count(keys, width) * width * head_dim;
    return kv_heads * (key_floats + (size_t)keys * value_columns(context, head_dim)) * sizeof(float);
}

static void pack_values(const ops *context, const attention_job *job, const operand *v, int kv_head) {
    const attention_shape *shape = job->shape;
    size_t stride = (size_t)shape->kv_heads * shape->head_dim;
    float *to = job->values + (size_t)kv_head * job->capacity * job->value_columns;
    for (int column = 0; column < shape->head_dim; column += job->width) {
        int left = shape->head_dim - column, width = value_width(context, job, column);
        size_t from = job->packed * stride + (size_t)kv_head * shape->head_dim + column;
        context->kernels->copy_panel(to + (size_t)column * job->capacity + (size_t)job->packed * width, width,
                                     operand_at(context, v, from), context->storage, stride,
                                     left < width ? left : width, shape->keys - job->packed);
    }
}

/* Where row `index` of a kv head's list of query rows begins in q and out. */
static size_t query_at(const attention_job *job, int kv_head, int index) {
    int query = index / job->group, head = kv_head * job->group + index % job->group;
    return ((size_t)query * job->shape->heads + head) * job->shape->head_dim;
}

static void attend(const ops *context, const attention_job *job, int kv_head, int first, int last) {
    const kernels *kernels = context->kernels;
    const attention_shape *shape = job->shape;
    int tile_rows = kernels->tile_rows, tiles = (last - first + tile_rows - 1) / tile_rows;
    size_t rows_floats = (size_t)tile_rows * ROW_STRIDE, tile_floats = rows_floats * key_blocks(shape->keys);
    float *queries = (float *)thread_scratch(context);
    float *scores = queries + ATTENTION_TILES * MAX_TILE_ROWS * ROW_STRIDE;
    float *result = scores + tiles * tile_floats;
    const float *values = job->values + (size_t)kv_head * job->capacity * job->value_columns;

    const void *const nothing_ahead[2] = {queries, queries};

    for (int i = first; i < last; i++) {
        float *to = queries + (i - first) / tile_rows * rows_floats + (size_t)((i - first) % tile_rows) * ROW_STRIDE;
        kernels->copy_rows(to, job->q, context->storage, query_at(job, kv_head, i), 0, 1, shape->head_dim);
    }
    for (int panel = 0; panel < job->key_panels; panel++) {
        int key = panel * job->width, vectors = shape->keys - key > kernels->lanes ? 2 : 1;
        for (int tile = 0; tile < tiles; tile++) {
            int rows = last - first - tile * tile_rows < tile_rows ? last - first - tile * tile_rows : tile_rows;
            kernels->tile(scores + tile * tile_floats + key / BLOCK_K * rows_floats + key % BLOCK_K, ROW_STRIDE,
                          queries + tile * rows_floats, key_panel(job, kv_head, panel), shape->head_dim, rows, vectors,
                          true, nothing_ahead);
        }
    }
    float factors[ATTENTION_TILES * MAX_TILE_ROWS];
    for (int i = first; i < last; i++) {
        int tile = (i - first) / tile_rows, row = (i - first) % tile_rows;
        factors[i - first] = kernels->softmax(scores + tile * tile_floats + (size_t)row * ROW_STRIDE, rows_floats,
                                              shape->keys, shape->scale, shape->key_mask);
    }
    for (int column = 0; column < shape->head_dim; column += job->width) {
        int width = value_width(context, job, column), left = shape->head_dim - column;
        const float *panel = values + (size_t)column * job->capacity;
        for (int tile = 0; tile < tiles; tile++) {
            int begin = first + tile * tile_rows, rows = last - begin < tile_rows ? last - begin : tile_rows;
            for (int key = 0; key < shape->keys; key += BLOCK_K) {
                int k = shape->keys - key < BLOCK_K ? shape->keys - key : BLOCK_K;
                kernels->tile(result, (size_t)width, scores + tile * tile_floats + key / BLOCK_K * rows_floats,
                              panel + (size_t)key * width, k, rows, width / kernels->lanes, key == 0, nothing_ahead);
            }
            for (int r = 0; r < rows; r++)
                kernels->put_scaled(job->out, context->storage, query_at(job, kv_head, begin + r) + column,
                                    result + (size_t)r * width, factors[begin + r - first],
                                    left < width ? left : width);
        }
    }
}

void attention_run(ops *context, operand *out, const operand *q, const operand *k, const operand *v,
                   const attention_shape *shape) {
    const kernels *kernels = context->kernels;
    if (shape->head_dim > BLOCK_K) {
        plain_table.attention(context, out, q, k, v, shape);
        return;
    }
    attention_job job = {.shape = shape, .q = q, .out = out, .width = 2 * kernels->lanes};
    job.group = shape->heads / shape->kv_heads;
    job.key_panels = panel_count(shape->keys, job.width);
    job.value_columns = value_columns(context, shape->head_dim);
    job.capacity = shape->panels ? shape->capacity : shape->keys;
    job.packed = shape->panels ? shape->packed : 0;
    job.values =
        shape->panels ? shape->panels : (float *)(context->scratch + context->threads * context->thread_scratch_bytes);
    job.keys = job.values + (size_t)shape->kv_heads * job.capacity * job.value_columns;

    /* the panel that the last packed key shares with new ones is made anew */
    int rows = shape->queries * job.group, full_panels = job.packed / job.width;
    int new_panels = job.key_panels - full_panels, pack_tasks = shape->kv_heads * new_panels;
    int row_tiles = (rows + kernels->tile_rows - 1) / kernels->tile_rows;
    double scores = (double)shape->queries * shape->heads * shape->keys;
    int threads = threads_worth(context, 2 * scores * shape->head_dim);
    int tiles = row_tiles * shape->kv_heads / threads;
    tiles = tiles < 1 ? 1 : tiles > ATTENTION_TILES ? ATTENTION_TILES : tiles;
    int at_once = tiles * kernels->tile_rows, tasks = (rows + at_once - 1) / at_once;
#pragma omp parallel num_threads(threads)
    {
        thread_part_begin(context);
#pragma omp for schedule(dynamic, 1) nowait
        for (int task = 0; task < pack_tasks; task++)
            pack_keys(context, &job, k, task / new_panels, full_panels + task % new_panels);
#pragma omp for schedule(dynamic, 1)
        for (int kv_head = 0; kv_head < shape->kv_heads; kv_head++) pack_values(context, &job, v, kv_head);
#pragma omp for schedule(dynamic, 1) nowait
        for (int task = 0; task < tasks * shape->kv_heads; task++) {
            int first = task % tasks * at_once;
            attend(context, &job, task / tasks, first, first + at_once < rows ? first + at_once : rows);
        }
        thread_part_end(context);
    }
}
