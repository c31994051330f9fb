/* What the wide kernels of the steps share. */
#ifndef PI0_CUDA_DENOISE_WIDE_CUH
#define PI0_CUDA_DENOISE_WIDE_CUH

#include "denoise.cuh"
#include "tensor_map.cuh"
#include "wgmma.cuh"

enum { WIDE_ROWS = 64, WIDE_THREADS = 160 };

cudaError_t wide_setup(void);
cudaError_t wide_attention_setup(void);
#endif
