/*
 * Pillow's BILINEAR as two passes over rows of bytes: an antialiased triangle filter in 22-bit fixed point, rounded to
 * uint8 after each pass. Integer sums have no order, so every variant gives the plain one's bytes: they only split each
 * weight into halves or thirds that their multiply-add instruction takes.
 */
#ifndef PI0_POLICY_RESIZE_PASSES_H
#define PI0_POLICY_RESIZE_PASSES_H

#include "base/memory.h"
#include "policy/resize.h"

/* Output i reads inputs start[i] .. start[i]+taps-1 with weights whole[i*taps ..]; those beyond its window are 0. */
typedef struct filter {
    int inputs, outputs, taps; /* taps: a multiple of 4 */
    int *start;                /* [outputs] */
    int32_t *whole;            /* [outputs, taps] 22-bit fixed point */
    int16_t *low;              /* [outputs, taps] whole mod 2^12 */
    int16_t *high;             /* [outputs, taps] whole / 2^12: at most 2^10 */
} filter;

/* Takes the arrays from the arena (of which the first pass only measures). */
void filter_layout(filter *f, arena *memory, int inputs, int outputs);
void filter_fill(filter *f);

/*
 * The same weights as AVX-512 VNNI wants them: blocks of 8 sums, each of four bytes times four weights a turn. A block
 * is 2 outputs of a row of RGB pixels or 8 of a row of one channel; all it reads in a turn lies within 32 bytes.
 */
typedef struct lanes {
    int pixel_bytes, block_outputs, blocks, turns;
    int *base;         /* [blocks] first byte read */
    uint8_t *index;    /* [blocks, 32] of each sum's four bytes, from there */
    uint8_t *weights;  /* [blocks, turns, 3, 32] bits 0..7, 8..15, 16..22 of the weights */
    int32_t *constant; /* [blocks, 8] rounding, and 128 times the weights' sum: bytes are taken less 128 */
    uint32_t *within;  /* [blocks, turns] which of the 32 bytes are of the row */
} lanes;

/* This machine has the instructions, and an output's neighbours are near enough. */
bool lanes_fit(int inputs, int outputs, int pixel_bytes);
void lanes_layout(lanes *l, arena *memory, const filter *f, int pixel_bytes);
void lanes_fill(lanes *l, const filter *f);

/* `rows` rows of f->inputs RGB pixels to as many of f->outputs, out_stride bytes apart. */
void pass_across(uint8_t *out, size_t out_stride, const uint8_t *in, int rows, const filter *f, resize_isa isa);
/* The same by way of the lanes, for rows of RGB pixels or of one channel. */
void pass_across_lanes(uint8_t *out, size_t out_stride, const uint8_t *in, int rows, const filter *f, const lanes *l);
/* Row i of the output, of `bytes` bytes; rows: [f->inputs][bytes]. */
void pass_down(uint8_t *out, const uint8_t *rows, int bytes, const filter *f, int i, resize_isa isa);

#endif
