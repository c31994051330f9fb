/* fp16 as src/cuda uses it, for the emulator; see cuda_runtime.h. */
#ifndef PI0_EMULATOR_CUDA_FP16_H
#define PI0_EMULATOR_CUDA_FP16_H

#include "cuda_runtime.h"

typedef struct __half {
    uint16_t bits;
} __half;

static inline float __half2float(__half v) {
    const int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
    const float sign = v.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24));
}
#endif
