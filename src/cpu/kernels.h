/*
 * Kernels of one thread, in one variant per instruction set (kernels_avx2.c, kernels_avx512.c, both made from
 * product_simd.h and rows_simd.h). product.c, attention.c and rows.c cut the ops into calls of these and share them
 * out to threads.
 *
 * Products work on tiles: up to tile_rows rows of x times a panel of 2 * lanes columns (rows of the weight matrix).
 *     x rows   [rows][ROW_STRIDE]            float32, at most BLOCK_K of them used: stay in L1
 *     panel    [k][vectors * lanes]          float32, widened and transposed from the weights: come from L2
 *     tile     [rows][vectors * lanes]       float32 sums, kept over the blocks of k
 */
#ifndef PI0_CPU_KERNELS_H
#define PI0_CPU_KERNELS_H

#include "cpu/context.h"

enum {
    BLOCK_K = 384,             /* k is cut into blocks of at most this */
    ROW_STRIDE = BLOCK_K + 16, /* distance of x rows: no power of two, so that they spread over the cache sets */
    MAX_TILE_ROWS = 14,        /* of all variants */
    MAX_LANES = 16,            /* of all variants */
    MAX_TILE_COLUMNS = 32,     /* 2 * MAX_LANES */
    SKINNY_MAX_ROWS = 12,      /* rows of x that one call of `skinny` takes */
};

/* What becomes of a finished tile of sums. */
typedef struct tile_target {
    float *sums;       /* [rows, stride]: sums + bias go here (added if `add`), unless `out` is set */
    operand *out;      /* activated values go here */
    size_t stride;     /* elements between rows of sums or out */
    size_t first;      /* element where the tile begins */
    const float *bias; /* from the tile's first column on; NULL: none */
    bool add;
    bool gated; /* out = gelu(left half of the tile) * right half; else out = gelu(tile) */
    operand_storage storage;
} tile_target;

typedef struct kernels {
    int lanes, tile_rows;
    int skinny_rows; /* rows of x per call of skinny, at most SKINNY_MAX_ROWS */

    /* c[rows][c_stride] (+)= x rows * panel; vectors: 1 or 2 vectors of columns; first: = instead of +=. Meanwhile
     * fetches k float32 from each of two addresses into L2. */
    void (*tile)(float *c, size_t c_stride, const float *x, const float *panel, int k, int rows, int vectors,
                 bool first, const void *const ahead[2]);
    /* Fills one vector of columns of a panel of `width` columns: panel[i * width + j] = w[j * stride + i] for j < rows
     * (rows <= lanes, zeros above), i < k. w: bf16 or float32, maybe unaligned. */
    void (*pack)(float *panel, int width, const void *w, tensor_dtype dtype, size_t stride, int rows, int k);
    /* panel[i * width + j] = x[i * stride + j] for i < k, j < columns (columns <= width, zeros above) */
    void (*copy_panel)(float *panel, int width, const operand *x, operand_storage storage, size_t stride, int columns,
                       int k);
    /* to[r * ROW_STRIDE + i] = x[first + r * stride + i], i < k */
    void (*copy_rows)(float *to, const operand *x, operand_storage storage, size_t first, size_t stride, int rows,
                      int k);
    /* Applies the target to tile [rows][tile_stride], `columns` of them valid (of each half where gated). */
    void (*finish)(const tile_target *target, const float *tile, size_t tile_stride, int rows, int columns);

    /* Few rows. skinny_pack brings x into the form that skinny reads: [k / (2 * lanes), rounded up][rows][2 * lanes],
     * even elements before odd ones where the weights are bf16, zeros past k. sums[n * rows + r] (+)= x[r] . w[n] over
     * the k elements from w on, for n < columns. */
    void (*skinny_pack)(float *to, const operand *x, operand_storage storage, size_t first, size_t stride, int rows,
                        int k, tensor_dtype dtype);
    void (*skinny)(float *sums, const float *x, int rows, int k, const void *w, tensor_dtype dtype, size_t stride,
                   int columns, bool first);

    /* tile[r * tile_stride + n] = sums[n * rows + r]; reads up to lanes past the sums, writes whole vectors of columns
     */
    void (*skinny_spread)(float *tile, size_t tile_stride, const float *sums, int rows, int columns);

    /* In place over scores of `keys` keys in blocks of BLOCK_K, block b at scores + b * block_stride: e^(scale *
     * score - highest), 0 where mask is 0. Returns 1 / sum. */
    float (*softmax)(float *scores, size_t block_stride, int keys, float scale, const uint8_t *mask);
    /* out[first + i] = values[i] * factor */
    void (*put_scaled)(operand *out, operand_storage storage, size_t first, const float *values, float factor,
                       int count);
    /* out[first + i] = a[i] * b[i] */
    void (*put_product)(operand *out, operand_storage storage, size_t first, const float *a, const float *b, int count);

    void (*convert)(operand *out, operand_storage to, const operand *in, operand_storage from, size_t first,
                    size_t count);
    void (*layer_norm)(operand *out, operand_storage storage, const float *x, const float *weight, const float *bias,
                       int rows, int width);
    void (*rms_norm)(operand *out, operand_storage storage, const float *x, const float *scale, const float *shift,
                     int rows, int width);
    void (*rope)(operand *out, operand_storage storage, const float *x, const float *cosine, const float *sine,
                 int rows, int heads, int head_dim);
    void (*add_gated)(float *x, const float *y, const float *gate, int rows, int width);
    void (*silu)(float *x, size_t count);
    void (*add)(float *x, const float *y, size_t count);
    void (*embed_row)(float *x, const void *row, tensor_dtype dtype, int width, float scale);
    void (*euler)(float *x, const float *v, float dt, size_t count);
} kernels;

extern const kernels kernels_avx2;
extern const kernels kernels_avx512;

#endif
