/* bf16 as src/cuda uses it, for AMD; see cuda_runtime.h. Conversions round to nearest even, as CUDA's. */
#ifndef PI0_HIP_CUDA_BF16_H
#define PI0_HIP_CUDA_BF16_H

#include "cuda_runtime.h"

#ifdef __cplusplus
typedef __bf16 __nv_bfloat16;
typedef struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;

#ifdef __HIP__
__device__ __forceinline__ float __bfloat162float(__nv_bfloat16 v) { return (float)v; }
__device__ __forceinline__ __nv_bfloat16 __float2bfloat16(float v) { return (__bf16)v; }
__device__ __forceinline__ __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    return {(__bf16)low, (__bf16)high};
}
#endif
#else
typedef struct __nv_bfloat16 {
    uint16_t bits;
} __nv_bfloat16;
#endif
#endif
