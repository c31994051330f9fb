/*
 * One interface to matrix instructions: mma.sync on NVIDIA (warps of 32 lanes), MFMA on AMD (waves of 64). Kernels that
 * are written over it know no fragment layout.
 *
 * A tile is T[16 rows, 16 columns] += X[16 rows, depth] Y[16 columns, depth]^T in float32, X and Y in bf16. On NVIDIA
 * the rows are the instruction's A and the columns its B; on AMD the columns are A and the rows B, so that a lane holds
 * neighbouring columns of one row, which then are neighbouring k-values of the next product (see matrix_narrow).
 *
 * Layouts; l is the lane, [..] the registers in order, two bf16 in each, the lower k in the lower half.
 *
 *   mma.sync.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"), g = l / 4, t = l % 4
 *     A [16, 16]   [row g, k 2t..2t+1] [row g+8, k 2t..] [row g, k 2t+8..] [row g+8, k 2t+8..]
 *     B [16, 8]    [column g, k 2t..2t+1] [column g, k 2t+8..]
 *     D [16, 8]    (row g, columns 2t, 2t+1) (row g+8, columns 2t, 2t+1), float32
 *   v_mfma_f32_16x16x16_bf16 (AMD matrix instruction calculator; "AMD Instinct MI300 ISA", 7.1.4), q = l / 16, m = l %
 * 16 A [16, 16]   [row m, k 4q..4q+1] [row m, k 4q+2..4q+3] B [16, 16]   [column m, k 4q..4q+1] [column m, k
 * 4q+2..4q+3] D [16, 16]   rows 4q..4q+3, column m, float32 v_mfma_f32_16x16x32_bf16 (gfx950) A, B         row or
 * column m, k 8q..8q+7 in four registers D            as 16x16x16 v_mfma_f32_32x32x8_bf16, h = l / 32, m = l % 32 A, B
 * row or column m, k 4h..4h+3 in two registers D [32, 32]   register r of 16: row 8 (r / 4) + 4 h + r % 4, column m
 *   v_mfma_f32_16x16x32_fp8_fp8, q = l / 16, m = l % 16; FNUZ values on gfx942, OCP values on gfx950
 *     A, B         row or column m, k 8q..8q+7, one byte each, in two registers
 *     D            as 16x16x16
 *
 * A sum does not depend on the order of its k-values as long as both operands agree. So an operand of depth 32 on AMD
 * lies as 16x16x32 wants it, one load of 16 bytes a lane; gfx942 runs it as two 16x16x16 whose k-values are 8q..8q+3
 * and 8q+4..8q+7.
 */
#ifndef PI0_CUDA_MATRIX_CUH
#define PI0_CUDA_MATRIX_CUH

#include "common.cuh"

#ifdef PI0_AMD
enum {
    MATRIX_DEPTH = 32,       /* k-values of the deepest step */
    MATRIX_SLOTS = 1,        /* rows of a tile that a lane holds values of */
    MATRIX_NARROW = 16,      /* columns of the narrowest tile */
    MATRIX_GROUP = 4,        /* tiles that matrix_load_transposed loads together where it can */
    MATRIX_ACROSS_FIRST = 16 /* lanes that hold the same row differ in these bits and above */
};
#else
enum { MATRIX_DEPTH = 16, MATRIX_SLOTS = 2, MATRIX_NARROW = 8, MATRIX_GROUP = 1, MATRIX_ACROSS_FIRST = 1 };
#endif
enum { MATRIX_VALUES = 256 / WARP_LANES };               /* of a tile in a lane */
enum { MATRIX_ACROSS = MATRIX_SLOTS * WARP_LANES / 16 }; /* lanes that share a row */

/* A number as a type, for lambdas. */
template <int N> struct depth_of {
    static constexpr int value = N;
};

/* 16 rows or columns x DEPTH k-values. */
template <int DEPTH> struct matrix_operand {
    static_assert(DEPTH == 16 || DEPTH == MATRIX_DEPTH, "16 or the deepest step");
    uint32_t pairs[DEPTH * 8 / WARP_LANES];
};

