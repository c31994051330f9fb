/* fp16 as src/cuda uses it, for AMD; see cuda_runtime.h. */
#ifndef PI0_HIP_CUDA_FP16_H
#define PI0_HIP_CUDA_FP16_H

#include "cuda_runtime.h"

typedef _Float16 __half;
__device__ __forceinline__ float __half2float(__half v) { return (float)v; }
#endif
