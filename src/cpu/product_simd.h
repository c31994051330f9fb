/*
 * Tile products and their packing, and products of few rows, over the vectors of simd.h. Part of kernels_avx2.c and
 * kernels_avx512.c.
 */
#include "cpu/kernels.h"
#include "cpu/simd.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* ---- operands ---- */

ALWAYS_INLINE vec get(operand_storage storage, const operand *x, size_t index, int count) {
    if (storage == OPERAND_BF16) return vec_from_bf16((const bf16 *)x + index, count);
    const float *from = (const float *)x + index;
    return count == LANES ? vec_load(from) : vec_load_first(from, count);
}

ALWAYS_INLINE void put(operand_storage storage, operand *out, size_t index, vec value, int count) {
    if (storage == OPERAND_BF16) {
        vec_store_bf16((bf16 *)out + index, value, count);
        return;
    }
    if (storage == OPERAND_ROUNDED) value = vec_round_bf16(value);
    float *to = (float *)out + index;
    if (count == LANES)
        vec_store(to, value);
    else
        vec_store_first(to, value, count);
}

ALWAYS_INLINE int lanes_left(size_t done, size_t count) { return count - done < LANES ? (int)(count - done) : LANES; }

/* ---- tiles ---- */

/* Keeps the compiler from holding an array in memory: only where every index is a constant from the start it will not.
 */
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif

/* sums += x rows times one row of the panel */
ALWAYS_INLINE void tile_step(vec sums[MAX_TILE_ROWS][2], const float *x, const float *panel, const int rows,
                             const int vectors) {
    vec columns[2];
    for (int v = 0; v < vectors; v++) columns[v] = vec_load(panel + v * LANES);
    _mm_prefetch((const char *)(panel + 16 * LANES), _MM_HINT_T0);
    UNROLLED
    for (int r = 0; r < rows; r++) {
        vec row = vec_all(x[r * ROW_STRIDE]);
        for (int v = 0; v < vectors; v++) sums[r][v] = vec_fma(row, columns[v], sums[r][v]);
    }
}

/* All sums stay in registers: 14 x 2 of 32 with AVX-512, 6 x 2 of 16 with AVX2. rows and vectors are constants. */
ALWAYS_INLINE void tile_product(float *c, size_t c_stride, const float *x, const float *panel, int k, const int rows,
                                const int vectors, bool first, const void *const ahead[2]) {
    enum { STEPS = 4 };
    vec sums[MAX_TILE_ROWS][2];
    UNROLLED
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) {
            /* what is added to comes from L3 at worst: it has the whole of k to arrive */
            _mm_prefetch((const char *)(c + r * c_stride + v * LANES), _MM_HINT_T0);
            sums[r][v] = vec_zero();
        }
    }
    int i = 0;
    for (; i + STEPS <= k; i += STEPS, panel += STEPS * vectors * LANES) {
        _mm_prefetch((const char *)ahead[i / STEPS & 1] + (size_t)i * sizeof(float), _MM_HINT_T1);
        UNROLLED
        for (int step = 0; step < STEPS; step++)
            tile_step(sums, x + i + step, panel + step * vectors * LANES, rows, vectors);
    }
    for (; i < k; i++, panel += vectors * LANES) tile_step(sums, x + i, panel, rows, vectors);
    UNROLLED
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * c_stride + v * LANES;
            vec_store(to, first ? sums[r][v] : vec_add(sums[r][v], vec_load(to)));
        }
    }
}

#define TILE(n)                                                                                                        \
    static void tile_##n(float *c, size_t c_stride, const float *x, const float *panel, int k, int vectors,            \
                         bool first, const void *const ahead[2]) {                                                     \
        if (vectors == 2)                                                                                              \
            tile_product(c, c_stride, x, panel, k, n, 2, first, ahead);                                                \
        else                                                                                                           \
            tile_product(c, c_stride, x, panel, k, n, 1, first, ahead);                                                \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#if defined(__AVX512F__)
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11)
TILE(12)
TILE(13)
TILE(14)
#endif

static void tile(float *c, size_t c_stride, const float *x, const float *panel, int k, int rows, int vectors,
                 bool first, const void *const ahead[2]) {
    static void (*const by_rows[])(float *, size_t, const float *, const float *, int, int, bool,
                                   const void *const[2]) = {
        tile_1, tile_2, tile_3, tile_4,  tile_5,  tile_6,
#if defined(__AVX512F__)
        tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14,
#endif
    };
    by_rows[rows - 1](c, c_stride, x, panel, k, vectors, first, ahead);
}

