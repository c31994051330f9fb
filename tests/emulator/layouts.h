/*
 * Where the elements of an instruction's matrices lie, as the emulator has them. Sources: "Matrix fragments for
 * mma.m16n8k16 with floating point type" in NVIDIA's PTX ISA; for MFMA the "AMD Instinct MI300" and "CDNA4" instruction
 * set references. test_layouts.cc holds them to tables that were not written here.
 */
#ifndef PI0_EMULATOR_LAYOUTS_H
#define PI0_EMULATOR_LAYOUTS_H

/* Of A: row and k; of B: k and column; of D: row and column. */
typedef struct matrix_place {
    int row, column;
} matrix_place;

/* a, b, d: the place of element i of a lane; two bf16 elements a register, the first one in the lower half. */
typedef struct matrix_layout {
    int rows, columns, depth;
    matrix_place (*a)(int lane, int i), (*b)(int lane, int i), (*d)(int lane, int i);
} matrix_layout;

static inline matrix_place mma_a(int lane, int i) {
    return {lane / 4 + (i % 4 < 2 ? 0 : 8), lane % 4 * 2 + i % 2 + (i < 4 ? 0 : 8)};
}
static inline matrix_place mma_b(int lane, int i) { return {lane % 4 * 2 + i % 2 + (i < 2 ? 0 : 8), lane / 4}; }
static inline matrix_place mma_d(int lane, int i) { return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + i % 2}; }
static const matrix_layout layout_mma_16x8x16 = {16, 8, 16, mma_a, mma_b, mma_d};

/* A group of SIZE lanes has the rows (columns), each lane EACH neighbouring values of k. */
template <int SIZE, int EACH> static inline matrix_place mfma_a(int lane, int i) {
    return {lane % SIZE, lane / SIZE * EACH + i};
}
template <int SIZE, int EACH> static inline matrix_place mfma_b(int lane, int i) {
    return {lane / SIZE * EACH + i, lane % SIZE};
}
/* Four neighbouring rows a lane; further rows after those of all groups of lanes. */
template <int SIZE> static inline matrix_place mfma_d(int lane, int i) {
    return {i / 4 * (64 / SIZE * 4) + lane / SIZE * 4 + i % 4, lane % SIZE};
}
static const matrix_layout layout_mfma_16x16x16 = {16, 16, 16, mfma_a<16, 4>, mfma_b<16, 4>, mfma_d<16>};
static const matrix_layout layout_mfma_16x16x32 = {16, 16, 32, mfma_a<16, 8>, mfma_b<16, 8>, mfma_d<16>};
static const matrix_layout layout_mfma_32x32x8 = {32, 32, 8, mfma_a<32, 4>, mfma_b<32, 4>, mfma_d<32>};
#endif
