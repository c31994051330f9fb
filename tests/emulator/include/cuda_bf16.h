/* bf16 as src/cuda uses it, for the emulator; see cuda_runtime.h. Conversions round to nearest even, as CUDA's. */
#ifndef PI0_EMULATOR_CUDA_BF16_H
#define PI0_EMULATOR_CUDA_BF16_H

#include "cuda_runtime.h"

typedef struct __nv_bfloat16 {
    uint16_t bits;
} __nv_bfloat16;

#ifdef __cplusplus
typedef struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 v) {
    const uint32_t bits = (uint32_t)v.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline __nv_bfloat16 __float2bfloat16(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    return {__float2bfloat16(low), __float2bfloat16(high)};
}
#endif
#endif