static void pack(float *panel, int width, const void *w, tensor_dtype dtype, size_t stride, int rows, int k) {
    vec block[LANES];
    if (dtype == DTYPE_F32) {
        for (int i = 0; i < k; i += LANES) {
            int count = k - i < LANES ? k - i : LANES;
            for (int j = 0; j < LANES; j++)
                block[j] = j < rows ? get(OPERAND_F32, w, j * stride + i, count) : vec_zero();
            vec_transpose(block);
            for (int j = 0; j < count; j++) vec_store(panel + (size_t)(i + j) * width, block[j]);
        }
        return;
    }
    /* Pairs of bf16 are transposed as 32-bit words, then widened. */
    const bf16 *from = w;
    for (int i = 0; i < k; i += 2 * LANES) {
        int count = k - i < 2 * LANES ? k - i : 2 * LANES;
        if (rows == LANES && count == 2 * LANES) {
            for (int j = 0; j < LANES; j++) block[j] = vec_from_bits(veci_load(from + j * stride + i));
        } else {
            for (int j = 0; j < LANES; j++)
                block[j] = j < rows ? vec_from_bits(veci_load_halves(from + j * stride + i, count)) : vec_zero();
        }
        vec_transpose(block);
        float *to = panel + (size_t)i * width;
        for (int j = 0; j < LANES && 2 * j < count; j++) {
            vec_store(to + (size_t)(2 * j) * width, vec_even(vec_bits(block[j])));
            if (2 * j + 1 < count) vec_store(to + (size_t)(2 * j + 1) * width, vec_odd(vec_bits(block[j])));
        }
    }
}

static void copy_panel(float *panel, int width, const operand *x, operand_storage storage, size_t stride, int columns,
                       int k) {
    for (int i = 0; i < k; i++) {
        for (int j = 0; j < width; j += LANES) {
            int count = columns - j < LANES ? columns - j : LANES;
            vec_store(panel + (size_t)i * width + j, count > 0 ? get(storage, x, i * stride + j, count) : vec_zero());
        }
    }
}

static void copy_rows(float *to, const operand *x, operand_storage storage, size_t first, size_t stride, int rows,
                      int k) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < k; i += LANES)
            vec_store(to + r * ROW_STRIDE + i, get(storage, x, first + r * stride + i, lanes_left(i, k)));
}

static void finish(const tile_target *target, const float *tile, size_t tile_stride, int rows, int columns) {
    size_t right = tile_stride / 2;
    for (int r = 0; r < rows; r++, tile += tile_stride) {
        size_t index = target->first + r * target->stride;
        for (int j = 0; j < columns; j += LANES) {
            int count = lanes_left(j, columns);
            vec value = vec_load_first(tile + j, count);
            if (target->bias) value = vec_add(value, vec_load_first(target->bias + j, count));
            if (target->out) {
                value = vec_gelu_tanh(value);
                if (target->gated) value = vec_mul(value, vec_load_first(tile + right + j, count));
                put(target->storage, target->out, index + j, value, count);
                continue;
            }
            float *to = target->sums + index + j;
            if (target->add) value = vec_add(value, vec_load_first(to, count));
            vec_store_first(to, value, count);
        }
    }
}

/* ---- few rows ---- */

static void skinny_pack(float *to, const operand *x, operand_storage storage, size_t first, size_t stride, int rows,
                        int k, tensor_dtype dtype) {
    for (int i = 0; i < k; i += 2 * LANES) {
        for (int r = 0; r < rows; r++, to += 2 * LANES) {
            size_t from = first + r * stride + i;
            int left = k - i, low = left < LANES ? left : LANES, high = left < 2 * LANES ? left - low : LANES;
            vec a = get(storage, x, from, low), b = high > 0 ? get(storage, x, from + LANES, high) : vec_zero();
            vec_store(to, dtype == DTYPE_BF16 ? vec_evens(a, b) : a);
            vec_store(to + LANES, dtype == DTYPE_BF16 ? vec_odds(a, b) : b);
        }
    }
}

static void skinny_spread(float *tile, size_t tile_stride, const float *sums, int rows, int columns) {
    for (int n = 0; n < columns; n += LANES) {
        vec block[LANES];
        for (int first = 0; first < rows; first += LANES) {
            for (int j = 0; j < LANES; j++)
                block[j] = n + j < columns ? vec_load(sums + (n + j) * rows + first) : vec_zero();
            vec_transpose(block);
            for (int r = first; r < rows && r < first + LANES; r++)
                vec_store(tile + r * tile_stride + n, block[r - first]);
        }
    }
}

/* Keeps the compiler from loading a value anew for each use: loads are what few rows run out of first. */
#define IN_REGISTER(value) __asm__("" : "+v"(value))

/* 2 * LANES elements of a weight row, `count` of them there. The pairs of bf16 need widening. */
typedef struct weight_pair {
    vec low, high;
} weight_pair;

ALWAYS_INLINE weight_pair load_weights(const void *w, const bool halves, int count) {
    weight_pair pair;
    if (halves) {
        pair.low = pair.high =
            vec_from_bits(count == 2 * LANES ? veci_load(w) : veci_load_halves((const bf16 *)w, count));
    } else {
        pair.low = get(OPERAND_F32, w, 0, count < LANES ? count : LANES);
        pair.high = count > LANES ? get(OPERAND_F32, w, LANES, count - LANES) : vec_zero();
    }
    return pair;
}

