/*
 * The portable product: mma.sync fed by cp.async, sm_80 and later. Same interface and epilogues as gemm_hopper.cuh.
 *
 *   grid   x: tiles of 64 features, y: tiles of 128 tokens          block 4 warps, 16 features x 128 tokens each
 *   memory three stages of 32 k-values of both operands, rows of 64 bytes, 16-byte pieces swizzled; epilogue staging
 *          over the stages
 *   bytes  (64 + 128) * 64 per 32 k-values from L2; weights once from memory        FLOPs 2 * features * tokens * k
 *   bound  tensor cores at mma.sync's rate
 */
#include "gemm_epilogue.cuh"
#include "launch.cuh"

enum { BM = 64, BN = 128, BK = 64, STAGES = 3, ROW = BK * 2 };
enum { STAGE_BYTES = (BM + BN) * ROW };
enum { SHARED_BYTES = STAGES * STAGE_BYTES + BN * 8 };

template <gemm_epilogue EPILOGUE>
__global__ void __launch_bounds__(128) gemm_portable(const __grid_constant__ gemm_problem p, int k_blocks) {
    extern __shared__ __align__(128) uint8_t shared_raw[];
    float2 *factors = (float2 *)(shared_raw + STAGES * STAGE_BYTES);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int first_feature = blockIdx.x * BM, first_token = blockIdx.y * BN;
    const uint32_t memory = shared_address(shared_raw);
    auto at = [](int row, int c) { return row * ROW + (c ^ (row & 7)) * 16; };
    auto load = [&](int block) {
        const uint32_t stage = memory + block % STAGES * STAGE_BYTES;
        for (int i = thread; i < (BM + BN) * 8; i += 128) {
            const int row = i / 8, c = i % 8, k = block * BK + c * 8;
            const bool weights = row < BM;
            const int index = weights ? first_feature + row : first_token + row - BM;
            const bool valid = k < p.k && index < (weights ? p.features : p.tokens);
            const bf16 *from = weights ? p.weights + (size_t)(p.first_feature + index) * p.weights_stride + k
                                       : p.input + (size_t)index * p.input_stride + k;
            copy_async_16(stage + at(row, c), valid ? from : p.weights, valid);
        }
    };
    grid_launch_next();
    grid_wait();
    epilogue_values<EPILOGUE, BN> values;
    epilogue_prepare<EPILOGUE, BN>(values, p, first_feature, first_token, thread);
    float acc[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 2; i++) acc[i] = 0.0f;
    for (int b = 0; b < STAGES - 1; b++) {
        if (b < k_blocks) load(b);
        copy_async_commit();
    }
    for (int b = 0; b < k_blocks; b++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (b + STAGES - 1 < k_blocks) load(b + STAGES - 1);
        copy_async_commit();
        const uint32_t stage = memory + b % STAGES * STAGE_BYTES;
#pragma unroll
        for (int k = 0; k < BK / 16; k++) {
            uint32_t a[4];
            load_matrix_4(a, stage + at(warp * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < BN / 8; j += 2) {
                uint32_t w[4];
                load_matrix_4(w, stage + at(BM + j * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
                mma_bf16(*(float(*)[4])(acc + j * 4), a, w[0], w[1]);
                mma_bf16(*(float(*)[4])(acc + j * 4 + 4), a, w[2], w[3]);
            }
        }
    }
    epilogue_fetch_first<EPILOGUE, BN>(values, p, first_feature, first_token, thread);
    copy_async_wait<0>();
    __syncthreads();
    epilogue_column_factors(factors, p, first_token, BN, thread, 128);
    epilogue_group<EPILOGUE, BN>(acc, values, p, first_feature, first_token, factors, (float *)shared_raw, thread, 1);
}

static void (*const kernels[GEMM_EPILOGUES])(gemm_problem, int) = {gemm_portable<GEMM_STORE>, gemm_portable<GEMM_GELU>,
                                                                   gemm_portable<GEMM_GATED>, gemm_portable<GEMM_ROPE>,
                                                                   gemm_portable<GEMM_RESIDUAL>};

extern "C" cudaError_t gemm_portable_setup(void) {
    cudaError_t status = cudaSuccess;
    for (int i = 0; i < GEMM_EPILOGUES && status == cudaSuccess; i++)
        status =
            cudaFuncSetAttribute((const void *)kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    return status;
}

cudaError_t gemm_portable_launch(gemm_epilogue epilogue, const gemm_problem *p, bool dependent, cudaStream_t stream) {
    return launch(kernels[epilogue], dim3(ceil_div(p->features, BM), ceil_div(p->tokens, BN)), 128, SHARED_BYTES, 1,
                  dependent, stream, *p, ceil_div(p->k, BK));
}
