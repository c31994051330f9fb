/* Products by cuBLASLt: the kernel that puts an epilogue behind its sums. */
#include "gemm_cublaslt.h"

#include "gemm_epilogue.cuh"
#include "launch.cuh"

/*
 *   grid   x: 64 features, y: 64 tokens       block 4 warps: accumulators as a product would have left them
 *   bytes  sums once, and what the epilogue writes        bound  memory
 */
enum { EPILOGUE_BN = 64 };
template <gemm_epilogue EPILOGUE>
__global__ void __launch_bounds__(128) epilogue_kernel(const __grid_constant__ gemm_problem p, const float *sums) {
    __shared__ __align__(16) float staging[EPILOGUE_STAGING_BYTES / 4];
    __shared__ float2 factors[EPILOGUE_BN];
    const int thread = threadIdx.x, first_feature = blockIdx.x * 64, first_token = blockIdx.y * EPILOGUE_BN;
    grid_launch_next();
    grid_wait();
    float acc[EPILOGUE_BN / 2];
    epilogue_values<EPILOGUE, EPILOGUE_BN> values;
    epilogue_prepare<EPILOGUE, EPILOGUE_BN>(values, p, first_feature, first_token, thread);
#pragma unroll
    for (int i = 0; i < EPILOGUE_BN / 4; i++) {
        const int token = first_token + pair_token(thread, i), feature = first_feature + pair_feature(thread);
        const float *at = sums + (size_t)token * p.features + feature;
        acc[pair_low<EPILOGUE_BN>(i)] = token < p.tokens && feature < p.features ? __ldcg(at) : 0.0f;
        acc[pair_high<EPILOGUE_BN>(i)] = token < p.tokens && feature + 8 < p.features ? __ldcg(at + 8) : 0.0f;
    }
    epilogue_fetch_first<EPILOGUE, EPILOGUE_BN>(values, p, first_feature, first_token, thread);
    epilogue_column_factors(factors, p, first_token, EPILOGUE_BN, thread, 128);
    __syncthreads();
    epilogue_group<EPILOGUE, EPILOGUE_BN>(acc, values, p, first_feature, first_token, factors, staging, thread, 1);
}

static void (*const kernels[GEMM_EPILOGUES])(gemm_problem, const float *) = {
    epilogue_kernel<GEMM_STORE>, epilogue_kernel<GEMM_GELU>, epilogue_kernel<GEMM_GATED>, epilogue_kernel<GEMM_ROPE>,
    epilogue_kernel<GEMM_RESIDUAL>};

extern "C" cudaError_t gemm_cublaslt_launch(const cublaslt *library, gemm_epilogue epilogue, const gemm_problem *p,
                                            float *sums, void *workspace, cudaStream_t stream) {
    cublaslt_shape shape = {};
    shape.features = p->features;
    shape.tokens = p->tokens;
    shape.k = p->k;
    shape.weights_stride = p->weights_stride;
    shape.input_stride = p->input_stride;
    shape.output_stride = p->features;
    shape.float_output = true;
    pi0_error error;
    if (cublaslt_run(library, &shape, p->weights + (size_t)p->first_feature * p->weights_stride, p->input, sums,
                     workspace, stream, &error) != PI0_OK)
        return cudaErrorNotSupported;
    return launch(kernels[epilogue], dim3(ceil_div(p->features, 64), ceil_div(p->tokens, EPILOGUE_BN)), 128, 0, 1,
                  false, stream, *p, (const float *)sums);
}