/* partial[c * rows + r] += x[r] * w[c] over 2 * LANES elements: the even ones of bf16, then the odd ones; or the first
 * LANES of float32, then the others. */
ALWAYS_INLINE void skinny_step(vec *partial, const float *x, const char *w, size_t w_stride, const int rows,
                               const int columns, const bool halves, int count) {
    weight_pair weights[8];
    for (int c = 0; c < columns; c++) weights[c] = load_weights(w + c * w_stride, halves, count);
    for (int v = 0; v < 2; v++) {
        vec factors[8];
        for (int c = 0; c < columns; c++) {
            vec own = v == 0 ? weights[c].low : weights[c].high;
            factors[c] = !halves ? own : v == 0 ? vec_even(vec_bits(own)) : vec_odd(vec_bits(own));
        }
        UNROLLED
        for (int r = 0; r < rows; r++) {
            vec row = vec_load(x + (2 * r + v) * LANES);
            IN_REGISTER(row);
            UNROLLED
            for (int c = 0; c < columns; c++) partial[c * rows + r] = vec_fma(row, factors[c], partial[c * rows + r]);
        }
    }
}

/* sums[columns * rows] of a few columns; each sum is a vector over k until the end. rows, columns, halves constant.
 * Weights are asked for ROWS_AHEAD matrix rows before they are wanted: many more at once would take the line buffers
 * that x needs. */
enum { ROWS_AHEAD = 8 };
ALWAYS_INLINE void skinny_columns(float *sums, const float *x, int k, const void *w, size_t stride, const int rows,
                                  const int columns, const bool halves, bool first) {
    const size_t bytes = halves ? sizeof(bf16) : sizeof(float);
    vec partial[SKINNY_SUMS];
    const char *from = w;
    size_t row_bytes = stride * bytes;
    UNROLLED
    for (int s = 0; s < rows * columns; s++) partial[s] = vec_zero();
    int i = 0;
    for (; i + 2 * LANES <= k; i += 2 * LANES, from += 2 * LANES * bytes) {
        for (int c = 0; c < columns; c++) {
            _mm_prefetch(from + (c + columns) * row_bytes, _MM_HINT_T0);
            _mm_prefetch(from + (c + ROWS_AHEAD) * row_bytes, _MM_HINT_T1);
        }
        skinny_step(partial, x + (size_t)i * rows, from, row_bytes, rows, columns, halves, 2 * LANES);
    }
    if (i < k) skinny_step(partial, x + (size_t)i * rows, from, row_bytes, rows, columns, halves, k - i);
    UNROLLED
    for (int s = 0; s < rows * columns; s += LANES) {
        const int count = rows * columns - s < LANES ? rows * columns - s : LANES;
        vec totals = vec_sums(partial + s, count);
        if (!first) totals = vec_add(totals, vec_load_first(sums + s, count));
        vec_store_first(sums + s, totals, count);
    }
}

/* As many columns at once as sums and weights fit into registers; the rest one by one. */
ALWAYS_INLINE void skinny_rows(float *sums, const float *x, int k, const void *w, size_t stride, int columns,
                               const int rows, const bool halves, bool first) {
    const int fitting = (SKINNY_SUMS - 1) / rows > 0 ? (SKINNY_SUMS - 1) / rows : 1,
              at_once = fitting > 8 ? 8 : fitting;
    const size_t bytes = halves ? sizeof(bf16) : sizeof(float);
    int column = 0;
    for (; column + at_once <= columns; column += at_once)
        skinny_columns(sums + column * rows, x, k, (const char *)w + column * stride * bytes, stride, rows, at_once,
                       halves, first);
    for (; column < columns; column++)
        skinny_columns(sums + column * rows, x, k, (const char *)w + column * stride * bytes, stride, rows, 1, halves,
                       first);
}

#define SKINNY(n)                                                                                                      \
    static void skinny_##n(float *sums, const float *x, int k, const void *w, tensor_dtype dtype, size_t stride,       \
                           int columns, bool first) {                                                                  \
        if (dtype == DTYPE_BF16)                                                                                       \
            skinny_rows(sums, x, k, w, stride, columns, n, true, first);                                               \
        else                                                                                                           \
            skinny_rows(sums, x, k, w, stride, columns, n, false, first);                                              \
    }
SKINNY(1)
SKINNY(2)
SKINNY(3)
SKINNY(4)
SKINNY(5)
SKINNY(6)
SKINNY(7)
SKINNY(8)
SKINNY(9)
SKINNY(10)
SKINNY(11)
SKINNY(12)

static void skinny(float *sums, const float *x, int rows, int k, const void *w, tensor_dtype dtype, size_t stride,
                   int columns, bool first) {
    static void (*const by_rows[])(float *, const float *, int, const void *, tensor_dtype, size_t, int, bool) = {
        skinny_1, skinny_2, skinny_3, skinny_4,  skinny_5,  skinny_6,
        skinny_7, skinny_8, skinny_9, skinny_10, skinny_11, skinny_12,
    };
    by_rows[rows - 1](sums, x, k, w, dtype, stride, columns, first);
}
