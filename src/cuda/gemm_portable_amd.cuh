/*
 * The inner loop of gemm_portable.cu on AMD: MFMA fed by buffer loads. Tiles, pieces of k, epilogues and the choice of
 * a variant are the same as on NVIDIA.
 *
 * A group of 128 threads is two waves. A wave has 32 features of each 64 (see gemm_epilogue.cuh) and all BN tokens, in
 * fragments of 16 x 16; with two groups of 64 features and 128 tokens that is 64 x 128: 6 KB of LDS reads for every 512
 * clocks of MFMA, where the CU's four SIMDs together may read 64 KB.
 */
#ifndef PI0_CUDA_GEMM_PORTABLE_AMD_CUH
#define PI0_CUDA_GEMM_PORTABLE_AMD_CUH

#include "copy_pipeline.cuh"
#include "gemm.h"
#include "matrix.cuh"

/* acc += the products of `blocks` blocks of BK k-values from `first_block` on; `memory` has a stage of
 * (GROUPS * 64 + WIDE * BN) rows of BK values. */
template <int WIDE, int GROUPS, int BN, int BK>
__device__ __forceinline__ void multiply_blocks(float (&acc)[GROUPS][BN / 2], const gemm_problem &p, int first_feature,
                                                int first_token, int first_block, int blocks, uint32_t memory,
                                                int thread) {
    constexpr int THREADS = WIDE * 128, FEATURES = GROUPS * 64, TOKENS = WIDE * BN, CHUNKS = BK / 8;
    constexpr int OF_WEIGHTS = FEATURES * CHUNKS / THREADS, PIECES = OF_WEIGHTS + TOKENS * CHUNKS / THREADS;
    static_assert(FEATURES * CHUNKS % THREADS == 0 && TOKENS * CHUNKS % THREADS == 0, "the same for all threads");
    static_assert(BK == 64, "rows of 128 bytes: eight of them fill all banks");
    const int group = thread / 128, wave = thread / 64 % 2, lane = thread % 64;
    const bf16 *weights = p.weights + (size_t)(p.first_feature + first_feature) * p.weights_stride;
    const bf16 *input = p.input + (size_t)first_token * p.input_stride;
    auto at = [](int row, int k) { return row * BK * 2 + ((k / 8) ^ (row & 7)) * 16; };
    auto piece = [&](int block, int i) {
        const bool of_weights = i < OF_WEIGHTS;
        const int index = (of_weights ? i : i - OF_WEIGHTS) * THREADS + thread, row = index / CHUNKS;
        const int c = index % CHUNKS, k = (first_block + block) * BK + c * 8;
        copy_piece part;
        part.base = of_weights ? weights : input;
        part.offset = (uint32_t)(row * (of_weights ? p.weights_stride : p.input_stride) + k) * 2;
        part.shared = at(of_weights ? row : FEATURES + row, c * 8);
        part.valid = k < p.k && (of_weights ? first_feature + row < p.features : first_token + row < p.tokens);
        part.there = true;
        return part;
    };
    copy_pipeline<1, (FEATURES + TOKENS) * BK * 2, PIECES> pipeline;
    pipeline.begin(memory, blocks, piece);
    for (int block = 0; block < blocks; block++) {
        const uint32_t stage = pipeline.next(block, blocks, piece);
#pragma unroll
        for (int k = 0; k < BK; k += MATRIX_DEPTH) {
            matrix_operand<MATRIX_DEPTH> features[GROUPS][2];
#pragma unroll
            for (int g = 0; g < GROUPS; g++)
#pragma unroll
                for (int half = 0; half < 2; half++) /* the low features of the lanes, then those 8 further */
                    matrix_load(features[g][half], lane, [&](int row, int depth) {
                        return stage + at(g * 64 + wave * 32 + row / 8 * 16 + half * 8 + row % 8, k + depth);
                    });
#pragma unroll
            for (int j = 0; j < BN / 16; j++) {
                matrix_operand<MATRIX_DEPTH> tokens;
                matrix_load(tokens, lane, [&](int row, int depth) {
                    return stage + at(FEATURES + group * BN + j * 16 + row, k + depth);
                });
#pragma unroll
                for (int g = 0; g < GROUPS; g++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        matrix_multiply(*(matrix_tile *)(acc[g] + half * (BN / 4) + j * 4), features[g][half], tokens);
            }
        }
    }
    pipeline.end();
}
#endif