struct matrix_tile {
    float v[MATRIX_VALUES];
};

__device__ __forceinline__ void matrix_clear(matrix_tile &tile) {
#pragma unroll
    for (int e = 0; e < MATRIX_VALUES; e++) tile.v[e] = 0.0f;
}

/* Where value e of a lane lies in its tile; values with the same slot are of one row. */
__host__ __device__ __forceinline__ constexpr int matrix_slot(int e) { return e / 2 % MATRIX_SLOTS; }
__host__ __device__ __forceinline__ constexpr int matrix_row(int lane, int slot) {
    return MATRIX_SLOTS == 2 ? lane / 4 + slot * 8 : lane % 16;
}
__host__ __device__ __forceinline__ constexpr int matrix_column(int lane, int e) {
    return MATRIX_SLOTS == 2 ? e / 4 * 8 + lane % 4 * 2 + e % 2 : lane / 16 * 4 + e;
}

/* Over the lanes that share a row; all of them get the result. */
__device__ __forceinline__ float matrix_row_max(float v) {
#pragma unroll
    for (int d = 0, bit = MATRIX_ACROSS_FIRST; d < 2; d++, bit *= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, bit));
    return v;
}
__device__ __forceinline__ float matrix_row_sum(float v) {
#pragma unroll
    for (int d = 0, bit = MATRIX_ACROSS_FIRST; d < 2; d++, bit *= 2) v += __shfl_xor_sync(~0u, v, bit);
    return v;
}

/*
 * An operand from shared memory. `at(row, k)` is the address of the values from k on of a row, k a multiple of 8 (of 4
 * where DEPTH is 16 on AMD); 16 (8) bytes there are read and must be aligned to that.
 */
template <int DEPTH, typename AT>
__device__ __forceinline__ void matrix_load(matrix_operand<DEPTH> &operand, int lane, AT at) {
#ifdef PI0_AMD
    if constexpr (DEPTH == 32)
        shared_load_16(operand.pairs, at(lane % 16, lane / 16 * 8));
    else
        shared_load_8(operand.pairs, at(lane % 16, lane / 16 * 4));
#else
    load_matrix_4(operand.pairs, at(lane % 16, lane / 16 * 8));
#endif
}

/* The same with the k-values in the order of matrix_narrow, for a product with matrix_load_transposed's columns. */
template <int DEPTH, typename AT>
__device__ __forceinline__ void matrix_load_narrow(matrix_operand<DEPTH> &operand, int lane, AT at) {
#ifdef PI0_AMD
#pragma unroll
    for (int half = 0; half < DEPTH / 16; half++) {
        uint32_t part[2];
        shared_load_8(part, at(lane % 16, half * 16 + lane / 16 * 4));
        operand.pairs[half * 2] = part[0];
        operand.pairs[half * 2 + 1] = part[1];
    }
#else
    matrix_load(operand, lane, at);
#endif
}

/*
 * GROUP operands of columns, transposed: `at(k, column)` is the address of the values from `column` on of line k.
 * Column c of operand i is column matrix_spread<GROUP>(c) + i of the 16 * GROUP. COLUMNS 8: only the first eight are
 * used.
 */
