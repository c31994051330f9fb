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

/* Adds up what the blocks of a tile have, in the order of their pieces of k; true for the block that goes on. */
template <int COUNT>
__device__ __forceinline__ bool join_pieces(float (&acc)[COUNT], const gemm_problem &p, int tile, int tiles, int thread,
                                            int threads, void *scratch) {
    bool &last = *(bool *)scratch; /* LDS of its own would cost the CU a block */
    const int pieces = gridDim.z, mine = blockIdx.z;
    float4 *partial = (float4 *)p.partial + thread;
    auto at = [&](int piece, int i) { return ((size_t)(piece * tiles + tile) * (COUNT / 4) + i) * threads; };
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
        __stcg(partial + at(mine, i), make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]));
    __threadfence();
    __syncthreads();
    if (thread == 0) last = atomicAdd(&p.ticket[tile], 1) == (unsigned)pieces - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (thread == 0) p.ticket[tile] = 0;
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int piece = 0; piece < pieces; piece++) {
            const float4 own = make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]);
            const float4 v = piece == mine ? own : __ldcg(partial + at(piece, i));
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        acc[i * 4] = sum.x;
        acc[i * 4 + 1] = sum.y;
        acc[i * 4 + 2] = sum.z;
        acc[i * 4 + 3] = sum.w;
    }
    return true;
}

/* What follows the product; staging: EPILOGUE_STAGING_BYTES for each of WIDE groups. */
template <gemm_epilogue EPILOGUE, int WIDE, int GROUPS, int BN>
__device__ __forceinline__ void finish_tile(float (&acc)[GROUPS][BN / 2], const gemm_problem &p, int first_feature,
                                            int first_token, uint8_t *staging, float2 *factors, int thread) {
    const int group = thread / 128;
    if (EPILOGUE == GEMM_RESIDUAL && gridDim.z > 1 &&
        !join_pieces(*(float(*)[GROUPS * BN / 2]) & acc, p, blockIdx.x, gridDim.x, thread, WIDE * 128, staging))
        return;
    epilogue_column_factors(factors, p, first_token, WIDE * BN, thread, WIDE * 128);
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int feature = first_feature + g * 64, token = first_token + group * BN;
        if (feature >= p.features || token >= p.tokens) break;
        epilogue_values<EPILOGUE, BN> values;
        epilogue_prepare<EPILOGUE, BN>(values, p, feature, token, thread % 128);
        epilogue_fetch_first<EPILOGUE, BN>(values, p, feature, token, thread % 128);
        epilogue_group<EPILOGUE, BN>(acc[g], values, p, feature, token, factors + group * BN,
                                     (float *)(staging + group * EPILOGUE_STAGING_BYTES), thread % 128, 1 + group);
    }
}
#endif
