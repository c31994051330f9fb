/* Matrix products by cuBLASLt, where the machine has it: the library is opened at run time. */
#ifndef PI0_CUDA_CUBLASLT_H
#define PI0_CUDA_CUBLASLT_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "pi0.h"

enum { CUBLASLT_WORKSPACE_BYTES = 32 << 20 };

typedef struct cublaslt cublaslt;

/* output[token, feature] = sum_k weights[feature, k] input[token, k]: operands row-major bf16, the output bf16 or
 * float32. Strides in values. */
typedef struct cublaslt_shape {
    int features, tokens, k;
    int weights_stride, input_stride, output_stride;
    bool float_output;
} cublaslt_shape;

/* Opens the library and a handle on the current device. On success *library is the caller's to close. */
pi0_status cublaslt_open(cublaslt **library, pi0_error *error);
void cublaslt_close(cublaslt **library);

/* Runs one product on `stream` by the algorithm that the library's heuristic puts first. `workspace` has
 * CUBLASLT_WORKSPACE_BYTES of device memory that nothing else uses at that time. May be captured into a graph. */
pi0_status cublaslt_run(const cublaslt *library, const cublaslt_shape *shape, const void *weights, const void *input,
                        void *output, void *workspace, cudaStream_t stream, pi0_error *error);

#ifdef __cplusplus
}
#endif
#endif