template <int GROUP> __host__ __device__ __forceinline__ constexpr int matrix_spread(int column) {
    return column * GROUP;
}
template <int DEPTH, int GROUP, int COLUMNS, typename AT>
__device__ __forceinline__ void matrix_load_transposed(matrix_operand<DEPTH> (&operands)[GROUP], int lane, AT at) {
#ifdef PI0_AMD
    /* lane: column GROUP * m of all operands, k-values 4q..4q+3 (depth 32: also 16+4q.., as matrix_narrow has them) */
#pragma unroll
    for (int half = 0; half < DEPTH / 16; half++) {
        uint32_t lines[4][(GROUP + 1) / 2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t from = at(half * 16 + lane / 16 * 4 + j, lane % 16 * GROUP);
            if constexpr (GROUP == 4)
                shared_load_8(lines[j], from);
            else
                lines[j][0] = shared_load_2(from);
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                operands[i].pairs[half * 2 + j] = i % 2 ? join_high(lines[j * 2][i / 2], lines[j * 2 + 1][i / 2])
                                                        : join_low(lines[j * 2][i / 2], lines[j * 2 + 1][i / 2]);
    }
#else
    static_assert(GROUP == 1, "ldmatrix brings one tile");
    if constexpr (COLUMNS == 8) {
        uint32_t half[2];
        load_matrix_2_transposed(half, at(lane % 16, 0));
        operands[0].pairs[0] = half[0];
        operands[0].pairs[2] = half[1];
    } else {
        uint32_t all[4];
        load_matrix_4_transposed(all, at(lane % 16, lane / 16 * 8));
        operands[0].pairs[0] = all[0];
        operands[0].pairs[2] = all[1];
        operands[0].pairs[1] = all[2];
        operands[0].pairs[3] = all[3];
    }
#endif
}

/* tile += rows * columns^T; COLUMNS 8: the upper eight columns need not be there and their results mean nothing. */
template <int COLUMNS = 16, int DEPTH>
__device__ __forceinline__ void matrix_multiply(matrix_tile &tile, const matrix_operand<DEPTH> &rows,
                                                const matrix_operand<DEPTH> &columns) {
#ifdef PI0_AMD
    if constexpr (DEPTH == 32)
        mfma_16x16x32(tile.v, columns.pairs, rows.pairs);
    else
        mfma_16x16x16(tile.v, columns.pairs, rows.pairs);
#else
    mma_bf16(*(float(*)[4])tile.v, rows.pairs, columns.pairs[0], columns.pairs[2]);
    if constexpr (COLUMNS > 8) mma_bf16(*(float(*)[4])(tile.v + 4), rows.pairs, columns.pairs[1], columns.pairs[3]);
#endif
}

/* Tiles as the rows of the next product: their columns become its k-values (in the order of matrix_load_transposed). */
template <int DEPTH>
__device__ __forceinline__ void matrix_narrow(matrix_operand<DEPTH> &rows, const matrix_tile *tiles) {
#pragma unroll
    for (int i = 0; i < DEPTH / 16; i++)
#pragma unroll
        for (int e = 0; e < MATRIX_VALUES / 2; e++)
            rows.pairs[i * MATRIX_VALUES / 2 + e] = pack_bf16(tiles[i].v[2 * e], tiles[i].v[2 * e + 1]);
}

/*
 * Row `slot` of GROUP tiles, as matrix_load_transposed's columns gave them, times `factor`, as bf16 to `to`, where the
 * row's 16 * GROUP (or COLUMNS) values belong.
 */
template <int GROUP, int COLUMNS = 16>
__device__ __forceinline__ void matrix_store_row(bf16 *to, const matrix_tile *tiles, int slot, int lane, float factor) {
#ifdef PI0_AMD
    if constexpr (GROUP == 4) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            *(uint2 *)(to + (lane / 16 * 4 + e) * 4) =
                make_uint2(pack_bf16(tiles[0].v[e] * factor, tiles[1].v[e] * factor),
                           pack_bf16(tiles[2].v[e] * factor, tiles[3].v[e] * factor));
    } else if (lane / 16 * 4 < COLUMNS) {
        *(uint2 *)(to + lane / 16 * 4) = make_uint2(pack_bf16(tiles[0].v[0] * factor, tiles[0].v[1] * factor),
                                                    pack_bf16(tiles[0].v[2] * factor, tiles[0].v[3] * factor));
    }
#else
#pragma unroll
    for (int half = 0; half < COLUMNS / 8; half++)
        *(uint32_t *)(to + half * 8 + lane % 4 * 2) =
            pack_bf16(tiles[0].v[half * 4 + slot * 2] * factor, tiles[0].v[half * 4 + slot * 2 + 1] * factor);
#endif
}
#endif
