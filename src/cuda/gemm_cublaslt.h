/*
 * Products by cuBLASLt (`--gemm cublaslt`): a yardstick, and a way out should our own kernels not suit a GPU. Its
 * float32 sums go through memory to the same epilogues as those of our kernels.
 */
#ifndef PI0_CUDA_GEMM_CUBLASLT_H
#define PI0_CUDA_GEMM_CUBLASLT_H

#include "cublaslt.h"
#include "gemm.h"

#ifdef __cplusplus
extern "C" {
#endif
/* sums float32 [tokens, features]; workspace of CUBLASLT_WORKSPACE_BYTES. */
cudaError_t gemm_cublaslt_launch(const cublaslt *library, gemm_epilogue epilogue, const gemm_problem *problem,
                                 float *sums, void *workspace, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
